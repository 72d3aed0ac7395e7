/** Ports that stay the same from one start to the next, as long as nobody else took them. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { writeAtomically } from '../stores/atomic-file.ts';

const loopback = '127.0.0.1';

/**
 * A free port of 127.0.0.1 for each name: the one `file` remembers, else the preferred one, else any. All differ.
 * Another process may still be faster: then choose again.
 */
export async function choosePorts<N extends string>(
  file: string,
  preferred: Readonly<Record<N, number>>,
): Promise<Record<N, number>> {
  const remembered = await readPorts(file);
  const chosen: Partial<Record<N, number>> = {};
  const taken = new Set<number>();
  for (const name of Object.keys(preferred) as N[]) {
    const candidates = [remembered[name], preferred[name]].filter((port) => port !== undefined);
    let port: number | undefined;
    for (const candidate of candidates) {
      if (taken.has(candidate) || (await bind(candidate)) === undefined) continue;
      port = candidate;
      break;
    }
    while (port === undefined || taken.has(port)) port = await bind(0);
    taken.add(port);
    chosen[name] = port;
  }
  const ports = chosen as Record<N, number>;
  await writeAtomically(file, `${JSON.stringify({ ...remembered, ...ports })}\n`);
  return ports;
}

async function readPorts(file: string): Promise<Record<string, number | undefined>> {
  try {
    const ports = JSON.parse(await readFile(file, 'utf8')) as unknown;
    return typeof ports === 'object' && ports !== null ? (ports as Record<string, number>) : {};
  } catch {
    // Not there, or damaged: then there is nothing to keep.
    return {};
  }
}

/** The port that could be bound (0: any), undefined when it is taken or not a port. */
function bind(port: number): Promise<number | undefined> {
  if (!Number.isInteger(port) || port < 0 || port > 65_535) return Promise.resolve(undefined);
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen({ host: loopback, port }, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : undefined));
    });
  });
}
