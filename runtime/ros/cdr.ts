/**
 * ROS 2's own encoding of messages: XCDR1, little endian when written, either when read. Reading is
 * @foxglove/rosmsg2-serialization's; it writes text that is not ASCII cut short, so writing is done here.
 * https://design.ros2.org/articles/mapping_dds_types.html
 */

/** What reads one type of message. */
interface MessageReader {
  readMessage(bytes: Uint8Array): unknown;
  /** Of the last message, header included; beyond the bytes' own length where its lengths ask for more. */
  lastReadByteLength(): number;
}

const headerBytes = 4;
/** Writers fill the last bytes up to a multiple of four. */
const maxPadding = 3;

/** Throws RangeError for a message that is cut short, in which the library reads on in the memory behind it, or goes on. */
export function readWhole(reader: MessageReader, bytes: Uint8Array): unknown {
  const message = reader.readMessage(bytes);
  const read = reader.lastReadByteLength();
  if (read > bytes.byteLength) {
    throw new RangeError(`it is cut short: ${bytes.byteLength} bytes, and its lengths ask for ${read}`);
  }
  if (bytes.byteLength - read > maxPadding) {
    throw new RangeError(
      `${bytes.byteLength - read} bytes are left over of ${bytes.byteLength}: the sender has another definition of the type`,
    );
  }
  return message;
}

const setters = {
  int8: ['setInt8', 1],
  uint8: ['setUint8', 1],
  int16: ['setInt16', 2],
  uint16: ['setUint16', 2],
  int32: ['setInt32', 4],
  uint32: ['setUint32', 4],
  int64: ['setBigInt64', 8],
  uint64: ['setBigUint64', 8],
  float32: ['setFloat32', 4],
  float64: ['setFloat64', 8],
} as const satisfies Record<string, readonly [keyof DataView, number]>;

export type NumberType = keyof typeof setters;
/** What reading gives for arrays of each. */
export const typedArrays = {
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  float32: Float32Array,
  float64: Float64Array,
} as const satisfies Record<NumberType, unknown>;

type Set = (at: number, value: number | bigint, littleEndian: boolean) => void;

/** Offsets are aligned from the end of the four bytes that tell the encapsulation. */
export class CdrWriter {
  #buffer = Buffer.alloc(256);
  #view = new DataView(this.#buffer.buffer, this.#buffer.byteOffset, this.#buffer.byteLength);
  #at = headerBytes;

  constructor() {
    // Plain CDR, little endian.
    this.#buffer[1] = 1;
  }

  /** A bigint for 64 bits, a number else; in its type's range. */
  number(type: NumberType, value: number | bigint): void {
    const [set, size] = setters[type];
    const at = this.#take(size, size);
    (this.#view[set] as Set).call(this.#view, at, value, true);
  }

  string(value: string): void {
    const length = Buffer.byteLength(value);
    this.number('uint32', length + 1);
    const at = this.#take(1, length + 1);
    this.#buffer.write(value, at);
    this.#buffer[at + length] = 0;
  }

  /** A type without fields has one byte: structure_needs_at_least_one_member. */
  nothing(): void {
    this.number('uint8', 0);
  }

  /** Numbers as they lie in memory, which on all machines that Node runs on is little endian. Their count is not written. */
  block(values: ArrayBufferView & { readonly BYTES_PER_ELEMENT: number }): void {
    if (values.byteLength === 0) return;
    const at = this.#take(values.BYTES_PER_ELEMENT, values.byteLength);
    this.#buffer.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
  }

  end(): Buffer {
    return this.#buffer.subarray(0, this.#at);
  }

  #take(alignment: number, size: number): number {
    const over = (this.#at - headerBytes) % alignment;
    const at = this.#at + (over === 0 ? 0 : alignment - over);
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
