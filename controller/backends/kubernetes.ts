/** A cluster: a Deployment or DaemonSet for each function, whose pods run a host for it alone. */
import { createHash } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { kind as functionKind, type FunctionSpec } from '../../crds/function.ts';
import type { HostFunctionStatus, HostStatusLine, RuntimeConfig } from '../../runtime/config.ts';
import { AtollError, type Code } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { ClusterError, type Cluster } from '../cluster/client.ts';
import type { InformerTimings } from '../cluster/informer.ts';
import { keyText, type Key } from '../stores/store.ts';
import type { Backend, Observation, Workload } from './backend.ts';
import { isOwnedBy, openChildren, partOf, type Child, type Part } from './children.ts';
import { openFunctionPods } from './function-pods.ts';
import { followHostStatus } from './host-status.ts';
import {
  generationAnnotation,
  manifestsOf,
  podSelector,
  port,
  type ClusterSettings,
  type Manifests,
} from './manifests.ts';
import { openReferences } from './references.ts';
import { podProblem, refusedPods, unreachable, type Problem } from './pod-problem.ts';
import { missingDaemonPods, refusedDaemonPods } from './refused-daemon-pods.ts';
import { addressOf, configOf, isLeaving, isOutOfReach, isPodReady, type Pod } from './pods.ts';

/** What is refused or in the way may change without anybody telling us: it is tried again this often. */
const problemMs = 30_000;
/** Of pods that are missing the Event comes a moment after the status that counts them. */
const missingMs = 2_000;
const connectFloorMs = 100;
const connectCeilingMs = 5_000;
/** A host that says nothing for so long is not waited for any more before something is said of its function. */
const hearMs = 10_000;
/** Hosts that are asked for the first time: of thousands at once most would wait for us, and their time run out. */
const hearingAtOnce = 100;

export interface KubernetesBackendOptions {
  readonly cluster: Cluster;
  readonly settings: ClusterSettings;
  /** Absent: all. */
  readonly namespaces?: readonly string[];
  /** Where a Secret or ConfigMap that changed starts the functions anew that take variables from it. Absent: nowhere. */
  readonly watchSecretsIn?: readonly string[];
  readonly log: Log;
  readonly timings?: Partial<InformerTimings>;
}

/** The manifests themselves are made again when they are needed: of thousands of functions they are tens of megabytes. */
interface Wanted {
  readonly workload: Workload;
  /** What it is made of: the workload, or without a package what it ran with one. */
  readonly source: Workload;
  /** Of what its variables come from, where that is watched. */
  readonly references: string | undefined;
  readonly digest: string;
  readonly manifests: (Omit<Manifests, 'objects'> & { readonly parts: readonly Part[] }) | undefined;
  problem: Problem | undefined;
}

/** A pod whose host is listened to. */
interface Host {
  readonly address: string;
  readonly stop: AbortController;
  status: HostFunctionStatus | undefined;
  /** It told, could not be reached, or had its time. */
  heard: boolean;
  /** While it is waited for: among `hearingAtOnce`. */
  patience: NodeJS.Timeout | undefined;
  readonly begin: () => void;
}

export function openKubernetesBackend(options: KubernetesBackendOptions): Backend {
  const { cluster, settings, namespaces, watchSecretsIn = [], log, timings } = options;
  const listeners = new Set<(key: Key) => void>();
  const wanted = new Map<string, Wanted>();
  const retries = new Map<string, NodeJS.Timeout>();
  const children = openChildren({
    cluster,
    namespaces,
    keda: settings.keda !== undefined,
    secrets: settings.accounts !== undefined,
    log,
    timings,
  });
  const pods = openFunctionPods({ cluster, namespaces, log, timings }, (key, before, after) => {
    if (before && before.metadata.uid !== after?.metadata.uid) leave(before.metadata.uid);
    if (after) follow(key, after);
    emit(key);
  });
  const references = openReferences({ cluster, namespaces: watchSecretsIn, log, timings });
  const hosts = new Map<string, Host>();
  /** Those that are to be asked for the first time, in their order. */
  const unasked: Host[] = [];
  let hearing = 0;
  let closed = false;

  function emit(key: Key): void {
    for (const listener of listeners) listener(key);
  }

  children.watch(emit);
  references.watch(emit);

  // What hosts tell

  function follow(key: Key, pod: Pod): void {
    const { uid } = pod.metadata;
    const address = addressOf(pod, port);
    if (pod.status.phase !== 'Running' || address === undefined) return leave(uid);
    // A pod whose sandbox was made anew has another one.
    if (hosts.get(uid)?.address === address) return;
    leave(uid);
    const stop = new AbortController();
    const begin = (): void => {
      host.patience = setTimeout(lost, hearMs).unref();
      listen(address, hear, lost, stop.signal).catch(() => {});
    };
    const host: Host = { address, stop, status: undefined, heard: false, patience: undefined, begin };
    hosts.set(uid, host);
    const change = (status: HostFunctionStatus | undefined): void => {
      host.heard = true;
      host.status = status;
      endPatience(host);
      if (hosts.get(uid) === host) emit(key);
    };
    const hear = (line: HostStatusLine): void => {
      if ('function' in line && line.function.name === key.name) change(line.function);
    };
    const lost = (): void => {
      if (host.status || !host.heard) change(undefined);
    };
    unasked.push(host);
    askNext();
  }

  function askNext(): void {
    while (!closed && hearing < hearingAtOnce && unasked.length > 0) {
      const host = unasked.shift()!;
      if (host.stop.signal.aborted) continue;
      hearing += 1;
      host.begin();
    }
  }

  function endPatience(host: Host): void {
    if (!host.patience) return;
    clearTimeout(host.patience);
    host.patience = undefined;
    hearing -= 1;
    askNext();
  }

  function leave(uid: string): void {
    const host = hosts.get(uid);
    hosts.delete(uid);
    host?.stop.abort();
    if (host) endPatience(host);
  }

  /** Until the signal aborts: a host that ended is started again in its pod. */
  async function listen(
    address: string,
    onLine: (line: HostStatusLine) => void,
    onLost: () => void,
    signal: AbortSignal,
  ): Promise<void> {
    for (let waitMs = connectFloorMs; ; waitMs = Math.min(connectCeilingMs, waitMs * 2)) {
      const { promise: ended, resolve: onEnd } = Promise.withResolvers<void>();
      try {
        await followHostStatus(address, { onLine, onEnd }, signal);
        waitMs = connectFloorMs;
        await ended;
        onLost();
      } catch {
        // Not listening yet, or not any more.
        if (!signal.aborted) onLost();
      }
      await pause(waitMs, undefined, { signal });
    }
  }

  // What is wanted

  /**
   * A Function whose package was taken away goes on with what it ran, and that is kept as it was: what its host was told
   * is in a ConfigMap, and the rest is said by the Function still.
   */
  async function sourceOf(workload: Workload): Promise<Workload> {
    const { key, uid, spec, lastAnswered } = workload;
    if (spec.package) return workload;
    const generation = ({ metadata }: Child): number =>
      Number(metadata.annotations?.[generationAnnotation] ?? 0);
    const configs = children
      .of(key)
      .filter((child) => child.kind === 'ConfigMap' && isOwnedBy(child, uid))
      .sort((a, b) => generation(b) - generation(a));
    const ran: Workload[] = [];
    for (const config of configs) {
      const told = specIn((await children.config(config)) ?? {});
      if (told) ran.push({ key, uid, generation: generation(config), spec: told });
    }
    const last = ran.find((one) => one.spec.package?.sha256 === lastAnswered) ?? ran[0];
    if (last) {
      const { replicas, scaling, placement, pod } = spec;
      const said = {
        replicas,
        ...(scaling && { scaling }),
        ...(placement && { placement }),
        ...(pod && { pod }),
      };
      return { ...last, spec: { ...last.spec, ...said } };
    }
    // Its ConfigMap is what was taken away now: we know it still.
    const before = wanted.get(keyText(key))?.source;
    return before?.uid === uid && before.spec.package ? before : workload;
  }

  function look(workload: Workload, source: Workload, references: string | undefined): Wanted {
    const digest = createHash('sha256')
      .update(JSON.stringify([workload, references, ...(source === workload ? [] : [source])]))
      .digest('base64url');
    const before = wanted.get(keyText(workload.key));
    if (before?.digest === digest) {
      // The one that the store has now: no second copy of the spec is kept.
      const same = { ...before, workload, source };
      wanted.set(keyText(workload.key), same);
      return same;
    }
    const made = source.spec.package ? manifestsOf(source, settings, references) : undefined;
    const now: Wanted = {
      workload,
      source,
      references,
      digest,
      manifests: made && remembered(made),
      problem: undefined,
    };
    wanted.set(keyText(workload.key), now);
    return now;
  }

  /** Applies what is wanted, then removes what of the same Function is not. */
  async function settle({ workload, source, references, manifests }: Wanted): Promise<void> {
    if (!manifests) return;
    const owner = { key: workload.key, uid: workload.uid };
    if (!manifests.parts.every((part) => children.isApplied(part, owner))) {
      const made = manifestsOf(source, settings, references);
      for (const manifest of made.objects) await children.apply(manifest, owner);
    }
    const names = new Set(manifests.parts.map(({ kind, name }) => `${kind} ${name}`));
    for (const child of children.of(workload.key)) {
      if (names.has(`${child.kind} ${child.metadata.name}`) || !isOwnedBy(child, workload.uid)) continue;
      if (child.metadata.deletionTimestamp !== undefined) continue;
      if (!isNeeded(workload.key, child)) await children.remove(child);
    }
  }

  /** A config that an older version still runs by, or would be started again by while the new one does not get ready. */
  function isNeeded(key: Key, { kind, metadata }: Child): boolean {
    if (kind !== 'ConfigMap') return false;
    if (pods.of(key).some((pod) => configOf(pod) === metadata.name)) return true;
    return children
      .of(key)
      .some(
        (child) =>
          child.kind === 'ReplicaSet' && child.config === metadata.name && child.spec['replicas'] !== 0,
      );
  }

  function tryAgain(key: Key, afterMs = problemMs): void {
    const text = keyText(key);
    if (retries.has(text) || closed) return;
    const timer = setTimeout(() => {
      retries.delete(text);
      emit(key);
    }, afterMs);
    retries.set(text, timer.unref());
  }

  // What is there

  function runnerOf(key: Key): Child | undefined {
    const runners = children.of(key).filter(({ kind }) => kind === 'Deployment' || kind === 'DaemonSet');
    // While one takes the other's place: the one that stays.
    const everyNode = wanted.get(keyText(key))?.workload.spec.placement?.everyNode === true;
    const kind = everyNode ? 'DaemonSet' : 'Deployment';
    return runners.find((one) => one.kind === kind) ?? runners[0];
  }

  /** Why fewer pods were made than are wanted. */
  async function refusal(key: Key, runner: Child | undefined): Promise<Problem | undefined> {
    if (!runner) return undefined;
    if (missingDaemonPods(runner) === 0) {
      return refusedPods((runner.status['conditions'] ?? []) as Parameters<typeof refusedPods>[0]);
    }
    const problem = await refusedDaemonPods(cluster, runner, log);
    tryAgain(key, problem ? problemMs : missingMs);
    return problem;
  }

  function hostStatuses(there: readonly Pod[], key: Key, now: Wanted | undefined): HostFunctionStatus[] {
    const config = now?.manifests?.config;
    const found = there.flatMap((pod) => {
      const status = hosts.get(pod.metadata.uid)?.status;
      if (!status || (now && status.uid !== now.workload.uid)) return [];
      const current = config !== undefined && configOf(pod) === config;
      const generation = current ? now!.source.generation : generationOf(key, pod);
      return [{ ...status, generation, handler: handlerOf(status, pod) }];
    });
    return found.sort((a, b) => b.generation - a.generation);
  }

  /** It is to go, and its host has not said yet that it takes no more events. */
  const stillTakes = (pod: Pod): boolean =>
    isLeaving(pod) && isPodReady(pod) && hosts.get(pod.metadata.uid)?.status !== undefined;

  /** The last generation that wanted what the pod runs. */
  function generationOf(key: Key, pod: Pod): number {
    const config = children
      .of(key)
      .find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === configOf(pod));
    return Number(config?.metadata.annotations?.[generationAnnotation] ?? 0);
  }

  return {
    async ensure(workload) {
      await Promise.all([children.untilSynced(), pods.untilSynced()]);
      const source = await sourceOf(workload);
      const now = look(workload, source, await references.digestOf(source));
      if (now.manifests) {
        const problem = await settle(now).then(
          () => undefined,
          (error: unknown) => problemOf(error),
        );
        now.problem = problem;
      }
      if (now.problem) tryAgain(workload.key);
    },
    async remove(key) {
      await children.untilSynced();
      const text = keyText(key);
      wanted.delete(text);
      references.forget(key);
      clearTimeout(retries.get(text));
      retries.delete(text);
      for (const child of children.of(key)) if (isOfFunction(child, key)) await children.remove(child);
    },
    async observe(key) {
      const now = wanted.get(keyText(key));
      const runner = runnerOf(key);
      if (!now && !runner) return undefined;
      const there = pods.of(key).filter((pod) => !isLeaving(pod) && pod.status.phase !== 'Failed');
      const { config, memoryLimit = '', ignored = [] } = now?.manifests ?? {};
      // A robot that is away is no reason to call the others' function unready.
      const counts = (pod: Pod): boolean => runner?.kind !== 'DaemonSet' || !isOutOfReach(pod);
      const current = pods.of(key).filter((pod) => configOf(pod) === config);
      const problem =
        now?.problem ?? podProblem(current.filter(counts), memoryLimit) ?? (await refusal(key, runner));
      return {
        replicas: there.length,
        readyReplicas: there.filter(isPodReady).length,
        hosts: hostStatuses(there.filter(counts), key, now),
        selector: podSelector(key.name),
        ...(there.some((pod) => isPodReady(pod) && hosts.get(pod.metadata.uid)?.heard === false) && {
          unheard: true,
        }),
        ...(runner && {
          rollout: rolloutOf(runner, {
            ready: current.filter(isPodReady).length,
            old: [...there, ...pods.of(key).filter(stillTakes)].filter((pod) => configOf(pod) !== config)
              .length,
            outOfReach: there.filter(isOutOfReach).length,
          }),
        }),
        ...(problem && { problem }),
        ...(ignored.length > 0 && { ignored }),
      } satisfies Observation;
    },
    address: (key) => (runnerOf(key) ? pods.address(key) : undefined),
    logs: pods.logs,
    watch(listener) {
      listeners.add(listener);
      for (const key of children.keys()) queueMicrotask(() => listeners.has(listener) && listener(key));
      return () => void listeners.delete(listener);
    },
    async close() {
      closed = true;
      for (const timer of retries.values()) clearTimeout(timer);
      for (const uid of [...hosts.keys()]) leave(uid);
      await Promise.all([children.close(), pods.close(), references.close()]);
    },
  };
}

/** Undefined for a ConfigMap that is not as ours are. */
function specIn(data: Readonly<Record<string, string>>): FunctionSpec | undefined {
  try {
    const spec = (JSON.parse(data['host.json'] ?? '') as RuntimeConfig).functions?.[0]?.spec;
    return spec?.package && spec;
  } catch {
    return undefined;
  }
}

function remembered({ objects, ...facts }: Manifests): NonNullable<Wanted['manifests']> {
  return { ...facts, parts: objects.map(partOf) };
}

/** Until requests can reach it, a handler that is ready is of no use to anybody. */
function handlerOf({ handler }: HostFunctionStatus, pod: Pod): HostFunctionStatus['handler'] {
  if (!handler.ready || isPodReady(pod)) return handler;
  if (isOutOfReach(pod)) return { ready: false, ...unreachable(pod) };
  return { ready: false, reason: 'Starting', message: 'its pod is not ready yet' };
}

const isOfFunction = ({ owners }: Child, key: Key): boolean =>
  owners.some(({ kind, name }) => kind === functionKind && name === key.name);

/**
 * `pods`: those that are ready with the wanted config, and those with another. The runner tells of a template that
 * changed in something else.
 */
function rolloutOf(
  { kind, metadata, spec, status }: Child,
  pods: { ready: number; old: number; outOfReach: number },
): Observation['rollout'] {
  const count = (value: unknown): number => (typeof value === 'number' ? value : 0);
  const [wanted, updated, all] =
    kind === 'Deployment'
      ? [spec['replicas'], status['updatedReplicas'], status['replicas']]
      : [
          status['desiredNumberScheduled'],
          status['updatedNumberScheduled'],
          status['currentNumberScheduled'],
        ];
  // A Deployment replaces a pod that is away. Once its node is tainted a DaemonSet itself no longer wants the pod there,
  // and counts it as misscheduled.
  const outOfReach = kind === 'DaemonSet' ? pods.outOfReach : 0;
  const away = Math.max(0, outOfReach - count(status['numberMisscheduled']));
  const seen = count(status['observedGeneration']) >= (metadata.generation ?? 0);
  const now = seen ? count(updated) : 0;
  return {
    updated: Math.min(pods.ready, now),
    wanted: Math.max(0, count(wanted) - away),
    old: Math.max(0, pods.old - outOfReach, count(all) - now - away),
  };
}

/** What a change may mend. Anything else is tried again by whoever called. */
function problemOf(error: unknown): Problem {
  if (error instanceof AtollError && error.code === 'NameTaken') {
    return { reason: error.code, message: error.message };
  }
  if (!(error instanceof ClusterError)) throw error;
  // A quantity or number that cannot be read comes as 500 from where patches are applied.
  const unreadable =
    error.status === 500 && /\bunable to convert\b|\btyped patch object\b/.test(error.message);
  if (unreadable) return { reason: 'InvalidObject', message: error.message };
  if (![400, 403, 404, 422].includes(error.status ?? 0)) throw error;
  const reason: Code = error.message.includes('exceeded quota') ? 'QuotaExceeded' : error.code;
  return { reason, message: error.message };
}
