import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { clusterRights, functionRights, leaseRights, type Rule } from '../../controller/rights.ts';
import { manifest } from '../contracts/store.ts';
import { grantRights } from '../support/controller-rights.ts';
import { installDefinitions } from '../support/definitions.ts';
import { temporaryFolder } from '../support/folder.ts';
import { installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type AuditEvent, type Kubernetes } from '../support/kubernetes.ts';
import { startNats } from '../support/nats.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';

const main = join(import.meta.dirname, '../../controller/main.ts');

async function run(config: unknown, env: Readonly<Record<string, string>> = {}): Promise<RunningProcess> {
  const file = join(await temporaryFolder(), 'config.json');
  await writeFile(file, JSON.stringify(config));
  // Nothing of the machine's own: a kubeconfig that it may have is none of the test's.
  const home = await temporaryFolder();
  return startProcess(process.execPath, [main, file], {
    name: 'controller',
    env: { PATH: process.env['PATH'], HOME: home, ...env },
  });
}

test('a configuration that is wrong, and one that leads to no cluster, end it with what to do', async () => {
  const wrong = await run({ image: 'atoll:1', leases: {} });
  expect((await wrong.exited).code).toBe(1);
  expect(wrong.output()).toContain('leases: is not a field here');
  const nowhere = await run({ image: 'atoll:1', listen: { host: '127.0.0.1', port: 0 } });
  expect((await nowhere.exited).code).toBe(1);
  expect(nowhere.output()).toContain('set KUBECONFIG');
  const none = await startProcess(process.execPath, [main], { name: 'controller' });
  expect((await none.exited).code).toBe(2);
});

test('SIGUSR1 opens its profiler, to its own machine only', async () => {
  const kubeconfig = join(await temporaryFolder(), 'kubeconfig');
  // Nobody answers there: it waits.
  const cluster = { server: 'http://127.0.0.1:9' };
  await writeFile(
    kubeconfig,
    JSON.stringify({
      'current-context': 'none',
      contexts: [{ name: 'none', context: { cluster: 'none', user: 'none' } }],
      clusters: [{ name: 'none', cluster }],
      users: [{ name: 'none', user: {} }],
    }),
  );
  const listen = { host: '127.0.0.1', port: 0 };
  const replica = await run({ image: 'atoll:1', kubeconfig, listen }, { NODE_OPTIONS: '--inspect-port=0' });
  await replica.line(/"url":"/);
  expect(replica.output()).not.toContain('Debugger listening');
  process.kill(replica.pid, 'SIGUSR1');
  const [, url = ''] = /(ws:\S+)/.exec(await replica.line(/Debugger listening on ws:/)) ?? [];
  expect(new URL(url).hostname).toBe('127.0.0.1');

  const profiler = new WebSocket(url);
  await new Promise((resolve) => profiler.addEventListener('open', resolve, { once: true }));
  let asked = 0;
  const ask = async (method: string): Promise<unknown> => {
    const id = ++asked;
    const answer = new Promise((resolve) =>
      profiler.addEventListener('message', ({ data }) => {
        const said = JSON.parse(String(data)) as { id?: number; result?: unknown };
        if (said.id === id) resolve(said.result);
      }),
    );
    profiler.send(JSON.stringify({ id, method }));
    return answer;
  };
  await ask('Profiler.enable');
  await ask('Profiler.start');
  const { profile } = (await ask('Profiler.stop')) as { profile: { nodes: unknown[] } };
  expect(profile.nodes.length).toBeGreaterThan(0);
  profiler.close();
});

describe.skipIf(await missing('kubernetes', 'openssl', 'nats-server', 'definitions'))(
  'replicas in a cluster',
  () => {
    let kubernetes: Kubernetes;
    beforeAll(async () => {
      kubernetes = await startKubernetes({
        audit: true,
        // What goes with a Function is removed by the controller, and by nobody who might come before it.
        controllers: ['-garbage-collector-controller'],
        users: { first: ['controllers'], second: ['controllers'] },
      });
      await installFunctionKind(kubernetes);
      // Their rights are those that the documentation names.
      await grantRights(kubernetes, { rules: [...functionRights, ...clusterRights] });
      await grantRights(kubernetes, { namespace: 'default', rules: leaseRights });
    });

    async function start(
      user: 'first' | 'second',
      more: object = {},
    ): Promise<{ replica: RunningProcess; url: string }> {
      const folder = await temporaryFolder();
      await mkdir(folder, { recursive: true });
      const kubeconfig = join(folder, 'kubeconfig');
      await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf(user)), { mode: 0o600 });
      const listen = { host: '127.0.0.1', port: 0 };
      const replica = await run({ image: 'atoll:1', kubeconfig, listen, ...more });
      const line = await replica.line(/"url":"/);
      return { replica, url: (JSON.parse(line) as { url: string }).url };
    }
    const isWrite = ({ verb, objectRef, user }: AuditEvent): boolean =>
      ['first', 'second'].includes(user.username) &&
      !['get', 'list', 'watch'].includes(verb) &&
      objectRef?.resource !== 'leases';

    test('one makes what is declared, changes nothing when nothing changed, and the other goes on when it is killed', async () => {
      const namespace = await kubernetes.namespace();
      const path = `/apis/atoll.dev/v1alpha1/namespaces/${namespace}/functions`;
      const deployment = `/apis/apps/v1/namespaces/${namespace}/deployments/fn-hello`;
      const read = async <T>(at: string): Promise<T> => (await kubernetes.request('GET', at)).body as T;
      interface Stored {
        metadata: { generation: number; resourceVersion: string };
        spec: { replicas: number };
        status?: {
          observedGeneration?: number;
          selector?: string;
          conditions?: { type: string; status: string }[];
        };
      }

      const first = await start('first');
      await first.replica.line(/this controller leads/);
      const second = await start('second');
      for (const { url } of [first, second]) {
        await expect.poll(async () => (await fetch(`${url}/readyz`)).status).toBe(200);
      }
      const { status } = await kubernetes.request('POST', path, { body: manifest('hello', { replicas: 2 }) });
      expect(status).toBe(201);
      await expect.poll(async () => (await kubernetes.request('GET', deployment)).status).toBe(200);
      await expect.poll(async () => (await read<Stored>(`${path}/hello`)).status?.observedGeneration).toBe(1);

      // An autoscaler finds the pods by the selector that /scale gives.
      const scale = await read<{ spec: { replicas: number }; status: { selector?: string } }>(
        `${path}/hello/scale`,
      );
      expect(scale.spec.replicas).toBe(2);
      const pods = `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent(scale.status.selector ?? '')}`;
      expect(scale.status.selector).toBeTruthy();
      await expect.poll(async () => (await read<{ items: unknown[] }>(pods)).items.length).toBe(2);
      await kubernetes.kubectl(['scale', 'functions/hello', '--replicas=3', '-n', namespace]);
      await expect.poll(async () => (await read<Stored>(deployment)).spec.replicas).toBe(3);
      await expect.poll(async () => (await read<Stored>(`${path}/hello`)).status?.observedGeneration).toBe(2);
      expect((await kubernetes.audited()).filter(isWrite).map(({ user }) => user.username)).not.toContain(
        'second',
      );

      // When all is told, a change that changes nothing of what is to run makes no write.
      await expect
        .poll(async () => {
          const before = (await kubernetes.audited()).filter(isWrite).length;
          await kubernetes.kubectl([
            'label',
            'functions/hello',
            `n=${Date.now()}`,
            '--overwrite',
            '-n',
            namespace,
          ]);
          await new Promise((resolve) => setTimeout(resolve, 500));
          return (await kubernetes.audited()).filter(isWrite).length - before;
        })
        .toBe(0);

      const killedMs = performance.now();
      await first.replica.kill();
      await kubernetes.kubectl(['scale', 'functions/hello', '--replicas=1', '-n', namespace]);
      await second.replica.line(/this controller leads/);
      expect(performance.now() - killedMs).toBeLessThan(20_000);
      await expect.poll(async () => (await read<Stored>(deployment)).spec.replicas).toBe(1);
      expect(await second.replica.stop()).toEqual({ code: 0, signal: null });
      const refused = (await kubernetes.audited())
        .filter(({ user }) => ['first', 'second'].includes(user.username))
        .filter(({ responseStatus }) => responseStatus?.code === 403);
      expect(refused).toEqual([]);
      // It gave the Lease back.
      const lease = '/apis/coordination.k8s.io/v1/namespaces/default/leases/atoll-controller';
      expect(await read(lease)).toMatchObject({ spec: { holderIdentity: '' } });
    }, 120_000);

    test('in the life of its functions it uses each right that it has', async () => {
      await installDefinitions(kubernetes, ['scaledobjects.keda.sh']);
      const nats = await startNats();
      const { replica } = await start('first', {
        nats: { url: nats.url },
        keda: { natsMonitoring: '127.0.0.1:8222' },
      });
      await replica.line(/this controller leads/);
      const namespace = await kubernetes.namespace();
      const kubectl = (...args: string[]): Promise<string> => kubernetes.kubectl([...args, '-n', namespace]);
      // A node that wants a pod of each DaemonSet, and a quota that allows none.
      expect(
        await kubernetes.request('POST', '/api/v1/nodes', { body: { metadata: { name: 'one' } } }),
      ).toMatchObject({
        status: 201,
      });
      await kubectl('create', 'quota', 'none', '--hard=pods=0');
      await expect
        .poll(() => kubectl('get', 'quota', 'none', '-o', 'jsonpath={.status.hard.pods}'))
        .toBe('0');

      const functions = `/apis/atoll.dev/v1alpha1/namespaces/${namespace}/functions`;
      const scaling = { minReplicas: 1, maxReplicas: 3 };
      const specs = {
        several: { replicas: 2 },
        everywhere: { placement: { everyNode: true } },
        'by-cpu': { scaling: { ...scaling, targetCPUPercent: 50 } },
        'by-lag': {
          scaling: { ...scaling, targetLag: 20 },
          triggers: [{ name: 'orders', jetstream: { stream: 'ORDERS' } }],
        },
        empty: { package: undefined },
      };
      for (const [name, spec] of Object.entries(specs)) {
        const answer = await kubernetes.request('POST', functions, { body: manifest(name, spec) });
        expect(answer.status, JSON.stringify(answer.body)).toBe(201);
      }
      const reasonOf = (name: string): Promise<string> =>
        kubectl('get', 'fn', name, '-o', 'jsonpath={.status.conditions[?(@.type=="Ready")].reason}');
      await expect.poll(() => reasonOf('several'), patience).toBe('QuotaExceeded');
      await expect.poll(() => reasonOf('everywhere'), patience).toBe('QuotaExceeded');

      // The same happens again: the Event of before is counted.
      const setPackage = (value: object | null): Promise<string> =>
        kubectl('patch', 'fn', 'empty', '--type=merge', '-p', JSON.stringify({ spec: { package: value } }));
      await expect.poll(() => reasonOf('empty'), patience).toBe('NoPackage');
      await setPackage({ inline: 'exports.handler = () => 1' });
      await expect.poll(() => reasonOf('empty'), patience).not.toBe('NoPackage');
      await setPackage(null);
      await expect.poll(() => reasonOf('empty'), patience).toBe('NoPackage');

      const kinds = [
        'configmaps,services,serviceaccounts,networkpolicies,deployments,daemonsets',
        'poddisruptionbudgets,horizontalpodautoscalers,scaledobjects',
      ].join();
      const ours = (): Promise<string> => kubectl('get', kinds, '-l', 'atoll.dev/function', '-o', 'name');
      await expect.poll(async () => new Set((await ours()).match(/^[^/]+/gm)).size, patience).toBe(9);
      const edited = 'app.kubernetes.io/part-of=other';
      // Also of what has no package any more: what it ran with one goes on.
      await kubectl('label', kinds, '-l', 'atoll.dev/function', edited, '--overwrite');
      await expect.poll(() => kubectl('get', kinds, '-l', edited, '-o', 'name'), patience).toBe('');
      await kubectl('delete', 'fn', '--all');
      await expect.poll(ours, patience).toBe('');

      const single = (rules: readonly Rule[]): string[] =>
        rules.flatMap(({ apiGroups, resources, verbs }) =>
          apiGroups.flatMap((group) =>
            resources.flatMap((resource) => verbs.map((verb) => `${verb} ${resource} ${group}`.trim())),
          ),
        );
      const granted = single([...functionRights, ...leaseRights, ...clusterRights]);
      const requests = (await kubernetes.audited()).filter(({ user }) => user.username === 'first');
      const used = new Set(
        requests.flatMap(({ verb, objectRef, responseStatus }) => {
          if (!objectRef) return [];
          const { resource, subresource, apiGroup = '' } = objectRef;
          const of = `${resource}${subresource === undefined ? '' : `/${subresource}`} ${apiGroup}`.trim();
          // Server-side apply of what is not there needs both rights.
          return verb === 'patch' && responseStatus?.code === 201
            ? [`patch ${of}`, `create ${of}`]
            : [`${verb} ${of}`];
        }),
      );
      // The API server asks for this one itself, and only where a plug-in of OpenShift is on.
      expect(granted.filter((right) => !used.has(right))).toEqual(['update functions/finalizers atoll.dev']);
      expect(requests.filter(({ responseStatus }) => responseStatus?.code === 403)).toEqual([]);
      expect(await replica.stop()).toEqual({ code: 0, signal: null });
    }, 240_000);
  },
);

/** On a busy machine. */
const patience = { timeout: 60_000, interval: 200 };
