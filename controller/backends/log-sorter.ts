/**
 * The lines of a host to the files of its functions. A host under load writes one for every invocation: what a line
 * begins with says whose it is, so that most are neither parsed nor copied.
 */
import type { OutputStream } from '../../runtime/process/supervise.ts';
import type { LogRecord } from '../../runtime/log.ts';
import type { Key } from '../stores/store.ts';
import { parseRecord, type LogFiles } from './log-files.ts';

export interface LogSorterParts {
  readonly files: Pick<LogFiles, 'append'>;
  /** Both names empty: the line is the host's own. */
  fileOf(key: Key): string;
}

/** `{"level":"INFO","time":"2026-01-01T00:00:00.000Z","namespace":"default","function":"hello",…` (runtime/log.ts) */
const levelAt = '{"level":"'.length;
const afterLevel = '","time":"2026-01-01T00:00:00.000Z"'.length;
const names = /^,"namespace":"([a-z0-9-]+)","function":"([a-z0-9-]+)"/;
const maxNamesLength = 200;
const quote = 34;

/** What all lines of a function have in common, and where they go. */
interface Route {
  readonly names: Buffer;
  readonly file: string;
}

/** Takes whole lines, each with its newline. */
export function openLogSorter({ files, fileOf }: LogSorterParts): (lines: Buffer) => void {
  const routes = new Map<string, Route>();
  let last: Route | undefined;

  function routeOf(lines: Buffer, from: number, to: number): Route | undefined {
    const level = lines[from + levelAt + 4] === quote ? 4 : 5;
    const at = from + levelAt + level + afterLevel;
    if (at >= to) return undefined;
    if (last && lines.compare(last.names, 0, last.names.length, at, at + last.names.length) === 0)
      return last;
    const [text, namespace = '', name = ''] =
      names.exec(lines.toString('latin1', at, Math.min(to, at + maxNamesLength))) ?? [];
    if (text === undefined) return undefined;
    let route = routes.get(text);
    if (!route) routes.set(text, (route = { names: Buffer.from(text), file: fileOf({ namespace, name }) }));
    return (last = route);
  }

  return (lines) => {
    let begun = 0;
    let file = '';
    const write = (to: number): void => {
      if (to > begun) files.append(file, lines.subarray(begun, to));
      begun = to;
    };
    for (let from = 0, end = lines.indexOf(10); end !== -1; from = end + 1, end = lines.indexOf(10, from)) {
      const route = routeOf(lines, from, end);
      let own = route?.file;
      let raw: Buffer | undefined;
      if (own === undefined) {
        const record = parseRecord(lines.toString('utf8', from, end));
        own = fileOf({ namespace: record?.namespace ?? '', name: record?.function ?? '' });
        if (!record) raw = rawLine(lines.toString('utf8', from, end), 'stdout');
      }
      if (own !== file || raw) {
        write(from);
        file = own;
      }
      if (!raw) continue;
      files.append(own, raw);
      begun = end + 1;
    }
    write(lines.length);
  };
}

/** What a host prints that is no record of it. */
export function rawLine(message: string, source: OutputStream): Buffer {
  const level = source === 'stderr' ? 'ERROR' : 'INFO';
  const record: LogRecord = { time: new Date().toISOString(), level, source, message };
  return Buffer.from(`${JSON.stringify(record)}\n`);
}
