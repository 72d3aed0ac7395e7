/** Request bodies, bounded: whole, or on their way. */
import type { IncomingMessage } from 'node:http';
import { type Readable, Transform } from 'node:stream';
import { AtollError } from '../runtime/errors.ts';

/** What is read away of a body that is refused; who sends more is cut off. */
const maxDiscardedBytes = 64 * 1024 * 1024;

/** Rejects with AtollError TooLarge beyond `limit` bytes, InvalidRequest when the client leaves in the middle. */
export async function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  if (isEmpty(request)) return Buffer.alloc(0);
  await refuseDeclared(request, limit);
  if (request.destroyed) throw endedEarly();
  // Collected here: a stream between costs an invocation more than all the rest that is done with its body.
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const take = (chunk: Buffer): void => {
      size += chunk.length;
      if (size <= limit) return void chunks.push(chunk);
      request.off('data', take);
      void discard(request).then(() => reject(tooLarge(limit)));
    };
    request.on('data', take);
    request.once('end', () => {
      if (size <= limit) resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks));
    });
    request.once('close', () => {
      if (!request.complete) reject(endedEarly());
    });
  });
}

/** As `readBody`, in pieces; undefined where there is none. */
export async function bodyOf(request: IncomingMessage, limit: number): Promise<Readable | undefined> {
  if (isEmpty(request)) return undefined;
  await refuseDeclared(request, limit);
  let size = 0;
  const bounded = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      size += chunk.length;
      if (size <= limit) return done(null, chunk);
      request.unpipe(bounded);
      void discard(request).then(() => done(tooLarge(limit)));
    },
  });
  request.once('close', () => {
    if (!request.complete) bounded.destroy(endedEarly());
  });
  // Whoever was to take it gave up: the next request on this connection comes after what is left.
  bounded.once('close', () => request.resume());
  return request.pipe(bounded);
}

const tooLarge = (limit: number) => new AtollError('TooLarge', `the body is larger than ${limit} bytes`);
const endedEarly = () => new AtollError('InvalidRequest', 'the body ended early');

function isEmpty({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) === 0;
}

/** What says of itself that it is too large is not begun with. */
async function refuseDeclared(request: IncomingMessage, limit: number): Promise<void> {
  if (Number(request.headers['content-length'] ?? 0) <= limit) return;
  await discard(request);
  throw tooLarge(limit);
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
