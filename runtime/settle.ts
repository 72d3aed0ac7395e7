/** The one place where retry, reject and dead letter are chosen. Pure. */
import type { RetryPolicy } from '../crds/function.ts';
import type { DeadLetterReason, Delivery, InvocationReport, Outcome, Settlement } from './event.ts';

/**
 * What becomes of a delivery whose invocation ended so. `random` is in [0, 1): full jitter over the
 * exponential backoff. `now` is ms since the epoch.
 */
export function decide(
  outcome: Outcome,
  delivery: Pick<Delivery, 'event' | 'replies' | 'redeliverable'>,
  retry: RetryPolicy,
  now: number,
  random: number,
): Settlement {
  const { event } = delivery;
  const told: { report: InvocationReport; tail?: string } = { report: outcome.report };
  if (outcome.tail !== undefined) told.tail = outcome.tail;
  if (outcome.kind === 'returned') return { kind: 'done', result: outcome.result, ...told };
  // Not this event's failure: it goes back as it came, and no attempt is used up; a caller is told to come later.
  if (outcome.kind === 'returnedUnrun') {
    // What was handed to a handler once is not handed out again (CONTRACTS 4.6).
    if (outcome.began && retry.maxAttempts === 1 && !delivery.replies) {
      return { kind: 'failed', fault: outcome.fault, reason: 'Interrupted', ...told };
    }
    return { kind: 'retry', delayMs: 0, failed: false };
  }
  const failed = (reason: DeadLetterReason): Settlement => ({
    kind: 'failed',
    fault: outcome.fault,
    reason,
    outcome: outcome.kind,
    ...told,
  });
  // It never reached a handler.
  if (outcome.kind === 'crashed' && outcome.suspects === 0) {
    return { kind: 'retry', delayMs: delivery.replies ? 0 : retry.minBackoffMs, failed: false };
  }
  if (delivery.replies || !delivery.redeliverable) return failed('RetriesExhausted');
  // It may not have been this event, and with one attempt it cannot be found out.
  if (outcome.kind !== 'threw' && (outcome.suspects ?? 0) > 1 && retry.maxAttempts === 1) {
    return failed('Interrupted');
  }
  if (outcome.kind === 'threw' && outcome.fault.code === 'Runtime.InvalidEvent') {
    return failed('Undecodable');
  }
  if (outcome.kind === 'threw' && !outcome.retryable) {
    return failed('Refused');
  }
  if (event.attempt >= retry.maxAttempts) {
    return failed('RetriesExhausted');
  }
  const delayMs = backoffMs(event.attempt, retry, random);
  if (now + delayMs - event.time > retry.maxAgeSeconds * 1000) {
    return failed('EventAgeExceeded');
  }
  return { kind: 'retry', delayMs, failed: true };
}

/** Exponential with full jitter, never under a tenth of the step so that a retry is never immediate. */
export function backoffMs(attempt: number, retry: RetryPolicy, random: number): number {
  const ceiling = Math.max(retry.minBackoffMs, retry.maxBackoffMs);
  const step = Math.min(ceiling, retry.minBackoffMs * 2 ** Math.min(30, attempt - 1));
  return Math.max(1, Math.round(step * (0.1 + 0.9 * random)));
}
