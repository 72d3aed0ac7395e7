import { existsSync } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as wait } from 'node:timers/promises';

const { streamifyResponse, HttpResponseStream } = globalThis.awslambda;

const cases = {
  /** The second half comes when the reader says that it has the first. */
  async halves(event, stream) {
    stream.setContentType('text/plain');
    stream.write('first ');
    while (!existsSync(event.until)) await wait(2);
    stream.end('second');
  },
  async http(event, stream) {
    const out = HttpResponseStream.from(stream, event.prelude);
    if (event.body !== undefined) out.write(event.body);
    out.end();
  },
  /** `end` alone has to bring the prelude too. */
  async endOnly(event, stream) {
    HttpResponseStream.from(stream, { statusCode: 201 }).end('all of it');
  },
  async objects(event, stream) {
    stream.write({ a: 1 });
    stream.write(Buffer.from('-'));
    stream.end(new Uint8Array([0x2b]));
  },
  /** Does what `write` and `drain` ask for, and tells how much it ever had to keep. */
  async much({ bytes, text = 'x' }, stream) {
    const chunk = Buffer.alloc(32 * 1024, text);
    let most = 0;
    for (let sent = 0; sent < bytes; sent += chunk.length) {
      if (!stream.write(chunk)) await new Promise((drained) => stream.once('drain', drained));
      most = Math.max(most, stream.writableLength);
    }
    console.log('kept', most);
    stream.end();
  },
  async nothing(event, stream) {
    stream.end();
  },
  async throwsLate(event, stream) {
    stream.write('begun');
    throw new RangeError('in the middle');
  },
  async throwsEarly() {
    throw new RangeError('at once');
  },
  async destroys(event, stream) {
    stream.write('begun');
    stream.destroy();
  },
  notAsync(event, stream) {
    stream.end('x');
  },
  async contentTypeLate(event, stream) {
    stream.write('x');
    stream.setContentType('text/plain');
  },
  async returnsToo(event, stream) {
    stream.end('x');
    return 'ignored';
  },
  /** Never ends by itself; tells what it sees of a reader that went away. */
  async untilGone(event, stream, context) {
    async function* forever() {
      for (;;) {
        yield 'tick ';
        await wait(5);
      }
    }
    try {
      await pipeline(Readable.from(forever()), stream);
    } catch (error) {
      console.log('gone', error.message, context.signal.aborted, context.signal.reason.message);
      throw error;
    }
  },
  /** Looks at nothing. */
  async heedless(event, stream) {
    for (let n = 0; n < 50; n++) {
      stream.write('tick ');
      await wait(2);
    }
    stream.end();
  },
  async neverEnds(event, stream) {
    stream.write('begun');
    await new Promise(() => {});
  },
  async pid(event, stream) {
    stream.end(JSON.stringify(process.pid));
  },
};

export const handler = streamifyResponse(async (event, stream, context) => {
  const { what, ...rest } = event.body === undefined ? event : JSON.parse(event.body);
  await cases[what](rest, stream, context);
});
export const returned = streamifyResponse((event, stream, context) =>
  cases[event.what](event, stream, context),
);
export const small = streamifyResponse(
  async (event, stream) => stream.end(`${stream.writableHighWaterMark}`),
  {
    highWaterMark: 7,
  },
);
export const malformed = Object.assign(async () => {}, {
  [Symbol.for('aws.lambda.runtime.handler.streaming')]: 'request',
});
