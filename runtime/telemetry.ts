/**
 * `import … from 'atoll/telemetry'`: messages of robots as functions/telemetry publishes them, for readers and writers that
 * have no ROS. Subjects, headers and how values are written: docs/reference/telemetry.md.
 */
import { decodeCbor, encodeCbor } from './telemetry/cbor.ts';
import { decodeCdr, encodeCdr } from './telemetry/cdr.ts';
import { fit } from './telemetry/fit.ts';
import { headersOf, telemetryIn } from './telemetry/headers.ts';
import { decodeJson, encodeJson } from './telemetry/json.ts';
import { hashOf, parseSchema } from './telemetry/schema.ts';
import { decodeYaml, encodeYaml } from './telemetry/yaml.ts';

export type TypedArray =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | Float64Array;

/** 64-bit integers are BigInt; arrays of numbers are typed arrays; times and durations are `{ sec, nanosec }`. */
export type RosValue = boolean | number | bigint | string | TypedArray | readonly RosValue[] | RosMessage;

export interface RosMessage {
  readonly [field: string]: RosValue;
}

export type Primitive =
  | 'bool'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'float32'
  | 'float64'
  | 'string'
  | 'wstring'
  | 'time'
  | 'duration';

export interface Field {
  readonly name: string;
  /** Of one element, where it is an array. */
  readonly type: Primitive | readonly Field[];
  /** Absent: no array. `length`: always so many; `most`: at most so many. */
  readonly array?: { readonly length?: number; readonly most?: number };
}

/** A message type with all that it uses. */
export interface Schema {
  readonly type: string;
  /** See `schemaHash`. */
  readonly hash: string;
  /** As MCAP's "ros2msg" has it. */
  readonly text: string;
  readonly fields: readonly Field[];
}

/** What a message may be written as. `cdr` is ROS's own form. */
export type Encoding = 'yaml' | 'json' | 'cbor' | 'cdr';

/** A message of a NATS client has this shape; in a handler it is `{ headers: context.trigger.headers, data: event }`. */
export interface Received {
  readonly data: Uint8Array;
  readonly headers?: Readonly<Record<string, string>> | { get(name: string): string } | undefined;
}

/** What the headers tell: enough to route a message without reading it. */
export interface Telemetry {
  readonly encoding: Encoding;
  readonly robot: string;
  /** As ROS names it, such as `/scan`. */
  readonly topic: string;
  /** Such as `sensor_msgs/msg/LaserScan`. */
  readonly type: string;
  /** Of the definition of the type, see `schemaHash`; absent where the robot has none. */
  readonly schema?: string;
  /** Of the message's own header; absent where its type has none. */
  readonly stamp?: { readonly sec: number; readonly nanosec: number };
  /** When the robot took it over, ms since the epoch by the robot's clock. */
  readonly received: number;
  /** Of the process that sent it: another one after each start. */
  readonly run: string;
  /** Rises by one with each message of the topic that is sent within a run. */
  readonly sequence: number;
  /** Only these were sent; absent: the whole message. */
  readonly fields?: readonly string[];
  /** One of several pieces, counted from 1, which `openAssembly` puts together. */
  readonly chunk?: { readonly number: number; readonly of: number };
}

export interface Decoded extends Telemetry {
  readonly message: RosMessage;
  /**
   * True: every value is as its type says, whatever the encoding. False: nobody gave the definition, and the values are
   * what the document has: in JSON 64-bit integers, NaN and bytes are text then.
   */
  readonly typed: boolean;
}

/** Finds the text of a definition by its hash; undefined: it is not there. */
export type Definitions = (
  schema: string,
  telemetry: Telemetry,
) => string | undefined | Promise<string | undefined>;

export interface DecodeOptions {
  /** CDR cannot be read without. Each definition is asked for once. */
  readonly definitions?: Definitions;
}

/** What cannot be read, and why. */
export class TelemetryError extends Error {
  override name = 'TelemetryError';
  readonly code: 'NotTelemetry' | 'NoDefinition' | 'WrongDefinition' | 'Undecodable' | 'Piece';

  constructor(code: TelemetryError['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Definitions of one process. More than this many types on one site would be a mistake somewhere. */
const maxSchemas = 1000;
const schemas = new Map<string, Schema>();

/** Throws TelemetryError. What it returns may share memory with `data`. */
export async function decode(received: Received, { definitions }: DecodeOptions = {}): Promise<Decoded> {
  const telemetry = telemetryOf(received);
  const { encoding, topic, type, chunk } = telemetry;
  if (chunk !== undefined) {
    const piece = `${topic}: this is piece ${chunk.number} of ${chunk.of}`;
    throw new TelemetryError('Piece', `${piece}; openAssembly() puts them together`);
  }
  const schema = await schemaOf(telemetry, definitions);
  const what = `${topic}: ${type} in ${encoding.toUpperCase()}`;
  if (encoding === 'cdr') {
    if (schema !== undefined) {
      return { ...telemetry, message: reading(what, () => decodeCdr(schema, received.data)), typed: true };
    }
    let why = `nobody has the definition ${telemetry.schema}`;
    if (telemetry.schema === undefined) why = 'the robot had no definition of it';
    else if (definitions === undefined) why = 'decode() was given no definitions';
    throw new TelemetryError('NoDefinition', `${what} cannot be read: ${why}`);
  }
  const plain = reading(what, () => readers[encoding](received.data));
  if (schema !== undefined)
    return { ...telemetry, message: reading(what, () => fit(schema, plain)), typed: true };
  if (typeof plain === 'object' && plain !== null && !Array.isArray(plain) && !ArrayBuffer.isView(plain)) {
    return { ...telemetry, message: plain as RosMessage, typed: false };
  }
  throw new TelemetryError('Undecodable', `${what}: it is not a document of fields`);
}

/** Reads the headers alone. Throws TelemetryError NotTelemetry. */
export function telemetryOf({ headers }: Received): Telemetry {
  const read = telemetryIn(headers);
  if (typeof read === 'string') throw new TelemetryError('NotTelemetry', read);
  return read;
}

/** As headers; the other way round is `telemetryOf`. */
export function telemetryHeaders(telemetry: Telemetry): Record<string, string> {
  return headersOf(telemetry);
}

/**
 * CDR needs the definition; the others write what is there. Throws TypeError or RangeError with the field that cannot be
 * written.
 */
export function encode(message: RosMessage, encoding: Encoding, schema?: Schema): Uint8Array {
  if (encoding !== 'cdr') return writers[encoding](message);
  if (schema === undefined) throw new TypeError('CDR is written by a definition: give its schema');
  return encodeCdr(schema, fit(schema, message));
}

/** Throws Error where `data` is not one message of this type. What it returns may share memory with `data`. */
export function readCdr(schema: Schema, data: Uint8Array): RosMessage {
  return decodeCdr(schema, data);
}

/**
 * A plain object, such as JSON gives, with each value as its type says: decimal text becomes BigInt, base64 bytes, "NaN" a
 * number. Fields may be missing. Throws TypeError with the field that does not fit.
 */
export function typed(schema: Schema, message: unknown): RosMessage {
  return fit(schema, message);
}

/** Throws Error with what of the definition cannot be read. */
export function readSchema(type: string, text: string): Schema {
  return parseSchema(type, text);
}

/** What a definition is known by: the first 32 hexadecimal digits of the SHA-256 of its text. */
export function schemaHash(text: string): string {
  return hashOf(text);
}

export interface Assembly {
  /** The whole message with its last piece, undefined before. What is no piece passes as it is. */
  add(received: Received): Received | undefined;
  /** Messages that were given up, because one after them came first. */
  readonly incomplete: number;
}

/** Puts pieces together, of each topic one message at a time: the newest wins. */
export function openAssembly(): Assembly {
  const open = new Map<string, { key: string; missing: number; pieces: (Uint8Array | undefined)[] }>();
  let incomplete = 0;
  return {
    get incomplete() {
      return incomplete;
    },
    add(received) {
      const { chunk, ...telemetry } = telemetryOf(received);
      if (chunk === undefined) return received;
      const place = `${telemetry.robot} ${telemetry.topic}`;
      const key = `${telemetry.run} ${telemetry.sequence} ${chunk.of}`;
      let whole = open.get(place);
      if (whole?.key !== key) {
        if (whole !== undefined) incomplete += 1;
        whole = { key, missing: chunk.of, pieces: new Array<undefined>(chunk.of).fill(undefined) };
        open.set(place, whole);
      }
      if (whole.pieces[chunk.number - 1] !== undefined) return undefined;
      // A copy: clients hand out views of a buffer that they fill again.
      whole.pieces[chunk.number - 1] = new Uint8Array(received.data);
      whole.missing -= 1;
      if (whole.missing > 0) return undefined;
      open.delete(place);
      return { data: Buffer.concat(whole.pieces as Uint8Array[]), headers: headersOf(telemetry) };
    },
  };
}

const readers = { json: decodeJson, yaml: decodeYaml, cbor: decodeCbor };
const writers = { json: encodeJson, yaml: encodeYaml, cbor: encodeCbor };

async function schemaOf(
  telemetry: Telemetry,
  definitions: Definitions | undefined,
): Promise<Schema | undefined> {
  const { topic, type, schema: hash } = telemetry;
  if (hash === undefined) return undefined;
  const key = `${type} ${hash}`;
  const known = schemas.get(key);
  if (known !== undefined) return known;
  const text = await definitions?.(hash, telemetry);
  if (text === undefined) return undefined;
  if (hashOf(text) !== hash) {
    const found = `the definition of ${type} that was found is ${hashOf(text)}`;
    throw new TelemetryError('WrongDefinition', `${topic}: ${found}; the message was written by ${hash}`);
  }
  const schema = reading(`${topic}: the definition of ${type}`, () => parseSchema(type, text));
  if (schemas.size >= maxSchemas) schemas.clear();
  schemas.set(key, schema);
  return schema;
}

function reading<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TelemetryError('Undecodable', `${what}: ${why}`, { cause: error });
  }
}
