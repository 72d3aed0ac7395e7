import type { LogRecord } from '../../runtime/log.ts';
import { logKeys } from '../../runtime/log-keys.ts';
import { defineCommand } from '../command.ts';
import { usageError } from '../failure.ts';
import { paint, print, printData, spanMs } from '../output.ts';
import { stopSignal } from '../signals.ts';
import { openRunningSite } from '../site.ts';

/** Without --since the end of the log is what one wants to see. */
const defaultLimit = 100;

export const command = defineCommand({
  positionals: {
    name: { type: 'string', describe: 'The function', required: true, completes: 'function' },
  },
  options: {
    follow: {
      type: 'boolean',
      alias: 'f',
      default: false,
      describe: 'Go on with what is logged from now on',
    },
    since: { type: 'string', value: 'SPAN', describe: 'No older than 30s, 5m, 2h, 1d, or an ISO time' },
    robot: { type: 'string', value: 'ID', describe: 'Of a function on that robot, read at its hub' },
    'request-id': { type: 'string', value: 'ID', describe: 'Of one invocation only' },
    limit: {
      type: 'number',
      value: 'N',
      describe: `The last so many lines; ${defaultLimit} without --since and --request-id`,
    },
  },
  examples: [
    ['logs hello -f', 'The last lines, and what comes'],
    ['logs hello --since 5m', 'Of the last five minutes'],
    ['logs telemetry --robot robot1 -f', 'At the hub: of a function on a robot'],
    ['logs hello --request-id 7f0c… -o json', 'Of one invocation, as JSON lines'],
  ],
  async run({ site, context, namespace, name, robot, output, follow, since, requestId, limit }) {
    const from = since === undefined ? undefined : sinceOf(since);
    if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
      throw usageError(`--limit is ${limit}; it must be a whole number above 0`);
    }
    const { gateway } = await openRunningSite({ site, context });
    const all = from !== undefined || requestId !== undefined;
    const query = {
      since: from,
      follow: follow || undefined,
      requestId,
      limit: limit ?? (all ? undefined : defaultLimit),
    };
    const key = { namespace, name };
    const signal = follow ? stopSignal() : undefined;
    const records =
      robot === undefined ? gateway.logs(key, query, signal) : gateway.robotLogs(robot, key, query, signal);
    try {
      for await (const record of records) {
        if (output === 'yaml') await printData([record], 'yaml');
        else print(output === 'json' ? JSON.stringify(record) : readable(record, output === 'wide'));
      }
    } catch (error) {
      if ((error as Error).name !== 'AbortError') throw error;
    }
  },
});

function sinceOf(text: string): number {
  const span = spanMs(text);
  const time = span === undefined ? Date.parse(text) : Date.now() - span;
  if (Number.isFinite(time)) return Math.round(time);
  throw usageError(`--since is "${text}"; it must be a span such as 30s, 5m, 2h, 1d, or an ISO time`);
}

const levelStyles = { WARN: 'yellow', ERROR: 'red', FATAL: 'red' } as const;
const known: ReadonlySet<string> = new Set(logKeys);
/** When a library wrote its line, next to when it came; what repeats message, request id or function goes with them. */
const repeated = new Set(['timestamp', '_time']);
/** Enough to tell invocations apart by eye. */
const shortIdLength = 8;

/** `12:03:04.123 INFO  7f0c1a2b greeting name=reef` */
export function readable(record: LogRecord, wide = false): string {
  const level = record.level ?? 'INFO';
  const padded = level.padEnd(5);
  const style = levelStyles[level as keyof typeof levelStyles];
  const time = wide ? record.time : clock(record.time);
  const id = wide
    ? (record.requestId ?? '-')
    : (record.requestId?.slice(0, shortIdLength) ?? '-').padEnd(shortIdLength);
  const { errorType, errorMessage, stackTrace, ...rest } = record;
  const stack = Array.isArray(stackTrace) ? stackTrace.map(String) : [];
  const error = [errorType, errorMessage].filter((part) => typeof part === 'string').join(': ');
  const said = new Set<unknown>([record.message, record.requestId, record.function]);
  const extra = Object.entries(rest)
    .filter(([field, value]) => !known.has(field) && (wide || !(repeated.has(field) || said.has(value))))
    .map(([field, value]) => `${field}=${typeof value === 'string' ? value : JSON.stringify(value)}`);
  const text = record.source === 'report' ? `${record.message || 'REPORT'}` : record.message;
  const line = [text, error, ...extra].filter((part) => part !== undefined && part !== '').join(' ');
  const dimmed = record.source === 'report' || record.source === 'platform';
  // A stack begins with what the line says already.
  const frames = stack.filter((frame) => /^\s/.test(frame)).map((frame) => `\n${frame}`);
  const head = [
    paint('dim', time),
    style === undefined ? padded : paint(style, padded),
    paint('dim', id),
    dimmed && style === undefined ? paint('dim', line) : line,
  ].join(' ');
  return head + frames.join('');
}

/** The local wall clock, as the reader's own watch shows it. */
function clock(time: string): string {
  const date = new Date(time);
  const two = (value: number): string => String(value).padStart(2, '0');
  const ms = String(date.getMilliseconds()).padStart(3, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}
