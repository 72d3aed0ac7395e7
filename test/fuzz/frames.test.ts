import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  FrameDecoder,
  FrameWriter,
  frameType,
  jsonObject,
  maxPayloadBytes,
  ProtocolError,
  protocolVersion,
  readCall,
  readCallResult,
  readFault,
  readInvoke,
  readLog,
  writeCall,
  writeCallResult,
  writeInvoke,
  writeJson,
  writeLog,
  type FrameReader,
} from '../../runtime/invoker/protocol.ts';
import { changed, changes, fuzz, fuzzTimeoutMs } from './fuzz.ts';

/** As host and handler process read them. */
const readers: Record<number, (payload: FrameReader) => unknown> = {
  [frameType.invoke]: readInvoke,
  [frameType.log]: readLog,
  [frameType.fault]: readFault,
  [frameType.init]: (payload) => jsonObject(payload.restText()),
  [frameType.result]: (payload) => [payload.u8(), payload.rest()],
  [frameType.call]: readCall,
  [frameType.callResult]: readCallResult,
};

function validStream(): Buffer {
  const writer = new FrameWriter();
  const event = {
    id: 'orders:7',
    trigger: 'orders',
    kind: 'jetstream',
    subject: 'orders.new',
    time: 1_700_000_000_000,
    attempt: 2,
    headers: { 'Atoll-Hops': '1', 'content-type': 'application/json' },
    encoding: 'json',
    detail: { stream: 'ORDERS', sequence: 7 },
    data: Buffer.from('{"n":7}'),
  } as const;
  writeInvoke(writer, 1, {
    requestId: 'r-1',
    deadlineMs: 5_000,
    batch: true,
    stream: false,
    events: [event, event],
  });
  writeLog(writer, {
    level: 'INFO',
    timeMs: 1_700_000_000_000,
    requestId: 'r-1',
    message: 'hello',
    fields: { a: 1 },
  });
  writeJson(writer, frameType.fault, 1, {
    code: 'Error',
    message: 'broken',
    stack: ['a', 'b'],
    retryable: false,
  });
  writeJson(writer, frameType.init, 0, { env: { A: '1' } });
  writer.begin(frameType.result, 2).u8(0).raw(Buffer.alloc(20_000, 3)).end();
  const call = {
    kind: 'nats.publish',
    target: 'orders.new',
    detail: '{"msgId":"a"}',
    data: Buffer.from('7'),
  } as const;
  writeCall(writer, 1, 1, call);
  writeCallResult(writer, 1, 1, { ok: true, detail: '', data: Buffer.alloc(20_000, 4) });
  writeCallResult(writer, 1, 2, { ok: false, code: 'NotAllowed', message: 'no', retryable: false });
  return Buffer.concat(writer.take());
}

/** Reads all of it in pieces; what does not end in frames ends in a ProtocolError. */
function read(stream: Buffer, pieces: readonly number[]): number {
  let frames = 0;
  const decoder = new FrameDecoder((type, _id, payload) => {
    frames += 1;
    readers[type]?.(payload);
  });
  try {
    for (let at = 0, piece = 0; at < stream.length; piece += 1) {
      const size = pieces[piece % pieces.length]!;
      decoder.push(stream.subarray(at, at + size));
      at += size;
    }
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError);
    expect((error as Error).message).not.toBe('');
  }
  return frames;
}

const pieces = fc.array(fc.integer({ min: 1, max: 30_000 }), { minLength: 1, maxLength: 4 });
const valid = validStream();

test(
  'frames that were changed on the way are read, or refused as such',
  { timeout: fuzzTimeoutMs },
  async () => {
    expect(read(valid, [17])).toBe(8);
    const before = process.memoryUsage().rss;
    await fuzz(
      'frames, changed',
      fc.tuple(changes(fc.uint8Array({ maxLength: 40 })), pieces),
      ([all, cuts]) => {
        read(changed(valid, all), cuts);
      },
    );
    // A length that is claimed costs no more than a frame may have.
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * maxPayloadBytes);
  },
);

test('bytes of any kind are frames, or refused as such', { timeout: fuzzTimeoutMs }, async () => {
  const payload = fc.uint8Array({ maxLength: 300 });
  const framed = fc.record({ type: fc.nat(20), id: fc.nat(), payload }).map(({ type, id, payload }) => {
    const header = Buffer.alloc(10);
    header[0] = protocolVersion;
    header.writeUInt32LE(payload.length, 1);
    header[5] = type;
    header.writeUInt32LE(id, 6);
    return Buffer.concat([header, payload]);
  });
  const stream = fc
    .array(
      fc.oneof(
        framed,
        payload.map((bytes) => Buffer.from(bytes)),
      ),
      { maxLength: 10 },
    )
    .map((parts) => Buffer.concat(parts));
  await fuzz('frames, of any bytes', fc.tuple(stream, pieces), ([bytes, cuts]) => void read(bytes, cuts));
});
