import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TriggerEvent } from '../../../runtime/event.ts';
import type { CallAnswer, HandlerCall } from '../../../runtime/handler-calls.ts';
import {
  FrameDecoder,
  FrameWriter,
  frameType,
  maxPayloadBytes,
  ProtocolError,
  protocolVersion,
  readCall,
  readCallResult,
  readInvoke,
  readLog,
  writeCall,
  writeCallResult,
  writeInvoke,
  writeLog,
  type Call,
  type FrameReader,
} from '../../../runtime/invoker/protocol.ts';

const bytes = (writer: FrameWriter) => Buffer.concat(writer.take());

/** Decodes a stream that arrives in pieces of these sizes, over and over. */
function decode<T>(stream: Buffer, sizes: number[], read: (payload: FrameReader) => T) {
  const frames: { type: number; id: number; value: T }[] = [];
  const decoder = new FrameDecoder((type, id, payload) => frames.push({ type, id, value: read(payload) }));
  for (let at = 0, piece = 0; at < stream.length; piece++) {
    const size = sizes[piece % sizes.length]!;
    decoder.push(stream.subarray(at, at + size));
    at += size;
  }
  return frames;
}

const sizes = fc.array(fc.integer({ min: 1, max: 200_000 }), { minLength: 1, maxLength: 5 });

test('frames come out as they went in, wherever the stream is cut', () => {
  const frame = fc.record({
    type: fc.integer({ min: 1, max: 12 }),
    id: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    text: fc.string({ unit: 'binary', maxLength: 50 }),
    size: fc.oneof(fc.integer({ min: 0, max: 100 }), fc.integer({ min: 15_000, max: 200_000 })),
  });
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 20 }), sizes, (frames, pieces) => {
      const writer = new FrameWriter();
      for (const { type, id, text, size } of frames) {
        writer.begin(type, id).f64(size).string(text).bytes(Buffer.alloc(size, size)).u8(7).end();
      }
      const read = decode(bytes(writer), pieces, (payload) => {
        const length = payload.f64();
        const text = payload.string();
        const data = Buffer.from(payload.bytes());
        return { text, whole: data.equals(Buffer.alloc(length, length)), last: payload.u8() };
      });
      expect(read).toEqual(
        frames.map(({ type, id, text }) => ({
          type,
          id,
          // A lone surrogate has no UTF-8.
          value: { text: text.toWellFormed(), whole: true, last: 7 },
        })),
      );
    }),
    { numRuns: 60 },
  );
});

test('an invocation comes out as it went in: every kind, headers, detail, payload', () => {
  const word = fc.string({ maxLength: 20 });
  const event: fc.Arbitrary<TriggerEvent> = fc.record(
    {
      id: fc.string({ minLength: 1, maxLength: 20 }),
      trigger: word,
      kind: fc.constantFrom('nats', 'jetstream', 'mqtt', 'http', 'schedule', 'invoke'),
      subject: word,
      time: fc.integer({ min: 0, max: 4e12 }),
      attempt: fc.integer({ min: 1, max: 1000 }),
      headers: fc.dictionary(
        word.filter((name) => name !== '__proto__'),
        word,
        { noNullPrototype: true },
      ),
      encoding: fc.constantFrom('json', 'text', 'binary'),
      data: fc.uint8Array({ maxLength: 40_000 }).map((data): Uint8Array => Buffer.from(data)),
      detail: fc.constant({ stream: 'orders', sequence: 7, nested: { a: [1, null] } }),
    },
    { requiredKeys: ['id', 'trigger', 'kind', 'subject', 'time', 'attempt', 'headers', 'encoding', 'data'] },
  );
  const call: fc.Arbitrary<Call> = fc.record({
    requestId: word,
    deadlineMs: fc.double({ min: 0, max: 1e12, noNaN: true }),
    batch: fc.boolean(),
    stream: fc.boolean(),
    events: fc.array(event, { minLength: 1, maxLength: 5 }),
  });
  fc.assert(
    fc.property(call, sizes, (sent, pieces) => {
      const writer = new FrameWriter();
      writeInvoke(writer, 9, sent);
      const [frame] = decode(bytes(writer), pieces, (payload) => {
        const read = readInvoke(payload);
        return { ...read, events: read.events.map((one) => ({ ...one, data: Buffer.from(one.data) })) };
      });
      expect(frame).toEqual({ type: frameType.invoke, id: 9, value: sent });
    }),
    { numRuns: 60 },
  );
});

test('a call and its answer come out as they went in, of every kind', () => {
  const kinds = [
    ...([
      'nats.publish',
      'nats.request',
      'mqtt.publish',
      'ros.call',
      'ros.publish',
      'ros.definition',
      'ros.topics',
    ] as const),
    ...(['kv.get', 'kv.put', 'kv.create', 'kv.update', 'kv.delete'] as const),
  ];
  const data = fc.uint8Array({ maxLength: 40_000 }).map((given): Uint8Array => Buffer.from(given));
  const text = fc.string({ maxLength: 200 });
  const call: fc.Arbitrary<HandlerCall> = fc.record({
    kind: fc.constantFrom(...kinds),
    target: text,
    detail: text,
    data,
  });
  const answer: fc.Arbitrary<CallAnswer> = fc.oneof(
    fc.record({ ok: fc.constant(true as const), detail: text, data }),
    fc.record({ ok: fc.constant(false as const), code: text, message: text, retryable: fc.boolean() }),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(call, answer), { maxLength: 5 }), sizes, (sent, pieces) => {
      const there = new FrameWriter();
      const back = new FrameWriter();
      for (const [number, [asked, answered]] of sent.entries()) {
        writeCall(there, 9, number, asked);
        writeCallResult(back, 9, number, answered);
      }
      const calls = decode(bytes(there), pieces, (payload) => {
        const { number, call: read } = readCall(payload);
        return { number, call: { ...read, data: Buffer.from(read.data) } };
      });
      expect(calls.map(({ value }) => value)).toEqual(
        sent.map(([asked], number) => ({ number, call: asked })),
      );
      const answers = decode(bytes(back), pieces, readCallResult);
      expect(answers.map(({ value }) => value)).toEqual(
        sent.map(([, answered], number) => ({ number, answer: answered })),
      );
      expect([...calls, ...answers].every(({ id }) => id === 9)).toBe(true);
    }),
    { numRuns: 60 },
  );
});

test('random bytes never do more than end in a ProtocolError', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), (garbage, likely) => {
      const stream = Buffer.from(garbage);
      // Half of them look like a frame that has begun well.
      if (likely && stream.length > 10) {
        stream[0] = protocolVersion;
        stream.writeUInt32LE(stream.length - 10, 1);
      }
      try {
        decode(stream, [7, 50], (payload) => readLog(payload));
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError);
      }
    }),
  );
});

test('a frame that claims more than 16 MiB is refused before anything of that size is reserved', () => {
  const header = Buffer.alloc(10);
  header[0] = protocolVersion;
  header.writeUInt32LE(maxPayloadBytes + 1, 1);
  expect(() => decode(header, [3], () => 0)).toThrow(/16777217 bytes/);
  header[0] = 9;
  expect(() => decode(header, [10], () => 0)).toThrow(/version 9/);
});

test('a frame that ends before its fields do is refused', () => {
  const writer = new FrameWriter();
  writer.begin(frameType.log, 0).u8(2).f64(0).u32(99).end();
  writeLog(writer, { level: 'INFO', timeMs: 0, requestId: '', message: 'the next frame is not touched' });
  expect(() => decode(bytes(writer), [1000], (payload) => readLog(payload))).toThrow(ProtocolError);
});

test('many small frames share a buffer, a large payload is not copied', () => {
  const writer = new FrameWriter();
  for (let id = 0; id < 100; id++) writer.begin(frameType.result, id).string('small').end();
  const large = Buffer.alloc(100_000, 1);
  writer.begin(frameType.result, 100).u8(0).raw(large).end();
  const parts = writer.take();
  expect(parts).toHaveLength(2);
  expect(parts[1]).toBe(large);
  expect(writer.empty).toBe(true);
});
