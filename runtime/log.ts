/**
 * JSON lines on stdout, one record each: a constant message plus fields. The backend sorts a host's lines
 * by `namespace` and `function`. Secrets are never fields.
 */
import { destination, pino, symbols, type Logger } from 'pino';
import type { InvocationReport } from './event.ts';

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
/** Lines of one turn go out before it ends when they are longer than this together. */
const maxTurnLength = 256 * 1024;

export function openLog(options: { level?: string; destination?: NodeJS.WritableStream } = {}): Log {
  return pino(
    {
      level: options.level ?? 'info',
      messageKey: 'message',
      base: null,
      timestamp: () => `,"time":"${now()}"`,
      formatters: { level: (label) => ({ level: label.toUpperCase() }) },
    },
    options.destination ?? (standardOutput ??= openStandardOutput()),
  );
}

interface LineOutput {
  write(line: string): void;
}

let standardOutput: LineOutput | undefined;

/** Under load what comes within so long goes out together: each write wakes its reader, which costs more than the bytes. */
const togetherMs = 10;

/**
 * The first lines go out with the turn of the event loop that they come in, those after them `togetherMs` apart: a
 * write for each line was more than half of what a host did under load. What is left at the exit is written then.
 */
function openStandardOutput(): LineOutput {
  let lines = '';
  let lastMs = -Infinity;
  const flush = (): void => {
    const text = lines;
    lines = '';
    lastMs = performance.now();
    if (text !== '') output.write(text);
  };
  // Before pino's own handler, which writes what `output` still has.
  process.on('exit', flush);
  const output = destination({ dest: 1, sync: false, maxLength: maxUnreadBytes });
  return {
    write(line) {
      if (lines === '') {
        if (performance.now() - lastMs >= togetherMs) setImmediate(flush);
        else setTimeout(flush, togetherMs);
      }
      lines += line;
      if (lines.length > maxTurnLength) flush();
    },
  };
}

let nowMs = 0;
let nowText = '';

/** ISO 8601; one text serves all lines of a millisecond. */
function now(): string {
  const ms = Date.now();
  if (ms !== nowMs) nowText = new Date((nowMs = ms)).toISOString();
  return nowText;
}

/** What the record of an invocation says besides its report. */
export interface ReportedInvocation {
  readonly trigger: string;
  readonly attempt: number;
  readonly outcome: string;
  readonly errorType?: string | undefined;
}

/**
 * Writes the record that each invocation ends with (source `report`). One is written for every event, so it is put
 * together by hand: as a pino record it was a third of a host's work.
 */
export function openReports(log: Log): (invocation: ReportedInvocation, report: InvocationReport) => void {
  const { [symbols.streamSym]: stream, [symbols.chindingsSym]: bindings } = log as unknown as {
    [symbols.streamSym]: { write(line: string): void };
    [symbols.chindingsSym]: string;
  };
  let lastTrigger = '';
  let beginning = '';
  return ({ trigger, attempt, outcome, errorType }, report) => {
    // As Lambda's own: what failed is told also to those who want no word of what went well.
    const level = errorType === undefined ? 'INFO' : 'WARN';
    if (!log.isLevelEnabled(level === 'INFO' ? 'info' : 'warn')) return;
    if (trigger !== lastTrigger || beginning === '') {
      lastTrigger = trigger;
      beginning = `"${bindings},"source":"report","trigger":${JSON.stringify(trigger)},"attempt":`;
    }
    const init =
      report.initDurationMs === undefined ? '' : `,"initDurationMs":${hundredths(report.initDurationMs)}`;
    const error = errorType === undefined ? '' : `,"errorType":${JSON.stringify(errorType)}`;
    stream.write(
      `{"level":"${level}","time":"${now()}${beginning}${attempt},"outcome":"${outcome}"${error}` +
        `,"requestId":${JSON.stringify(report.requestId)},"durationMs":${hundredths(report.durationMs)}${init}` +
        `,"maxMemoryMiB":${report.maxMemoryMiB},"coldStart":${report.coldStart},"message":"REPORT"}\n`,
    );
  };
}

const hundredths = (ms: number): number => Math.round(ms * 100) / 100;
