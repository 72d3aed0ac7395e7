/** Waiting until what was declared runs, or will not. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Condition, FunctionObject } from '../crds/function.ts';
import { keyText, type Key, type Store } from '../controller/stores/store.ts';
import { exitCodes } from './command.ts';
import { Failure } from './failure.ts';
import type { Progress } from './progress.ts';

/** A store tells of changed Functions, not of their status: that is looked at so often. */
const lookMs = 100;
/** A verdict that stands for so long is final: what fails at first may be tried again by the host at once. */
const settledMs = 1000;
/** Longer than the longest backoff of a host that could not use a package. */
const repairedMs = 35_000;

export interface Wanted {
  readonly generation: number;
  /** Absent: whatever package the Function names. */
  readonly sha256?: string | undefined;
  /** The package was put in its place again and nothing else changed: the host looks again only after its backoff. */
  readonly repaired?: boolean;
}

/**
 * Resolves when the generation is ready. Throws a Failure with the condition's reason when nothing will come of
 * it any more (exit code 1), or when the time is over.
 */
export async function waitUntilReady(
  store: Store,
  key: Key,
  wanted: Wanted,
  { timeoutMs, progress }: { timeoutMs: number; progress: Progress },
): Promise<FunctionObject> {
  const deadline = Date.now() + timeoutMs;
  let doomed: { since: number; text: string } | undefined;
  for (;;) {
    const object = await store.get(key);
    if (object === undefined) {
      throw new Failure(exitCodes.site, `function ${keyText(key)} was deleted meanwhile`, {
        code: 'FunctionNotFound',
      });
    }
    if (object.metadata.generation > wanted.generation) {
      throw new Failure(exitCodes.site, `function ${keyText(key)} was changed by someone else meanwhile`, {
        code: 'Conflict',
      });
    }
    const state = stateOf(object, wanted);
    if (state.kind === 'ready') return object;
    if (state.kind === 'waiting') doomed = undefined;
    progress.update(`${key.name}: ${state.reason}: ${state.message}`);
    const now = Date.now();
    if (state.kind === 'failed') {
      const text = `${state.reason} ${state.message}`;
      if (doomed?.text !== text) doomed = { since: now, text };
      if (now - doomed.since >= (wanted.repaired ? repairedMs : settledMs)) throw notReady(key, state, '');
    }
    if (now > deadline) throw notReady(key, state, ` within ${timeoutMs / 1000} s`);
    await pause(lookMs);
  }
}

export interface RolloutState {
  readonly kind: 'ready' | 'waiting' | 'failed';
  readonly reason: string;
  readonly message: string;
}

export function stateOf({ metadata, status = {} }: FunctionObject, wanted: Wanted): RolloutState {
  const condition = (type: Condition['type']): Condition | undefined =>
    status.conditions?.find((one) => one.type === type && one.observedGeneration === wanted.generation);
  const ready = condition('Ready');
  if (metadata.generation !== wanted.generation || ready === undefined) {
    return { kind: 'waiting', reason: 'Pending', message: 'the site has not looked at it yet' };
  }
  const told = { reason: ready.reason, message: ready.message };
  if (ready.status === 'True') {
    const answers = wanted.sha256 === undefined || status.packageSha256 === wanted.sha256;
    if (answers) return { kind: 'ready', ...told };
    return { kind: 'waiting', reason: 'Updating', message: 'another package still answers' };
  }
  return { kind: condition('Progressing')?.status === 'False' ? 'failed' : 'waiting', ...told };
}

function notReady(key: Key, { reason, message }: RolloutState, when: string): Failure {
  return new Failure(exitCodes.functionFailed, `${key.name} is not ready${when}: ${message}`, {
    code: reason,
  });
}
