/**
 * `nats`, `mqtt`, `kv` and `ros` of 'atoll': what a handler reaches through its host, over the connections and
 * credentials that the host has. Shipped as it is beside handler.ts, so it imports nothing else of Atoll.
 * docs/reference/calls.md tells the rest.
 */
import type { RosMessages, RosServices } from './handler.ts';

/** Why a call failed. `name` is the code as well, so that a handler which lets it pass fails with that code. */
export class CallError extends Error {
  /** One of docs/reference/errors.md: NotAllowed, NatsUnavailable, TooLarge, WrongRevision, … */
  readonly code: string;
  /** False: the same call would fail again. Thrown on by the handler, the event is then not tried again. */
  readonly retryable: boolean;

  constructor(code: string, message: string, retryable: boolean) {
    super(message);
    this.name = code;
    this.code = code;
    this.retryable = retryable;
  }
}

/** Bytes with two ways to read them; `data` is the receiver's to keep. */
export interface Payload {
  readonly data: Uint8Array;
  /** As UTF-8. */
  string(): string;
  /** Throws SyntaxError when it is not JSON. */
  json<T = unknown>(): T;
}

export interface PublishOptions {
  readonly headers?: Readonly<Record<string, string>>;
  /**
   * JetStream's id of the message: one of the same id within the stream's window is not stored again. The call then
   * resolves when a stream has stored the message, and fails with StreamNotFound when none takes the subject.
   */
  readonly msgId?: string;
}

export interface RequestOptions {
  readonly headers?: Readonly<Record<string, string>>;
  /** How long the answer may take, in ms. Default: as long as the invocation may still run. */
  readonly timeoutMs?: number;
}

export interface NatsReply extends Payload {
  readonly headers: Readonly<Record<string, string>>;
}

/** `data` everywhere: text and bytes as they are, undefined as no bytes, any other value as JSON. */
export interface Nats {
  /** Resolves when the server has it: whether anybody listens is not known. */
  publish(subject: string, data?: unknown, options?: PublishOptions): Promise<void>;
  /** Fails with NoResponders when nobody listens, with RequestTimeout when nobody answered in time. */
  request(subject: string, data?: unknown, options?: RequestOptions): Promise<NatsReply>;
}

export interface MqttPublishOptions {
  /** Default 1: resolves when the broker has acknowledged it; 0: when it is written. */
  readonly qos?: 0 | 1 | 2;
  readonly retain?: boolean;
}

export interface Mqtt {
  publish(topic: string, data?: unknown, options?: MqttPublishOptions): Promise<void>;
}

export interface KvEntry extends Payload {
  readonly key: string;
  /** Greater with every change of the bucket; what `update` and `delete` compare. */
  readonly revision: number;
}

/** A key-value bucket of JetStream, which has to exist. Methods that write resolve with the new revision. */
export interface KvBucket {
  /** Undefined when there is none, or it was deleted. */
  get(key: string): Promise<KvEntry | undefined>;
  put(key: string, value: unknown): Promise<number>;
  /** Fails with WrongRevision when the key is there. */
  create(key: string, value: unknown): Promise<number>;
  /** Fails with WrongRevision when the key was changed since it had this revision. */
  update(key: string, value: unknown, revision: number): Promise<number>;
  /** With a revision only if the key still has it. Deleting what is not there is no error. */
  delete(key: string, options?: { readonly revision?: number }): Promise<void>;
}

export interface Ros {
  /**
   * Calls a service with a plain object of the request's fields; resolves with the response as one. 64-bit integers are
   * BigInt, arrays of numbers may be typed arrays. `timeoutMs`: default as long as the invocation may still run.
   * Of types that `faas ros types` has written the compiler knows request and response.
   */
  call<Type extends string>(
    service: string,
    type: Type,
    request?: RosRequest<Type>,
    options?: { readonly timeoutMs?: number },
  ): Promise<RosResponse<Type>>;
  /** With the type of the response named by the caller. */
  call<Response extends object = never>(
    service: string,
    type: string,
    // Not named: then what the first form refuses is not taken by this one either.
    request?: [Response] extends [never] ? never : unknown,
    options?: { readonly timeoutMs?: number },
  ): Promise<Response>;
  /** A plain object of the message's fields, or its CDR bytes with the 4-byte encapsulation header. */
  publish<Type extends string>(topic: string, type: Type, message: RosMessage<Type>): Promise<void>;
  /** Text of a message definition with everything it uses, as MCAP's "ros2msg" has it. */
  definition(type: string): Promise<string>;
  /** What became of the messages of each topic that the function's own ros triggers take; without any, none. */
  topics(): Promise<RosTopicCounts[]>;
}

/** Of one topic and trigger, before the handler: messages since the subscription was made. */
export interface RosTopicCounts {
  /** By its name in the manifest. */
  readonly trigger: string;
  readonly topic: string;
  /** Absent until a publisher says it. */
  readonly type?: string;
  /** When the trigger was opened, ms since the epoch. The counts begin anew also when the ROS process does. */
  readonly since: number;
  readonly publishers: number;
  /** That came; the others are parts of it. */
  readonly received: number;
  /** Left out by `maxHz`. */
  readonly filtered: number;
  /** That waited for the handler and gave way to newer ones: more than `keepLast`. */
  readonly replaced: number;
  /** Of more than 15 MiB, which no handler is handed. */
  readonly tooLarge: number;
}

/** What `ros.publish` takes for a type: of one that is not known, anything. */
export type RosMessage<Type extends string> = Type extends keyof RosMessages
  ? RosInput<RosMessages[Type]> | Uint8Array
  : unknown;

export type RosRequest<Type extends string> = Type extends keyof RosServices
  ? RosServices[Type] extends { request: infer Request }
    ? RosInput<Request>
    : never
  : unknown;

export type RosResponse<Type extends string> = Type extends keyof RosServices
  ? RosServices[Type] extends { response: infer Response }
    ? Response
    : never
  : Record<string, unknown>;

/** What may be sent for it: fields that are left out have ROS's defaults, arrays of numbers need not be typed ones. */
export type RosInput<T> = T extends BigInt64Array | BigUint64Array
  ? T | readonly bigint[]
  : T extends ArrayBufferView
    ? T | readonly number[]
    : T extends readonly (infer Element)[]
      ? readonly RosInput<Element>[]
      : T extends object
        ? { readonly [Field in keyof T]?: RosInput<T[Field]> }
        : T;

export const nats: Nats = {
  publish: (subject, data, options = {}) =>
    ask('nats.publish', subject, detailOf(options), () => bytesOf(data), nothing),
  request: (subject, data, options = {}) =>
    ask('nats.request', subject, detailOf(options), () => bytesOf(data), replyOf),
};

export const mqtt: Mqtt = {
  publish: (topic, data, options = {}) =>
    ask('mqtt.publish', topic, detailOf(options), () => bytesOf(data), nothing),
};

/** Nothing is opened or asked before the first method is called. */
export function kv(bucket: string): KvBucket {
  const write = (kind: CallKind, detail: CallDetail, value: unknown): Promise<number> =>
    ask(kind, bucket, detail, () => bytesOf(value), revisionOf);
  return {
    get: (key) => ask('kv.get', bucket, { key }, noBytes, entryOf),
    put: (key, value) => write('kv.put', { key }, value),
    create: (key, value) => write('kv.create', { key }, value),
    update: (key, value, revision) => write('kv.update', { key, revision }, value),
    delete: (key, options = {}) => ask('kv.delete', bucket, { key, ...detailOf(options) }, noBytes, nothing),
  };
}

export const ros: Ros = {
  call: (
    service: string,
    type: string,
    request: unknown = {},
    options: { readonly timeoutMs?: number } = {},
  ) =>
    ask(
      'ros.call',
      service,
      { type, ...detailOf(options) },
      () => bytesOf(rosText(request)),
      // What a service answers is of its type: nothing here could look at it.
      ({ data }) => rosValue(asText(data)) as never,
    ),
  publish: (topic, type, message) => {
    const raw = message instanceof Uint8Array;
    const data = () => bytesOf(raw ? message : rosText(message));
    return ask('ros.publish', topic, { type, ...(raw && { raw }) }, data, nothing);
  },
  definition: (type) => ask('ros.definition', type, {}, noBytes, ({ data }) => asText(data)),
  topics: () =>
    ask('ros.topics', '', {}, noBytes, ({ data }) => JSON.parse(asText(data)) as RosTopicCounts[]),
};

// Between this module and who carries calls out: the handler process, or the fake of a unit test

export type CallKind =
  | 'nats.publish'
  | 'nats.request'
  | 'mqtt.publish'
  | 'kv.get'
  | 'kv.put'
  | 'kv.create'
  | 'kv.update'
  | 'kv.delete'
  | 'ros.call'
  | 'ros.publish'
  | 'ros.definition'
  | 'ros.topics';

export type CallDetail = Readonly<Record<string, unknown>>;

export interface HandlerCall {
  readonly kind: CallKind;
  /** Subject, topic, bucket, service, or ROS type; '' of ros.topics. */
  readonly target: string;
  /** What else was given, as JSON; '' for nothing. */
  readonly detail: string;
  readonly data: Uint8Array;
}

export type CallAnswer =
  | { readonly ok: true; readonly detail: string; readonly data: Uint8Array }
  | { readonly ok: false; readonly code: string; readonly message: string; readonly retryable: boolean };

/**
 * Carries a call out. Rejects with what aborted the invocation. `quiet`: called before a failure that nobody may be
 * waiting for any more, which must not end the process as an unhandled rejection.
 */
export type Carrier = (call: HandlerCall, quiet: () => void) => Promise<CallAnswer>;

/**
 * Where the carrier is found. A registered symbol, as a unit test may load another copy of this module than the one that
 * its fake comes with.
 */
export const carrierKey: unique symbol = Symbol.for('atoll.calls');

type WithCarrier = { [carrierKey]?: Carrier | undefined };

function ask<T>(
  kind: CallKind,
  target: string,
  detail: CallDetail,
  data: () => Uint8Array,
  result: (answer: Answered, detail: CallDetail) => T,
): Promise<T> {
  const promise = carried();
  return promise;

  // One promise from here to the caller, so that what marks it as seen to marks the one that the handler holds.
  async function carried(): Promise<T> {
    if (typeof target !== 'string') throw invalid(`${kind}: ${printed(target)} is not a text`);
    const text = Object.keys(detail).length === 0 ? '' : JSON.stringify(detail);
    const call = { kind, target, detail: text, data: data() };
    const carrier = (globalThis as WithCarrier)[carrierKey];
    if (carrier === undefined) {
      const where = 'there is no host here: in a unit test use fakeCalls() of atoll/testing';
      throw new CallError('OutsideInvocation', `${kind} ${target}: ${where}`, false);
    }
    // Later, as it may be called before there is a promise.
    const quiet = (): void => queueMicrotask(() => void promise.catch(() => {}));
    const answer = await carrier(call, quiet);
    if (!answer.ok) throw new CallError(answer.code, answer.message, answer.retryable);
    return result(answer, detail);
  }
}

type Answered = Extract<CallAnswer, { ok: true }>;

const nothing = (): void => undefined;
const empty = new Uint8Array();
const noBytes = (): Uint8Array => empty;
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const asText = (data: Uint8Array): string => decoder.decode(data);

const invalid = (message: string): CallError => new CallError('InvalidRequest', message, false);

/** A copy: the handler may write into its buffer again. */
function bytesOf(value: unknown): Uint8Array {
  if (value === undefined) return empty;
  if (typeof value === 'string') return encoder.encode(value);
  if (value instanceof Uint8Array) return new Uint8Array(value);
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    throw invalid(`the data cannot be encoded as JSON: ${(error as Error).message.split('\n', 1)[0]}`);
  }
  if (json === undefined) throw invalid(`the data is a ${typeof value}, which has no JSON`);
  return encoder.encode(json);
}

/** What is not given is not sent. */
function detailOf(options: object): CallDetail {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function printed(value: unknown): string {
  return value === null || typeof value !== 'object' ? String(value) : Object.prototype.toString.call(value);
}

function parsed(detail: string): Record<string, unknown> {
  return detail === '' ? {} : (JSON.parse(detail) as Record<string, unknown>);
}

function payloadOf(data: Uint8Array): Payload {
  return {
    data,
    string: () => asText(data),
    json: <T>() => JSON.parse(asText(data)) as T,
  };
}

function replyOf({ detail, data }: Answered): NatsReply {
  const { headers = {} } = parsed(detail) as { headers?: Record<string, string> };
  return { headers, ...payloadOf(data) };
}

function revisionOf({ detail }: Answered): number {
  return parsed(detail)['revision'] as number;
}

/** Without a revision there is no entry. */
function entryOf({ detail, data }: Answered, { key }: CallDetail): KvEntry | undefined {
  const { revision } = parsed(detail);
  if (typeof revision !== 'number') return undefined;
  return { key: key as string, revision, ...payloadOf(data) };
}

// ROS messages as text: JSON, and what JSON has no word for under names that no ROS field can have

const typedArrays = [
  Uint8Array,
  Int8Array,
  Uint8ClampedArray,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
  BigUint64Array,
  BigInt64Array,
];

/** Throws CallError InvalidRequest where JSON.stringify throws. */
export function rosText(message: unknown): string {
  const replacer = function (this: Record<string, unknown>, key: string, given: unknown): unknown {
    // As it was before toJSON, which a Buffer has.
    const value = this[key];
    if (typeof value === 'bigint') return { $bigint: String(value) };
    if (typeof value === 'number' && !Number.isFinite(value)) return { $number: String(value) };
    if (!ArrayBuffer.isView(value)) return given;
    // A Buffer is a Uint8Array by another name.
    const type = typedArrays.find((one) => value instanceof one);
    if (type === undefined) throw invalid(`a ROS message cannot hold a ${value.constructor.name}`);
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return { $array: type.name, $base64: bytes.toString('base64') };
  };
  let text: string | undefined;
  try {
    text = JSON.stringify(message, replacer);
  } catch (error) {
    if (error instanceof CallError) throw error;
    throw invalid(`the message cannot be encoded: ${(error as Error).message.split('\n', 1)[0]}`);
  }
  if (text === undefined) throw invalid(`a ${typeof message} is no ROS message`);
  return text;
}

/** What `rosText` was made from. Throws where the text is none. */
export function rosValue(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown) => {
    if (typeof value !== 'object' || value === null) return value;
    const { $bigint, $number, $array, $base64 } = value as Record<string, unknown>;
    if (typeof $bigint === 'string') return BigInt($bigint);
    if (typeof $number === 'string') return Number($number);
    if (typeof $base64 !== 'string') return value;
    const type = typedArrays.find(({ name }) => name === $array);
    if (type === undefined) throw new TypeError(`${String($array)} is no typed array`);
    const bytes = new Uint8Array(Buffer.from($base64, 'base64'));
    return new type(bytes.buffer, 0, bytes.byteLength / type.BYTES_PER_ELEMENT);
  });
}
