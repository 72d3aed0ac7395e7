/** ROS 2's own encoding: XCDR1, little-endian when written, either when read. */
import rosmsg2 from '@foxglove/rosmsg2-serialization';
import type { Field, Primitive, RosMessage, RosValue, Schema, TypedArray } from '../telemetry.ts';
import { definitionsOf } from './schema.ts';

type Reader = InstanceType<typeof rosmsg2.MessageReader>;

const readers = new WeakMap<Schema, Reader>();

/** Writers fill the last bytes up to a multiple of four. */
const maxPadding = 3;

export function decodeCdr(schema: Schema, data: Uint8Array): RosMessage {
  let reader = readers.get(schema);
  if (reader === undefined) {
    reader = new rosmsg2.MessageReader(definitionsOf(schema));
    readers.set(schema, reader);
  }
  const message = reader.readMessage<RosMessage>(data);
  // It reads on in the memory behind a message that is cut short, and stops in one that goes on.
  const read = reader.lastReadByteLength();
  if (read > data.byteLength) {
    throw new RangeError(`it is cut short: ${data.byteLength} bytes, and its lengths ask for ${read}`);
  }
  if (data.byteLength - read > maxPadding) {
    throw new RangeError(
      `${data.byteLength - read} bytes are left over of ${data.byteLength}: the sender has another definition of the type`,
    );
  }
  return message;
}

/** Missing fields are zero, false or empty, as in ROS. Our own: the library's writer cuts text that is not ASCII short. */
export function encodeCdr(schema: Schema, message: RosMessage): Uint8Array {
  const out = new Writer();
  writeFields(out, schema.fields, message);
  return out.bytes();
}

function writeFields(out: Writer, fields: readonly Field[], message: RosMessage | undefined): void {
  // A type without fields has one byte: structure_needs_at_least_one_member.
  if (fields.length === 0) return out.number('uint8', 0);
  for (const { name, type, array } of fields) {
    const value = message?.[name];
    if (array === undefined) writeOne(out, type, value);
    else {
      const items = (value ?? []) as ArrayLike<RosValue>;
      const count = array.length ?? items.length;
      if (array.length === undefined) out.number('uint32', count);
      if (ArrayBuffer.isView(items) && items.length === count) out.array(items as TypedArray);
      else for (let index = 0; index < count; index += 1) writeOne(out, type, items[index]);
    }
  }
}

function writeOne(out: Writer, type: Field['type'], value: RosValue | undefined): void {
  if (typeof type !== 'string') return writeFields(out, type, value as RosMessage | undefined);
  switch (type) {
    case 'bool':
      return out.number('uint8', value === true ? 1 : 0);
    case 'string':
      return out.text((value ?? '') as string);
    case 'wstring':
      throw new TypeError('wstring has no form that all of ROS agrees on');
    case 'time':
    case 'duration': {
      const { sec = 0, nanosec = 0 } = (value ?? {}) as { sec?: number; nanosec?: number };
      out.number('int32', sec);
      return out.number('uint32', nanosec);
    }
    case 'int64':
    case 'uint64':
      return out.integer(type, (value ?? 0n) as bigint);
    default:
      return out.number(type, (value ?? 0) as number);
  }
}

type NumberType = Exclude<
  Primitive,
  'bool' | 'string' | 'wstring' | 'time' | 'duration' | 'int64' | 'uint64'
>;

const setters = {
  int8: ['setInt8', 1],
  uint8: ['setUint8', 1],
  int16: ['setInt16', 2],
  uint16: ['setUint16', 2],
  int32: ['setInt32', 4],
  uint32: ['setUint32', 4],
  float32: ['setFloat32', 4],
  float64: ['setFloat64', 8],
} as const satisfies Record<NumberType, readonly [string, number]>;

/** Offsets are aligned from the end of the four bytes that tell the encapsulation. */
class Writer {
  #buffer = Buffer.alloc(256);
  #view = new DataView(this.#buffer.buffer, this.#buffer.byteOffset, this.#buffer.byteLength);
  #at = 4;

  constructor() {
    this.#buffer[1] = 1;
  }

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#at);
  }

  number(type: NumberType, value: number): void {
    const [set, size] = setters[type];
    const at = this.#take(size, size);
    this.#view[set](at, value, true);
  }

  integer(type: 'int64' | 'uint64', value: bigint): void {
    const at = this.#take(8, 8);
    if (type === 'int64') this.#view.setBigInt64(at, value, true);
    else this.#view.setBigUint64(at, value, true);
  }

  text(value: string): void {
    const bytes = Buffer.from(value, 'utf8');
    this.number('uint32', bytes.length + 1);
    const at = this.#take(1, bytes.length + 1);
    this.#buffer.set(bytes, at);
    this.#buffer[at + bytes.length] = 0;
  }

  /** Typed arrays lie in memory as CDR has them: every machine that Node runs on is little-endian. */
  array(values: TypedArray): void {
    if (values.length === 0) return;
    const at = this.#take(values.BYTES_PER_ELEMENT, values.byteLength);
    this.#buffer.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
  }

  #take(alignment: number, size: number): number {
    const padding = (alignment - ((this.#at - 4) % alignment)) % alignment;
    const at = this.#at + padding;
    if (at + size > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(this.#buffer.length * 2, at + size));
      this.#buffer.copy(larger, 0, 0, this.#at);
      this.#buffer = larger;
      this.#view = new DataView(larger.buffer, larger.byteOffset, larger.byteLength);
    }
    this.#at = at + size;
    return at;
  }
}
