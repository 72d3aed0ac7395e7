import { expect, test } from 'vitest';
import { age, fields, spanMs, table } from '../../cli/output.ts';
import { nearest } from '../../cli/suggest.ts';
import { readable } from '../../cli/commands/logs.ts';

test('columns are as wide as their widest cell and nothing follows the last', () => {
  const text = table(
    ['NAME', 'READY'],
    [
      ['a-long-name', 'True'],
      ['b', ''],
    ],
  );
  expect(text).toBe('NAME          READY\na-long-name   True\nb');
});

test('fields line up their values', () => {
  expect(
    fields([
      ['Name', 'x'],
      ['Generation', '1'],
    ]),
  ).toBe('Name:        x\nGeneration:  1');
});

test.each([
  [0, '0s'],
  [119_000, '119s'],
  [200_000, '3m20s'],
  [15 * 60_000, '15m'],
  [4 * 3_600_000 + 5 * 60_000, '4h5m'],
  [30 * 3_600_000, '30h'],
  [51 * 3_600_000, '2d3h'],
  [20 * 86_400_000, '20d'],
])('an age of %d ms is %s', (ms, text) => expect(age(ms)).toBe(text));

test('spans are read as they are written', () => {
  expect([spanMs('5m'), spanMs('1.5h'), spanMs('500ms'), spanMs('2d')]).toEqual([
    300_000, 5_400_000, 500, 172_800_000,
  ]);
  expect([spanMs('5'), spanMs('m'), spanMs('5 m'), spanMs('-5m')]).toEqual(Array(4).fill(undefined));
});

test('the nearest word is suggested only when it can have been meant', () => {
  expect(nearest('delpoy', ['deploy', 'delete'])).toBe('deploy');
  expect(nearest('ls', ['list', 'logs'])).toBeUndefined();
});

test('a log record with an error is one line and its stack', () => {
  const text = readable({
    time: '2026-01-01T00:00:00.000Z',
    level: 'ERROR',
    message: 'invocation failed',
    requestId: '12345678-aaaa',
    errorType: 'RangeError',
    errorMessage: 'too far',
    stackTrace: ['RangeError: too far', '    at handler (index.ts:2:3)'],
  });
  expect(text.split('\n')).toEqual([
    expect.stringMatching(/ERROR 12345678 invocation failed RangeError: too far$/),
    '    at handler (index.ts:2:3)',
  ]);
});

test("a record of a library's line says nothing twice, unless it is asked for all", () => {
  const record = {
    time: '2026-01-01T00:00:00.000Z',
    level: 'INFO',
    message: 'asked for',
    function: 'fleet',
    requestId: '12345678-aaaa',
    source: 'stdout',
    timestamp: '2026-01-01T00:00:00.001Z',
    msg: 'asked for',
    function_name: 'fleet',
    function_request_id: '12345678-aaaa',
    robot: 'r7',
    arm: { joint: 3 },
  } as const;
  expect(readable(record)).toMatch(/INFO {2}12345678 asked for robot=r7 arm=\{"joint":3\}$/);
  expect(readable(record, true)).toMatch(/ timestamp=2026-01-01T00:00:00.001Z msg=asked for function_name=/);
});
