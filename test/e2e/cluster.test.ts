/** A whole cluster: kubectl, the controller's program, real nodes, NATS. Nothing of ours but what a user would install. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { beforeAll, describe, test } from 'vitest';
import { stringify } from 'yaml';
import { temporaryFolder } from '../support/folder.ts';
import { installFunctionKind } from '../support/function-kind.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { startMetricsServer } from '../support/metrics-server.ts';
import { startNats } from '../support/nats.ts';
import { startProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import { startCallers } from './callers.ts';

const events = 300;
const everyMs = 40;

interface Done {
  readonly n: number;
  readonly version: number;
  readonly pod: string;
}

const unmeasured = await missing('metrics-server');

// One waits for pods and the other for what is measured of them.
describe.skipIf(await missingNodes()).concurrent('a cluster', { timeout: 600_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let nats: NatsConnection;

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['robot-1', 'robot-2'], aggregation: true });
    await installFunctionKind(kubernetes);
    const server = await startNats({ place: kubernetes.place });
    nats = await server.connect();
    const config = {
      site: 'hub',
      image: kubernetes.image,
      kubeconfig: kubernetes.kubeconfigFile,
      listen: { host: '127.0.0.1', port: 0 },
      lease: { namespace: 'default' },
      nats: { url: server.url },
    };
    const file = join(await temporaryFolder(), 'config.json');
    await writeFile(file, JSON.stringify(config));
    const main = join(import.meta.dirname, '../../controller/main.ts');
    await startProcess(process.execPath, [main, file], { name: 'controller' });
    if (unmeasured === undefined) await startMetricsServer(kubernetes);
  }, 180_000);

  const functionOf = (namespace: string, version: number): string =>
    stringify({
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name: 'orders', namespace },
      spec: {
        package: {
          inline: `exports.handler = async ({ n }) => {
            await new Promise((resolve) => setTimeout(resolve, 50));
            return { n, version: ${version}, pod: require('node:os').hostname() };
          };`,
        },
        concurrency: 4,
        replicas: 2,
        triggers: [{ name: 'stream', jetstream: { stream: 'ORDERS', startAt: 'All' } }],
        onSuccess: { nats: { subject: 'done' } },
      },
    });

  test('runs what kubectl applies, exchanges it under load without losing or doubling an event, and leaves nothing', async ({
    expect,
  }) => {
    const namespace = await kubernetes.namespace();
    const kubectl = (...args: string[]): Promise<string> => kubernetes.kubectl([...args, '-n', namespace]);
    const apply = (version: number): Promise<string> =>
      kubernetes.kubectl(['apply', '-f', '-'], functionOf(namespace, version));
    const ready = (): Promise<string> =>
      kubectl('wait', 'fn/orders', '--for=condition=Ready', '--timeout=60s');
    await (await jetstreamManager(nats)).streams.add({ name: 'ORDERS', subjects: ['orders'] });

    const done: Done[] = [];
    nats.subscribe('done', {
      callback: (error, message) => {
        if (error) throw error;
        done.push(message.json<{ responsePayload: Done }>().responsePayload);
      },
    });
    await apply(1);
    await ready();
    const columns = await kubectl(
      'get',
      'fn',
      'orders',
      '-o',
      'jsonpath={.status.readyReplicas} {.status.selector}',
    );
    expect(columns).toBe('2 app.kubernetes.io/managed-by=atoll,atoll.dev/function=orders');

    const publisher = jetstream(nats);
    const podsOf = (version: number): number =>
      new Set(done.filter((one) => one.version === version).map(({ pod }) => pod)).size;
    let published = 0;
    const publishing = (async () => {
      // Until each pod had a part of it: on a busy machine the second one may come late.
      while (published < events || podsOf(2) < 2) {
        await publisher.publish('orders', JSON.stringify({ n: published++ }));
        await new Promise((resolve) => setTimeout(resolve, everyMs));
      }
    })();
    await expect.poll(() => podsOf(1), { timeout: 60_000 }).toBe(2);
    await apply(2);
    await expect
      .poll(() => kubectl('get', 'fn', 'orders', '-o', 'jsonpath={.status.observedGeneration}'))
      .toBe('2');
    await ready();
    await publishing;
    await expect.poll(() => new Set(done.map(({ n }) => n)).size).toBe(published);
    expect(done.map(({ n }) => n).sort((a, b) => a - b)).toEqual(
      Array.from({ length: published }, (_, n) => n),
    );
    expect(new Set(done.map(({ version }) => version))).toEqual(new Set([1, 2]));

    await kubectl('delete', 'fn', 'orders');
    const kinds = 'pods,deployments,replicasets,services,networkpolicies,poddisruptionbudgets';
    await expect.poll(() => kubectl('get', kinds, '-o', 'name'), { timeout: 60_000, interval: 500 }).toBe('');
  });

  test.skipIf(unmeasured)(
    'gives a function that is scaled by CPU another pod while it is called much, and takes it away when nobody calls',
    async ({ expect }) => {
      const namespace = await kubernetes.namespace();
      const read = (path: string): Promise<string> =>
        kubernetes.kubectl(['get', 'fn', 'busy', '-n', namespace, '-o', `jsonpath=${path}`]);
      const untilReplicas = (count: number): Promise<void> =>
        expect
          .poll(() => read('{.status.replicas} {.status.readyReplicas}'), { timeout: 180_000, interval: 500 })
          .toBe(`${count} ${count}`)
          .catch(async (error: unknown) => {
            const state = await kubernetes.kubectl(['describe', 'hpa,pods,fn', '-n', namespace]);
            throw new Error(`${String(error)}\n${state}`);
          });
      await kubernetes.kubectl(
        ['apply', '-f', '-'],
        stringify({
          apiVersion: 'atoll.dev/v1alpha1',
          kind: 'Function',
          metadata: { name: 'busy', namespace },
          spec: {
            package: {
              inline: `exports.handler = () => {
                const until = performance.now() + 100;
                while (performance.now() < until);
                return require('node:os').hostname();
              };`,
            },
            // Of the 100 millicores that a pod asks for. Idle it uses a tenth of what it must not.
            scaling: { minReplicas: 1, maxReplicas: 2, targetCPUPercent: 50 },
            triggers: [{ name: 'asked', nats: { subject: 'busy' } }],
          },
        }),
      );
      await untilReplicas(1);
      const calls = startCallers({
        nats: {
          perSecond: 3,
          ask: async () => (await nats.request('busy', '', { timeout: 60_000 })).json<string>(),
        },
      });
      await untilReplicas(2);
      const pods = (): number => new Set(calls.answers.map(({ text }) => text)).size;
      await expect.poll(pods, { timeout: 60_000 }).toBe(2);
      await calls.stop();
      expect(calls.failed).toEqual([]);
      await untilReplicas(1);
    },
  );
});
