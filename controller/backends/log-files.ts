/** Log records in files, one per function, rotated by size; read again with filters, and followed. */
import { closeSync, fstatSync, openSync, createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Log, LogRecord } from '../../runtime/log.ts';
import { fileMode, folderMode, isMissing } from '../stores/atomic-file.ts';
import type { Key } from '../stores/store.ts';
import type { LogQuery } from './backend.ts';

const maxFileBytes = 10 * 1024 * 1024;
/** The current one and those before it. */
const filesKept = 3;
/** Lines of one such while go to disk together. */
const flushMs = 100;
const flushBytes = 256 * 1024;
const maxBuffersAtOnce = 1_000;
/** What waits for a slow disk; more is dropped, and the gap is told. */
const maxPendingBytes = 16 * 1024 * 1024;
/** What waits for a slow reader that follows. */
const maxFollowedRecords = 10_000;

export interface LogFiles {
  /** Records as the host wrote them: whole lines, each with its newline. Returns at once. */
  append(path: string, lines: Buffer): void;
  /** The kept records that fit, oldest first; with `follow` those to come as well, until `signal` aborts. */
  read(path: string, query: LogQuery): AsyncIterable<LogRecord>;
  /**
   * Removes `<folder>/<namespace>/<name>.jsonl`, with those before it, of functions that are not kept and have logged
   * nothing since `olderThan` (ms since the epoch). What cannot be removed is logged and left.
   */
  sweep(folder: string, rule: { isKept(key: Key): boolean; olderThan: number }): Promise<void>;
  /** Writes what waits, ends what follows. */
  close(): Promise<void>;
}

interface LogFile {
  readonly path: string;
  pending: Buffer[];
  pendingBytes: number;
  dropped: number;
  /** Of the current file, once known. */
  size: number | undefined;
  writing: Promise<void> | undefined;
  readonly followers: Set<(record: LogRecord) => void>;
}

export function openLogFiles(log: Log, options: { maxFileBytes?: number } = {}): LogFiles {
  const limit = options.maxFileBytes ?? maxFileBytes;
  const files = new Map<string, LogFile>();
  const ending = new AbortController();
  let timer: NodeJS.Timeout | undefined;

  function fileAt(path: string): LogFile {
    let file = files.get(path);
    if (!file) {
      file = {
        path,
        pending: [],
        pendingBytes: 0,
        dropped: 0,
        size: undefined,
        writing: undefined,
        followers: new Set(),
      };
      files.set(path, file);
    }
    return file;
  }

  /** Resolves when all that was appended before is in the file. */
  function flush(file: LogFile): Promise<void> {
    file.writing ??= write(file)
      .catch((error: unknown) => {
        file.size = undefined;
        log.error({ err: error, path: file.path }, 'a log file cannot be written');
      })
      .finally(() => {
        file.writing = undefined;
      });
    return file.writing;
  }

  async function write(file: LogFile): Promise<void> {
    while (file.pending.length > 0) {
      const lines = file.pending;
      if (file.dropped > 0) lines.push(Buffer.from(gapLine(file.dropped)));
      // After a power cut the last line may be torn: what follows it is a line of its own.
      if (file.size === undefined && (await endsTorn(file.path))) lines.unshift(Buffer.from('\n'));
      const bytes = lines.reduce((sum, { length }) => sum + length, 0);
      file.pending = [];
      file.pendingBytes = 0;
      file.dropped = 0;
      file.size ??= await sizeOf(file.path);
      if (file.size > 0 && file.size + bytes > limit) {
        await rotate(file.path);
        file.size = 0;
      }
      await appendTo(file.path, lines);
      file.size += bytes;
    }
  }

  async function* read(path: string, query: LogQuery): AsyncIterable<LogRecord> {
    const file = fileAt(path);
    const fits = (record: LogRecord): boolean =>
      (query.since === undefined || Date.parse(record.time) >= query.since) &&
      (query.requestId === undefined || record.requestId === query.requestId);
    while (file.pending.length > 0 || file.writing) await flush(file);
    // From here to the end of the block nothing else runs: what is in the files now and what comes after make
    // the whole, with nothing missing or doubled between.
    const followed = query.follow ? openFollowed(file) : undefined;
    const parts = openParts(path);
    try {
      if (followed) query.onFollowing?.();
      if (query.limit === undefined) {
        for await (const record of recordsOf(parts)) if (fits(record)) yield record;
      } else {
        const last: LogRecord[] = [];
        for await (const record of recordsOf(parts)) {
          if (!fits(record)) continue;
          last.push(record);
          if (last.length > query.limit) last.shift();
        }
        yield* last;
      }
      if (!followed) return;
      const signal = AbortSignal.any([ending.signal, ...(query.signal ? [query.signal] : [])]);
      for await (const record of followed.records(signal)) if (fits(record)) yield record;
    } finally {
      followed?.close();
      for (const { fd } of parts) closeSync(fd);
    }
  }

  return {
    append(path, lines) {
      const file = fileAt(path);
      if (file.followers.size > 0) {
        for (const record of parsed(lines)) for (const follower of file.followers) follower(record);
      }
      if (file.pendingBytes > maxPendingBytes) {
        file.dropped += countLines(lines);
        return;
      }
      file.pending.push(lines);
      file.pendingBytes += lines.length;
      if (file.pendingBytes >= flushBytes) void flush(file);
      else timer ??= setTimeout(flushAll, flushMs);
    },
    read,
    async sweep(folder, { isKept, olderThan }) {
      try {
        for (const key of await keysBelow(folder)) {
          const path = join(folder, key.namespace, `${key.name}.jsonl`);
          const file = files.get(path);
          if (isKept(key) || (file && (file.followers.size > 0 || file.pending.length > 0 || file.writing)))
            continue;
          const { mtimeMs } = await stat(path);
          if (mtimeMs >= olderThan) continue;
          files.delete(path);
          for (let age = filesKept - 1; age >= 0; age -= 1) await rm(rotated(path, age), { force: true });
          log.info({ path }, 'the log of a deleted function was removed');
        }
      } catch (error) {
        log.warn({ err: error, folder }, 'logs of deleted functions cannot be removed');
      }
    },
    async close() {
      ending.abort();
      await flushAll();
    },
  };

  async function flushAll(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    await Promise.all([...files.values()].map((file) => flush(file)));
  }
}

async function appendTo(path: string, lines: readonly Buffer[]): Promise<void> {
  const file = await open(path, 'a', fileMode).catch(async (error: unknown) => {
    if (!isMissing(error)) throw error;
    await mkdir(dirname(path), { recursive: true, mode: folderMode });
    return await open(path, 'a', fileMode);
  });
  try {
    // As many at once as the kernel takes (IOV_MAX), and what a full disk left of them again.
    for (let from = 0; from < lines.length; from += maxBuffersAtOnce) {
      await writeAll(file, lines.slice(from, from + maxBuffersAtOnce));
    }
  } finally {
    await file.close();
  }
}

async function writeAll(file: FileHandle, lines: readonly Buffer[]): Promise<void> {
  const { bytesWritten } = await file.writev(lines);
  const bytes = lines.reduce((sum, { length }) => sum + length, 0);
  if (bytesWritten < bytes) await file.appendFile(Buffer.concat(lines).subarray(bytesWritten));
}

function parsed(lines: Buffer): LogRecord[] {
  const records = lines.toString('utf8').split('\n').map(parseRecord);
  return records.filter((record) => record !== undefined);
}

function countLines(lines: Buffer): number {
  let count = 0;
  for (let at = lines.indexOf(10); at !== -1; at = lines.indexOf(10, at + 1)) count += 1;
  return count;
}

/** `<name>.jsonl` is the current one; `<name>.1.jsonl` the one before it. */
function rotated(path: string, age: number): string {
  return age === 0 ? path : path.replace(/\.jsonl$/, `.${age}.jsonl`);
}

async function rotate(path: string): Promise<void> {
  for (let age = filesKept - 2; age >= 0; age -= 1) {
    await rename(rotated(path, age), rotated(path, age + 1)).catch((error: unknown) => {
      if (!isMissing(error)) throw error;
    });
  }
}

/** Of current files; a rotated one has a dot in its name, which no function has. */
async function keysBelow(folder: string): Promise<Key[]> {
  const keys: Key[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    for (const file of await readdir(join(folder, entry.name))) {
      const [, name] = /^([^.]+)\.jsonl$/.exec(file) ?? [];
      if (name !== undefined) keys.push({ namespace: entry.name, name });
    }
  }
  return keys;
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isMissing(error)) return 0;
    throw error;
  }
}

async function endsTorn(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      const { buffer, bytesRead } = await file.read(Buffer.alloc(1), 0, 1, Math.max(0, size - 1));
      return bytesRead === 1 && buffer[0] !== 10;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** Opened at once, oldest first, so that a rotation during the reading takes nothing away. */
function openParts(path: string): { fd: number; size: number }[] {
  const parts: { fd: number; size: number }[] = [];
  for (let age = filesKept - 1; age >= 0; age -= 1) {
    try {
      const fd = openSync(rotated(path, age), 'r');
      parts.push({ fd, size: fstatSync(fd).size });
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
  }
  return parts;
}

async function* recordsOf(parts: readonly { fd: number; size: number }[]): AsyncIterable<LogRecord> {
  for (const { fd, size } of parts) {
    if (size === 0) continue;
    const input = createReadStream('', { fd, autoClose: false, start: 0, end: size - 1 });
    for await (const line of createInterface({ input, crlfDelay: Infinity })) {
      const record = parseRecord(line);
      if (record) yield record;
    }
  }
}

/** Undefined for a line that a power cut left half written. */
export function parseRecord(line: string): LogRecord | undefined {
  try {
    const record = JSON.parse(line) as LogRecord | null;
    return typeof record === 'object' && typeof record?.time === 'string' ? record : undefined;
  } catch {
    return undefined;
  }
}

interface Followed {
  records(signal: AbortSignal): AsyncIterable<LogRecord>;
  close(): void;
}

function openFollowed(file: LogFile): Followed {
  let waiting: LogRecord[] = [];
  let missed = 0;
  let wake: (() => void) | undefined;
  const take = (record: LogRecord): void => {
    if (waiting.length < maxFollowedRecords) waiting.push(record);
    else missed += 1;
    wake?.();
  };
  file.followers.add(take);
  return {
    async *records(signal) {
      signal.addEventListener('abort', () => wake?.(), { once: true });
      while (!signal.aborted) {
        const batch = waiting;
        waiting = [];
        if (missed > 0) batch.push(JSON.parse(gapLine(missed)) as LogRecord);
        missed = 0;
        yield* batch;
        if (waiting.length > 0 || signal.aborted) continue;
        await new Promise<void>((resolve) => (wake = resolve));
        wake = undefined;
      }
    },
    close: () => void file.followers.delete(take),
  };
}

function gapLine(lines: number): string {
  const record = {
    time: new Date().toISOString(),
    level: 'WARN',
    source: 'platform',
    message: 'log lines dropped: they came faster than they could be taken',
    lines,
  } satisfies LogRecord;
  return `${JSON.stringify(record)}\n`;
}
