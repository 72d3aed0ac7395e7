/** console.* of user code as log records, each with the request id of the invocation that called it. */
import { format } from 'node:util';
import { maxLineBytes } from '../process/lines.ts';
import { isBelow, type Level } from './log-controls.ts';
import type { LogFrame } from './protocol.ts';
import { isError, stackLines } from './thrown.ts';

const methods: Readonly<Record<string, Level>> = {
  trace: 'TRACE',
  debug: 'DEBUG',
  log: 'INFO',
  info: 'INFO',
  warn: 'WARN',
  error: 'ERROR',
  fatal: 'FATAL',
};

/** What is below `least` is not even formatted. Returns the way back. */
export function captureConsole(
  requestId: () => string,
  least: Level,
  write: (frame: LogFrame) => void,
): () => void {
  const target = console as unknown as Record<string, unknown>;
  const before = Object.fromEntries(Object.keys(methods).map((name) => [name, target[name]]));
  for (const [name, level] of Object.entries(methods)) {
    target[name] = isBelow(level, least)
      ? () => {}
      : (...args: unknown[]) => {
          write({ level, timeMs: Date.now(), requestId: requestId(), ...messageOf(args) });
        };
  }
  return () => Object.assign(target, before);
}

function messageOf(args: unknown[]): Pick<LogFrame, 'message' | 'fields'> {
  const message = cut(format(...args));
  const error = args.find(isError);
  if (error === undefined) return { message };
  return {
    message,
    fields: {
      errorType: String(error.name),
      errorMessage: cut(String(error.message)),
      stackTrace: stackLines(error.stack),
    },
  };
}

/** The same bound as a raw line of output has; counted in UTF-16 units, which is never more than bytes. */
function cut(message: string): string {
  if (message.length <= maxLineBytes) return message;
  return `${message.slice(0, maxLineBytes)} [${message.length - maxLineBytes} more characters cut]`;
}
