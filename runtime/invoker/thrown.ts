/** Anything thrown as data, as Lambda's `errorType`, `errorMessage` and `trace`. */
import { inspect, types } from 'node:util';
import type { ThrownFault } from './protocol.ts';

/** A dead letter keeps 8 KiB of a fault; an error that drags a document along in its message is cut. */
const maxMessageLength = 16 * 1024;
const maxStackLines = 50;

// The folder of this file: its frames tell the user nothing.
const ownFolder = import.meta.url.slice(0, import.meta.url.lastIndexOf('/') + 1);
const ownPath = new URL(ownFolder).pathname;

/** Never throws, whatever was thrown: getters and proxies included. */
export function thrownFault(thrown: unknown): ThrownFault {
  try {
    const retryable = (thrown as { retryable?: unknown } | null | undefined)?.retryable !== false;
    if (isError(thrown)) {
      const { name, message, stack } = thrown;
      return {
        code: typeof name === 'string' && name !== '' ? name : 'Error',
        message: cut(String(message)),
        stack: stackLines(stack),
        retryable,
      };
    }
    const message = typeof thrown === 'object' && thrown !== null ? inspect(thrown) : String(thrown);
    return { code: typeof thrown, message: cut(message), stack: [], retryable };
  } catch {
    return { code: 'Error', message: 'the thrown value cannot be shown', stack: [], retryable: true };
  }
}

export function isError(value: unknown): value is Error {
  return types.isNativeError(value) || value instanceof Error;
}

/** Without our own frames, and without Node's below the last one of the user. */
export function stackLines(stack: unknown): string[] {
  if (typeof stack !== 'string') return [];
  const lines = cut(stack)
    .split('\n')
    .filter((line) => !line.includes(ownFolder) && !line.includes(ownPath));
  let end = lines.length;
  while (end > 1 && /\((node:internal\/|node:async_hooks)|at (async )?node:internal\//.test(lines[end - 1]!))
    end--;
  return lines.slice(0, Math.min(end, maxStackLines));
}

function cut(text: string): string {
  return text.length <= maxMessageLength ? text : `${text.slice(0, maxMessageLength)} [cut]`;
}
