/** The status stream of a host: what it is now, then each change, as long as the host lives. */
import { connect, type Socket } from 'node:net';
import type { HostStatusLine } from '../../runtime/config.ts';

/** A line is one function's status: sixteen triggers with a message each. */
const maxLineBytes = 1024 * 1024;

/** How often an idle connection is asked below HTTP whether its other end is there: a node may vanish without a word. */
const keepAliveMs = 5_000;

/** Where all connections read into: each piece is taken out before the next one comes. */
const reading = Buffer.allocUnsafe(64 * 1024);

/**
 * `address` is `unix:/path` or `http://host:port`. Resolves when the host has answered; from then on it listens to
 * signals. Rejects when it cannot be reached. `onEnd` is called once, when a stream that was open is over, for
 * whatever reason.
 *
 * A controller holds one of these for each pod, thousands of them, so it is a bare connection: a request of Node's HTTP
 * client takes several times its memory. By HTTP/1.0 the answer comes as it is and ends with the connection (RFC 9112,
 * sections 6.1 and 6.3).
 */
export function followHostStatus(
  address: string,
  listeners: { onLine: (line: HostStatusLine) => void; onEnd: () => void },
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const { place, host } = placeOf(address);
    let open = false;
    /** Bytes of a head or a line that is not whole yet. */
    let held: Buffer<ArrayBufferLike> | undefined;

    const take = (length: number): boolean => {
      const piece = reading.subarray(0, length);
      let bytes: Buffer<ArrayBufferLike> = held ? Buffer.concat([held, piece]) : piece;
      held = undefined;
      try {
        if (!open) {
          const headEnd = bytes.indexOf('\r\n\r\n');
          if (headEnd >= 0) {
            refuseUnlessOk(bytes.toString('latin1', 0, headEnd));
            bytes = bytes.subarray(headEnd + 4);
            open = true;
            resolve();
          }
        }
        if (open) bytes = afterLines(bytes, listeners.onLine);
        if (bytes.length > maxLineBytes) throw new Error('a status line has no end');
      } catch (error) {
        socket.destroy(error as Error);
        return false;
      }
      if (bytes.length > 0) held = Buffer.from(bytes);
      return true;
    };

    const socket: Socket = connect({
      ...place,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveMs,
      onread: { buffer: reading, callback: take },
    });
    socket.once('error', reject);
    // 'error' is followed by 'close', and so is a clean end.
    socket.on('error', () => {});
    // As an option of the connection it would cost a dozen closures each.
    const abort = (): void => void socket.destroy(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    socket.once('close', () => {
      signal.removeEventListener('abort', abort);
      if (open) listeners.onEnd();
      else reject(new Error('the host ended the connection before it answered'));
    });
    socket.write(`GET /status?watch=true HTTP/1.0\r\nHost: ${host}\r\n\r\n`);
  });
}

function placeOf(address: string): {
  place: { path: string } | { host: string; port: number };
  host: string;
} {
  if (address.startsWith('unix:'))
    return { place: { path: address.slice('unix:'.length) }, host: 'localhost' };
  const { host, hostname, port } = new URL(address);
  // IPv6 stands in brackets in a URL, and nowhere else.
  return { place: { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: Number(port || 80) }, host };
}

function refuseUnlessOk(head: string): void {
  const [, status = ''] = /^HTTP\/1\.[01] (\d{3})\b/.exec(head) ?? [];
  if (status !== '200') throw new Error(`the host answered /status with ${status || head.slice(0, 100)}`);
}

/** Hands over each whole line, and gives what is left. */
function afterLines(bytes: Buffer, onLine: (line: HostStatusLine) => void): Buffer {
  let from = 0;
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, from)) {
    if (end > from) onLine(JSON.parse(bytes.toString('utf8', from, end)) as HostStatusLine);
    from = end + 1;
  }
  return bytes.subarray(from);
}
