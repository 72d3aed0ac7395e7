import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { RetryPolicy } from '../../crds/function.ts';
import type { Outcome, TriggerEvent } from '../../runtime/event.ts';
import { backoffMs, decide } from '../../runtime/settle.ts';

const retry: RetryPolicy = { maxAttempts: 3, minBackoffMs: 1000, maxBackoffMs: 60_000, maxAgeSeconds: 3600 };
const report = { requestId: 'r', durationMs: 1, maxMemoryMiB: 30, coldStart: false };
const fault = { code: 'Error', message: 'broken' };
const event: TriggerEvent = {
  id: 'ORDERS:1',
  trigger: 'orders',
  kind: 'jetstream',
  subject: 'orders.new',
  time: 0,
  attempt: 1,
  headers: {},
  encoding: 'json',
  data: new Uint8Array(),
};
const threw: Outcome = { kind: 'threw', fault, retryable: true, report };
const queued = (attempt = 1, time = 0) => ({
  event: { ...event, attempt, time },
  replies: false,
  redeliverable: true,
});
const request = { event, replies: true, redeliverable: false };

test('a returned value is done, with the result for whoever waits', () => {
  const result = { encoding: 'json' as const, data: new Uint8Array([49]) };
  expect(decide({ kind: 'returned', result, report }, request, retry, 0, 0)).toEqual({
    kind: 'done',
    result,
    report,
  });
});

test('a failed event of a queue comes again with exponential backoff', () => {
  expect(decide(threw, queued(1), retry, 0, 0.9999)).toMatchObject({
    kind: 'retry',
    delayMs: 1000,
    failed: true,
  });
  expect(decide(threw, queued(2), retry, 0, 0.9999)).toMatchObject({
    kind: 'retry',
    delayMs: 2000,
    failed: true,
  });
});

test('the last attempt ends as RetriesExhausted', () => {
  expect(decide(threw, queued(3), retry, 0, 0)).toMatchObject({
    kind: 'failed',
    reason: 'RetriesExhausted',
    fault,
  });
});

test('an event that would come again after its greatest age ends as EventAgeExceeded', () => {
  expect(decide(threw, queued(1, 0), retry, 3_600_000, 0.5)).toMatchObject({
    kind: 'failed',
    reason: 'EventAgeExceeded',
  });
});

test('an error that says it is final is Refused at once', () => {
  expect(decide({ ...threw, retryable: false }, queued(), retry, 0, 0)).toMatchObject({ reason: 'Refused' });
});

test('bytes that cannot be decoded are Undecodable at once', () => {
  const invalid: Outcome = {
    ...threw,
    retryable: false,
    fault: { code: 'Runtime.InvalidEvent', message: 'no JSON' },
  };
  expect(decide(invalid, queued(), retry, 0, 0)).toMatchObject({ kind: 'failed', reason: 'Undecodable' });
});

test('who waits is answered at once, never retried', () => {
  const outcomes: Outcome[] = [
    threw,
    { kind: 'timedOut', fault, report },
    { kind: 'crashed', fault, suspects: 3, report },
  ];
  for (const outcome of outcomes) expect(decide(outcome, request, retry, 0, 0).kind).toBe('failed');
});

test('a caller whose invocation was given back is told to come later', () => {
  const unrun: Outcome = { kind: 'returnedUnrun', fault, began: true, report };
  for (const policy of [retry, { ...retry, maxAttempts: 1 }]) {
    expect(decide(unrun, request, policy, 0, 0)).toMatchObject({ kind: 'retry', failed: false });
  }
});

test('an event handed back uses up no attempt, not even the last', () => {
  const unrun: Outcome = { kind: 'returnedUnrun', fault, began: true, report };
  expect(decide(unrun, queued(3), retry, 0, 0)).toEqual({ kind: 'retry', delayMs: 0, failed: false });
});

test('with maxAttempts 1 what a handler had begun is Interrupted, and what had not begun is handed back', () => {
  const once = { ...retry, maxAttempts: 1 };
  const unrun = (began: boolean): Outcome => ({ kind: 'returnedUnrun', fault, began, report });
  expect(decide(unrun(true), queued(), once, 0, 0)).toMatchObject({ kind: 'failed', reason: 'Interrupted' });
  expect(decide(unrun(false), queued(), once, 0, 0)).toMatchObject({ kind: 'retry', failed: false });
});

test("a process that could not start is not the event's failure", () => {
  const crashed: Outcome = { kind: 'crashed', fault, suspects: 0, report };
  expect(decide(crashed, queued(3), retry, 0, 0)).toMatchObject({ kind: 'retry', failed: false });
});

test('who waits for a process that could not start is told to come later', () => {
  const crashed: Outcome = { kind: 'crashed', fault, suspects: 0, report };
  expect(decide(crashed, request, retry, 0, 0)).toMatchObject({ kind: 'retry', failed: false });
});

test('with maxAttempts 1 what was cut with others is Interrupted, since it may not have been the cause', () => {
  const once = { ...retry, maxAttempts: 1 };
  const crashed = (suspects: number): Outcome => ({ kind: 'crashed', fault, suspects, report });
  const timedOut = (suspects?: number): Outcome => ({
    kind: 'timedOut',
    fault,
    report,
    ...(suspects && { suspects }),
  });
  expect(decide(crashed(2), queued(), once, 0, 0)).toMatchObject({ reason: 'Interrupted' });
  expect(decide(crashed(1), queued(), once, 0, 0)).toMatchObject({ reason: 'RetriesExhausted' });
  expect(decide(timedOut(2), queued(), once, 0, 0)).toMatchObject({ reason: 'Interrupted' });
  expect(decide(timedOut(), queued(), once, 0, 0)).toMatchObject({ reason: 'RetriesExhausted' });
});

test('a crash alone and a timeout count as failures', () => {
  expect(decide({ kind: 'crashed', fault, suspects: 1, report }, queued(3), retry, 0, 0)).toMatchObject({
    kind: 'failed',
  });
  expect(decide({ kind: 'timedOut', fault, report }, queued(1), retry, 0, 0)).toMatchObject({
    kind: 'retry',
    failed: true,
  });
});

test('backoff is never immediate, never over the greatest, and grows', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1000 }),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (attempt, random) => {
        const delay = backoffMs(attempt, retry, random);
        expect(delay).toBeGreaterThanOrEqual(100);
        expect(delay).toBeLessThanOrEqual(60_000);
        expect(backoffMs(attempt + 1, retry, random)).toBeGreaterThanOrEqual(delay);
      },
    ),
  );
});
