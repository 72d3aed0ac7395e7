/**
 * Frames between host and handler process, on a socket pair: u8 version, u32 length of the payload, u8 type,
 * u32 id, payload; little endian. `id` names the invocation; 0 is the process itself. Payloads of events
 * and results are raw bytes, the rest of the hot path is hand-packed, what is rare is JSON.
 */
import type { EventEncoding, EventSchema, Result, SourceKind, TriggerEvent } from '../event.ts';
import type { Fault } from '../errors.ts';
import type { CallAnswer, CallKind, HandlerCall } from '../handler-calls.ts';
import { levels, type Level } from './log-controls.ts';

export const protocolVersion = 1;
export const maxPayloadBytes = 16 * 1024 * 1024;
const headerBytes = 10;

/** From this many bytes that nobody has read yet a streaming handler waits. */
export const streamWindowBytes = 256 * 1024;
/** Of a streamed response, in one frame. */
export const maxChunkBytes = 64 * 1024;

/**
 * What a handler process may have asked of its host without an answer: so many calls, and so many bytes of them, but one
 * call in any case. Its side waits at this window, the host's holds it to that.
 */
export const callWindow = { calls: 256, bytes: 16 * 1024 * 1024 } as const;
/** Of one call with all that belongs to it; the frame needs some more. */
export const maxCallBytes = 15 * 1024 * 1024;

/**
 * `chunk` goes both ways: part of a streamed response, and how many of its bytes were read. `stats`
 * answers `cancel`: the event loop turns. `call` is what a handler asks of its host, `callResult` the answer.
 */
export const frameType = {
  hello: 1,
  init: 2,
  ready: 3,
  invoke: 4,
  cancel: 5,
  chunk: 6,
  result: 7,
  fault: 8,
  log: 9,
  stats: 10,
  call: 11,
  callResult: 12,
} as const;

/** The bytes are not frames, or not such as this version sends: the other side cannot be trusted any more. */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}

// One slab serves some hundred small frames. What was written is not written over before its owner says that it is
// sent, so no write is waited for.
const slabBytes = 64 * 1024;
/** From this size on bytes are sent from where they lie instead of being copied into the slab. */
const referenceBytes = 16 * 1024;

/** UTF-16 units; small enough for one byte of length when they are ASCII. */
const shortLength = 64;

/** Packs frames into as few buffers as possible. Whoever owns it decides when they go out. */
export class FrameWriter {
  #slab = Buffer.allocUnsafeSlow(slabBytes);
  /** Start of what `take` has not handed out yet. */
  #from = 0;
  #at = 0;
  #parts: Uint8Array[] = [];
  #partBytes = 0;
  #header = this.#slab;
  #headerAt = 0;
  #before = 0;

  get empty(): boolean {
    return this.#at === this.#from && this.#parts.length === 0;
  }

  begin(type: number, id: number): this {
    this.#room(headerBytes);
    this.#header = this.#slab;
    this.#headerAt = this.#at;
    this.#slab[this.#at] = protocolVersion;
    this.#slab[this.#at + 5] = type;
    this.#slab.writeUInt32LE(id, this.#at + 6);
    this.#at += headerBytes;
    this.#before = this.#written();
    return this;
  }

  /** Bytes of the frame's payload so far. */
  get size(): number {
    return this.#written() - this.#before;
  }

  end(): void {
    this.#header.writeUInt32LE(this.size, this.#headerAt + 1);
  }

  u8(value: number): this {
    this.#room(1);
    this.#slab[this.#at++] = value;
    return this;
  }

  u32(value: number): this {
    this.#room(4);
    this.#at = this.#slab.writeUInt32LE(value, this.#at);
    return this;
  }

  f64(value: number): this {
    this.#room(8);
    this.#at = this.#slab.writeDoubleLE(value, this.#at);
    return this;
  }

  string(value: string): this {
    if (value.length <= shortLength) return this.#shortString(value);
    if (value.length * 3 > referenceBytes) {
      const bytes = Buffer.from(value);
      return this.u32(bytes.length).raw(bytes);
    }
    this.#room(4 + value.length * 3);
    const written = this.#slab.write(value, this.#at + 4);
    this.#slab.writeUInt32LE(written, this.#at);
    this.#at += 4 + written;
    return this;
  }

  /** Byte by byte, which for the ids and names of an event costs half of a call into Node; unless it is not ASCII. */
  #shortString(value: string): this {
    const { length } = value;
    this.#room(4 + length * 3);
    const slab = this.#slab;
    const at = this.#at + 4;
    for (let index = 0; index < length; index++) {
      const code = value.charCodeAt(index);
      if (code > 127) {
        const written = slab.write(value, at);
        slab.writeUInt32LE(written, this.#at);
        this.#at = at + written;
        return this;
      }
      slab[at + index] = code;
    }
    slab[at - 4] = length;
    slab[at - 3] = slab[at - 2] = slab[at - 1] = 0;
    this.#at = at + length;
    return this;
  }

  bytes(value: Uint8Array): this {
    return this.u32(value.length).raw(value);
  }

  /** Without a length: the last field of a frame. The bytes must not change until they are sent. */
  raw(value: Uint8Array): this {
    if (value.length >= referenceBytes) {
      this.#seal();
      this.#parts.push(value);
      this.#partBytes += value.length;
      return this;
    }
    this.#room(value.length);
    this.#slab.set(value, this.#at);
    this.#at += value.length;
    return this;
  }

  /** As `raw`, for text. */
  rawText(value: string): this {
    if (value.length * 3 > referenceBytes) return this.raw(Buffer.from(value));
    this.#room(value.length * 3);
    this.#at += this.#slab.write(value, this.#at);
    return this;
  }

  /** Everything written since the last call, in order. */
  take(): Uint8Array[] {
    this.#seal();
    const parts = this.#parts;
    this.#parts = [];
    this.#partBytes = 0;
    return parts;
  }

  /** All that `take` handed out is sent: its memory is used again, which costs the kernel no new page. */
  reuse(): void {
    if (this.empty) this.#from = this.#at = 0;
  }

  #written(): number {
    return this.#partBytes + this.#at - this.#from;
  }

  #seal(): void {
    if (this.#at === this.#from) return;
    this.#parts.push(this.#slab.subarray(this.#from, this.#at));
    this.#partBytes += this.#at - this.#from;
    this.#from = this.#at;
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#slab.length) return;
    this.#seal();
    this.#slab = Buffer.allocUnsafeSlow(Math.max(slabBytes, bytes));
    this.#from = 0;
    this.#at = 0;
  }
}

/** Reads the fields of one frame. Valid only during the call that hands it out. Throws ProtocolError at the end. */
export class FrameReader {
  #buffer: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;

  open(buffer: Buffer, from: number, to: number): this {
    this.#buffer = buffer;
    this.#at = from;
    this.#end = to;
    return this;
  }

  u8(): number {
    return this.#buffer[this.#take(1)]!;
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4));
  }

  f64(): number {
    return this.#buffer.readDoubleLE(this.#take(8));
  }

  string(): string {
    const length = this.u32();
    if (length === 0) return '';
    const from = this.#take(length);
    return this.#buffer.toString('utf8', from, from + length);
  }

  /** A view: whoever keeps it beyond the call copies it. */
  bytes(): Buffer {
    const length = this.u32();
    const from = this.#take(length);
    return this.#buffer.subarray(from, from + length);
  }

  /** What is left; a view. */
  rest(): Buffer {
    const from = this.#at;
    this.#at = this.#end;
    return this.#buffer.subarray(from, this.#end);
  }

  restText(): string {
    const from = this.#at;
    this.#at = this.#end;
    return this.#buffer.toString('utf8', from, this.#end);
  }

  #take(bytes: number): number {
    const at = this.#at;
    if (at + bytes > this.#end) throw new ProtocolError('a frame is shorter than its fields');
    this.#at = at + bytes;
    return at;
  }
}

export type OnFrame = (type: number, id: number, payload: FrameReader) => void;

/**
 * Finds the frames in a stream of chunks. A frame that lies in one chunk is not copied; one that does not is
 * gathered in a buffer of its size.
 */
export class FrameDecoder {
  readonly #onFrame: OnFrame;
  readonly #reader = new FrameReader();
  readonly #header = Buffer.alloc(headerBytes);
  #headerFilled = 0;
  #body: Buffer | undefined;
  #bodyFilled = 0;

  constructor(onFrame: OnFrame) {
    this.#onFrame = onFrame;
  }

  /** Throws ProtocolError, and what `onFrame` throws; the decoder cannot be used after that. */
  push(chunk: Buffer, length = chunk.length): void {
    let at = 0;
    while (at < length) {
      if (this.#body === undefined) {
        if (this.#headerFilled === 0 && length - at >= headerBytes) {
          const size = sizeOf(chunk, at);
          const end = at + headerBytes + size;
          if (end <= length) {
            this.#hand(chunk, at, chunk, at + headerBytes, end);
            at = end;
            continue;
          }
        }
        const missing = Math.min(headerBytes - this.#headerFilled, length - at);
        chunk.copy(this.#header, this.#headerFilled, at, at + missing);
        this.#headerFilled += missing;
        at += missing;
        if (this.#headerFilled < headerBytes) return;
        this.#body = Buffer.allocUnsafe(sizeOf(this.#header, 0));
        this.#bodyFilled = 0;
      }
      const body = this.#body;
      const take = Math.min(body.length - this.#bodyFilled, length - at);
      chunk.copy(body, this.#bodyFilled, at, at + take);
      this.#bodyFilled += take;
      at += take;
      if (this.#bodyFilled < body.length) return;
      this.#body = undefined;
      this.#headerFilled = 0;
      this.#hand(this.#header, 0, body, 0, body.length);
    }
  }

  #hand(header: Buffer, headerAt: number, body: Buffer, from: number, to: number): void {
    this.#onFrame(
      header[headerAt + 5]!,
      header.readUInt32LE(headerAt + 6),
      this.#reader.open(body, from, to),
    );
  }
}

function sizeOf(header: Buffer, at: number): number {
  if (header[at] !== protocolVersion) throw new ProtocolError(`unknown frame version ${header[at]}`);
  const size = header.readUInt32LE(at + 1);
  if (size > maxPayloadBytes) throw new ProtocolError(`a frame of ${size} bytes exceeds ${maxPayloadBytes}`);
  return size;
}

/** What a handler process needs to know before any user code runs. */
export interface Init {
  readonly namespace: string;
  readonly name: string;
  readonly functionVersion: string;
  readonly packageSha256: string;
  readonly handler: string;
  readonly root: string;
  readonly memoryMiB: number;
  readonly concurrency: number;
  readonly logStream: string;
  /** The whole environment, Lambda's variables included. */
  readonly env: Readonly<Record<string, string>>;
}

export interface Call {
  readonly requestId: string;
  /** On the monotonic clock that all processes of a machine share; see clock.ts. */
  readonly deadlineMs: number;
  readonly batch: boolean;
  /** Somebody reads a streamed response along. */
  readonly stream: boolean;
  readonly events: readonly TriggerEvent[];
}

const sourceKinds: readonly SourceKind[] = ['nats', 'jetstream', 'mqtt', 'http', 'schedule', 'invoke', 'ros'];
const batchFlag = 1;
const streamFlag = 2;
const encodings: readonly EventEncoding[] = ['json', 'text', 'binary', 'cdr'];

/** `schemas`: those that the other side has, by their numbers there; new ones are sent along and added. */
export function writeInvoke(
  writer: FrameWriter,
  id: number,
  call: Call,
  schemas = new Map<EventSchema, number>(),
): void {
  writer
    .begin(frameType.invoke, id)
    .f64(call.deadlineMs)
    .u8((call.batch ? batchFlag : 0) | (call.stream ? streamFlag : 0))
    .string(call.requestId)
    .u32(call.events.length);
  for (const event of call.events) {
    writer
      .string(event.id === call.requestId ? '' : event.id)
      .string(event.trigger)
      .u8(sourceKinds.indexOf(event.kind))
      .string(event.subject)
      .f64(event.time)
      .u32(event.attempt)
      .u8(encodings.indexOf(event.encoding));
    const names = Object.keys(event.headers);
    writer.u32(names.length);
    for (const name of names) writer.string(name).string(event.headers[name]!);
    writer.string(event.detail === undefined ? '' : JSON.stringify(event.detail));
    writeSchema(writer, event.schema, schemas);
    writer.bytes(event.data);
  }
  writer.end();
}

function writeSchema(
  writer: FrameWriter,
  schema: EventSchema | undefined,
  schemas: Map<EventSchema, number>,
): void {
  if (schema === undefined) return void writer.u32(0);
  const known = schemas.get(schema);
  if (known !== undefined) return void writer.u32(known).u8(0);
  schemas.set(schema, schemas.size + 1);
  writer.u32(schemas.size).u8(1).string(JSON.stringify(schema));
}

function readSchema(payload: FrameReader, schemas: Map<number, EventSchema>): EventSchema | undefined {
  const number = payload.u32();
  if (number === 0) return undefined;
  if (payload.u8() === 1) schemas.set(number, jsonObject(payload.string()) as unknown as EventSchema);
  const schema = schemas.get(number);
  if (schema === undefined) throw new ProtocolError('a frame speaks of a schema that never came');
  return schema;
}

/** The events' `data` are views into the frame. `schemas`: those that came before, by their numbers. */
export function readInvoke(payload: FrameReader, schemas = new Map<number, EventSchema>()): Call {
  const deadlineMs = payload.f64();
  const flags = payload.u8();
  const requestId = payload.string();
  const count = payload.u32();
  const events: TriggerEvent[] = [];
  for (let index = 0; index < count; index++) {
    const id = payload.string() || requestId;
    const trigger = payload.string();
    const kind = sourceKinds[payload.u8()];
    const subject = payload.string();
    const time = payload.f64();
    const attempt = payload.u32();
    const encoding = encodings[payload.u8()];
    if (kind === undefined || encoding === undefined) throw new ProtocolError('not an invoke frame');
    const headers: Record<string, string> = {};
    for (let left = payload.u32(); left > 0; left--) headers[payload.string()] = payload.string();
    const detail = payload.string();
    const schema = readSchema(payload, schemas);
    const event = { id, trigger, kind, subject, time, attempt, headers, encoding, data: payload.bytes() };
    // Most have neither, and are made once.
    if (detail === '' && schema === undefined) events.push(event);
    else
      events.push({
        ...event,
        ...(detail !== '' && { detail: jsonObject(detail) }),
        ...(schema && { schema }),
      });
  }
  return {
    requestId,
    deadlineMs,
    batch: (flags & batchFlag) !== 0,
    stream: (flags & streamFlag) !== 0,
    events,
  };
}

/** `data` may be written over as soon as this returns. */
export function writeChunk(writer: FrameWriter, id: number, data: Uint8Array, contentType: string): void {
  writer.begin(frameType.chunk, id).string(contentType).raw(Buffer.from(data)).end();
}

/** The bytes are a copy. */
export function readChunk(payload: FrameReader): { contentType: string; data: Uint8Array } {
  return { contentType: payload.string(), data: Buffer.from(payload.rest()) };
}

const resultTags = { json: 0, binary: 1, streamed: 2 } as const;

/** What `data` holds must not change until it is sent. */
export function writeResult(
  writer: FrameWriter,
  id: number,
  { encoding, data, contentType }: Omit<Result, 'data'> & { data: Uint8Array | string },
): void {
  writer.begin(frameType.result, id);
  if (contentType === undefined) writer.u8(resultTags[encoding]);
  else writer.u8(resultTags.streamed).string(contentType);
  if (typeof data === 'string') writer.rawText(data).end();
  else writer.raw(data).end();
}

/** `data` is a view into the frame. */
export function readResult(payload: FrameReader): Result {
  const tag = payload.u8();
  if (tag === resultTags.json) return { encoding: 'json', data: payload.rest() };
  if (tag !== resultTags.streamed) return { encoding: 'binary', data: payload.rest() };
  return { encoding: 'binary', contentType: payload.string(), data: payload.rest() };
}

/** How a handler process tells of an error: of an invocation, or of itself. */
export interface ThrownFault extends Fault {
  readonly retryable: boolean;
}

export interface LogFrame {
  readonly level: Level;
  readonly timeMs: number;
  /** Empty outside of an invocation. */
  readonly requestId: string;
  readonly message: string;
  /** errorType, errorMessage, stackTrace when an Error was logged. */
  readonly fields?: Readonly<Record<string, unknown>>;
}

export function writeLog(writer: FrameWriter, frame: LogFrame): void {
  writer
    .begin(frameType.log, 0)
    .u8(levels.indexOf(frame.level))
    .f64(frame.timeMs)
    .string(frame.requestId)
    .string(frame.fields === undefined ? '' : JSON.stringify(frame.fields))
    .rawText(frame.message)
    .end();
}

export function readLog(payload: FrameReader): LogFrame {
  const level = levels[payload.u8()];
  const timeMs = payload.f64();
  const requestId = payload.string();
  const fields = payload.string();
  const message = payload.restText();
  if (level === undefined || !(Math.abs(timeMs) < 8.64e15)) throw new ProtocolError('not a log frame');
  if (fields === '') return { level, timeMs, requestId, message };
  return { level, timeMs, requestId, message, fields: jsonObject(fields) };
}

/** By their place in this list: new ones go to its end. */
const callKinds: readonly CallKind[] = [
  'nats.publish',
  'nats.request',
  'mqtt.publish',
  'kv.get',
  'kv.put',
  'kv.create',
  'kv.update',
  'kv.delete',
  'ros.call',
  'ros.publish',
  'ros.definition',
  'ros.topics',
];
const answerTags = { done: 0, failed: 1, failedForGood: 2 } as const;

/** What a call takes of the window; the same on both sides. */
export const bytesOfCall = ({ target, detail, data }: HandlerCall): number =>
  target.length + detail.length + data.length;

/** `number` is unique in the process. `data` must not change until it is sent. */
export function writeCall(writer: FrameWriter, id: number, number: number, call: HandlerCall): void {
  writer
    .begin(frameType.call, id)
    .u32(number)
    .u8(callKinds.indexOf(call.kind))
    .string(call.target)
    .string(call.detail)
    .raw(call.data)
    .end();
}

/** `data` is a view into the frame. */
export function readCall(payload: FrameReader): { number: number; call: HandlerCall } {
  const number = payload.u32();
  const kind = callKinds[payload.u8()];
  if (kind === undefined) throw new ProtocolError('not a call frame');
  return { number, call: { kind, target: payload.string(), detail: payload.string(), data: payload.rest() } };
}

export function writeCallResult(writer: FrameWriter, id: number, number: number, answer: CallAnswer): void {
  writer.begin(frameType.callResult, id).u32(number);
  if (answer.ok) writer.u8(answerTags.done).string(answer.detail).raw(answer.data).end();
  else {
    writer
      .u8(answer.retryable ? answerTags.failed : answerTags.failedForGood)
      .string(answer.code)
      .rawText(answer.message)
      .end();
  }
}

/** The bytes are a copy. */
export function readCallResult(payload: FrameReader): { number: number; answer: CallAnswer } {
  const number = payload.u32();
  const tag = payload.u8();
  if (tag === answerTags.done) {
    return { number, answer: { ok: true, detail: payload.string(), data: Buffer.from(payload.rest()) } };
  }
  if (tag !== answerTags.failed && tag !== answerTags.failedForGood) {
    throw new ProtocolError('not the answer of a call');
  }
  const retryable = tag === answerTags.failed;
  return { number, answer: { ok: false, code: payload.string(), message: payload.restText(), retryable } };
}

export function writeJson(writer: FrameWriter, type: number, id: number, value: unknown): void {
  writer.begin(type, id).rawText(JSON.stringify(value)).end();
}

export function readFault(payload: FrameReader): ThrownFault {
  const { code, message, stack, retryable } = jsonObject(payload.restText());
  if (typeof code !== 'string' || typeof message !== 'string') throw new ProtocolError('not a fault frame');
  const fault = { code, message, retryable: retryable !== false };
  return Array.isArray(stack) ? { ...fault, stack: stack.map(String) } : fault;
}

/** User code shares the process, so what it sends is checked like any input. */
export function jsonObject(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ProtocolError('a frame does not hold JSON');
  }
  if (typeof value !== 'object' || value === null) throw new ProtocolError('a frame does not hold an object');
  return value as Record<string, unknown>;
}
