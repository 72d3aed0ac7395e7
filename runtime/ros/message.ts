/**
 * Between CDR bytes and plain objects, by the text of a definition (MCAP's `ros2msg`). What is written is checked against it,
 * and an error says which field is wrong.
 */
import { createRequire } from 'node:module';
import { CdrWriter, readWhole, typedArrays, type NumberType } from './cdr.ts';

export interface MessageCodec {
  /** Of the message itself, constants left out. */
  readonly fields: readonly MessageField[];
  /**
   * Numbers, booleans, strings, bigint for 64 bits, typed arrays for arrays of numbers, `{ sec, nanosec }`. May share memory
   * with `cdr`. Throws RangeError for bytes of another length than the definition's.
   */
  decode(cdr: Uint8Array): Record<string, unknown>;
  /** What is left out has its default. Throws TypeError or RangeError that names the field and what it may be. */
  encode(value: unknown): Buffer;
}

export interface MessageField {
  readonly name: string;
  /** `float32`, `string`, `time`, or the name of another definition. */
  readonly type: string;
  readonly isComplex?: boolean;
  readonly isArray?: boolean;
  readonly arrayLength?: number | undefined;
  readonly arrayUpperBound?: number | undefined;
  readonly upperBound?: number | undefined;
  readonly isConstant?: boolean;
  readonly defaultValue?: unknown;
}

interface Definition {
  readonly name?: string | undefined;
  readonly definitions: readonly MessageField[];
}

// Loaded with the first message: most processes never see one.
const load = createRequire(import.meta.url);
type Reader = new (definitions: readonly Definition[]) => {
  readMessage(bytes: Uint8Array): Record<string, unknown>;
  lastReadByteLength(): number;
};

const codecs = new Map<string, MessageCodec>();

/** @param type for error messages */
export function codecOf(definition: string, type: string): MessageCodec {
  let codec = codecs.get(definition);
  if (codec === undefined) {
    codec = makeCodec(definition, type);
    codecs.set(definition, codec);
  }
  return codec;
}

function makeCodec(definition: string, type: string): MessageCodec {
  const { parse } = load('@foxglove/rosmsg') as {
    parse(text: string, options: { ros2: boolean }): Definition[];
  };
  const { MessageReader } = load('@foxglove/rosmsg2-serialization') as { MessageReader: Reader };
  const [root = { definitions: [] }, ...used] = parse(definition, { ros2: true });
  const reader = new MessageReader([root, ...used]);
  const byName = new Map(used.map(({ name = '', definitions }) => [name, withoutConstants(definitions)]));
  const fields = withoutConstants(root.definitions);
  return {
    fields,
    decode: (cdr) => readWhole(reader, cdr) as Record<string, unknown>,
    encode(value) {
      const writer = new CdrWriter();
      writeFields(writer, fields, value, { type, byName, path: '' });
      return writer.end();
    },
  };
}

function withoutConstants(fields: readonly MessageField[]): MessageField[] {
  return fields.filter(({ isConstant }) => isConstant !== true);
}

interface Place {
  readonly type: string;
  readonly byName: ReadonlyMap<string, readonly MessageField[]>;
  /** Of the object that is written: '' or `header.stamp`. */
  readonly path: string;
}

function writeFields(writer: CdrWriter, fields: readonly MessageField[], value: unknown, place: Place): void {
  if (value !== undefined && (typeof value !== 'object' || value === null || Array.isArray(value))) {
    throw wrong(place, '', `an object with ${namesOf(fields)}`, value);
  }
  const object = (value ?? {}) as Record<string, unknown>;
  for (const name of Object.keys(object)) {
    if (object[name] === undefined || fields.some((field) => field.name === name)) continue;
    throw new TypeError(`${place.type} has no field ${join(place.path, name)}; it has ${namesOf(fields)}`);
  }
  if (fields.length === 0) writer.nothing();
  for (const field of fields) {
    const given = object[field.name];
    if (field.isArray === true) writeArray(writer, field, given ?? field.defaultValue, place);
    else writeOne(writer, field, given ?? field.defaultValue, place, field.name);
  }
}

function writeArray(writer: CdrWriter, field: MessageField, value: unknown, place: Place): void {
  const { name, type, arrayLength, arrayUpperBound } = field;
  const list = value ?? new Array<undefined>(arrayLength ?? 0).fill(undefined);
  if (!Array.isArray(list) && !(ArrayBuffer.isView(list) && !(list instanceof DataView))) {
    throw wrong(place, name, `a list of ${type}`, value);
  }
  const items = list as ArrayLike<unknown>;
  const { length } = items;
  if (arrayLength !== undefined && length !== arrayLength) {
    throw wrong(place, name, `a list of exactly ${arrayLength} ${type}`, `${length} of them`);
  }
  if (arrayUpperBound !== undefined && length > arrayUpperBound) {
    throw wrong(place, name, `a list of at most ${arrayUpperBound} ${type}`, `${length} of them`);
  }
  if (arrayLength === undefined) writer.number('uint32', length);
  const same = Object.hasOwn(typedArrays, type) ? typedArrays[type as NumberType] : undefined;
  if (same !== undefined && list instanceof same) return writer.block(list);
  for (let index = 0; index < length; index++) {
    writeOne(writer, field, items[index], place, `${name}[${index}]`);
  }
}

function writeOne(writer: CdrWriter, field: MessageField, value: unknown, place: Place, name: string): void {
  const { type } = field;
  if (field.isComplex === true) {
    const fields = place.byName.get(type);
    if (fields === undefined) throw new TypeError(`the definition of ${place.type} lacks ${type}`);
    return writeFields(writer, fields, value, { ...place, path: join(place.path, name) });
  }
  if (type === 'string') {
    if (value !== undefined && typeof value !== 'string') throw wrong(place, name, 'a string', value);
    const text = (value as string | undefined) ?? '';
    if (field.upperBound !== undefined && Buffer.byteLength(text) > field.upperBound) {
      throw wrong(place, name, `a string of at most ${field.upperBound} bytes`, text);
    }
    return writer.string(text);
  }
  if (type === 'bool') {
    if (value !== undefined && typeof value !== 'boolean') throw wrong(place, name, 'true or false', value);
    return writer.number('uint8', value === true ? 1 : 0);
  }
  if (type === 'time' || type === 'duration') return writeTime(writer, value, place, name);
  const number = numbers[type];
  if (number === undefined)
    throw new TypeError(`${place.type}: ${type} cannot be written (${join(place.path, name)})`);
  writer.number(type as NumberType, numberOf(number, value ?? 0, place, name));
}

function writeTime(writer: CdrWriter, value: unknown, place: Place, name: string): void {
  if (value !== undefined && (typeof value !== 'object' || value === null)) {
    throw wrong(place, name, 'an object { sec, nanosec }', value);
  }
  const { sec = 0, nanosec = 0 } = (value ?? {}) as { sec?: unknown; nanosec?: unknown };
  writer.number('int32', numberOf(numbers['int32']!, sec, place, `${name}.sec`));
  writer.number('uint32', numberOf(numbers['uint32']!, nanosec, place, `${name}.nanosec`));
}

interface NumberRange {
  readonly size: number;
  /** Absent: a float. */
  readonly range?: readonly [bigint, bigint];
}

const signed = (bits: bigint): NumberRange => ({
  size: Number(bits) / 8,
  range: [-(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n],
});
const unsigned = (bits: bigint): NumberRange => ({ size: Number(bits) / 8, range: [0n, 2n ** bits - 1n] });
const numbers: Readonly<Record<string, NumberRange>> = {
  int8: signed(8n),
  uint8: unsigned(8n),
  int16: signed(16n),
  uint16: unsigned(16n),
  int32: signed(32n),
  uint32: unsigned(32n),
  int64: signed(64n),
  uint64: unsigned(64n),
  float32: { size: 4 },
  float64: { size: 8 },
};

/** A number for floats and up to 32 bits, a bigint for 64. */
function numberOf({ size, range }: NumberRange, value: unknown, place: Place, name: string): number | bigint {
  if (range === undefined) {
    if (typeof value !== 'number') throw wrong(place, name, 'a number', value);
    return value;
  }
  const [from, to] = range;
  const whole =
    typeof value === 'bigint'
      ? value
      : typeof value === 'number' && Number.isSafeInteger(value)
        ? BigInt(value)
        : undefined;
  if (whole === undefined || whole < from || whole > to) {
    const beyond = size === 8 ? '; beyond ±(2^53 - 1) a bigint' : '';
    throw wrong(place, name, `an integer from ${from} to ${to}${beyond}`, value);
  }
  return size === 8 ? whole : Number(whole);
}

function wrong({ type, path }: Place, name: string, allowed: string, value: unknown): TypeError {
  const given =
    typeof value === 'string'
      ? JSON.stringify(value.slice(0, 100))
      : typeof value === 'object' && value !== null
        ? Array.isArray(value)
          ? 'a list'
          : 'an object'
        : String(value);
  const where = join(path, name);
  return new TypeError(`${type}${where === '' ? '' : ` ${where}`}: must be ${allowed}, not ${given}`);
}

const join = (path: string, name: string): string =>
  path === '' || name === '' ? path + name : `${path}.${name}`;

const namesOf = (fields: readonly MessageField[]): string =>
  fields.length === 0 ? 'no fields' : fields.map(({ name }) => name).join(', ');
