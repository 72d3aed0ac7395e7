import { expect, test } from 'vitest';
import { Rate } from '../../../runtime/ros/rate.ts';

/** How many of `count` messages pass that come at `hz`, each up to `jitterMs` early or late. */
function passing(
  limit: number,
  { hz, count, jitterMs = 0 }: { hz: number; count: number; jitterMs?: number },
) {
  const rate = new Rate(limit);
  let passed = 0;
  for (let index = 0; index < count; index++) {
    const off = ((index * 7919) % 100) / 50 - 1;
    if (rate.pass(1_000 + (index * 1000) / hz + off * jitterMs)) passed += 1;
  }
  return passed;
}

test.each([
  [30, 10, 100],
  [100, 7, 70],
  [1000, 50, 500],
])('of messages at %i Hz, %i a second pass', (hz, limit, expected) => {
  const passed = passing(limit, { hz, count: hz * 10 });
  expect(Math.abs(passed - expected)).toBeLessThanOrEqual(expected * 0.02 + 1);
});

test('a source that is as fast as the limit loses nothing, nor does a slower one, also when it is not quite even', () => {
  expect(passing(30, { hz: 30, count: 300 })).toBe(300);
  expect(passing(30, { hz: 20, count: 200, jitterMs: 5 })).toBe(200);
  expect(passing(30, { hz: 30, count: 300, jitterMs: 1 })).toBeGreaterThan(295);
});

test('after a pause no burst passes', () => {
  const rate = new Rate(10);
  expect([0, 5_000, 5_001, 5_050, 5_099].map((now) => rate.pass(now))).toEqual([
    true,
    true,
    false,
    false,
    true,
  ]);
});
