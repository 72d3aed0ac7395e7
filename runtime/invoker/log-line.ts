/** A line of JSON that a library wrote, taken apart: its keys are fields of the record. */
import type { LogRecord } from '../log.ts';
import { logKeys } from '../log-keys.ts';
import type { Level } from './log-controls.ts';

export interface LogLine {
  /** The line's own, where it has one that is known. */
  readonly level: Level | undefined;
  /** The line's `message`, else its `msg`, else empty. */
  readonly message: string;
  /** All other keys; those that are ours with `_` before them. */
  readonly fields: Record<string, unknown>;
}

/** What the record says itself. */
export type Known = Pick<LogRecord, 'namespace' | 'function' | 'trigger' | 'requestId'>;

/** By name, as loggers write them; pino has numbers. */
const byName: Readonly<Record<string, Level>> = {
  trace: 'TRACE',
  debug: 'DEBUG',
  info: 'INFO',
  information: 'INFO',
  notice: 'INFO',
  warn: 'WARN',
  warning: 'WARN',
  error: 'ERROR',
  err: 'ERROR',
  fatal: 'FATAL',
  critical: 'FATAL',
};
const byNumber: Readonly<Record<number, Level>> = {
  10: 'TRACE',
  20: 'DEBUG',
  30: 'INFO',
  40: 'WARN',
  50: 'ERROR',
  60: 'FATAL',
};
const openBrace = 123;
const closeBrace = 125;

/** Undefined: it is no JSON object. Only what looks like one is parsed, and that once. */
export function readLogLine(line: string, known: Known): LogLine | undefined {
  if (line.charCodeAt(0) !== openBrace || line.charCodeAt(line.length - 1) !== closeBrace) return undefined;
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  const level = levelOf(fields['level']);
  const { msg } = fields;
  const text = fields['message'] ?? msg;
  const message = typeof text === 'string' ? text : '';
  const said: Partial<Record<string, unknown>> = { ...known, message };
  for (const name of logKeys) {
    if (!Object.hasOwn(fields, name)) continue;
    const value = fields[name];
    delete fields[name];
    if (value === said[name] || (name === 'level' && level !== undefined)) continue;
    fields[`_${name}`] = value;
  }
  return { level, message, fields };
}

function levelOf(value: unknown): Level | undefined {
  if (typeof value === 'number') return byNumber[value];
  return typeof value === 'string' && Object.hasOwn(byName, value.toLowerCase())
    ? byName[value.toLowerCase()]
    : undefined;
}
