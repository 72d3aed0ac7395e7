import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { RetryPolicy } from '../../crds/function.ts';
import type { Outcome, TriggerEvent } from '../../runtime/event.ts';
import { decide } from '../../runtime/settle.ts';
import { fuzz, fuzzTimeoutMs } from './fuzz.ts';

const report = { requestId: 'r', durationMs: 1, maxMemoryMiB: 30, coldStart: false };
const fault = fc.record({
  code: fc.oneof(fc.constantFrom('Runtime.InvalidEvent', 'Sandbox.Timedout', 'Error'), fc.string()),
  message: fc.string(),
});
const outcome: fc.Arbitrary<Outcome> = fc.oneof(
  fc.constant({
    kind: 'returned' as const,
    result: { encoding: 'json' as const, data: new Uint8Array([49]) },
    report,
  }),
  fault.chain((one) =>
    fc.oneof(
      fc.boolean().map((retryable): Outcome => ({ kind: 'threw', fault: one, retryable, report })),
      fc.constant<Outcome>({ kind: 'timedOut', fault: one, report }),
      fc.nat(5).map((suspects): Outcome => ({ kind: 'crashed', fault: one, suspects, report })),
      fc.boolean().map((began): Outcome => ({ kind: 'returnedUnrun', fault: one, began, report })),
    ),
  ),
);
/** The limits of crds/function.ts, and far beyond them on the side of time. */
const retry: fc.Arbitrary<RetryPolicy> = fc.record({
  maxAttempts: fc.integer({ min: 1, max: 1000 }),
  minBackoffMs: fc.integer({ min: 1, max: 3_600_000 }),
  maxBackoffMs: fc.integer({ min: 1, max: 86_400_000 }),
  maxAgeSeconds: fc.integer({ min: 1, max: 604_800 }),
});
const random = fc.double({ min: 0, max: 0.9999999, noNaN: true });

function eventOf(attempt: number, time: number): TriggerEvent {
  return {
    id: 'ORDERS:1',
    trigger: 'orders',
    kind: 'jetstream',
    subject: 'orders.new',
    time,
    attempt,
    headers: {},
    encoding: 'json',
    data: new Uint8Array(),
  };
}

const situation = fc.record({
  outcome,
  retry,
  random,
  attempt: fc.integer({ min: 1, max: 1100 }),
  ageMs: fc.integer({ min: -3_600_000, max: 1_209_600_000 }),
  replies: fc.boolean(),
  redeliverable: fc.boolean(),
});

test(
  'whatever became of an invocation, its delivery is settled by the rules',
  { timeout: fuzzTimeoutMs },
  async () => {
    const now = 1_700_000_000_000;
    await fuzz('settle', situation, ({ outcome, retry, random, attempt, ageMs, replies, redeliverable }) => {
      const event = eventOf(attempt, now - ageMs);
      const delivery = { event, replies, redeliverable };
      const settled = decide(outcome, delivery, retry, now, random);
      // Pure: asked again, with nothing that could have been changed, it says the same.
      Object.freeze(event);
      expect(decide(Object.freeze({ ...outcome }), Object.freeze(delivery), retry, now, random)).toEqual(
        settled,
      );

      if (outcome.kind === 'returned') return expect(settled.kind).toBe('done');
      expect(settled.kind).not.toBe('done');
      if (settled.kind === 'failed') {
        expect(settled.fault).toBe(outcome.fault);
        expect(['RetriesExhausted', 'EventAgeExceeded', 'Undecodable', 'Refused', 'Interrupted']).toContain(
          settled.reason,
        );
        if (settled.reason === 'Interrupted') expect(retry.maxAttempts).toBe(1);
        if (settled.reason === 'RetriesExhausted' && redeliverable && !replies) {
          expect(attempt).toBeGreaterThanOrEqual(retry.maxAttempts);
        }
        // What no invocation of it failed uses up no attempt, and cannot be its failure.
        if (outcome.kind === 'returnedUnrun') expect(settled.reason).toBe('Interrupted');
        if (outcome.kind === 'crashed' && outcome.suspects === 0)
          expect(replies || !redeliverable).toBe(true);
        return;
      }
      if (settled.kind !== 'retry') return;
      expect(Number.isFinite(settled.delayMs) && settled.delayMs >= 0).toBe(true);
      if (outcome.kind === 'returnedUnrun' || (outcome.kind === 'crashed' && outcome.suspects === 0)) {
        return expect(settled.failed).toBe(false);
      }
      expect(settled.failed).toBe(true);
      expect(replies || !redeliverable).toBe(false);
      expect(attempt).toBeLessThan(retry.maxAttempts);
      expect(settled.delayMs).toBeGreaterThanOrEqual(1);
      expect(settled.delayMs).toBeLessThanOrEqual(Math.max(retry.minBackoffMs, retry.maxBackoffMs));
      expect(ageMs + settled.delayMs).toBeLessThanOrEqual(retry.maxAgeSeconds * 1000);
    });
  },
);

test(
  'an event that always fails ends: after maxAttempts invocations, or of its age',
  { timeout: fuzzTimeoutMs },
  async () => {
    const failing = fc.record({ retry, randoms: fc.array(random, { minLength: 1, maxLength: 5 }) });
    await fuzz('settle, to the end', failing, ({ retry, randoms }) => {
      const threw: Outcome = {
        kind: 'threw',
        fault: { code: 'Error', message: 'x' },
        retryable: true,
        report,
      };
      let now = 0;
      for (let attempt = 1; ; attempt += 1) {
        expect(attempt).toBeLessThanOrEqual(retry.maxAttempts);
        const delivery = { event: eventOf(attempt, 0), replies: false, redeliverable: true };
        const settled = decide(threw, delivery, retry, now, randoms[attempt % randoms.length]!);
        if (settled.kind === 'failed') {
          if (settled.reason === 'RetriesExhausted') expect(attempt).toBe(retry.maxAttempts);
          else expect(settled.reason).toBe('EventAgeExceeded');
          return;
        }
        now += (settled as { delayMs: number }).delayMs;
      }
    });
  },
);
