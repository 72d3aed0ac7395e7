/** From what a document holds to what the message type says: one shape of values, whichever encoding they came in. */
import { typedArrays } from '../ros/cdr.ts';
import type { Field, Primitive, RosMessage, RosValue, Schema, TypedArray } from '../telemetry.ts';
import { nonFinite } from './json.ts';

/** Throws TypeError with the path of what does not fit. Missing fields stay missing. */
export function fit({ type, fields }: Schema, value: unknown): RosMessage {
  return message(fields, value, '', type);
}

function message(fields: readonly Field[], value: unknown, path: string, type: string): RosMessage {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) {
    throw wrong(path, value, 'an object of fields');
  }
  const given = value as Record<string, unknown>;
  const result: Record<string, RosValue> = {};
  let known = 0;
  for (const field of fields) {
    const one = given[field.name];
    if (one === undefined) continue;
    known += 1;
    const at = path === '' ? field.name : `${path}.${field.name}`;
    result[field.name] =
      field.array === undefined ? single(field, one, at) : array(field, field.array, one, at);
  }
  if (Object.keys(given).length > known) {
    const names = fields.map(({ name }) => name);
    const unknown = Object.keys(given).find((name) => !names.includes(name));
    if (unknown !== undefined) {
      const where = path === '' ? type : path;
      const has = names.length === 0 ? 'has no fields' : `has ${names.join(', ')}`;
      throw new TypeError(`${where} has no field "${unknown}"; it ${has}`);
    }
  }
  return result;
}

function single({ type, name }: Field, value: unknown, path: string): RosValue {
  return typeof type === 'string' ? primitives[type](value, path) : message(type, value, path, name);
}

function array(
  field: Field,
  { length, most }: NonNullable<Field['array']>,
  value: unknown,
  path: string,
): RosValue {
  const result =
    typeof field.type === 'string' ? primitiveArray(field.type, value, path) : items(field, value, path);
  const count = (result as { length: number }).length;
  if (length !== undefined && count !== length) {
    throw new TypeError(`${path} has ${count} values; it must have ${length}`);
  }
  if (most !== undefined && count > most)
    throw new TypeError(`${path} has ${count} values; it has at most ${most}`);
  return result;
}

function items(field: Field, value: unknown, path: string): RosValue[] {
  if (!Array.isArray(value)) throw wrong(path, value, 'a list');
  return value.map((one, index) => single(field, one, `${path}[${index}]`));
}

type TypedArrayConstructor = (new (length: number) => TypedArray) & { readonly name: string };

const arrays: { readonly [K in Primitive]?: TypedArrayConstructor } = typedArrays;

function primitiveArray(type: Primitive, value: unknown, path: string): RosValue {
  const Typed = arrays[type];
  if (Typed !== undefined && value instanceof Typed) return value as TypedArray;
  if (type === 'uint8' && typeof value === 'string') return fromBase64(value, path);
  if (!Array.isArray(value) && !(ArrayBuffer.isView(value) && 'length' in value)) {
    throw wrong(path, value, type === 'uint8' ? 'bytes: base64 text or a list of numbers' : 'a list');
  }
  const given = value as ArrayLike<unknown>;
  const read = primitives[type];
  if (Typed === undefined) return Array.from(given, (one, index) => read(one, `${path}[${index}]`));
  const result = new Typed(given.length) as unknown as { [index: number]: RosValue };
  for (let index = 0; index < given.length; index += 1) {
    result[index] = read(given[index], `${path}[${index}]`);
  }
  return result as unknown as TypedArray;
}

function fromBase64(text: string, path: string): Uint8Array {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) {
    throw new TypeError(`${path} is text, but no base64`);
  }
  return new Uint8Array(Buffer.from(text, 'base64'));
}

const primitives: { readonly [K in Primitive]: (value: unknown, path: string) => RosValue } = {
  bool(value, path) {
    if (typeof value === 'boolean') return value;
    throw wrong(path, value, 'true or false');
  },
  int8: integer('int8', -128, 127),
  uint8: integer('uint8', 0, 255),
  int16: integer('int16', -32_768, 32_767),
  uint16: integer('uint16', 0, 65_535),
  int32: integer('int32', -(2 ** 31), 2 ** 31 - 1),
  uint32: integer('uint32', 0, 2 ** 32 - 1),
  int64: long('int64', -(2n ** 63n), 2n ** 63n - 1n),
  uint64: long('uint64', 0n, 2n ** 64n - 1n),
  float32: float,
  float64: float,
  string: text,
  wstring: text,
  time,
  duration: time,
};

function integer(type: string, least: number, most: number) {
  return (value: unknown, path: string): number => {
    const found = typeof value === 'bigint' ? Number(value) : value;
    if (typeof found === 'number' && Number.isInteger(found) && found >= least && found <= most) {
      // A document may have -0, an integer has not.
      return found + 0;
    }
    throw wrong(path, value, `${type}: an integer from ${least} to ${most}`);
  };
}

/** A number that JavaScript may have rounded is refused, never taken. */
function long(type: string, least: bigint, most: bigint) {
  return (value: unknown, path: string): bigint => {
    let found: bigint | undefined;
    if (typeof value === 'bigint') found = value;
    else if (typeof value === 'number' && Number.isSafeInteger(value)) found = BigInt(value);
    else if (typeof value === 'string' && /^-?\d{1,20}$/.test(value)) found = BigInt(value);
    if (found !== undefined && found >= least && found <= most) return found;
    throw wrong(path, value, `${type}: an integer from ${least} to ${most}, beyond 2^53 as decimal text`);
  };
}

function float(value: unknown, path: string): number {
  if (typeof value === 'number') return value;
  if (typeof value === 'bigint') return Number(value);
  const special = typeof value === 'string' ? nonFinite.get(value) : undefined;
  if (special !== undefined) return special;
  throw wrong(
    path,
    value,
    `a number, or one of ${[...nonFinite.keys()].map((one) => `"${one}"`).join(', ')}`,
  );
}

function text(value: unknown, path: string): string {
  if (typeof value === 'string') return value;
  throw wrong(path, value, 'text');
}

function time(value: unknown, path: string): RosMessage {
  return message(timeFields, value, path, 'time');
}

const timeFields: readonly Field[] = [
  { name: 'sec', type: 'int32' },
  { name: 'nanosec', type: 'uint32' },
];

function wrong(path: string, value: unknown, allowed: string): TypeError {
  return new TypeError(`${path === '' ? 'the message' : path} is ${shown(value)}; it must be ${allowed}`);
}

const shownBits = 128;

function shown(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name}`;
  if (typeof value === 'object') return 'an object';
  // CBOR has integers of any size, and a million digits of decimal text are seconds of work.
  if (typeof value === 'bigint' && BigInt.asIntN(shownBits, value) !== value) {
    return `an integer of more than ${shownBits} bits`;
  }
  const words = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return words.length > 60 ? `${words.slice(0, 60)}…` : words;
}
