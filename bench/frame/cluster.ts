/** A cluster to measure: one node, brokers and store beside it, the chart, and what its API server tells as it happens. */
import { openCluster, type Cluster, type Resource } from '../../controller/cluster/client.ts';
import { openInformer, type ClusterObject } from '../../controller/cluster/informer.ts';
import { faas } from '../../test/cli/run.ts';
import type { Closing } from '../../test/support/closing.ts';
import { startKubernetesWithNodes, type KubernetesWithNodes } from '../../test/support/kubernetes-nodes.ts';
import { startNats } from '../../test/support/nats.ts';
import { installRelease } from '../../test/support/release.ts';
import { startVersitygw } from '../../test/support/s3.ts';

export interface MeasuredCluster {
  readonly kubernetes: KubernetesWithNodes;
  readonly namespace: string;
  /** `http://address` of the gateway's Service. */
  readonly url: string;
  /** In the namespace. Throws when it fails. */
  faas(...args: string[]): Promise<string>;
  kubectl(...args: string[]): Promise<string>;
  apply(...objects: object[]): Promise<void>;
  /** Objects of the namespace, from now on. */
  follow<T extends ClusterObject>(resource: Resource): Promise<Followed<T>>;
}

export interface Followed<T> {
  all(): T[];
  /** When an object that fits is seen first, in ms since the epoch, and that object. Those that are there count too. */
  first(fits: (object: T) => boolean): Promise<{ at: number; object: T }>;
}

export async function startCluster(closing: Closing): Promise<MeasuredCluster> {
  const kubernetes = await startKubernetesWithNodes({ nodes: ['node-1'], closing });
  const { place } = kubernetes;
  const [nats, s3] = await Promise.all([startNats({ place, closing }), startVersitygw({ place, closing })]);
  // One of each: what is measured is the way of one request, on a machine that all of them share.
  const one = { replicas: 1 };
  const values = { nats: { url: nats.url }, controller: one, gateway: one };
  const { url } = await installRelease(kubernetes, { s3, values, closing });
  const namespace = await kubernetes.namespace();
  const client: Cluster = await openCluster({ kubeconfig: kubernetes.kubeconfigFile });
  closing(() => client.close());
  return {
    kubernetes,
    namespace,
    url,
    async faas(...args) {
      const { code, stdout, stderr } = await faas(['--context', 'test', '-n', namespace, ...args], {
        env: { KUBECONFIG: kubernetes.kubeconfigFile },
      });
      if (code !== 0) throw new Error(`faas ${args.join(' ')} ended with exit code ${code}:\n${stderr}`);
      return stdout;
    },
    kubectl: (...args) => kubernetes.kubectl([...args, '-n', namespace]),
    async apply(...items) {
      const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
      await kubernetes.kubectl(['apply', '-n', namespace, '-f', '-'], list);
    },
    async follow<T extends ClusterObject>(resource: Resource): Promise<Followed<T>> {
      const informer = openInformer<T>({ cluster: client, resource, namespaces: [namespace] });
      closing(() => informer.close());
      const listeners = new Set<(object: T) => void>();
      informer.watch((_key, _before, after) => {
        if (after) for (const listener of listeners) listener(after);
      });
      await informer.untilSynced();
      const all = (): T[] => informer.all();
      return {
        all,
        first(fits) {
          const { promise, resolve } = Promise.withResolvers<{ at: number; object: T }>();
          const listener = (object: T): void => {
            if (!fits(object)) return;
            listeners.delete(listener);
            resolve({ at: Date.now(), object });
          };
          listeners.add(listener);
          for (const object of all()) if (listeners.has(listener)) listener(object);
          return promise;
        },
      };
    },
  };
}
