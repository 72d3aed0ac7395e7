import { appendFile, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import type { LogQuery } from '../../../controller/backends/backend.ts';
import { openLogFiles, type LogFiles } from '../../../controller/backends/log-files.ts';
import { openLog, type LogRecord } from '../../../runtime/log.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });

async function open(maxFileBytes?: number): Promise<{ files: LogFiles; folder: string; path: string }> {
  const folder = await temporaryFolder();
  const files = openLogFiles(log, maxFileBytes === undefined ? {} : { maxFileBytes });
  closeLater(() => files.close());
  return { files, folder, path: join(folder, 'default', 'hello.jsonl') };
}

function record(count: number, fields: Partial<LogRecord> = {}): LogRecord {
  return { time: new Date(count * 1000).toISOString(), level: 'INFO', message: String(count), ...fields };
}

function append(files: LogFiles, path: string, one: LogRecord): void {
  files.append(path, Buffer.from(`${JSON.stringify(one)}\n`));
}

async function read(files: LogFiles, path: string, query: LogQuery = {}): Promise<string[]> {
  const messages: string[] = [];
  for await (const one of files.read(path, query)) messages.push(one.message);
  return messages;
}

const numbers = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => String(from + index));

test('what was never logged is empty', async () => {
  const { files, path } = await open();
  expect(await read(files, path)).toEqual([]);
});

test('records are read as they came, also before they are on disk', async () => {
  const { files, path } = await open();
  for (let count = 1; count <= 1000; count += 1) append(files, path, record(count));
  expect(await read(files, path)).toEqual(numbers(1, 1000));
  expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test('read by time, by request, and only the last ones', async () => {
  const { files, path } = await open();
  for (let count = 1; count <= 9; count += 1)
    append(files, path, record(count, { requestId: `r${count % 3}` }));
  expect(await read(files, path, { since: 7000 })).toEqual(['7', '8', '9']);
  expect(await read(files, path, { requestId: 'r1' })).toEqual(['1', '4', '7']);
  expect(await read(files, path, { limit: 2 })).toEqual(['8', '9']);
  expect(await read(files, path, { requestId: 'r1', limit: 1 })).toEqual(['7']);
  expect(await read(files, path, { limit: 0 })).toEqual([]);
});

test('a full file makes room for a new one; three are kept', async () => {
  const { files, folder, path } = await open(1000);
  for (let count = 1; count <= 100; count += 1) {
    append(files, path, record(count));
    await read(files, path, { limit: 0 });
  }
  const kept = (await readdir(join(folder, 'default'))).sort();
  expect(kept).toEqual(['hello.1.jsonl', 'hello.2.jsonl', 'hello.jsonl']);
  for (const name of kept) expect((await stat(join(folder, 'default', name))).size).toBeLessThanOrEqual(1000);
  const left = await read(files, path);
  expect(left).toEqual(numbers(101 - left.length, 100));
  expect(left.length).toBeGreaterThan(20);
});

test('the file of an earlier start is continued, and a line it left half written is passed over', async () => {
  const { files, path } = await open();
  append(files, path, record(1));
  await files.close();
  await appendFile(path, '{"time":"19\n');
  const again = openLogFiles(log);
  append(again, path, record(2));
  expect(await read(again, path)).toEqual(['1', '2']);
  await again.close();
});

test('who follows gets every record once, from the files and as they come, across rotations', async () => {
  const { files, path } = await open(2000);
  let count = 0;
  const more = (): void => append(files, path, record((count += 1)));
  for (let times = 0; times < 20; times += 1) more();
  const ending = new AbortController();
  const seen: string[] = [];
  for await (const one of files.read(path, { follow: true, signal: ending.signal })) {
    seen.push(one.message);
    if (count < 500) more();
    if (count % 7 === 0) await read(files, path, { limit: 0 });
    if (seen.length === 500) ending.abort();
  }
  expect(seen).toEqual(numbers(1, 500));
});

test('who follows is let go when the files are closed', async () => {
  const { files, path } = await open();
  append(files, path, record(1));
  const seen: string[] = [];
  for await (const one of files.read(path, { follow: true })) {
    seen.push(one.message);
    void files.close();
  }
  expect(seen).toEqual(['1']);
});

test('who follows too slowly is told of the gap instead of taking all memory', async () => {
  const { files, path } = await open();
  const ending = new AbortController();
  const followed = files.read(path, { follow: true, signal: ending.signal })[Symbol.asyncIterator]();
  const first = followed.next();
  append(files, path, record(1));
  await first;
  for (let count = 2; count <= 12_001; count += 1) append(files, path, record(count));
  let gap: LogRecord | undefined;
  for (let taken = 0; taken < 10_001; taken += 1) gap = (await followed.next()).value as LogRecord;
  expect(gap).toMatchObject({ level: 'WARN', source: 'platform', lines: 2_000 });
  ending.abort();
  await followed.return?.(undefined);
});

test('lines of one moment are written together and end with a newline', async () => {
  const { files, path } = await open();
  append(files, path, record(1));
  append(files, path, record(2));
  await read(files, path);
  expect((await readFile(path, 'utf8')).split('\n')).toHaveLength(3);
});
