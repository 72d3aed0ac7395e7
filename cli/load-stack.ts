/** Where a handler failed while it was loaded: a Function's status has no room for a stack, its log has. */
import type { Key } from '../controller/stores/store.ts';
import type { LogRecord } from '../runtime/log.ts';
import type { Gateway } from './gateway.ts';

/** Clocks of this machine and of a node may differ by so much. */
const skewMs = 60_000;
/** An older version that goes on answering may log much meanwhile. */
const maxRecords = 10_000;
/** For a log that does not come: what is known already is told then. */
const patienceMs = 5_000;
/** The status cuts long messages, so they are compared up to here. */
const comparedLength = 200;

export interface LoadFailure {
  readonly code: string;
  readonly message: string;
  /** ms since the epoch: when the waiting for it began. */
  readonly since: number;
}

/** Its frames, innermost first; none where the log has none, or cannot be read. */
export async function stackOf(
  gateway: Pick<Gateway, 'logs'> | undefined,
  key: Key,
  { code, message, since }: LoadFailure,
): Promise<string[]> {
  if (gateway === undefined || !code.startsWith('Runtime.')) return [];
  const tells = ({ errorType, errorMessage }: LogRecord): boolean =>
    errorType === code && message.includes(String(errorMessage).slice(0, comparedLength));
  let stack: unknown;
  try {
    const query = { since: since - skewMs, limit: maxRecords };
    for await (const record of gateway.logs(key, query, AbortSignal.timeout(patienceMs))) {
      if (tells(record)) stack = record['stackTrace'];
    }
  } catch {
    // The stack is an addition; the reason is known without it.
  }
  // It begins with what the message says already.
  return Array.isArray(stack) ? stack.map(String).filter((line) => /^\s/.test(line)) : [];
}
