/** A link of so many bytes a second each way, between a robot and its hub: a relay that reads no faster than it may write. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Closing } from '../../test/support/closing.ts';

/** A Wi-Fi sends frames of some kilobytes; what is taken at once must not be a burst. */
const pieceBytes = 8 * 1024;
/** Timers have milliseconds and are late: so much of it is made up for by the next pieces. */
const owedMs = 3;

export interface Link {
  readonly url: string;
  /** Infinity: as fast as it goes. */
  bytesPerSecond: number;
}

/** To `target`, a URL with host and port. */
export async function openLink(target: string, { closing }: { closing: Closing }): Promise<Link> {
  const { protocol, hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  const link = { url: '', bytesPerSecond: Infinity };

  /** What does not fit waits where it comes from: in the kernel's buffers, and then with the sender. */
  async function carry(from: Socket, to: Socket): Promise<void> {
    let freeMs = 0;
    for await (const chunk of from as AsyncIterable<Buffer>) {
      for (let at = 0; at < chunk.length; at += pieceBytes) {
        const piece = chunk.subarray(at, at + pieceBytes);
        const nowMs = performance.now();
        freeMs = Math.max(freeMs, nowMs - owedMs) + (piece.length / link.bytesPerSecond) * 1000;
        if (!to.write(piece)) await once(to, 'drain');
        if (freeMs - nowMs >= 1) await pause(freeMs - nowMs);
      }
    }
    to.end();
  }

  const server = createServer({ noDelay: true }, (robot) => {
    const hub = connect({ host: hostname, port: Number(port), noDelay: true });
    for (const socket of [robot, hub]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => {
        robot.destroy();
        hub.destroy();
        sockets.delete(socket);
      });
    }
    for (const [from, to] of [
      [robot, hub],
      [hub, robot],
    ] as const) {
      carry(from, to).catch(() => to.destroy());
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closing(async () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  link.url = `${protocol}//127.0.0.1:${(server.address() as AddressInfo).port}`;
  return link;
}
