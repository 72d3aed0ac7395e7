import { expect, test } from 'vitest';
import { transitionsOf } from '../../../controller/function/transitions.ts';
import type { Condition, FunctionStatus } from '../../../crds/function.ts';

const condition = (
  type: Condition['type'],
  status: Condition['status'],
  reason: string,
  message = reason,
): Condition => ({
  type,
  status,
  reason,
  message,
  observedGeneration: 1,
  lastTransitionTime: '2026-11-28T10:00:00Z',
});
const statusWith = (...conditions: Condition[]): FunctionStatus => ({ conditions });

const starting = statusWith(
  condition('Ready', 'False', 'Pending'),
  condition('PackageReady', 'Unknown', 'Pending'),
  condition('Available', 'False', 'NothingAnswers'),
  condition('Progressing', 'True', 'Pending'),
);

test('the same status tells nothing', () => {
  expect(transitionsOf(starting, starting)).toEqual([]);
  const otherWords = statusWith(condition('Ready', 'False', 'Pending', 'two of three hosts'));
  expect(transitionsOf(statusWith(condition('Ready', 'False', 'Pending')), otherWords)).toEqual([]);
});

test('conditions that changed for one reason are one transition, in the words of the first', () => {
  const failed = statusWith(
    condition('Ready', 'False', 'PackageNotFound', 's3://a/b is not there; ignored here: pod'),
    condition('PackageReady', 'False', 'PackageNotFound', 's3://a/b is not there'),
    condition('Available', 'False', 'NothingAnswers'),
    condition('Progressing', 'False', 'PackageNotFound', 's3://a/b is not there'),
  );
  expect(transitionsOf(starting, failed)).toEqual([
    {
      type: 'Warning',
      reason: 'PackageNotFound',
      action: 'Ready=False',
      note: 's3://a/b is not there; ignored here: pod',
    },
  ]);
});

test('what works again is told as normal', () => {
  const ready = statusWith(
    condition('Ready', 'True', 'Ready', 'all is ready'),
    condition('PackageReady', 'True', 'Ready', 'in place'),
    condition('Available', 'True', 'Answering'),
    condition('Progressing', 'False', 'Done'),
  );
  expect(transitionsOf(starting, ready).map(({ type, action }) => [type, action])).toEqual([
    ['Normal', 'Ready=True'],
    ['Normal', 'Available=True'],
  ]);
});

test('a new Function that only waits is no warning', () => {
  const told = transitionsOf(undefined, starting);
  expect(told.find(({ reason }) => reason === 'Pending')?.type).toBe('Normal');
});
