import { finished } from 'node:stream/promises';
import { expect, test } from 'vitest';
import {
  maxStreamBytes,
  openResponseStream,
  ResponseStream,
} from '../../../runtime/invoker/response-stream.ts';

test('a stream fails with the byte that is more than it may have', async () => {
  let sent = 0;
  const stream = new ResponseStream({
    limitBytes: 100,
    windowBytes: Infinity,
    send: ({ length }) => void (sent += length),
  });
  stream.write(Buffer.alloc(100));
  expect(sent).toBe(100);
  stream.write('x');
  await expect(finished(stream)).rejects.toMatchObject({
    name: 'Runtime.InvalidResponse',
    message: 'the streamed response is larger than the 100 bytes allowed',
  });
  expect(sent).toBe(100);
});

test('a response that is read along may have 200 MiB', async () => {
  expect(maxStreamBytes).toBe(209_715_200);
  const { stream } = openResponseStream(
    () => {},
    ({ length }) => setImmediate(() => stream.taken(length)),
  );
  const piece = Buffer.alloc(1024 * 1024);
  for (let sent = 0; sent < maxStreamBytes; sent += piece.length) {
    await new Promise<void>((taken, failed) => {
      stream.write(piece, ...([(error?: Error) => (error ? failed(error) : taken())] as never[]));
    });
  }
  stream.write('x');
  await expect(finished(stream)).rejects.toMatchObject({ name: 'Runtime.InvalidResponse' });
});

test('nothing is sent beyond the window, and what was taken opens it again, to the byte', () => {
  const sent: number[] = [];
  const stream = new ResponseStream({
    limitBytes: Infinity,
    windowBytes: 10,
    highWaterMark: 4,
    send: ({ length }) => void sent.push(length),
  });
  expect(stream.write('12345678')).toBe(true);
  expect(stream.write('12345678')).toBe(false);
  expect(sent).toEqual([8, 2]);
  stream.taken(3);
  expect(sent).toEqual([8, 2, 3]);
  stream.taken(8);
  expect(sent).toEqual([8, 2, 3, 3]);
  expect(stream.write('x')).toBe(true);
});
