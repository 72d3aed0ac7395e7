import { createServer } from 'node:net';

/** Below the range that the kernel takes for outgoing connections, so that a stopped server's port stays its own. */
const lowest = 15_000;
const highest = 29_999;
/**
 * Files that run at the same time have ports of their own: none gets that of a server of another that is stopped for a
 * while.
 */
const shares = 4;
const share = (Number(process.env['VITEST_POOL_ID'] ?? 1) - 1) % shares;
const handedOut = new Set<number>();

/**
 * A TCP port of 127.0.0.1 on which nobody listens. Another process may still be faster: whoever binds it tries again
 * with a new one on "address in use" (startServer does).
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = lowest + share + shares * Math.floor((Math.random() * (highest - lowest + 1)) / shares);
    if (handedOut.has(port) || !(await isFree(port))) continue;
    handedOut.add(port);
    return port;
  }
}

function isFree(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = createServer();
  server.once('error', () => resolve(false));
  server.listen({ host: '127.0.0.1', port }, () => server.close(() => resolve(true)));
  return promise;
}
