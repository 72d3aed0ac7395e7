import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { monotonicMs } from '../../../runtime/invoker/clock.ts';
import { Deadlines, type Deadline } from '../../../runtime/invoker/deadlines.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

type Named = Deadline & { name: string };
function open() {
  const expired: string[] = [];
  const deadlines = new Deadlines<Named>(({ name }) => expired.push(name));
  const add = (name: string, inMs: number) => {
    const deadline: Named = { name, deadlineMs: monotonicMs() + inMs };
    deadlines.add(deadline);
    return deadline;
  };
  return { deadlines, expired, add };
}

test('deadlines expire in their order, whatever the order they came in', () => {
  const { expired, add } = open();
  add('second', 200);
  add('third', 300);
  add('first', 100);
  vi.advanceTimersByTime(99);
  expect(expired).toEqual([]);
  vi.advanceTimersByTime(2);
  expect(expired).toEqual(['first']);
  vi.advanceTimersByTime(300);
  expect(expired).toEqual(['first', 'second', 'third']);
});

test('what was removed does not expire, from either end or the middle, also twice', () => {
  const { deadlines, expired, add } = open();
  const all = ['a', 'b', 'c', 'd', 'e'].map((name, index) => add(name, 100 + index));
  for (const index of [0, 2, 4, 2]) deadlines.remove(all[index]!);
  vi.advanceTimersByTime(500);
  expect(expired).toEqual(['b', 'd']);
});

test('one timer serves a thousand deadlines, and none is left when closed', () => {
  const { deadlines, add } = open();
  for (let index = 0; index < 1000; index++) deadlines.remove(add(String(index), 1000 + index));
  add('last', 5000);
  expect(vi.getTimerCount()).toBe(1);
  deadlines.close();
  expect(vi.getTimerCount()).toBe(0);
});

test('a deadline that has passed already expires at the next tick', () => {
  const { expired, add } = open();
  add('late', -5);
  vi.advanceTimersByTime(1);
  expect(expired).toEqual(['late']);
});
