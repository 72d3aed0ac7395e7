/** The pods of each function, kept up to date by a watch: where a request goes, and what they print. */
import type { Log } from '../../runtime/log.ts';
import type { Cluster } from '../cluster/client.ts';
import { openInformer, type InformerTimings } from '../cluster/informer.ts';
import { keyText, type Key } from '../stores/store.ts';
import type { Backend } from './backend.ts';
import { childSelector, functionLabel, port } from './manifests.ts';
import { readPodLogs } from './pod-logs.ts';
import { addressOf, isLeaving, isOutOfReach, isPodReady, keptPod, podResource, type Pod } from './pods.ts';

export interface FunctionPodsOptions {
  readonly cluster: Cluster;
  /** Absent: all. */
  readonly namespaces?: readonly string[] | undefined;
  readonly log: Log;
  readonly timings?: Partial<InformerTimings> | undefined;
}

export interface FunctionPods extends Pick<Backend, 'address' | 'logs'> {
  /** Those that are leaving included. */
  of(key: Key): Pod[];
  /** Resolves when all have been listed once. Rejects when the signal aborts before. */
  untilSynced(signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** `before` is undefined for a new pod, `after` for one that is gone; `of` knows the change already. */
export type PodChanged = (key: Key, before: Pod | undefined, after: Pod | undefined) => void;

export function openFunctionPods(options: FunctionPodsOptions, changed: PodChanged = () => {}): FunctionPods {
  const { cluster, namespaces, log, timings } = options;
  const pods = openInformer<Pod>({
    cluster,
    resource: podResource,
    namespaces,
    labelSelector: childSelector,
    keep: keptPod,
    log,
    ...(timings && { timings }),
  });
  /** By function, then by uid: a request must not look through all pods of the cluster. */
  const podsOf = new Map<string, Map<string, Pod>>();
  /** Where the next request of a function goes. */
  const turns = new Map<string, number>();

  pods.watch((_key, before, after) => {
    const pod = after ?? before;
    const name = pod?.metadata.labels?.[functionLabel];
    if (!pod || name === undefined) return;
    const key = { namespace: pod.metadata.namespace ?? '', name };
    const text = keyText(key);
    const known = podsOf.get(text) ?? new Map<string, Pod>();
    // A StatefulSet aside nothing gives a pod's name twice, but who knows.
    if (before && before.metadata.uid !== after?.metadata.uid) known.delete(before.metadata.uid);
    if (after) known.set(after.metadata.uid, after);
    if (known.size > 0) podsOf.set(text, known);
    else {
      podsOf.delete(text);
      turns.delete(text);
    }
    changed(key, before, after);
  });
  const of = (key: Key): Pod[] => [...(podsOf.get(keyText(key))?.values() ?? [])];

  return {
    of,
    /**
     * Each ready pod in turn. Where there is none, those that were ready when their nodes fell silent: after an outage of
     * the control plane all nodes look so for a moment, and their pods never noticed.
     */
    address(key) {
      const there = of(key).filter((pod) => !isLeaving(pod));
      const sure = there.filter(isPodReady);
      const ready = sure.length > 0 ? sure : there.filter(isOutOfReach);
      if (ready.length === 0) return undefined;
      const turn = (turns.get(keyText(key)) ?? 0) + 1;
      turns.set(keyText(key), turn);
      return addressOf(ready[turn % ready.length]!, port);
    },
    logs: (key, query) => readPodLogs({ cluster, pods: () => of(key), watch: pods.watch }, query),
    untilSynced: (signal) => pods.untilSynced(signal),
    close: () => pods.close(),
  };
}
