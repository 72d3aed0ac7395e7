/** The whole reconcile: get → gone? remove : ensure → write the status of what is observed. Waits for nothing. */
import { AtollError, errorCodes, faultOf } from '../../runtime/errors.ts';
import type { Backend, Observation } from '../backends/backend.ts';
import { TerminalError, type Reconcile } from '../engine/engine.ts';
import type { FunctionObject, FunctionStatus } from '../../crds/function.ts';
import { UnreadableObjectError, type Store } from '../stores/store.ts';
import type { Conflicts } from './conflicts.ts';
import { statusOf, statusOfUnreadable } from './status.ts';
import { workloadFor } from './workload.ts';

const againMs = 1_000;

export interface ReconcileParts {
  readonly store: Store;
  readonly backend: Backend;
  readonly conflicts: Pick<Conflicts, 'of'>;
  /** ms since the epoch. */
  readonly now?: () => number;
  /** Told of each status once it is written; `object` has the one before. */
  readonly onStatus?: ((object: StatusOwner, status: FunctionStatus) => void) | undefined;
}

/** A Function that has a status, also one whose spec cannot be read. */
export interface StatusOwner {
  readonly metadata: Pick<FunctionObject['metadata'], 'name' | 'uid' | 'resourceVersion'> & {
    readonly namespace: string;
  };
  readonly status?: FunctionStatus | undefined;
}

export function reconcileFunctions(parts: ReconcileParts): Reconcile {
  const { store, backend, conflicts, now = Date.now, onStatus } = parts;
  return async (key) => {
    const object = await store.get(key).catch(async (error: unknown) => {
      if (!(error instanceof UnreadableObjectError)) throw error;
      // What runs goes on running: a slip of the editor is no reason to stop answering.
      const problem = { reason: error.code, message: error.message };
      const status = statusOfUnreadable(error.status ?? {}, problem, now());
      await store.writeStatus(key, status);
      const { identity } = error;
      if (identity) onStatus?.({ metadata: { ...key, ...identity }, status: error.status }, status);
      throw new TerminalError(error.message, { cause: error });
    });
    if (!object) return backend.remove(key);
    const failure = await backend.ensure(workloadFor(object)).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    // What is ready stays so while something fails: it runs. Anything else says what it waits for.
    if (failure && isReady(object)) throw failure.error;
    const lost = await conflicts.of(object);
    const observed = await backend.observe(key);
    // Nothing is known to have changed: what hosts tell brings the key again.
    if (!failure && observed?.unheard) return;
    const observation = failure ? withProblem(observed, failure.error) : observed;
    const status = statusOf({ object, observation, conflicts: lost, now: now() });
    try {
      await store.writeStatus(key, status);
    } catch (error) {
      if (!(error instanceof AtollError) || error.code !== 'Conflict') throw error;
      // It speaks of what is not there any more. The change itself brings the key; this makes sure of it.
      return { afterMs: againMs };
    }
    onStatus?.(object, status);
    if (failure) throw failure.error;
  };
}

function isReady({ metadata, status }: FunctionObject): boolean {
  const ready = status?.conditions?.find(({ type }) => type === 'Ready');
  return ready?.status === 'True' && ready.observedGeneration === metadata.generation;
}

function withProblem(observed: Observation | undefined, error: unknown): Observation {
  const { code, message } = faultOf(error);
  const reason = Object.hasOwn(errorCodes, code) ? code : 'Internal';
  return { replicas: 0, readyReplicas: 0, hosts: [], ...observed, problem: { reason, message } };
}
