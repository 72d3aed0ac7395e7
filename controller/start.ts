/** Composes the controller: what main.ts and `faas up` both call. */
import type { FunctionStatus } from '../crds/function.ts';
import type { Log } from '../runtime/log.ts';
import type { Backend } from './backends/backend.ts';
import { startEngine } from './engine/engine.ts';
import type { EngineMetrics } from './engine/metrics.ts';
import { openConflicts } from './function/conflicts.ts';
import { reconcileFunctions, type StatusOwner } from './function/reconcile.ts';
import type { Store } from './stores/store.ts';

/** For one Function, of which there may be hundreds. */
const firstLookMs = 5_000;

export interface ControllerOptions {
  readonly store: Store;
  readonly backend: Backend;
  readonly log: Log;
  readonly concurrency?: number;
  readonly resyncMs?: number;
  /** ms since the epoch. */
  readonly now?: () => number;
  readonly metrics?: EngineMetrics;
  /** Told of each status once it is written; `object` has the one before. */
  readonly onStatus?: (object: StatusOwner, status: FunctionStatus) => void;
  /**
   * Whether every Function is looked at before this resolves: where a status of an earlier run may tell of what does
   * not run any more. In a cluster what runs does so without us. Default: true.
   */
  readonly lookFirst?: boolean;
}

export interface Controller {
  /** Ends what is being reconciled; what runs goes on running until the backend is closed. */
  stop(): Promise<void>;
}

export async function startController(options: ControllerOptions): Promise<Controller> {
  const { store, backend, log, concurrency, resyncMs, now, metrics, onStatus, lookFirst = true } = options;
  const conflicts = openConflicts(store, log);
  const reconcile = reconcileFunctions({ store, backend, conflicts, onStatus, ...(now && { now }) });
  // Before anybody asks: what an earlier run wrote into the status is no news of this one. What fails is tried
  // again by the engine, which says why.
  for (const key of lookFirst ? await store.keys() : [])
    await reconcile(key, AbortSignal.timeout(firstLookMs)).catch(() => {});
  const engine = startEngine({
    sources: [store, backend, conflicts],
    reconcile,
    log,
    metrics,
    ...(concurrency !== undefined && { concurrency }),
    ...(resyncMs !== undefined && { resyncMs }),
  });
  return {
    async stop() {
      conflicts.close();
      await engine.stop();
    },
  };
}
