/**
 * JSON, with protobuf's answers to what JSON has no word for: 64-bit integers and NaN and the infinities are text, bytes are
 * base64.
 */
import type { RosMessage, RosValue } from '../telemetry.ts';

export const nonFinite: ReadonlyMap<string, number> = new Map([
  ['NaN', NaN],
  ['Infinity', Infinity],
  ['-Infinity', -Infinity],
]);

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true });

export function encodeJson(message: RosMessage): Uint8Array {
  return encoder.encode(written(message, ''));
}

export function decodeJson(data: Uint8Array): unknown {
  return JSON.parse(decoder.decode(data));
}

function written(value: RosValue | undefined, path: string): string {
  switch (typeof value) {
    case 'number':
      return number(value);
    case 'string':
      return JSON.stringify(value);
    case 'boolean':
      return value ? 'true' : 'false';
    case 'bigint':
      return `"${value}"`;
  }
  if (value instanceof Uint8Array) return `"${base64(value)}"`;
  if (value instanceof BigInt64Array || value instanceof BigUint64Array) {
    return value.length === 0 ? '[]' : `["${value.join('","')}"]`;
  }
  if (ArrayBuffer.isView(value)) {
    let text = '[';
    for (let index = 0; index < value.length; index += 1) {
      text += index === 0 ? number(value[index]!) : `,${number(value[index]!)}`;
    }
    return `${text}]`;
  }
  if (Array.isArray(value)) {
    return `[${(value as readonly RosValue[]).map((one, index) => written(one, `${path}[${index}]`)).join(',')}]`;
  }
  if (typeof value !== 'object' || value === null) throw unwritable(path, value);
  const fields = Object.entries(value as RosMessage);
  return `{${fields.map(([name, one]) => `${JSON.stringify(name)}:${written(one, joined(path, name))}`).join(',')}}`;
}

function number(value: number): string {
  if (Number.isFinite(value)) return value === 0 && Object.is(value, -0) ? '-0' : String(value);
  return `"${value}"`;
}

export const base64 = ({ buffer, byteOffset, byteLength }: Uint8Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString('base64');

export const joined = (path: string, name: string): string => (path === '' ? name : `${path}.${name}`);

export function unwritable(path: string, value: unknown): TypeError {
  return new TypeError(
    `${path === '' ? 'the message' : path} is ${value === null ? 'null' : typeof value}, which no ROS message holds`,
  );
}
