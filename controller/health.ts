/** What a controller says of itself: /healthz, /readyz, /metrics. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';

export interface HealthOptions {
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  readonly registry: Registry;
  /** What it still waits for; undefined: ready. A replica that does not lead is ready too. */
  readonly waitsFor: () => string | undefined;
}

export interface Health {
  /** `http://host:port` */
  readonly url: string;
  close(): Promise<void>;
}

/** Rejects when the address is taken. */
export async function serveHealth({ host, port, registry, waitsFor }: HealthOptions): Promise<Health> {
  const answers: Record<string, () => Promise<{ status: number; type: string; text: string }>> = {
    '/healthz': async () => ({ status: 200, type: 'text/plain', text: 'ok\n' }),
    '/readyz': async () => {
      const waiting = waitsFor();
      return waiting === undefined
        ? { status: 200, type: 'text/plain', text: 'ok\n' }
        : { status: 503, type: 'text/plain', text: `${waiting}\n` };
    },
    '/metrics': async () => ({ status: 200, type: registry.contentType, text: await registry.metrics() }),
  };
  const server = createServer((request, response) => {
    const answer = answers[(request.url ?? '/').split('?')[0] ?? '/'];
    if (!answer) return void response.writeHead(404).end();
    answer().then(
      ({ status, type, text }) => response.writeHead(status, { 'content-type': type }).end(text),
      (error: unknown) => response.writeHead(500).end(`${String(error)}\n`),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, resolve);
  });
  const bound = server.address() as AddressInfo;
  return {
    url: `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
