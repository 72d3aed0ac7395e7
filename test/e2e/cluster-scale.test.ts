/**
 * Thousands of Functions in one cluster: 5,000 with ATOLL_SOAK=1, or as many as ATOLL_FUNCTIONS says; 60 in the gate.
 * Nodes are simulated, everything else of the cluster and the controller is real.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { openCluster } from '../../controller/cluster/client.ts';
import { openInformer, type ClusterObject } from '../../controller/cluster/informer.ts';
import { functionResource } from '../../controller/stores/kubernetes.ts';
import type { HostFunctionStatus } from '../../runtime/config.ts';
import { buildAll } from '../../tools/build.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type AuditEvent, type Kubernetes } from '../support/kubernetes.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import { simulateNodes } from '../support/simulated-nodes.ts';

const soak = process.env['ATOLL_SOAK'] === '1';
const count = Number(process.env['ATOLL_FUNCTIONS'] ?? (soak ? 5_000 : 60));
const namespaces = Math.ceil(count / 1_000);
const minutes = Math.max(3, Math.ceil(count / 60));
const main = join(import.meta.dirname, '../../dist/controller/main.js');
const manifestOf = (number: number): { namespace: string; name: string; body: object } => {
  const name = `f-${number}`;
  const body = {
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name },
    spec: {
      package: { inline: `exports.handler = () => ${number}` },
      env: [{ name: 'ROBOT', value: `robot-${number}` }],
      triggers: [
        { name: 'web', http: { path: `/f/${number}` } },
        { name: 'orders', nats: { subject: `orders.${number}` } },
      ],
    },
  };
  return { namespace: `scale-${number % namespaces}`, name, body };
};
const functionsOf = (namespace: string): string =>
  `/apis/atoll.dev/v1alpha1/namespaces/${namespace}/functions`;
const ready = { ready: true, reason: 'Ready', message: 'ready' };

describe.skipIf(await missing('kubernetes', 'openssl', 'kwok'))(`${count} Functions`, () => {
  test(
    'are applied; a controller that starts lists each kind once and writes nothing; a change among them is acted upon',
    { timeout: minutes * 60_000 },
    async () => {
      const kubernetes = await startKubernetes({
        // Simulated pods are at loopback addresses, which no Endpoint may have.
        controllers: ['-endpoints-controller', '-endpointslice-controller'],
        scheduler: true,
        audit: { users: ['controller'] },
        users: { controller: ['system:masters'] },
      });
      await installFunctionKind(kubernetes);
      await buildAll();
      const uids = new Map<string, string>();
      const nodes = await simulateNodes(kubernetes, {
        pods: count,
        statusOf(namespace, name): HostFunctionStatus | undefined {
          const uid = uids.get(`${namespace}/${name}`);
          if (uid === undefined) return undefined;
          const packageSha256 = 'a'.repeat(64);
          const triggers = ['web', 'orders'].map((trigger) => ({ name: trigger, ...ready }));
          return {
            namespace,
            name,
            uid,
            generation: 1,
            packageSha256,
            package: ready,
            handler: ready,
            triggers,
          };
        },
      });
      for (let number = 0; number < namespaces; number++) {
        await posted(kubernetes, '/api/v1/namespaces', { metadata: { name: `scale-${number}` } });
      }

      const readyNow = await followReady(kubernetes);
      const first = await startController(kubernetes);
      await expect.poll(() => first.metric('atoll_controller_leader'), patience).toBe(1);
      const beganMs = performance.now();
      await each(count, async (number) => {
        const { namespace, name, body } = manifestOf(number);
        const { metadata } = await posted(kubernetes, functionsOf(namespace), body);
        uids.set(`${namespace}/${name}`, metadata.uid);
      });
      const declaredMs = performance.now() - beganMs;
      await expect.poll(() => deployments(kubernetes), patience).toBe(count);
      const appliedMs = performance.now() - beganMs;
      await expect.poll(readyNow, patience).toBe(count);
      const readyMs = performance.now() - beganMs;
      await quiet(first);
      const made = await usageOf(first.process);
      report('declared', { seconds: declaredMs / 1000 });
      report('all applied', { seconds: appliedMs / 1000 });
      report('all Ready', { seconds: readyMs / 1000, answering: nodes.answering, ...made });

      // What nobody changed.
      expect((await first.process.stop()).code).toBe(0);
      const before = (await kubernetes.audited()).length;
      const askedBefore = nodes.asked;
      const restartMs = performance.now();
      const second = await startController(kubernetes);
      await expect.poll(() => second.metric(done), patience).toBeGreaterThanOrEqual(count);
      await expect.poll(() => nodes.asked - askedBefore, patience).toBe(count);
      await quiet(second);
      const seconds = (performance.now() - restartMs) / 1000;
      const since = (await kubernetes.audited())
        .slice(before)
        .filter(({ user }) => user.username === 'controller');
      const lists = since.filter(
        ({ verb, requestURI }) => verb === 'list' && !requestURI.includes('continue='),
      );
      const listed = lists.map(({ objectRef }) => objectRef?.resource).sort();
      const writes = since.filter(isWrite);
      report('started again', { seconds, writes: writes.length, ...(await usageOf(second.process)) });
      expect(listed).toEqual([...new Set(listed)]);
      expect(writes.map(({ verb, requestURI }) => `${verb} ${requestURI}`)).toEqual([]);
      expect(seconds).toBeLessThan(600);

      const { namespace, name } = manifestOf(Math.floor(count / 2));
      const patchedMs = performance.now();
      const answer = await kubernetes.request('PATCH', `${functionsOf(namespace)}/${name}`, {
        contentType: 'application/merge-patch+json',
        body: { spec: { env: [{ name: 'ROBOT', value: 'another' }] } },
      });
      expect(answer.status).toBe(200);
      const deployment = `/apis/apps/v1/namespaces/${namespace}/deployments/fn-${name}`;
      await expect
        .poll(
          async () => {
            const { body } = await kubernetes.request('GET', deployment);
            return (body as { metadata: { generation: number } }).metadata.generation;
          },
          { ...patience, interval: 10 },
        )
        .toBe(2);
      const changedMs = performance.now() - patchedMs;
      report('one change', { seconds: changedMs / 1000 });
      expect(changedMs).toBeLessThan(10_000);

      const { peakMB } = await usageOf(second.process);
      expect(peakMB).toBeLessThan(250);
      expect(made.peakMB).toBeLessThan(250);
      expect((await second.process.stop()).code).toBe(0);
    },
  );
});

const patience = { timeout: minutes * 60_000, interval: count > 1_000 ? 2_000 : 200 };
const done = 'atoll_controller_reconcile_duration_seconds_count{outcome="done"}';

interface Controller {
  readonly process: RunningProcess;
  /** 0 while there is none. */
  metric(name: string): Promise<number>;
}

const chart = join(import.meta.dirname, '../../charts/atoll');

/** What the chart gives the controller. Without its container Node is told the limit that it would find there. */
async function chartEnvironment(): Promise<Record<string, string>> {
  const values = parse(await readFile(join(chart, 'values.yaml'), 'utf8')) as {
    controller: { resources: { limits: { memory: string } } };
  };
  const limitMiB = Number(/^(\d+)Mi$/.exec(values.controller.resources.limits.memory)![1]);
  const template = await readFile(join(chart, 'templates/controller.yaml'), 'utf8');
  const given = [...template.matchAll(/\{ name: ([A-Z_]+), value: '([^']*)' \}/g)];
  const env = Object.fromEntries(given.map(([, name, value]) => [name!, value!]));
  const share = /--max-old-space-size-percentage=(\d+)/;
  const [, percent] = share.exec(env['NODE_OPTIONS'] ?? '')!;
  const heapMiB = Math.floor((limitMiB * Number(percent)) / 100);
  return { ...env, NODE_OPTIONS: env['NODE_OPTIONS']!.replace(share, `--max-old-space-size=${heapMiB}`) };
}

/** The program itself, as the image has it: stripping types would take memory of its own. */
async function startController(kubernetes: Kubernetes): Promise<Controller> {
  const folder = await temporaryFolder();
  const kubeconfig = join(folder, 'kubeconfig');
  await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('controller')), { mode: 0o600 });
  const file = join(folder, 'config.json');
  const listen = { host: '127.0.0.1', port: 0 };
  await writeFile(file, JSON.stringify({ image: 'atoll:1', site: 'hub', kubeconfig, listen }));
  const replica = await startProcess(process.execPath, [main, file], {
    name: 'controller',
    graceMs: 30_000,
    env: { ...process.env, ...(await chartEnvironment()) },
  });
  const { url } = JSON.parse(await replica.line(/"url":"/)) as { url: string };
  return {
    process: replica,
    async metric(name) {
      const text = await (await fetch(`${url}/metrics`)).text();
      const line = text.split('\n').find((one) => one.startsWith(`${name} `));
      return Number(line?.slice(name.length + 1) ?? 0);
    },
  };
}

/** Nothing waits, and nothing was reconciled for a while. */
async function quiet(controller: Controller): Promise<void> {
  let last = -1;
  const look = async (): Promise<boolean> => {
    const [waiting, reconciled] = [
      await controller.metric('atoll_controller_queue_depth'),
      await controller.metric(done),
    ];
    const still = waiting === 0 && reconciled === last;
    last = reconciled;
    return still;
  };
  await expect.poll(look, { ...patience, interval: 1_000 }).toBe(true);
}

/** Of the whole life of the process. */
async function usageOf({
  pid,
}: RunningProcess): Promise<{ peakMB: number; residentMB: number; cpuSeconds: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const kB = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)![1]);
  const stat = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
  return {
    peakMB: (kB('VmHWM') * 1024) / 1e6,
    residentMB: (kB('VmRSS') * 1024) / 1e6,
    cpuSeconds: (Number(stat[11]) + Number(stat[12])) / 100,
  };
}

async function deployments(kubernetes: Kubernetes): Promise<number> {
  const { body } = await kubernetes.request('GET', '/apis/apps/v1/deployments?limit=1');
  const { metadata, items } = body as { metadata: { remainingItemCount?: number }; items: object[] };
  return items.length + (metadata.remainingItemCount ?? 0);
}

/** How many Functions are Ready, followed: to list thousands again and again would be most of what the server does. */
async function followReady(kubernetes: Kubernetes): Promise<() => number> {
  interface Stored extends ClusterObject {
    readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
  }
  const cluster = await openCluster({ kubeconfig: kubernetes.kubeconfigFile, userAgent: 'test' });
  const ready = new Set<string>();
  const functions = openInformer<Stored>({ cluster, resource: functionResource });
  functions.watch((_key, before, after) => {
    const { uid } = (after ?? before)!.metadata;
    const isReady = after?.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True');
    if (isReady) ready.add(uid);
    else ready.delete(uid);
  });
  closeLater(async () => {
    await functions.close();
    await cluster.close();
  });
  await functions.untilSynced();
  return () => ready.size;
}

async function posted(
  kubernetes: Kubernetes,
  path: string,
  body: object,
): Promise<{ metadata: { uid: string } }> {
  const answer = await kubernetes.request('POST', path, { body });
  if (answer.status !== 201)
    throw new Error(`POST ${path}: HTTP ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body as { metadata: { uid: string } };
}

/** Eight at a time. */
async function each(many: number, work: (number: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      while (next < many) await work(next++);
    }),
  );
}

/** The lease is renewed all the time. */
const isWrite = ({ verb, objectRef }: AuditEvent): boolean =>
  !['get', 'list', 'watch'].includes(verb) && objectRef?.resource !== 'leases';

function report(what: string, figures: Record<string, number>): void {
  const text = Object.entries(figures).map(([name, value]) => `${name} ${Number(value.toFixed(2))}`);
  process.stderr.write(`${count} Functions: ${what}: ${text.join(', ')}\n`);
}
