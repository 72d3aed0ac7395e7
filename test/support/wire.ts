/** Between a client and a real server: a TCP connection that can be cut, slow, or open with nobody at its other end. */
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { Transform } from 'node:stream';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';

export interface Wire {
  readonly port: number;
  /** Connections that were asked for since the beginning. */
  readonly connections: number;
  /** What the server sent since the beginning. */
  readonly bytes: number;
  /** Ends all connections and refuses new ones until `heal`. */
  cut(): void;
  /** From now on nothing passes on the connections there are, and none of them ends; new ones work. */
  freeze(): void;
  heal(): void;
  /** From now on the server's answers come at this pace; the client's questions at once. */
  slow(bytesPerSecond: number): void;
}

export async function startWire(targetPort: number, options: { closing?: Closing } = {}): Promise<Wire> {
  const pairs = new Set<readonly [Socket, Socket, Transform]>();
  let [connections, bytes, isCut] = [0, 0, false];
  let pace = Infinity;
  const paced = (): Transform =>
    new Transform({
      transform(chunk: Buffer, _, done) {
        if (pace === Infinity) return done(null, chunk);
        setTimeout(done, (chunk.length / pace) * 1_000, null, chunk);
      },
    });
  const server = createServer((near) => {
    connections += 1;
    if (isCut) return void near.resetAndDestroy();
    const far = connect(targetPort, '127.0.0.1');
    const answers = paced();
    const pair = [near, far, answers] as const;
    pairs.add(pair);
    far.on('data', (chunk: Buffer) => (bytes += chunk.length));
    near.pipe(far).pipe(answers).pipe(near);
    const end = (): void => {
      pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) socket.on('error', end).on('close', end);
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const endAll = (): void => {
    for (const [near, far] of pairs) {
      near.destroy();
      far.destroy();
    }
  };
  closeLater(async () => {
    endAll();
    server.close();
  }, options.closing);
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return connections;
    },
    get bytes() {
      return bytes;
    },
    cut() {
      isCut = true;
      endAll();
    },
    freeze() {
      for (const [near, far, answers] of pairs) {
        near.unpipe(far);
        far.unpipe(answers);
        answers.unpipe(near);
        near.pause();
        far.pause();
      }
    },
    heal() {
      isCut = false;
    },
    slow(bytesPerSecond) {
      pace = bytesPerSecond;
    },
  };
}
