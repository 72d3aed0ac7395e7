/** Request bodies, bounded: whole, or on their way. */
import type { IncomingMessage } from 'node:http';
import { type Readable, Transform } from 'node:stream';
import { AtollError } from '../runtime/errors.ts';

/** What is read away of a body that is refused; who sends more is cut off. */
const maxDiscardedBytes = 64 * 1024 * 1024;

/** Rejects with AtollError TooLarge beyond `limit` bytes, InvalidRequest when the client leaves in the middle. */
export async function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const body = await bodyOf(request, limit);
  if (body) for await (const chunk of body as AsyncIterable<Buffer>) chunks.push(chunk);
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
}

/** As `readBody`, in pieces; undefined where there is none. */
export async function bodyOf(request: IncomingMessage, limit: number): Promise<Readable | undefined> {
  const { 'content-length': length, 'transfer-encoding': encoding } = request.headers;
  if (encoding === undefined && Number(length ?? 0) === 0) return undefined;
  const tooLarge = () => new AtollError('TooLarge', `the body is larger than ${limit} bytes`);
  if (Number(length ?? 0) > limit) {
    await discard(request);
    throw tooLarge();
  }
  let size = 0;
  const bounded = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      size += chunk.length;
      if (size <= limit) return done(null, chunk);
      request.unpipe(bounded);
      void discard(request).then(() => done(tooLarge()));
    },
  });
  request.once('close', () => {
    if (!request.complete) bounded.destroy(new AtollError('InvalidRequest', 'the body ended early'));
  });
  // Whoever was to take it gave up: the next request on this connection comes after what is left.
  bounded.once('close', () => request.resume());
  return request.pipe(bounded);
}

/** A client that is still writing when it is answered may never see the answer: so what it writes is read away first. */
function discard(request: IncomingMessage): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let size = 0;
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= maxDiscardedBytes) return;
    resolve();
    request.destroy();
  });
  request.once('end', resolve);
  request.once('close', resolve);
  // Taking away a pipe has paused it.
  request.resume();
  return request.readableEnded ? Promise.resolve() : promise;
}
