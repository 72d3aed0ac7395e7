/** CBOR (RFC 8949): arrays of numbers as typed arrays (RFC 8746), 64-bit integers as integers. */
import type { RosMessage, RosValue, TypedArray } from '../telemetry.ts';
import { joined, unwritable } from './json.ts';

/** Tags of RFC 8746, little-endian. */
const tags = new Map<number, TypedArrayConstructor>([
  [64, Uint8Array],
  [69, Uint16Array],
  [70, Uint32Array],
  [71, BigUint64Array],
  [72, Int8Array],
  [77, Int16Array],
  [78, Int32Array],
  [79, BigInt64Array],
  [85, Float32Array],
  [86, Float64Array],
]);
/** The same, big-endian: others may write them. */
const bigEndianTags = new Map<number, TypedArrayConstructor>([
  [65, Uint16Array],
  [66, Uint32Array],
  [67, BigUint64Array],
  [73, Int16Array],
  [74, Int32Array],
  [75, BigInt64Array],
  [81, Float32Array],
  [82, Float64Array],
]);
/** Uint8Array with clamped arithmetic: the bytes are the same. */
const clampedTag = 68;
const positiveBignumTag = 2;
const negativeBignumTag = 3;

const tagOf = new Map([...tags].map(([tag, { name }]) => [name, tag]));
const maxDepth = 64;

interface TypedArrayConstructor {
  new (buffer: ArrayBuffer): TypedArray;
  readonly name: string;
  readonly BYTES_PER_ELEMENT: number;
}

export function encodeCbor(message: RosMessage): Uint8Array {
  const out = new Writer();
  write(out, message, '');
  return out.bytes();
}

/** Throws Error for what is no CBOR, or more of it than one value. Integers that a number would round are BigInt. */
export function decodeCbor(data: Uint8Array): unknown {
  const reader = new Reader(data);
  const value = reader.value(0);
  reader.end();
  return value;
}

function write(out: Writer, value: RosValue | undefined, path: string): void {
  switch (typeof value) {
    case 'boolean':
      return out.byte(value ? 0xf5 : 0xf4);
    case 'number':
      return out.number(value);
    case 'bigint':
      return value >= 0n ? out.head(0, value) : out.head(1, -1n - value);
    case 'string':
      return out.text(value);
  }
  if (ArrayBuffer.isView(value)) {
    const tag = value instanceof Uint8Array ? 64 : tagOf.get(value.constructor.name);
    if (tag === undefined) throw unwritable(path, value);
    out.head(6, tag);
    return out.bytesString(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  }
  if (Array.isArray(value)) {
    const items = value as readonly RosValue[];
    out.head(4, items.length);
    return items.forEach((one, index) => write(out, one, `${path}[${index}]`));
  }
  if (typeof value !== 'object' || value === null) throw unwritable(path, value);
  const message = value as RosMessage;
  const names = Object.keys(message);
  out.head(5, names.length);
  for (const name of names) {
    out.text(name);
    write(out, message[name], joined(path, name));
  }
}

class Writer {
  #buffer = Buffer.allocUnsafeSlow(512);
  #at = 0;

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#at);
  }

  byte(value: number): void {
    const at = this.#take(1);
    this.#buffer[at] = value;
  }

  /** Major type and length, or the integer itself, in the shortest form. */
  head(major: number, value: number | bigint): void {
    const type = major << 5;
    if (value < 24) return this.byte(type | Number(value));
    if (value < 0x100) {
      const at = this.#take(2);
      this.#buffer[at] = type | 24;
      this.#buffer[at + 1] = Number(value);
    } else if (value < 0x1_0000) {
      const at = this.#take(3);
      this.#buffer[at] = type | 25;
      this.#buffer.writeUInt16BE(Number(value), at + 1);
    } else if (value < 0x1_0000_0000) {
      const at = this.#take(5);
      this.#buffer[at] = type | 26;
      this.#buffer.writeUInt32BE(Number(value), at + 1);
    } else {
      const at = this.#take(9);
      this.#buffer[at] = type | 27;
      this.#buffer.writeBigUInt64BE(BigInt(value), at + 1);
    }
  }

  number(value: number): void {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
      return value >= 0 ? this.head(0, value) : this.head(1, -1 - value);
    }
    if (Object.is(Math.fround(value), value)) {
      const at = this.#take(5);
      this.#buffer[at] = 0xfa;
      this.#buffer.writeFloatBE(value, at + 1);
    } else {
      const at = this.#take(9);
      this.#buffer[at] = 0xfb;
      this.#buffer.writeDoubleBE(value, at + 1);
    }
  }

  text(value: string): void {
    // A lone surrogate has no UTF-8; Buffer writes U+FFFD for it, as every encoder here does.
    const length = Buffer.byteLength(value);
    this.head(3, length);
    const at = this.#take(length);
    this.#buffer.write(value, at);
  }

  bytesString(value: Uint8Array): void {
    this.head(2, value.byteLength);
    const at = this.#take(value.byteLength);
    this.#buffer.set(value, at);
  }

  #take(size: number): number {
    const at = this.#at;
    if (at + size > this.#buffer.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, at + size));
      this.#buffer.copy(larger, 0, 0, at);
      this.#buffer = larger;
    }
    this.#at = at + size;
    return at;
  }
}

const textDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const indefinite = -1;

class Reader {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Uint8Array) {
    this.#data = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  }

  end(): void {
    if (this.#at < this.#data.length)
      throw new Error(`${this.#data.length - this.#at} bytes follow the value`);
  }

  value(depth: number): unknown {
    if (depth > maxDepth) throw new Error(`it is nested more than ${maxDepth} deep`);
    const first = this.#byte();
    const major = first >> 5;
    const info = first & 31;
    if (major === 7) return this.#simple(info);
    const argument = this.#argument(info);
    if (argument === indefinite && (major < 2 || major > 5)) throw new Error(`no value begins with ${first}`);
    switch (major) {
      case 0:
        return argument;
      case 1:
        return fromBig(-1n - BigInt(argument));
      case 2:
        return this.#bytes(argument, 2);
      case 3:
        return textDecoder.decode(this.#bytes(argument, 3));
      case 4:
        return this.#list(argument, depth);
      case 5:
        return this.#map(argument, depth);
      default:
        return this.#tagged(Number(argument), depth);
    }
  }

  #byte(): number {
    return this.#take(1)[0]!;
  }

  #take(size: number): Buffer {
    if (size > this.#data.length - this.#at) {
      throw new Error(`it is cut short: ${size} bytes should follow at ${this.#at} of ${this.#data.length}`);
    }
    this.#at += size;
    return this.#data.subarray(this.#at - size, this.#at);
  }

  #argument(info: number): number | bigint {
    if (info < 24) return info;
    if (info === 24) return this.#byte();
    if (info === 25) return this.#take(2).readUInt16BE();
    if (info === 26) return this.#take(4).readUInt32BE();
    if (info === 27) return fromBig(this.#take(8).readBigUInt64BE());
    if (info === 31) return indefinite;
    throw new Error(`${info} is no length at ${this.#at - 1}`);
  }

  #simple(info: number): unknown {
    switch (info) {
      case 20:
        return false;
      case 21:
        return true;
      case 22:
        return null;
      case 23:
        return undefined;
      case 25:
        return halfFloat(this.#take(2).readUInt16BE());
      case 26:
        return this.#take(4).readFloatBE();
      case 27:
        return this.#take(8).readDoubleBE();
      default:
        throw new Error(`there is no simple value ${info} in a ROS message`);
    }
  }

  #bytes(length: number | bigint, major: number): Uint8Array {
    if (length !== indefinite) return new Uint8Array(this.#take(Number(length)));
    const pieces: Buffer[] = [];
    for (let first = this.#byte(); first !== 0xff; first = this.#byte()) {
      if (first >> 5 !== major || (first & 31) === 31)
        throw new Error(`no piece of text or bytes at ${this.#at - 1}`);
      pieces.push(this.#take(Number(this.#argument(first & 31))));
    }
    return new Uint8Array(Buffer.concat(pieces));
  }

  #list(length: number | bigint, depth: number): unknown[] {
    const items: unknown[] = [];
    if (length === indefinite) while (!this.#ends()) items.push(this.value(depth + 1));
    // Each has a byte at least, so a length that is a lie ends soon.
    else for (let index = 0; index < Number(length); index += 1) items.push(this.value(depth + 1));
    return items;
  }

  #map(length: number | bigint, depth: number): Record<string, unknown> {
    const fields: Record<string, unknown> = {};
    const one = (): void => {
      const name = this.value(depth + 1);
      if (typeof name !== 'string') throw new Error(`a field is named by a ${typeof name}, not by text`);
      if (name === '__proto__' || Object.hasOwn(fields, name))
        throw new Error(`the field "${name}" cannot be taken`);
      fields[name] = this.value(depth + 1);
    };
    if (length === indefinite) while (!this.#ends()) one();
    else for (let index = 0; index < Number(length); index += 1) one();
    return fields;
  }

  #ends(): boolean {
    if (this.#data[this.#at] !== 0xff) return false;
    this.#at += 1;
    return true;
  }

  #tagged(tag: number, depth: number): unknown {
    const content = this.value(depth + 1);
    const little = tag === clampedTag ? Uint8Array : tags.get(tag);
    const Typed = little ?? bigEndianTags.get(tag);
    if (Typed === undefined && tag !== positiveBignumTag && tag !== negativeBignumTag) return content;
    if (!(content instanceof Uint8Array)) throw new Error(`tag ${tag} stands before what is no byte string`);
    if (Typed === undefined) {
      const magnitude = content.length === 0 ? 0n : BigInt(`0x${Buffer.from(content).toString('hex')}`);
      return fromBig(tag === positiveBignumTag ? magnitude : -1n - magnitude);
    }
    const size = Typed.BYTES_PER_ELEMENT;
    if (content.length % size !== 0)
      throw new Error(`tag ${tag}: ${content.length} bytes are not a multiple of ${size}`);
    if (little === undefined)
      for (let at = 0; at < content.length; at += size) content.subarray(at, at + size).reverse();
    // `content` is a copy of its own, so it is aligned.
    return new Typed(content.buffer as ArrayBuffer);
  }
}

function fromBig(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function halfFloat(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
