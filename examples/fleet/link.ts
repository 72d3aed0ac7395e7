/** The way of one robot to the hub, which can be cut: a TCP relay in this process, where real robots have Wi-Fi. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface Link {
  /** For `faas up --hub`. */
  readonly url: string;
  /** Ends its connections and takes no new ones; what is in between is lost. */
  cut(): void;
  heal(): void;
  close(): Promise<void>;
}

export async function openLink(hub: { readonly hostname: string; readonly port: number }): Promise<Link> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const server = createServer((near) => {
    if (isCut) return void near.destroy();
    const far = connect(hub.port, hub.hostname);
    join(near, far);
    join(far, near);
  });

  function join(from: Socket, to: Socket): void {
    sockets.add(from);
    from.setNoDelay(true);
    // Whatever it was, its close follows, and both ends see it as they see any link that is gone.
    from.on('error', () => undefined);
    from.once('close', () => {
      sockets.delete(from);
      to.destroy();
    });
    from.pipe(to);
  }

  const end = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `nats://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut() {
      isCut = true;
      end();
    },
    heal() {
      isCut = false;
    },
    async close() {
      const closed = once(server, 'close');
      server.close();
      end();
      await closed;
    },
  };
}
