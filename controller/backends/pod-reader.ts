/** What runs in a cluster, for who only looks: the gateway, of which there may be several, and which changes nothing. */
import type { HostFunctionStatus } from '../../runtime/config.ts';
import type { Log } from '../../runtime/log.ts';
import type { Cluster } from '../cluster/client.ts';
import { openInformer, type InformerTimings } from '../cluster/informer.ts';
import { keyText, type Key } from '../stores/store.ts';
import type { Backend } from './backend.ts';
import { childSelector, functionLabel, port } from './manifests.ts';
import { readPodLogs } from './pod-logs.ts';
import { addressOf, isLeaving, isPodReady, keptPod, podResource, type Pod } from './pods.ts';

/** A host that hangs must not make a question about its function hang. */
const statusMs = 2_000;

export interface PodReader extends Pick<Backend, 'address' | 'logs' | 'observe'> {
  /** Resolves when all pods have been listed once. Rejects when the signal aborts before. */
  synced(signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

export interface PodReaderOptions {
  readonly cluster: Cluster;
  /** Absent: all. */
  readonly namespaces?: readonly string[] | undefined;
  readonly log: Log;
  readonly timings?: Partial<InformerTimings>;
}

export function openPodReader(options: PodReaderOptions): PodReader {
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
  const turns = new Map<string, number>();

  pods.watch((_key, before, after) => {
    const pod = (after ?? before) as Pod;
    const text = keyText({
      namespace: pod.metadata.namespace ?? '',
      name: pod.metadata.labels?.[functionLabel] ?? '',
    });
    const known = podsOf.get(text) ?? new Map<string, Pod>();
    if (before) known.delete(before.metadata.uid);
    if (after) known.set(after.metadata.uid, after);
    if (known.size > 0) podsOf.set(text, known);
    else {
      podsOf.delete(text);
      turns.delete(text);
    }
  });
  const podsNow = (key: Key): Pod[] => [...(podsOf.get(keyText(key))?.values() ?? [])];
  const staying = (key: Key): Pod[] => podsNow(key).filter((pod) => !isLeaving(pod));

  return {
    /** Each ready pod in turn. */
    address(key) {
      const ready = staying(key).filter(isPodReady);
      if (ready.length === 0) return undefined;
      const turn = (turns.get(keyText(key)) ?? 0) + 1;
      turns.set(keyText(key), turn);
      return addressOf(ready[turn % ready.length]!, port);
    },
    logs: (key, query) => readPodLogs({ cluster, pods: () => podsNow(key), watch: pods.watch }, query),
    async observe(key) {
      const there = staying(key);
      if (there.length === 0) return undefined;
      const told = await Promise.all(there.map((pod) => statusOf(pod, key)));
      return {
        replicas: there.length,
        readyReplicas: there.filter(isPodReady).length,
        hosts: told.filter((one) => one !== undefined),
      };
    },
    synced: (signal) => pods.untilSynced(signal),
    close: () => pods.close(),
  };
}

/** Undefined: it does not listen, not yet or not any more. */
async function statusOf(pod: Pod, { name }: Key): Promise<HostFunctionStatus | undefined> {
  const address = addressOf(pod, port);
  if (address === undefined) return undefined;
  try {
    const answer = await fetch(`${address}/status`, { signal: AbortSignal.timeout(statusMs) });
    const { functions } = (await answer.json()) as { functions: HostFunctionStatus[] };
    return functions.find((one) => one.name === name);
  } catch {
    return undefined;
  }
}
