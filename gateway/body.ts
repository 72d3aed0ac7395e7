/** Request bodies, whole and bounded. */
import type { IncomingMessage } from 'node:http';
import { AtollError } from '../runtime/errors.ts';

/** Beyond this a refused body is not even read away any more. */
const maxDiscardedBytes = 64 * 1024 * 1024;

/**
 * The whole body, at most `limit` bytes. Rejects with AtollError TooLarge; the rest is then read and thrown away,
 * since a client that is still writing when its connection is cut does not see the answer.
 */
export function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  let size = 0;
  const refuse = () => {
    chunks.length = 0;
    reject(tooLarge(limit));
  };
  if (Number(request.headers['content-length'] ?? 0) > limit) refuse();
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= limit) chunks.push(chunk);
    else refuse();
    if (size > maxDiscardedBytes) request.destroy();
  });
  request.once('end', () => resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks)));
  request.once('error', reject);
  request.once('close', () => reject(new AtollError('InvalidRequest', 'the body ended early')));
  return promise;
}

export function tooLarge(limit: number): AtollError {
  return new AtollError('TooLarge', `the body is larger than ${limit} bytes`);
}
