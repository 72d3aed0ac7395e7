/** Between a client and a real server: a TCP connection that can be cut, or left open with nobody at its other end. */
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
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
}

export async function startWire(targetPort: number, options: { closing?: Closing } = {}): Promise<Wire> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let [connections, bytes, isCut] = [0, 0, false];
  const server = createServer((near) => {
    connections += 1;
    if (isCut) return void near.resetAndDestroy();
    const far = connect(targetPort, '127.0.0.1');
    const pair = [near, far] as const;
    pairs.add(pair);
    far.on('data', (chunk: Buffer) => (bytes += chunk.length));
    near.pipe(far).pipe(near);
    const end = (): void => {
      pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const socket of pair) socket.on('error', end).on('close', end);
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
      for (const [near, far] of pairs) {
        near.unpipe(far);
        far.unpipe(near);
        near.pause();
        far.pause();
      }
    },
    heal() {
      isCut = false;
    },
  };
}
