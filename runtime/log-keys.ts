/** The keys of a log record that have a meaning of their own; all others are fields of a line. Apart, for who only reads records. */
import type { LogRecord } from './log.ts';

export const logKeys = [
  'time',
  'level',
  'message',
  'namespace',
  'function',
  'trigger',
  'requestId',
  'source',
] as const satisfies (keyof LogRecord)[];
