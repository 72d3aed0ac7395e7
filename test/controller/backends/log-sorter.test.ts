import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { openLogSorter } from '../../../controller/backends/log-sorter.ts';
import { openLog, type LogRecord } from '../../../runtime/log.ts';

interface Sorted {
  readonly sort: (lines: Buffer) => void;
  /** By file, in the order they were appended. */
  readonly files: Record<string, LogRecord[]>;
  appends: number;
}

function sorter(): Sorted {
  const sorted: Sorted = { files: {}, appends: 0, sort: (lines) => sort(lines) };
  const sort = openLogSorter({
    files: {
      append(path, lines) {
        sorted.appends += 1;
        const records = lines.toString().trimEnd().split('\n');
        (sorted.files[path] ??= []).push(...records.map((line) => JSON.parse(line) as LogRecord));
      },
    },
    fileOf: ({ namespace, name }) => (name === '' ? 'host' : `${namespace}/${name}`),
  });
  return sorted;
}

/** What a host's log writes, as bytes. */
function written(write: (log: ReturnType<typeof openLog>) => void): Buffer {
  const destination = new PassThrough();
  write(openLog({ destination }));
  return destination.read() as Buffer;
}

const messages = (records: LogRecord[] | undefined): string[] =>
  (records ?? []).map(({ message }) => message);

test("each line goes to its function's file, neighbours of one function in one piece", () => {
  const sorted = sorter();
  sorted.sort(
    written((log) => {
      const hello = log.child({ namespace: 'default', function: 'hello' });
      const hello2 = log.child({ namespace: 'default', function: 'hello2' });
      for (const message of ['a', 'b', 'c']) hello.info(message);
      for (const message of ['d', 'e']) hello2.warn(message);
      hello.error({ trigger: 'in' }, 'f');
      log.info('mine');
      hello.info('ä\n"namespace":"other","function":"x"');
    }),
  );
  expect(messages(sorted.files['default/hello'])).toEqual([
    'a',
    'b',
    'c',
    'f',
    'ä\n"namespace":"other","function":"x"',
  ]);
  expect(messages(sorted.files['default/hello2'])).toEqual(['d', 'e']);
  expect(messages(sorted.files['host'])).toEqual(['mine']);
  expect(sorted.appends).toBe(5);
});

test("a field of the host's own record named as a function is no function's", () => {
  const sorted = sorter();
  sorted.sort(written((log) => log.info({ of: { namespace: 'default', function: 'hello' } }, 'about it')));
  expect(messages(sorted.files['host'])).toEqual(['about it']);
});

test('what is no record is kept as a line of the host', () => {
  const sorted = sorter();
  sorted.sort(Buffer.from('printed by a library\n{"broken\n\n'));
  expect(sorted.files['host']).toMatchObject([
    { message: 'printed by a library', source: 'stdout', level: 'INFO' },
    { message: '{"broken', source: 'stdout' },
    { message: '', source: 'stdout' },
  ]);
});
