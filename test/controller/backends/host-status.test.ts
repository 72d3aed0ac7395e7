import { createServer, type ServerResponse } from 'node:http';
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { followHostStatus } from '../../../controller/backends/host-status.ts';
import type { HostStatusLine } from '../../../runtime/config.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';

const removed = (name: string): HostStatusLine => ({ removed: { namespace: 'default', name } });

interface Serving {
  readonly address: string;
  /** Those who ask, in their order. */
  readonly asked: readonly ServerResponse[];
}

async function serve(
  answer: (response: ServerResponse) => void,
  listen: { host: string } | { path: string } = { host: '127.0.0.1' },
): Promise<Serving> {
  const asked: ServerResponse[] = [];
  const server = createServer((_request, response) => {
    asked.push(response);
    answer(response);
  });
  await new Promise<void>((resolve) =>
    server.listen('path' in listen ? listen : { ...listen, port: 0 }, resolve),
  );
  closeLater(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  if ('path' in listen) return { address: `unix:${listen.path}`, asked };
  const { address, family, port } = server.address() as AddressInfo;
  return { address: `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`, asked };
}

function follow(address: string): {
  opened: Promise<void>;
  lines: HostStatusLine[];
  ends: () => number;
  stop: () => void;
} {
  const stopping = new AbortController();
  const lines: HostStatusLine[] = [];
  let ends = 0;
  const opened = followHostStatus(
    address,
    { onLine: (line) => lines.push(line), onEnd: () => (ends += 1) },
    stopping.signal,
  );
  closeLater(() => Promise.resolve(stopping.abort()));
  return { opened, lines, ends: () => ends, stop: () => stopping.abort() };
}

test.each([
  ['127.0.0.1', { host: '127.0.0.1' }],
  ['::1', { host: '::1' }],
  ['a unix socket', undefined],
])('each line is told as it comes, until the host ends: at %s', async (_where, listen) => {
  const host = await serve(
    (response) => response.flushHeaders(),
    listen ?? { path: join(await temporaryFolder(), 'host.sock') },
  );
  const { opened, lines, ends } = follow(host.address);
  await opened;
  expect(lines).toEqual([]);
  // In pieces, one of which ends within a character.
  const bytes = Buffer.from(`${JSON.stringify(removed('grün'))}\n${JSON.stringify(removed('b'))}\n`);
  const within = bytes.indexOf(Buffer.from('ü')) + 1;
  const [response] = host.asked;
  response!.write(bytes.subarray(0, within));
  await new Promise((resolve) => setTimeout(resolve, 20));
  response!.write(bytes.subarray(within));
  await expect.poll(() => lines).toEqual([removed('grün'), removed('b')]);
  expect(ends()).toBe(0);
  response!.end();
  await expect.poll(ends).toBe(1);
});

test('several are followed at once, none gets what is another’s', async () => {
  const host = await serve((response) => response.flushHeaders());
  const followed = Array.from({ length: 50 }, () => follow(host.address));
  await Promise.all(followed.map(({ opened }) => opened));
  for (let round = 0; round < 20; round++) {
    host.asked.forEach((response, index) => {
      const text = `${JSON.stringify(removed(`${index}-${'x'.repeat(round * 100)}-${round}`))}\n`;
      response.write(text.slice(0, 30));
      setImmediate(() => response.write(text.slice(30)));
    });
    await new Promise((resolve) => setImmediate(resolve));
  }
  await expect.poll(() => followed.every(({ lines }) => lines.length === 20)).toBe(true);
  const namesOf = (lines: readonly HostStatusLine[]): string[] =>
    lines.flatMap((line) => ('removed' in line ? [line.removed.name] : []));
  const whose = followed.map(({ lines }) => new Set(namesOf(lines).map((name) => name.split('-')[0])));
  expect(whose.map(({ size }) => size)).toEqual(followed.map(() => 1));
  expect(new Set(whose.map((names) => [...names][0])).size).toBe(50);
});

test('a host that refuses, or ends before it answered, is no host', async () => {
  const refusing = await serve((response) => response.writeHead(503).end('draining'));
  await expect(follow(refusing.address).opened).rejects.toThrow('answered /status with 503');
  const ending = await serve((response) => response.destroy());
  const { opened, ends } = follow(ending.address);
  await expect(opened).rejects.toThrow();
  expect(ends()).toBe(0);
  await expect(follow(`unix:${join(await temporaryFolder(), 'none.sock')}`).opened).rejects.toThrow('ENOENT');
});

test('what is no status ends the stream, and is told as its end', async () => {
  const host = await serve((response) => response.write('{"function":\n'));
  const { opened, ends } = follow(host.address);
  await opened;
  await expect.poll(ends).toBe(1);
});

test('who stops listening is gone at once, also before the host answered', async () => {
  const sockets: Socket[] = [];
  const silent = createTcpServer((socket) => sockets.push(socket.on('error', () => {})));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  closeLater(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => silent.close(resolve));
  });
  const { opened, stop } = follow(`http://127.0.0.1:${(silent.address() as AddressInfo).port}`);
  await expect.poll(() => sockets.length).toBe(1);
  stop();
  await expect(opened).rejects.toThrow('aborted');

  const host = await serve((response) => response.flushHeaders());
  const listening = follow(host.address);
  await listening.opened;
  listening.stop();
  await expect.poll(listening.ends).toBe(1);
});
