import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, expect, test } from 'vitest';
import { ownedName } from '../../tools/owner.ts';
import { makeControlGroup } from './control-group.ts';
import { missingNodes, startKubernetesWithNodes } from './kubernetes-nodes.ts';
import type { KubernetesWithNodes } from './kubernetes-nodes.ts';
import { startNats } from './nats.ts';
import { startProcess } from './process.ts';

describe.skipIf(await missingNodes())('a cluster with nodes', () => {
  let cluster: KubernetesWithNodes;
  let namespace: string;
  const closings: (() => Promise<void>)[] = [];

  test('is Ready, and a host in pods of our image becomes available and is reached at each pod and by its Service', async () => {
    const closing = (close: () => Promise<void>): unknown => closings.push(close);
    cluster = await startKubernetesWithNodes({ nodes: ['robot-1', 'robot-2'], closing });
    namespace = await cluster.namespace();
    for (const object of hostObjects(cluster.image)) await create(object);
    await cluster.kubectl([
      ...['wait', '-n', namespace, '--for=condition=Available', 'deployment/host', '--timeout=60s'],
    ]);

    const pods = await podsOf();
    expect(pods.map(({ node }) => node).sort()).toEqual(['robot-1', 'robot-2']);
    const answers = await Promise.all(pods.map(({ ip }) => invoke(ip)));
    expect(answers).toEqual(pods.map(({ name }) => [name, 65532]));

    const { clusterIP } = (await get('services/host')).spec as { clusterIP: string };
    const reached = new Set<string>();
    await expect
      .poll(async () => reached.add((await invoke(clusterIP))[0]).size, { timeout: 60_000 })
      .toBe(2);
    expect([...reached].sort()).toEqual(pods.map(({ name }) => name).sort());
  }, 120_000);

  test('a pod reaches a Service, the API server, and a server of this machine, and has no way out', async () => {
    const nats = await startNats({ place: cluster.place });
    const { clusterIP } = (await get('services/host')).spec as { clusterIP: string };
    const [pod] = await podsOf();
    const seen = JSON.parse(
      await inPod(
        pod!.name,
        `const { connect } = require('node:net');
         const to = (host, port) => new Promise((done) => {
           const socket = connect({ host, port, timeout: 3000 }, () => done('connected'));
           socket.on('error', ({ code }) => done(code)).on('timeout', () => done('silence'));
         });
         Promise.all([
           to('${clusterIP}', 8080),
           to(process.env.KUBERNETES_SERVICE_HOST, process.env.KUBERNETES_SERVICE_PORT),
           to('${cluster.place.host}', ${nats.port}),
           to('192.0.2.1', 80),
           to('198.18.0.1', 80),
         ]).then((all) => { console.log(JSON.stringify(all)); process.exit(); });`,
      ),
    ) as string[];
    expect(seen.slice(0, 3)).toEqual(['connected', 'connected', 'connected']);
    for (const outside of seen.slice(3)) expect(outside).toMatch(/^E(NET|HOST)UNREACH$/);
  });

  test('pods outlive a crash of kubelet and containerd, which find them again', async () => {
    const node = cluster.node('robot-1');
    const pod = (await podsOf()).find((one) => one.node === 'robot-1')!;
    await node.kubelet.kill();
    await node.containerd.kill();
    expect(await invoke(pod.ip)).toEqual([pod.name, 65532]);
    await node.containerd.restart();
    await node.kubelet.restart();
    await expect
      .poll(() => inPod(pod.name, 'console.log(process.version)').catch((error: unknown) => String(error)))
      .toMatch(/^v24\./);
    expect((await podsOf()).find(({ name }) => name === pod.name)).toEqual(pod);
  });

  test('a node whose cable is pulled is no longer Ready, its pods go on, and it comes back with them', async () => {
    const node = cluster.node('robot-2');
    const before = await podsOf();
    const here = before.find((pod) => pod.node === 'robot-2')!;
    node.cut();
    const status = async (): Promise<string> =>
      cluster.kubectl([
        ...['get', 'node', 'robot-2', '-o', 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'],
      ]);
    await expect.poll(status, { timeout: 60_000, interval: 500 }).toBe('Unknown');
    await expect(invoke(here.ip)).rejects.toThrow();
    const local = `fetch('http://${here.ip}:8080/readyz').then(({ status }) => console.log(status))`;
    expect(await node.run(process.execPath, '-e', local)).toBe('200\n');

    node.heal();
    await expect.poll(status, { timeout: 60_000, interval: 500 }).toBe('True');
    expect(await invoke(here.ip)).toEqual([here.name, 65532]);
    expect(await podsOf()).toEqual(before);
  }, 180_000);

  test('a node that loses its power is gone with all its pods', async () => {
    const pod = (await podsOf()).find(({ node }) => node === 'robot-2')!;
    await cluster.node('robot-2').kill();
    await expect(invoke(pod.ip)).rejects.toThrow();
    expect(cluster.node('robot-2').kubelet.running).toBe(false);
    expect(cluster.node('robot-1').kubelet.running).toBe(true);
  });

  test('what is stopped leaves nothing: no process, network, control group or folder', async () => {
    const [node] = cluster.nodes;
    const network = await node!.run('readlink', '/proc/self/ns/net');
    const device = deviceTo(node!.address);
    const mine = `atoll-test-${ownedName()}`;
    expect(membersOf(network.trim()).length).toBeGreaterThan(3);
    expect(groupsLike(mine)).not.toEqual([]);

    for (const close of closings.reverse()) await close();
    expect(membersOf(network.trim())).toEqual([]);
    expect(devices()).not.toContain(device);
    expect(groupsLike(mine)).toEqual([]);
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith(mine))).toEqual([]);
  });

  async function create(object: object): Promise<void> {
    await cluster.kubectl(['create', '-n', namespace, '-f', '-'], JSON.stringify(object));
  }
  async function get(what: string): Promise<{ spec: unknown }> {
    const { body } = await cluster.request('GET', `/api/v1/namespaces/${namespace}/${what}`);
    return body as { spec: unknown };
  }
  async function podsOf(): Promise<{ name: string; node: string; ip: string; restarts: number }[]> {
    const { body } = await cluster.request('GET', `/api/v1/namespaces/${namespace}/pods`);
    return (body as { items: Pod[] }).items.map(({ metadata, spec, status }) => ({
      name: metadata.name,
      node: spec.nodeName,
      ip: status.podIP,
      restarts: status.containerStatuses[0]!.restartCount,
    }));
  }
  function inPod(name: string, script: string): Promise<string> {
    return cluster.kubectl(['exec', '-n', namespace, name, '--', 'node', '-e', script]);
  }
});

test.skipIf(await missingNodes())(
  'of a run that is killed nothing is left but files and control groups, which the next run removes',
  async () => {
    const script = `
      const { startKubernetesNetwork } = await import('${import.meta.dirname}/kubernetes-network.ts');
      const { startKubernetesNode } = await import('${import.meta.dirname}/kubernetes-node.ts');
      const { makeControlGroup } = await import('${import.meta.dirname}/control-group.ts');
      const network = await startKubernetesNetwork();
      const controlGroup = await makeControlGroup();
      const never = new Promise(() => {});
      startKubernetesNode({ name: 'n', number: 1, network, controlGroup, images: never, kubernetes: never });
      console.log(network.address);
      setInterval(() => {}, 1000);`;
    const run = await startProcess(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, VITEST: undefined },
    });
    const device = deviceTo(await run.line(/^198\.19\./));
    const mine = `atoll-test-${ownedName().split('.')[0]}.${run.pid}.`;
    const containerd = (): string[] => commandLines().filter((line) => line.includes(mine));
    await run.until('containerd runs', async () => containerd().length > 0 || undefined);
    await run.kill('SIGKILL');

    await expect.poll(containerd).toEqual([]);
    await expect.poll(devices).not.toContain(device);
    expect(groupsLike(mine)).not.toEqual([]);
    await makeControlGroup();
    expect(groupsLike(mine)).toEqual([]);
  },
  60_000,
);

interface Pod {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP: string;
    readonly containerStatuses: readonly { readonly restartCount: number }[];
  };
}

/** The function `who` of the objects below, at a pod or at a Service. */
async function invoke(host: string): Promise<[pod: string, uid: number]> {
  const answer = await fetch(`http://${host}:8080/invoke/default/who`, {
    method: 'POST',
    body: '{}',
    headers: { connection: 'close' },
    signal: AbortSignal.timeout(3000),
  });
  return (await answer.json()) as [string, number];
}

/** A host in two pods, one on each node, and a Service before them. */
function hostObjects(image: string): object[] {
  const labels = { app: 'host' };
  const config = {
    site: 'local',
    listen: { host: '0.0.0.0', port: 8080 },
    packages: { cache: '/tmp/cache' },
    functions: [
      {
        namespace: 'default',
        name: 'who',
        uid: 'u1',
        generation: 1,
        env: [],
        spec: {
          runtime: 'nodejs24.x',
          handler: 'index.handler',
          package: {
            inline: "exports.handler = async () => [require('node:os').hostname(), process.getuid()]",
          },
          timeoutSeconds: 20,
          memory: '128Mi',
          concurrency: 1,
          processes: 1,
          spareProcesses: 0,
          replicas: 1,
          env: [],
          triggers: [],
          retry: { maxAttempts: 1, minBackoffMs: 1000, maxBackoffMs: 1000, maxAgeSeconds: 60 },
          recursion: 'Terminate',
        },
      },
    ],
  };
  const restricted = {
    runAsNonRoot: true,
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
    seccompProfile: { type: 'RuntimeDefault' },
  };
  const pod = {
    automountServiceAccountToken: false,
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: 'kubernetes.io/hostname',
        whenUnsatisfiable: 'DoNotSchedule',
        labelSelector: { matchLabels: labels },
      },
    ],
    // As a robot's would: a node that is away for a while keeps its pods.
    tolerations: ['not-ready', 'unreachable'].map((taint) => ({
      key: `node.kubernetes.io/${taint}`,
      operator: 'Exists',
      effect: 'NoExecute',
    })),
    containers: [
      {
        name: 'host',
        image,
        command: ['node', 'runtime/main.js', '/etc/atoll/config.json'],
        securityContext: restricted,
        resources: { limits: { memory: '512Mi' } },
        readinessProbe: { httpGet: { path: '/readyz', port: 8080 }, periodSeconds: 1 },
        volumeMounts: [
          { name: 'config', mountPath: '/etc/atoll' },
          { name: 'tmp', mountPath: '/tmp' },
        ],
      },
    ],
    volumes: [
      { name: 'config', configMap: { name: 'host' } },
      { name: 'tmp', emptyDir: { sizeLimit: '64Mi' } },
    ],
  };
  const metadata = { name: 'host' };
  return [
    { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { 'config.json': JSON.stringify(config) } },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata,
      spec: {
        replicas: 2,
        selector: { matchLabels: labels },
        template: { metadata: { labels }, spec: pod },
      },
    },
    { apiVersion: 'v1', kind: 'Service', metadata, spec: { selector: labels, ports: [{ port: 8080 }] } },
  ];
}

/** The processes that have this network namespace, `net:[…]`. */
function membersOf(network: string): string[] {
  return pids().filter((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/ns/net`) === network;
    } catch {
      return false;
    }
  });
}

function commandLines(): string[] {
  return pids().map((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    } catch {
      return '';
    }
  });
}

const pids = (): string[] => readdirSync('/proc').filter((name) => /^\d+$/.test(name));

interface Device {
  readonly ifname: string;
  readonly addr_info: readonly { readonly local: string }[];
}

function ipJson(...args: string[]): Device[] {
  return JSON.parse(execFileSync('ip', ['-json', ...args], { encoding: 'utf8' })) as Device[];
}

const devices = (): string[] => ipJson('link').map(({ ifname }) => ifname);

function deviceTo(address: string): string {
  const block = address.split('.').slice(0, 3).join('.');
  const found = ipJson('address').find(({ addr_info }) =>
    addr_info.some(({ local }) => local.startsWith(`${block}.`)),
  );
  if (found === undefined) throw new Error(`no device leads to ${address}`);
  return found.ifname;
}

function groupsLike(begin: string): string[] {
  return readdirSync('/sys/fs/cgroup', { recursive: true, encoding: 'utf8' }).filter((path) =>
    path.split('/').some((name) => name.startsWith(begin)),
  );
}
