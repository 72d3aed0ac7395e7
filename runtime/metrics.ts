/** What a host measures, as Prometheus reads it. Names and labels: CONTRACTS 1; never a subject, topic or id as a label. */
import { Counter, Gauge, Registry } from 'prom-client';
import type { CallOutcome } from './calls/calls.ts';
import type { DeadLetterReason, Outcome } from './event.ts';
import type { CallKind } from './handler-calls.ts';
import { openHistogram, type Observed } from './histogram.ts';

/** Seconds. Fine near a millisecond, where handlers on a robot live; the last is Lambda's longest timeout. */
const buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900];

type OutcomeKind = Outcome['kind'];

const outcomeKinds = [
  'returned',
  'threw',
  'timedOut',
  'crashed',
  'returnedUnrun',
] as const satisfies OutcomeKind[];

interface Ended {
  readonly labels: [string, string, string];
  readonly outcomes: Record<OutcomeKind, number>;
}

/** What an event of one trigger counts in. */
interface Child {
  readonly outcomes: Record<OutcomeKind, number>;
  readonly duration: Observed;
  readonly wait: Observed;
}

const noOutcomes = (): Record<OutcomeKind, number> => ({
  returned: 0,
  threw: 0,
  timedOut: 0,
  crashed: 0,
  returnedUnrun: 0,
});

export interface Metrics {
  readonly registry: Registry;
  of(namespace: string, name: string): FunctionMetrics;
}

export interface FunctionMetrics {
  invoked(trigger: string, outcome: OutcomeKind, seconds: number): void;
  waited(trigger: string, seconds: number): void;
  inFlight(count: number): void;
  coldStart(): void;
  retried(trigger: string): void;
  deadLettered(trigger: string, reason: DeadLetterReason): void;
  deadLetterUnstored(trigger: string): void;
  connected(trigger: string, up: boolean): void;
  cutOff(trigger: string): void;
  called(kind: CallKind, outcome: CallOutcome): void;
  restarted(reason: string): void;
  memory(bytes: number): void;
  lagOf(trigger: string, lag: () => Promise<number>): void;
  /** The trigger is gone: its gauges say nothing any more. */
  forgetTrigger(trigger: string): void;
  forget(): void;
}

export function openMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const name = ['namespace', 'function'];
  const perTrigger = [...name, 'trigger'];
  const lags = new Map<string, { labels: [string, string, string]; lag: () => Promise<number> }>();

  // What changes with every event is kept as plain numbers and handed over when somebody reads it.
  const ended = new Map<string, Ended>();
  const flying = new Map<string, { labels: [string, string]; count: number }>();
  new Counter({
    name: 'atoll_invocations_total',
    help: 'Invocations by how they ended',
    labelNames: [...perTrigger, 'outcome'],
    registers,
    collect() {
      this.reset();
      for (const { labels, outcomes } of ended.values()) {
        for (const outcome of outcomeKinds) {
          if (outcomes[outcome] > 0) this.labels(...labels, outcome).inc(outcomes[outcome]);
        }
      }
    },
  });
  const duration = openHistogram({
    name: 'atoll_invocation_duration_seconds',
    help: 'Time in the handler',
    labelNames: perTrigger,
    buckets,
    registry,
  });
  const queueWait = openHistogram({
    name: 'atoll_queue_wait_seconds',
    help: 'Time between acceptance and the start of the first invocation',
    labelNames: perTrigger,
    buckets,
    registry,
  });
  new Gauge({
    name: 'atoll_invocations_in_flight',
    help: 'Invocations running now',
    labelNames: name,
    registers,
    collect() {
      this.reset();
      for (const { labels, count } of flying.values()) this.labels(...labels).set(count);
    },
  });
  const coldStarts = new Counter({
    name: 'atoll_cold_starts_total',
    help: 'First invocations of a handler process',
    labelNames: name,
    registers,
  });
  const retries = new Counter({
    name: 'atoll_retries_total',
    help: 'Events given back after a failed invocation',
    labelNames: perTrigger,
    registers,
  });
  const deadLetters = new Counter({
    name: 'atoll_dead_letters_total',
    help: 'Events given up, by reason',
    labelNames: [...perTrigger, 'reason'],
    registers,
  });
  const unstored = new Counter({
    name: 'atoll_dead_letters_unstored_total',
    help: 'Tries to store a dead letter that failed; its event waits and is tried again',
    labelNames: perTrigger,
    registers,
  });
  const connected = new Gauge({
    name: 'atoll_trigger_connected',
    help: '1 while the trigger takes events from its source',
    labelNames: perTrigger,
    registers,
  });
  const cutOffs = new Counter({
    name: 'atoll_trigger_slow_consumer_total',
    help: 'Times the server cut the host off for reading too slowly; what was on its way is lost',
    labelNames: perTrigger,
    registers,
  });
  new Gauge({
    name: 'atoll_trigger_lag_events',
    help: 'Events waiting at the source, those in backoff included',
    labelNames: perTrigger,
    registers,
    async collect() {
      this.reset();
      await Promise.all(
        [...lags.values()].map(async ({ labels, lag }) => {
          const events = await lag().catch(() => undefined);
          if (events !== undefined) this.labels(...labels).set(events);
        }),
      );
    },
  });
  const calls = new Counter({
    name: 'atoll_calls_total',
    help: 'What handlers asked of their host, by what and how it ended: done, refused, failed',
    labelNames: [...name, 'kind', 'outcome'],
    registers,
  });
  const restarts = new Counter({
    name: 'atoll_process_restarts_total',
    help: 'Handler processes replaced, by reason: timeout, crash, memory',
    labelNames: [...name, 'reason'],
    registers,
  });
  const memory = new Gauge({
    name: 'atoll_handler_memory_bytes',
    help: 'Resident memory of the largest handler process',
    labelNames: name,
    registers,
  });

  return {
    registry,
    of(namespace, fn) {
      const triggers = new Set<string>();
      const children = new Map<string, Child>();
      const childOf = (trigger: string): Child => {
        const key = `${namespace}/${fn}/${trigger}`;
        let counted = ended.get(key);
        if (!counted)
          ended.set(key, (counted = { labels: [namespace, fn, trigger], outcomes: noOutcomes() }));
        const child = {
          outcomes: counted.outcomes,
          duration: duration.labels(namespace, fn, trigger),
          wait: queueWait.labels(namespace, fn, trigger),
        };
        children.set(trigger, child);
        return child;
      };
      const inFlight = { labels: [namespace, fn] as [string, string], count: 0 };
      flying.set(`${namespace}/${fn}`, inFlight);
      return {
        invoked(trigger, outcome, seconds) {
          const child = children.get(trigger) ?? childOf(trigger);
          child.outcomes[outcome] += 1;
          child.duration.observe(seconds);
        },
        waited: (trigger, seconds) => (children.get(trigger) ?? childOf(trigger)).wait.observe(seconds),
        inFlight(count) {
          inFlight.count = count;
        },
        coldStart: () => coldStarts.labels(namespace, fn).inc(),
        retried: (trigger) => retries.labels(namespace, fn, trigger).inc(),
        deadLettered: (trigger, reason) => deadLetters.labels(namespace, fn, trigger, reason).inc(),
        deadLetterUnstored: (trigger) => unstored.labels(namespace, fn, trigger).inc(),
        connected(trigger, up) {
          triggers.add(trigger);
          connected.labels(namespace, fn, trigger).set(up ? 1 : 0);
        },
        cutOff: (trigger) => cutOffs.labels(namespace, fn, trigger).inc(),
        called: (kind, outcome) => calls.labels(namespace, fn, kind, outcome).inc(),
        restarted: (reason) => restarts.labels(namespace, fn, reason).inc(),
        memory: (bytes) => memory.labels(namespace, fn).set(bytes),
        lagOf: (trigger, lag) =>
          lags.set(`${namespace}/${fn}/${trigger}`, { labels: [namespace, fn, trigger], lag }),
        forgetTrigger(trigger) {
          triggers.delete(trigger);
          lags.delete(`${namespace}/${fn}/${trigger}`);
          connected.remove(namespace, fn, trigger);
        },
        forget() {
          for (const trigger of triggers) connected.remove(namespace, fn, trigger);
          for (const key of lags.keys()) if (key.startsWith(`${namespace}/${fn}/`)) lags.delete(key);
          if (flying.get(`${namespace}/${fn}`) === inFlight) flying.delete(`${namespace}/${fn}`);
          memory.remove(namespace, fn);
        },
      };
    },
  };
}
