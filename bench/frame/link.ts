/**
 * A link of so many bytes a second each way, between a robot and its hub: a relay that reads no faster than it may write. A
 * process of its own, so that nobody's garbage holds it up. Argument: the hub's URL; its own comes on stdout. Each line on stdin
 * is a rate, Infinity for as fast as it goes.
 */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

/** A Wi-Fi sends frames of some kilobytes; what is taken at once must not be a burst. */
const pieceBytes = 8 * 1024;
/** Timers have milliseconds and are late: so much of it is made up for by the next pieces. */
const owedMs = 3;

const { protocol, hostname, port } = new URL(process.argv[2] ?? '');
let bytesPerSecond = Infinity;

/** What does not fit waits where it comes from: in the kernel's buffers, and then with the sender. */
async function carry(from: Socket, to: Socket): Promise<void> {
  let freeMs = 0;
  for await (const chunk of from as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += pieceBytes) {
      const piece = chunk.subarray(at, at + pieceBytes);
      const nowMs = performance.now();
      freeMs = Math.max(freeMs, nowMs - owedMs) + (piece.length / bytesPerSecond) * 1000;
      if (!to.write(piece)) await once(to, 'drain');
      if (freeMs - nowMs >= 1) await pause(freeMs - nowMs);
    }
  }
  to.end();
}

const server = createServer({ noDelay: true }, (robot) => {
  const hub = connect({ host: hostname, port: Number(port), noDelay: true });
  for (const socket of [robot, hub]) {
    socket.on('error', () => {});
    socket.once('close', () => {
      robot.destroy();
      hub.destroy();
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
console.log(JSON.stringify(`${protocol}//127.0.0.1:${(server.address() as AddressInfo).port}`));
for await (const line of createInterface({ input: process.stdin })) bytesPerSecond = Number(line);
process.exit(0);
