/** Waiting until what was declared runs, or will not. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Condition, FunctionObject } from '../crds/function.ts';
import { keyText, type Key } from '../controller/stores/store.ts';
import { AtollError, type Code } from '../runtime/errors.ts';
import { exitCodes } from './command.ts';
import { Failure } from './failure.ts';
import { stackOf } from './load-stack.ts';
import type { Progress } from './progress.ts';
import type { Site } from './site.ts';

/** A store tells of changed Functions, not of their status: that is looked at so often. */
const lookMs = 100;
/** Between attempts to reach an API server that is away. */
const awayMs = 500;
/** A verdict that stands for so long is final: what fails at first may be tried again by the host at once. */
const settledMs = 1000;
/** Longer than the longest backoff of a host that could not use a package. */
const repairedMs = 35_000;
/** A pod that found no place, or no image, for so long: what others were about to free would have come by then. */
const stuckMs = 10_000;

/** The site tries these again for ever, and nothing comes of it until somebody changes the cluster or the Function. */
const stuck: ReadonlySet<string> = new Set<Code>([
  'Unschedulable',
  'ImagePullBackOff',
  'QuotaExceeded',
  'PodRefused',
  'PodFailed',
  'CrashLoopBackOff',
  'PackageForbidden',
  'ClusterForbidden',
]);

export interface Wanted {
  readonly generation: number;
  /** Absent: whatever package the Function names. */
  readonly sha256?: string | undefined;
  /** The package was put in its place again and nothing else changed: the host looks again only after its backoff. */
  readonly repaired?: boolean;
}

/**
 * Resolves when the generation is ready. Throws a Failure with the condition's reason when nothing will come of
 * it any more (exit code 1), or when the time is over. A handler that does not load is told with its stack.
 */
export async function waitUntilReady(
  site: Pick<Site, 'store' | 'gateway'>,
  key: Key,
  wanted: Wanted,
  { timeoutMs, progress }: { timeoutMs: number; progress: Progress },
): Promise<FunctionObject> {
  const began = Date.now();
  const deadline = began + timeoutMs;
  const failure = async (state: RolloutState, when: string): Promise<Failure> => {
    const { reason, message } = state;
    const stack = await stackOf(site.gateway, key, { code: reason, message, since: began });
    const text = [`${key.name} is not ready${when}: ${message}`, ...stack].join('\n');
    return new Failure(exitCodes.functionFailed, text, { code: reason });
  };
  let doomed: { since: number; text: string } | undefined;
  for (;;) {
    const object = await site.store.get(key).catch((error: unknown) => {
      // It is declared: an API server that is away for a while keeps nobody from running it.
      const passes = error instanceof AtollError && error.code === 'ClusterUnavailable';
      if (passes && Date.now() < deadline) return error;
      throw error;
    });
    if (object instanceof AtollError) {
      progress.update(`${key.name}: ${object.code}: ${object.message}`);
      await pause(awayMs);
      continue;
    }
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
    if (state.kind !== 'waiting') {
      // What a scheduler or kubelet says of the same trouble changes: counts, a pod's name, a time.
      const text = state.kind === 'stuck' ? state.reason : `${state.reason} ${state.message}`;
      if (doomed?.text !== text) doomed = { since: now, text };
      if (now - doomed.since >= patienceMs(state, wanted)) throw await failure(state, '');
    }
    if (now > deadline) throw await failure(state, ` within ${timeoutMs / 1000} s`);
    await pause(lookMs);
  }
}

function patienceMs({ kind }: RolloutState, { repaired }: Wanted): number {
  if (repaired) return repairedMs;
  return kind === 'stuck' ? stuckMs : settledMs;
}

export interface RolloutState {
  /** `stuck`: it is tried again, and only somebody can help. */
  readonly kind: 'ready' | 'waiting' | 'failed' | 'stuck';
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
  if (condition('Progressing')?.status === 'False') return { kind: 'failed', ...told };
  return { kind: stuck.has(ready.reason) ? 'stuck' : 'waiting', ...told };
}
