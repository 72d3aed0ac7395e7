/** What runs in a cluster, for who only looks: the gateway, of which there may be several, and which changes nothing. */
import type { HostFunctionStatus } from '../../runtime/config.ts';
import type { Key } from '../stores/store.ts';
import type { Backend } from './backend.ts';
import { openFunctionPods, type FunctionPods, type FunctionPodsOptions } from './function-pods.ts';
import { port } from './manifests.ts';
import { addressOf, isLeaving, isPodReady, type Pod } from './pods.ts';

/** A host that hangs must not make a question about its function hang. */
const statusMs = 2_000;

export type PodReader = Pick<Backend, 'address' | 'logs' | 'observe'> &
  Pick<FunctionPods, 'untilSynced' | 'close'>;

export function openPodReader(options: FunctionPodsOptions): PodReader {
  const { of, ...pods } = openFunctionPods(options);
  return {
    ...pods,
    async observe(key) {
      const there = of(key).filter((pod) => !isLeaving(pod));
      if (there.length === 0) return undefined;
      const told = await Promise.all(there.map((pod) => statusOf(pod, key)));
      return {
        replicas: there.length,
        readyReplicas: there.filter(isPodReady).length,
        hosts: told.filter((one) => one !== undefined),
      };
    },
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
