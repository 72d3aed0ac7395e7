/** What a controller measures of itself, as Prometheus reads it. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';

/** What the engine tells. */
export interface EngineMetrics {
  added(): void;
  /** Seconds between `added` and being taken up. */
  taken(seconds: number): void;
  retried(): void;
  /** `waiting`: only a change can help. */
  reconciled(outcome: 'done' | 'failed' | 'waiting', seconds: number): void;
  /** Read whenever somebody asks for the metrics, until the returned function is called. */
  measureDepth(read: () => number): () => void;
}

export interface ControllerMetrics extends EngineMetrics {
  readonly registry: Registry;
  leading(leads: boolean): void;
}

/** Seconds. A reconcile that changes nothing takes milliseconds, one that makes a Deployment a few round trips. */
const buckets = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function openControllerMetrics(): ControllerMetrics {
  const registry = new Registry();
  const registers = [registry];
  const depths = new Set<() => number>();
  new Gauge({
    name: 'atoll_controller_queue_depth',
    help: 'Functions that wait to be reconciled',
    registers,
    collect() {
      this.set([...depths].reduce((sum, read) => sum + read(), 0));
    },
  });
  const added = new Counter({
    name: 'atoll_controller_queue_adds_total',
    help: 'Functions put into the queue: changes, resyncs and retries',
    registers,
  });
  const retries = new Counter({
    name: 'atoll_controller_queue_retries_total',
    help: 'Reconciles that failed and are done again after a backoff',
    registers,
  });
  const waits = new Histogram({
    name: 'atoll_controller_queue_wait_seconds',
    help: 'Time in the queue',
    buckets,
    registers,
  });
  const reconciles = new Histogram({
    name: 'atoll_controller_reconcile_duration_seconds',
    help: 'Time of a reconcile, by how it ended: done, failed, waiting (for a change)',
    labelNames: ['outcome'],
    buckets,
    registers,
  });
  const leader = new Gauge({
    name: 'atoll_controller_leader',
    help: '1 in the replica that holds the lease',
    registers,
  });
  leader.set(0);
  return {
    registry,
    added: () => added.inc(),
    taken: (seconds) => waits.observe(seconds),
    retried: () => retries.inc(),
    reconciled: (outcome, seconds) => reconciles.labels(outcome).observe(seconds),
    measureDepth(read) {
      depths.add(read);
      return () => depths.delete(read);
    },
    leading: (leads) => leader.set(leads ? 1 : 0),
  };
}
