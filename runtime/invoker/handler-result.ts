/** From what the handler returned to bytes. */
import type { EventSchema, Result } from '../event.ts';
import { codecOf } from '../ros/message.ts';

/** Lambda's limit for a synchronous answer. */
export const maxResultBytes = 6 * 1024 * 1024;

export class InvalidResponse extends Error {
  override name = 'Runtime.InvalidResponse';
}

/** Throws InvalidResponse. @param schema of the event that was handled: a ROS service has a type for its response */
export function encodeResult(
  value: unknown,
  schema?: EventSchema,
): { encoding: Result['encoding']; data: Uint8Array | string } {
  if (schema?.response !== undefined)
    return { encoding: 'binary', data: rosResponse(value, schema.response) };
  if (value instanceof Uint8Array) {
    limit(value.length);
    return { encoding: 'binary', data: value };
  }
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    const why = error instanceof Error ? error.message.split('\n', 1)[0] : String(error);
    throw new InvalidResponse(`the returned value cannot be encoded as JSON: ${why}`);
  }
  // undefined, a function and a symbol have no JSON; Lambda answers null.
  if (json === undefined) return { encoding: 'json', data: 'null' };
  if (json.length * 3 > maxResultBytes) limit(Buffer.byteLength(json));
  return { encoding: 'json', data: json };
}

function rosResponse(value: unknown, { type, definition }: { type: string; definition: string }): Uint8Array {
  try {
    return codecOf(definition, type).encode(value ?? undefined);
  } catch (error) {
    throw new InvalidResponse(`the returned value is no ${type}: ${(error as Error).message}`);
  }
}

function limit(bytes: number): void {
  if (bytes <= maxResultBytes) return;
  throw new InvalidResponse(`the returned value has ${bytes} bytes, more than the ${maxResultBytes} allowed`);
}
