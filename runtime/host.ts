/**
 * The event flow: pull deliveries, invoke, decide, dead-letter, settle. One per function; it outlives the
 * function's versions, so a hot swap only exchanges the invoker.
 */
import { randomUUID } from 'node:crypto';
import type { FunctionSpec } from '../crds/function.ts';
import { shortened } from './dead-letters.ts';
import type { DeadLetters } from './dead-letters.ts';
import { envelope, send, type DestinationParts, type Ending } from './destinations.ts';
import type { DeadLetterReason, Delivery, GivenUp, Outcome, Settlement, TriggerEvent } from './event.ts';
import { faultOf } from './errors.ts';
import type { Invocation, Invoker } from './invoker/invoker.ts';
import { hopsOf } from './lineage.ts';
import { openReports, type Log } from './log.ts';
import type { FunctionMetrics } from './metrics.ts';
import { decide } from './settle.ts';
import type { FunctionRef, Trigger } from './triggers/trigger.ts';

/** A chain of functions that came back this often is stopped (CONTRACTS 4.15). */
export const maxHops = 16;

/** How long an event waits at its source whose dead letter could not be stored: as long as that is so, within these. */
const unstoredRetryMs = { min: 1_000, max: 60_000 };

export interface FlowOptions {
  readonly function: FunctionRef;
  readonly metrics: FunctionMetrics;
  readonly log: Log;
  /** Absent without NATS: what fails finally is then logged and counted only. */
  readonly deadLetters?: DeadLetters;
  readonly destinations: DestinationParts;
  /** Dead letters of this trigger cannot be stored, and why; undefined: they can again. */
  unstored?(trigger: string, why: string | undefined): void;
}

export interface BatchOptions {
  readonly size: number;
  readonly windowMs: number;
}

export interface Flow {
  /** From now on invocations run here; what runs in the old invoker stays there. */
  use(invoker: Invoker, spec: FunctionSpec, version: string): void;
  /** Pulls from the trigger until it ends. Resolves when it ended and all its deliveries are settled. */
  pump(name: string, trigger: Trigger, batch?: BatchOptions): Promise<void>;
  /**
   * What waits for a handler goes back to its source, if that keeps it for the next host; from other sources it
   * still runs, unless no handler can.
   */
  stop(): void;
}

interface Version {
  readonly invoker: Invoker;
  readonly spec: FunctionSpec;
  readonly version: string;
}

interface Pump {
  readonly name: string;
  readonly iterator: AsyncIterator<Delivery>;
  readonly batch: BatchOptions | undefined;
  /** Outstanding next() calls. */
  asked: number;
  ended: boolean;
  gathering: Delivery[];
  timer: NodeJS.Timeout | NodeJS.Immediate | undefined;
  /** Deliveries waiting for a slot or for a handler that can run. */
  parked: number;
  /** Deliveries yielded and not settled yet. */
  open: number;
  finished: () => void;
  failed: (error: unknown) => void;
}

export function openFlow(options: FlowOptions): Flow {
  const { metrics, log, deadLetters } = options;
  const reports = openReports(log);
  const pumps = new Set<Pump>();
  /** Gathered and waiting for a slot: bounded by what pumps ask for. */
  const waiting: { pump: Pump; deliveries: Delivery[] }[] = [];
  /** Triggers whose dead letters could not be stored at the last try, since when (ms since the epoch). */
  const unstoredSince = new Map<string, number>();
  let current: Version | undefined;
  let busy = 0;
  let stopping = false;

  const ready = (): boolean => current?.invoker.state.ready === true;
  const free = (): number => (current && ready() ? current.invoker.capacity - busy : 0);

  /**
   * Demand follows free slots: what is not asked for waits at its source. While no handler process can run, one
   * delivery of each source is taken, so that a caller is told at once; what needs no answer is kept for later.
   */
  function demand(): void {
    if (!current || (ready() && waiting.length > 0)) return;
    for (const pump of pumps) {
      const wanted = ready() ? free() * (pump.batch?.size ?? 1) : 1;
      while (!pump.ended && pump.asked + pump.gathering.length + pump.parked < wanted) ask(pump);
    }
  }

  function ask(pump: Pump): void {
    pump.asked += 1;
    pump.iterator.next().then(
      (next) => {
        pump.asked -= 1;
        if (next.done) {
          pump.ended = true;
          flush(pump);
          endIfDone(pump);
        } else {
          pump.open += 1;
          took(pump, next.value);
        }
      },
      (error: unknown) => {
        pump.asked -= 1;
        pump.ended = true;
        pumps.delete(pump);
        pump.failed(error);
      },
    );
  }

  function took(pump: Pump, delivery: Delivery): void {
    if (!pump.batch) return start(pump, [delivery]);
    pump.gathering.push(delivery);
    if (pump.gathering.length >= pump.batch.size) return flush(pump);
    if (pump.timer) return;
    const { windowMs } = pump.batch;
    pump.timer = windowMs > 0 ? setTimeout(() => flush(pump), windowMs) : setImmediate(() => flush(pump));
  }

  function flush(pump: Pump): void {
    clearTimeout(pump.timer as NodeJS.Timeout);
    clearImmediate(pump.timer as NodeJS.Immediate);
    pump.timer = undefined;
    if (pump.gathering.length > 0) start(pump, pump.gathering.splice(0));
  }

  function start(pump: Pump, deliveries: Delivery[]): void {
    const first = deliveries[0] as Delivery;
    if (!ready() && (first.replies || stopping)) return turnAway(pump, deliveries);
    if (stopping && isKept(first)) return turnAway(pump, deliveries);
    if (free() <= 0 || waiting.length > 0) {
      pump.parked += deliveries.length;
      return void waiting.push({ pump, deliveries });
    }
    busy += 1;
    metrics.inFlight(busy);
    void run(pump, deliveries);
  }

  /** Who waits is told to come later; the rest goes back to its source. */
  function turnAway(pump: Pump, deliveries: Delivery[]): void {
    for (const delivery of deliveries) {
      void settle(pump, delivery, { kind: 'retry', delayMs: 0, failed: false }, current as Version).then(
        demand,
      );
    }
  }

  function release(): void {
    busy -= 1;
    proceed();
  }

  function proceed(): void {
    while (waiting.length > 0 && free() > 0) {
      const next = waiting.shift() as { pump: Pump; deliveries: Delivery[] };
      next.pump.parked -= next.deliveries.length;
      busy += 1;
      void run(next.pump, next.deliveries);
    }
    metrics.inFlight(busy);
    demand();
  }

  async function run(pump: Pump, deliveries: Delivery[]): Promise<void> {
    const running = current as Version;
    const { invoker, spec } = running;
    const runnable = deliveries.filter((delivery) => {
      const refused = refusal(delivery, spec);
      if (refused) void settle(pump, delivery, refused, running);
      return refused === undefined;
    });
    if (runnable.length === 0) {
      release();
      return;
    }
    const first = runnable[0] as Delivery;
    const started = Date.now();
    for (const { event } of runnable) {
      if (event.attempt === 1) metrics.waited(event.trigger, Math.max(0, started - event.time) / 1000);
    }
    const again = runnable.every((delivery) => mayRunAgain(delivery, spec));
    const invocation: Invocation = {
      events: runnable.length === 1 ? [first.event] : runnable.map(({ event }) => event),
      batch: pump.batch !== undefined,
      deadline: started + spec.timeoutSeconds * 1000,
      signal: runnable.length === 1 ? first.signal : undefined,
      tail: first.tail === true,
      mayRunAgain: again,
      onChunk: runnable.length === 1 ? first.onChunk : undefined,
    };
    let outcome = await invoker.invoke(invocation);
    if (again && outcome.kind !== 'returned' && outcome.kind !== 'threw' && (outcome.suspects ?? 0) > 1) {
      // Several were in flight when the process died: only one that dies alone is the cause (CONTRACTS 4.6). It keeps
      // its slot meanwhile, so that no more suspects come together than one process can have.
      const deadline = Date.now() + spec.timeoutSeconds * 1000;
      outcome = await invoker.invoke({ ...invocation, deadline, alone: true });
    }
    release();
    record(first.event.trigger, runnable, outcome);
    const now = Date.now();
    const failures =
      pump.batch && outcome.kind === 'returned' ? batchItemFailures(outcome, runnable) : undefined;
    for (const delivery of runnable) {
      const own = failures?.get(delivery.event.id) ?? outcome;
      void settle(pump, delivery, decide(own, delivery, spec.retry, now, Math.random()), running);
    }
  }

  async function settle(pump: Pump, delivery: Delivery, settlement: Settlement, by: Version): Promise<void> {
    try {
      // The usual end needs neither: a turn of the microtask queue for each would be paid by every event.
      const plain = settlement.kind === 'done' && (delivery.replies || by.spec.onSuccess === undefined);
      const kept = plain ? settlement : await keep(delivery, settlement);
      if (!plain && !delivery.replies) await passOn(delivery, kept, by);
      await delivery.settle(kept);
    } catch (error) {
      log.error(
        { err: error, trigger: delivery.event.trigger, eventId: delivery.event.id },
        'settling failed',
      );
    } finally {
      pump.open -= 1;
      endIfDone(pump);
    }
  }

  /** A dead letter is stored before its event is acknowledged; when it cannot be, the event goes back. */
  async function keep(delivery: Delivery, settlement: Settlement): Promise<Settlement> {
    if (settlement.kind === 'retry' && settlement.failed) metrics.retried(delivery.event.trigger);
    if (settlement.kind !== 'failed' || delivery.replies) return settlement;
    const { event } = delivery;
    const { fault, reason, attempts = event.attempt } = settlement;
    if (deadLetters) {
      try {
        await deadLetters.put(options.function, event, fault, reason, { attempts });
        stored(event.trigger);
      } catch (error) {
        const delayMs = notStored(event, reason, error);
        // The verdict goes with it: an event that was given up is stored later, and never run again.
        const givenUp = { reason, fault: shortened(fault), attempts };
        if (delivery.redeliverable) return { kind: 'retry', delayMs, failed: false, givenUp };
      }
    }
    metrics.deadLettered(event.trigger, reason);
    log.error(
      {
        trigger: event.trigger,
        requestId: event.id,
        source: 'platform',
        reason,
        attempts,
        error: fault.message,
      },
      deadLetters ? 'event dead-lettered' : 'event given up; without NATS there are no dead letters',
    );
    return settlement;
  }

  function stored(trigger: string): void {
    if (!unstoredSince.delete(trigger)) return;
    log.info({ trigger, source: 'platform' }, 'dead letters can be stored again');
    options.unstored?.(trigger, undefined);
  }

  /** Returns how long the event is to wait. */
  function notStored({ trigger, id }: TriggerEvent, reason: DeadLetterReason, error: unknown): number {
    metrics.deadLetterUnstored(trigger);
    const now = Date.now();
    const since = unstoredSince.get(trigger);
    if (since === undefined) {
      unstoredSince.set(trigger, now);
      const why = faultOf(error).message;
      log.error(
        { trigger, source: 'platform', requestId: id, reason, error: why },
        'dead letters cannot be stored: events that failed finally wait at their source',
      );
      options.unstored?.(trigger, `its dead letters cannot be stored and wait: ${why}`);
    }
    return Math.min(unstoredRetryMs.max, Math.max(unstoredRetryMs.min, now - (since ?? now)));
  }

  /** To spec.onSuccess or spec.onFailure. A destination that is away costs its message, not the event. */
  async function passOn(
    { event }: Delivery,
    settlement: Settlement,
    { spec, version }: Version,
  ): Promise<void> {
    if (settlement.kind === 'retry') return;
    // That a chain was stopped is told once: where onFailure leads back into it, it would go on without end.
    if (spec.recursion === 'Terminate' && hopsOf(event.headers) > maxHops) return;
    const ending: Ending =
      settlement.kind === 'done'
        ? { condition: 'Success', result: settlement.result }
        : {
            condition: settlement.reason,
            fault: settlement.fault,
            attempts: settlement.attempts ?? event.attempt,
          };
    const destination = settlement.kind === 'done' ? spec.onSuccess : spec.onFailure;
    if (!destination) return;
    try {
      await send(
        destination,
        options.destinations,
        event,
        envelope(options.function, version, event, ending),
      );
    } catch (error) {
      log.error(
        { err: error, trigger: event.trigger, requestId: event.id },
        'destination could not be reached',
      );
    }
  }

  function record(trigger: string, deliveries: readonly Delivery[], outcome: Outcome): void {
    const { report } = outcome;
    metrics.invoked(trigger, outcome.kind, report.durationMs / 1000);
    if (report.coldStart) metrics.coldStart();
    reports(
      {
        trigger,
        attempt: (deliveries[0] as Delivery).event.attempt,
        outcome: outcome.kind,
        errorType: outcome.kind === 'returned' ? undefined : outcome.fault.code,
      },
      report.requestId === '' ? { ...report, requestId: randomUUID() } : report,
    );
  }

  function endIfDone(pump: Pump): void {
    if (!pump.ended || pump.open > 0 || pump.asked > 0 || !pumps.delete(pump)) return;
    pump.finished();
  }

  return {
    use(invoker, spec, version) {
      const known = current?.invoker === invoker;
      current = { invoker, spec, version };
      if (!known) {
        invoker.onState(() => {
          if (current?.invoker === invoker) proceed();
        });
      }
      proceed();
    },
    stop() {
      stopping = true;
      for (const entry of waiting.splice(0)) {
        const { pump, deliveries } = entry;
        if (ready() && !isKept(deliveries[0] as Delivery)) {
          waiting.push(entry);
          continue;
        }
        pump.parked -= deliveries.length;
        turnAway(pump, deliveries);
      }
    },
    pump(name, trigger, batch) {
      return new Promise((finished, failed) => {
        pumps.add({
          name,
          iterator: trigger.deliveries()[Symbol.asyncIterator](),
          batch,
          asked: 0,
          ended: false,
          gathering: [],
          timer: undefined,
          parked: 0,
          open: 0,
          finished,
          failed,
        });
        demand();
      });
    },
  };
}

/** Only JetStream has a word for "still working", and only it keeps events when this process is gone. */
const isKept = (delivery: Delivery): boolean => delivery.extend !== undefined;

/** With one attempt, what was handed to a handler is never handed out again (CONTRACTS 4.6). */
function mayRunAgain(delivery: Delivery, spec: FunctionSpec): boolean {
  return delivery.redeliverable && spec.retry.maxAttempts > 1;
}

/** Why an event must not reach the handler, if so. */
function refusal(delivery: Delivery, spec: FunctionSpec): Settlement | undefined {
  const { event } = delivery;
  const failed = (verdict: GivenUp): Settlement => ({ kind: 'failed', ...verdict });
  if (delivery.refuse) return failed(delivery.refuse);
  if (spec.recursion === 'Terminate' && hopsOf(event.headers) >= maxHops) {
    const message = `the event came through ${maxHops} functions; spec.recursion: Allow permits it`;
    return failed({
      reason: 'Recursion',
      fault: { code: 'Recursion', message },
      attempts: event.attempt - 1,
    });
  }
  return undefined;
}

/**
 * The events of a batch that the handler's `batchItemFailures` names (CONTRACTS 3): an unknown id or a malformed
 * answer fails the whole batch, an empty list or no list is success.
 */
export function batchItemFailures(
  outcome: Extract<Outcome, { kind: 'returned' }>,
  deliveries: readonly Pick<Delivery, 'event'>[],
): Map<string, Outcome> {
  const ids = new Set(deliveries.map(({ event }) => event.id));
  const fail = (some: Iterable<string>, message: string): Map<string, Outcome> => {
    const { report } = outcome;
    const fault = { code: 'BatchItemFailure', message };
    return new Map([...some].map((id) => [id, { kind: 'threw', fault, retryable: true, report }]));
  };
  if (outcome.result.encoding === 'binary') return new Map();
  const value = JSON.parse(Buffer.from(outcome.result.data).toString()) as unknown;
  if (typeof value !== 'object' || value === null || !('batchItemFailures' in value)) return new Map();
  const items = value.batchItemFailures;
  if (items === null || items === undefined) return new Map();
  if (!Array.isArray(items)) return fail(ids, 'batchItemFailures is not an array');
  const failedIds = items.map(
    (item: unknown) => (item as { itemIdentifier?: unknown } | null)?.itemIdentifier,
  );
  const unknown = failedIds.find((id) => typeof id !== 'string' || !ids.has(id));
  if (unknown !== undefined || failedIds.includes(undefined)) {
    return fail(
      ids,
      `batchItemFailures names ${JSON.stringify(unknown)}, which is no messageId of this batch`,
    );
  }
  return fail(failedIds as string[], 'the handler reported this item in batchItemFailures');
}
