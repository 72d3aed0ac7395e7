/**
 * JSON lines on stdout, one record each: a constant message plus fields. The backend sorts a host's lines
 * by `namespace` and `function`. Secrets are never fields.
 */
import { destination, pino, type Logger } from 'pino';

export type Log = Logger;

/** One line of a function's log, as `faas logs -o json` prints it. */
export interface LogRecord {
  /** ISO 8601 with milliseconds. */
  time: string;
  level: 'TRACE' | 'DEBUG' | 'INFO' | 'WARN' | 'ERROR' | 'FATAL';
  message: string;
  namespace?: string;
  function?: string;
  trigger?: string;
  requestId?: string;
  /** `handler`: console.* of user code; `stdout` | `stderr`: raw output of its process; `platform`: ours; `report`: the record each invocation ends with. */
  source?: 'handler' | 'stdout' | 'stderr' | 'platform' | 'report';
  [field: string]: unknown;
}

/** What waits for a reader of stdout that does not read; beyond it lines are dropped rather than memory filled. */
const maxUnreadBytes = 64 * 1024 * 1024;

export function openLog(options: { level?: string; destination?: NodeJS.WritableStream } = {}): Log {
  return pino(
    {
      level: options.level ?? 'info',
      messageKey: 'message',
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label.toUpperCase() }) },
    },
    // Asynchronous: lines that come while a write is under way go out together in the next. A write for each was
    // more than half of what a host did under load. What is left at the exit is written then.
    options.destination ?? destination({ dest: 1, sync: false, maxLength: maxUnreadBytes }),
  );
}
