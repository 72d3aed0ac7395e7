/** Composes the controller: what main.ts and `faas up` both call. */
import type { Log } from '../runtime/log.ts';
import type { Backend } from './backends/backend.ts';
import { startEngine } from './engine/engine.ts';
import { watchConflicts } from './function/conflicts.ts';
import { reconcileFunctions } from './function/reconcile.ts';
import type { Store, Watchable } from './stores/store.ts';

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
}

export interface Controller {
  /** Ends what is being reconciled; what runs goes on running until the backend is closed. */
  stop(): Promise<void>;
}

export async function startController(options: ControllerOptions): Promise<Controller> {
  const { store, backend, log, concurrency, resyncMs, now } = options;
  const conflicts: Watchable = watchConflicts(store, log);
  const reconcile = reconcileFunctions({ store, backend, ...(now && { now }) });
  // Before anybody asks: what an earlier run wrote into the status is no news of this one. What fails is tried
  // again by the engine, which says why.
  for (const key of await store.keys())
    await reconcile(key, AbortSignal.timeout(firstLookMs)).catch(() => {});
  const engine = startEngine({
    sources: [store, backend, conflicts],
    reconcile,
    log,
    ...(concurrency !== undefined && { concurrency }),
    ...(resyncMs !== undefined && { resyncMs }),
  });
  return { stop: () => engine.stop() };
}
