import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { openFilter } from '../../../functions/telemetry/filter.ts';
import { parseSettings, type TopicSettings } from '../../../functions/telemetry/settings.ts';
import type { RosMessage } from '../../../runtime/telemetry.ts';

const settings = (entry: string): TopicSettings =>
  parseSettings(`robot: r\ntopics: [{ ros: /a, as: json, ${entry} }]`).topics[0]!;

/** Which of the messages pass, by their index. */
function passing(entry: string, messages: readonly { ms: number; message?: RosMessage }[]): number[] {
  const filter = openFilter(settings(entry));
  return messages.flatMap(({ ms, message = {} }, index) => (filter.passes(ms, () => message) ? [index] : []));
}

const every = (ms: number, count: number) =>
  Array.from({ length: count }, (_, index) => ({ ms: index * ms }));
const values = (...numbers: number[]) =>
  numbers.map((value, index) => ({ ms: index * 1000, message: { value } }));

describe('maxHz', () => {
  test('lets so many through, and the first at once', () => {
    expect(passing('maxHz: 2', every(100, 20))).toEqual([0, 5, 10, 15]);
  });

  test('keeps the whole rate of a source that is early and late by turns', () => {
    const unsteady = every(100, 1000).map(({ ms }, index) => ({ ms: ms + (index % 2 === 0 ? 7 : -7) }));
    // 100 s at 5 Hz.
    expect(passing('maxHz: 5', unsteady).length).toBeGreaterThanOrEqual(499);
    expect(passing('maxHz: 5', unsteady).length).toBeLessThanOrEqual(501);
  });

  test('never lets more through than the rate, whenever they come', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(300), { maxLength: 200 }),
        fc.integer({ min: 1, max: 50 }),
        (gaps, maxHz) => {
          let now = 0;
          const times = gaps.map((gap) => ({ ms: (now += gap) }));
          const passed = passing(`maxHz: ${maxHz}`, times);
          const spanMs = now - (times[0]?.ms ?? 0);
          expect(passed.length).toBeLessThanOrEqual((spanMs * maxHz) / 1000 + 1);
        },
      ),
    );
  });

  test('goes on when the clock was set back an hour', () => {
    const before = every(100, 10).map(({ ms }) => ({ ms: ms + 3_600_000 }));
    expect(passing('maxHz: 2', [...before, ...every(100, 10)])).toEqual([0, 5, 10, 15]);
  });
});

test('everyNth lets the first of each n through', () => {
  expect(passing('everyNth: 3', every(1, 8))).toEqual([0, 3, 6]);
});

describe('onChange', () => {
  test('compares with what was sent last, so that slow changes add up', () => {
    expect(passing('onChange: { value: 1 }', values(5, 5.4, 5.8, 6.2, 6.3, 5.1))).toEqual([0, 3, 5]);
  });

  test('true or 0: any change, also of text, lists and NaN', () => {
    expect(passing('onChange: { value: true }', values(1, 1, 2, NaN, NaN, 2))).toEqual([0, 2, 3, 5]);
    const lists = ['a', 'a', 'b'].map((text, index) => ({
      ms: index,
      message: { value: [{ text, ranges: Float32Array.of(1, NaN) }] },
    }));
    expect(passing('onChange: { value: 0 }', lists)).toEqual([0, 2]);
    const big = [2n ** 60n, 2n ** 60n, 2n ** 60n + 1n].map((value, index) => ({
      ms: index,
      message: { value },
    }));
    expect(passing('onChange: { value: true }', big)).toEqual([0, 2]);
  });

  test('one of several fields is enough', () => {
    const messages = [
      { x: 0, y: 0 },
      { x: 0, y: 5 },
      { x: 0, y: 5 },
    ].map((message, index) => ({ ms: index, message }));
    expect(passing('onChange: { x: 1, y: 1 }', messages)).toEqual([0, 1]);
  });
});

describe('condition', () => {
  test.each([
    ['value < 2', [0, 1]],
    ['value >= 2', [2, 3]],
    ['value != 1', [0, 2, 3]],
    ['[value > 0, value < 3]', [1, 2]],
    ['other == 5', []],
    ['other != 5', [0, 1, 2, 3]],
  ] as const)('%s', (condition, expected) => {
    expect(passing(`condition: ${condition}`, values(0, 1, 2, 3))).toEqual(expected);
  });

  test('text, truth, list elements and 64-bit integers', () => {
    const message = { name: 'dock', ok: true, list: [{ level: 2 }], count: 2n ** 60n + 1n, none: NaN };
    const holds = (condition: string) =>
      passing(`condition: '${condition}'`, [{ ms: 0, message }]).length === 1;
    expect(holds('name == "dock"')).toBe(true);
    expect(holds('ok == true')).toBe(true);
    expect(holds('list[0].level >= 2')).toBe(true);
    expect(holds('list[1].level >= 2')).toBe(false);
    expect(holds('count == 1152921504606846977')).toBe(true);
    expect(holds('count == 1152921504606846976')).toBe(false);
    expect(holds('count > 1000')).toBe(true);
    expect(holds('none < 5')).toBe(false);
    expect(holds('name < 5')).toBe(false);
  });
});

describe('atLeastEvery', () => {
  test('lets one through that nothing else would', () => {
    expect(passing('onChange: { value: 1 }, atLeastEvery: 3s', values(0, 0, 0, 0, 0, 5, 5, 5, 5))).toEqual([
      0, 3, 5, 8,
    ]);
    expect(passing('condition: value > 9, atLeastEvery: 2s', values(0, 0, 0, 0))).toEqual([0, 2]);
    expect(passing('everyNth: 100, atLeastEvery: 250ms', every(100, 8))).toEqual([0, 3, 6]);
  });

  test('but never more than maxHz', () => {
    expect(passing('maxHz: 1, atLeastEvery: 100ms', every(100, 21))).toEqual([0, 10, 20]);
  });
});

test('nobody looks into a message that its rate holds back, or that no filter asks about', () => {
  let looked = 0;
  const message = (): RosMessage => ((looked += 1), { value: 1 });
  const rate = openFilter(settings('maxHz: 1, everyNth: 2'));
  for (const { ms } of every(100, 50)) rate.passes(ms, message);
  expect(looked).toBe(0);
  const both = openFilter(settings('maxHz: 1, onChange: { value: 1 }'));
  for (const { ms } of every(100, 20)) both.passes(ms, message);
  // The first, which was sent, and each that came later than a second after it.
  expect(looked).toBe(11);
});
