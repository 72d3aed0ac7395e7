/**
 * HTTP requests over connections that are kept, each with one request at a time. Written on sockets because a client
 * library costs more than the servers that are compared, and would be what is measured.
 */
import { connect, type NetConnectOpts, type Socket } from 'node:net';

export interface Load {
  /** Sends `count` requests over all connections; returns the seconds they took. Rejects for an answer that is not 2xx. */
  run(count: number): Promise<number>;
}

const endOfHead = Buffer.from('\r\n\r\n');
const endOfChunks = Buffer.from('0\r\n\r\n');

export function httpLoad(
  address: NetConnectOpts,
  { connections, path, body }: { connections: number; path: string; body: string },
): Load {
  const request = Buffer.from(
    `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
  return {
    async run(count) {
      // Anew each time: between two rounds a server ends what is idle for too long.
      const lines = await Promise.all(Array.from({ length: connections }, () => openLine(address, request)));
      try {
        let left = count;
        const started = performance.now();
        await Promise.all(
          lines.map(async (line) => {
            while (left-- > 0) await line.ask();
          }),
        );
        return (performance.now() - started) / 1000;
      } finally {
        for (const line of lines) line.socket.destroy();
      }
    },
  };
}

interface Line {
  readonly socket: Socket;
  ask(): Promise<void>;
}

async function openLine(address: NetConnectOpts, request: Buffer): Promise<Line> {
  const socket = connect(address);
  let answered: PromiseWithResolvers<void> | undefined;
  let received: Buffer[] = [];
  let size = 0;
  /** Bytes of the whole answer, once its head is there; Infinity for chunks, which say themselves when they end. */
  let wanted: number | undefined;

  socket.on('data', (chunk: Buffer) => {
    received.push(chunk);
    size += chunk.length;
    if (wanted === undefined) {
      const bytes = received.length === 1 ? chunk : Buffer.concat(received);
      const head = bytes.indexOf(endOfHead);
      if (head === -1) return;
      const text = bytes.toString('latin1', 0, head);
      if (!/^HTTP\/1\.1 2/.test(text)) return answered?.reject(new Error(bytes.toString()));
      const length = /\r\ncontent-length: *(\d+)/i.exec(text)?.[1];
      wanted = length === undefined ? Infinity : head + endOfHead.length + Number(length);
    }
    if (wanted === Infinity ? !chunk.subarray(-endOfChunks.length).equals(endOfChunks) : size < wanted)
      return;
    received = [];
    size = 0;
    wanted = undefined;
    answered?.resolve();
  });
  socket.on('close', () => answered?.reject(new Error('the server closed the connection')));
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  return {
    socket,
    ask() {
      answered = Promise.withResolvers();
      socket.write(request);
      return answered.promise;
    },
  };
}
