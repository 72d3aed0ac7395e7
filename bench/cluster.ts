/**
 * What does a cluster add? A deploy of a one-line change by step, the start of a pod by phase, requests through Service
 * and gateway against a bare Fastify pod, and how long what somebody deletes or edits stays so. Everything runs on one
 * machine: control plane, node, pods and the driver.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { ClusterObject } from '../controller/cluster/informer.ts';
import type { Resource } from '../controller/cluster/client.ts';
import type { LogRecord } from '../runtime/log.ts';
import { temporaryFolder } from '../test/support/folder.ts';
import { bench } from './frame/bench.ts';
import { startCluster } from './frame/cluster.ts';
import { httpLoad } from './frame/http-load.ts';
import { scaled } from './frame/options.ts';
import { commandLineOf } from './frame/processes.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const pollMs = 5;
const requests = scaled(5_000, { least: 100 });
const connections = 32;
const body = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 }, tags: ['a', 'b'] });

const resources = {
  functions: { group: 'atoll.dev', version: 'v1alpha1', plural: 'functions' },
  pods: { group: '', version: 'v1', plural: 'pods' },
  services: { group: '', version: 'v1', plural: 'services' },
  deployments: { group: 'apps', version: 'v1', plural: 'deployments' },
} satisfies Record<string, Resource>;

interface FunctionObject extends ClusterObject {
  readonly spec: { readonly package?: { readonly sha256?: string } };
}

interface Pod extends ClusterObject {
  readonly spec: { readonly nodeName?: string };
  readonly status: {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly initContainerStatuses?: readonly { readonly containerID?: string }[];
    readonly containerStatuses?: readonly { readonly containerID?: string }[];
  };
}

interface Deployment extends ClusterObject {
  readonly spec: { readonly replicas?: number };
}

const is = (pod: Pod, type: string): boolean =>
  pod.status.conditions?.some((one) => one.type === type && one.status === 'True') ?? false;

/** Answers with what it was sent, as the function does. Runs in our image, which has Fastify for the gateway. */
const bareServer = `
  import fastify from 'fastify';
  const app = fastify();
  app.post('/echo', async (request) => request.body);
  await app.listen({ host: '0.0.0.0', port: 8080 });
`;

await bench(async ({ closing }) => {
  const cluster = await startCluster(closing);
  const { kubernetes, namespace, url } = cluster;
  const [functions, pods, services, deployments] = [
    await cluster.follow<FunctionObject>(resources.functions),
    await cluster.follow<Pod>(resources.pods),
    await cluster.follow(resources.services),
    await cluster.follow<Deployment>(resources.deployments),
  ];

  // Deploy

  const source = join(await temporaryFolder({ closing }), 'versions');
  let version = 0;
  await mkdir(source);
  await writeFile(
    join(source, 'function.yaml'),
    `apiVersion: atoll.dev/v1alpha1
kind: Function
metadata: { name: versions }
spec:
  handler: index.handler
  triggers: [{ name: web, http: { path: /versions, auth: None } }]
`,
  );

  const isOf = (name: string) => (pod: Pod) => pod.metadata.labels?.['atoll.dev/function'] === name;

  /** Of the pods that a function gets from now on: when the first of them is first seen so. */
  function nextPod(name: string) {
    const known = new Set(pods.all().map(({ metadata }) => metadata.uid));
    const first = (fits: (pod: Pod) => boolean) =>
      pods.first((pod) => isOf(name)(pod) && !known.has(pod.metadata.uid) && fits(pod));
    return {
      made: first(() => true),
      scheduled: first((pod) => pod.spec.nodeName !== undefined),
      initialized: first((pod) => is(pod, 'Initialized')),
      ready: first((pod) => is(pod, 'Ready')),
    };
  }

  async function deploy(): Promise<Record<string, number>> {
    version += 1;
    await writeFile(
      join(source, 'index.ts'),
      `export const handler = async () => ({ version: ${version} });\n`,
    );
    const before = functions.all().find(({ metadata }) => metadata.name === 'versions')?.spec.package?.sha256;
    const declared = functions.first(
      ({ metadata, spec }) =>
        metadata.name === 'versions' && spec.package?.sha256 !== undefined && spec.package.sha256 !== before,
    );
    const pod = nextPod('versions');
    const started = Date.now();
    const ended = cluster.faas('deploy', source, '--timeout', '120').then(() => Date.now());
    ended.catch(() => {});
    let answered = 0;
    while (answered === 0) {
      const text = await fetch(`${url}/versions`).then((response) => response.text(), String);
      if (text === JSON.stringify({ version })) answered = Date.now();
      else await Promise.race([pause(pollMs), ended]);
    }
    const [stored, made, scheduled, initialized, ready] = [
      (await declared).at,
      (await pod.made).at,
      (await pod.scheduled).at,
      (await pod.initialized).at,
      (await pod.ready).at,
    ];
    return {
      'ms in all': answered - started,
      'command, build, upload': stored - started,
      'pod made': made - stored,
      scheduled: scheduled - made,
      'package fetched': initialized - scheduled,
      'host ready': ready - initialized,
      'first answer': answered - ready,
      'ms until the command ends': (await ended) - started,
    };
  }

  await deploy();
  await report(
    await compare({
      name: 'cluster-deploy',
      text: '`faas deploy` of a one-line change into a running cluster that has the image; all in milliseconds.',
      event: 'deploy',
      contenders: [{ name: 'Atoll', round: async () => ({ figures: await deploy() }) }],
    }),
  );

  // The start of a pod

  const scale = (replicas: number): Promise<string> =>
    cluster.kubectl('scale', 'fn/versions', `--replicas=${replicas}`);

  /** When a container was made, in ms since the epoch, as containerd has it to the nanosecond. */
  async function madeAt(containerId: string | undefined): Promise<number> {
    const id = (containerId ?? '').replace('containerd://', '');
    const text = await kubernetes.nodes[0]!.run('ctr', '-n', 'k8s.io', 'containers', 'info', id);
    return Date.parse((JSON.parse(text) as { CreatedAt: string }).CreatedAt);
  }

  async function start(): Promise<Record<string, number>> {
    await scale(0);
    while (pods.all().some(isOf('versions'))) await pause(pollMs);
    const pod = nextPod('versions');
    await scale(1);
    const { at: ready, object } = await pod.ready;
    const logs = (await cluster.kubectl('logs', object.metadata.name, '-c', 'host'))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as LogRecord);
    const logged = (message: string): number =>
      Date.parse(logs.find((record) => record.message === message)?.time ?? '');
    const [made, scheduled] = [(await pod.made).at, (await pod.scheduled).at];
    const fetching = await madeAt(object.status.initContainerStatuses?.[0]?.containerID);
    const hosting = await madeAt(object.status.containerStatuses?.[0]?.containerID);
    const running = hostStartedAt(hosting);
    return {
      'ms in all': ready - made,
      scheduled: scheduled - made,
      sandbox: fetching - scheduled,
      'package container': hosting - fetching,
      'host container': running - hosting,
      Node: logged('host listening') - running,
      import: logged('version in service') - logged('host listening'),
      'readiness probe': ready - logged('version in service'),
    };
  }

  await report(
    await compare({
      name: 'cluster-start',
      text: 'A pod from its making to Ready, the image present; all in milliseconds.',
      event: 'start',
      contenders: [{ name: 'Atoll', round: async () => ({ figures: await start() }) }],
    }),
  );

  // Drift

  async function repair(): Promise<Record<string, number>> {
    const name = 'fn-versions';
    const service = services.all().find(({ metadata }) => metadata.name === name)!;
    const back = services.first(
      ({ metadata }) => metadata.name === name && metadata.uid !== service.metadata.uid,
    );
    const deleted = Date.now();
    await kubernetes.request('DELETE', `/api/v1/namespaces/${namespace}/services/${name}`);
    const { at: there } = await back;

    // As somebody with kubectl would, who is not asked for more than a patch.
    const edited = deployments.first(({ metadata, spec }) => metadata.name === name && spec.replicas === 2);
    const began = Date.now();
    await kubernetes.request('PATCH', `/apis/apps/v1/namespaces/${namespace}/deployments/${name}`, {
      contentType: 'application/merge-patch+json',
      body: { spec: { replicas: 2 } },
    });
    await edited;
    const { at: right } = await deployments.first(
      ({ metadata, spec }) => metadata.name === name && spec.replicas === 1,
    );
    return {
      'ms until a deleted Service is back': there - deleted,
      'ms until an edited Deployment is right': right - began,
    };
  }

  await report(
    await compare({
      name: 'cluster-drift',
      text: 'What somebody changes of a function’s objects, until it is as declared.',
      event: 'change',
      contenders: [{ name: 'Atoll', round: async () => ({ figures: await repair() }) }],
    }),
  );

  // Requests

  const bare = (name: string): object[] => [
    {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, labels: { app: name } },
      spec: {
        containers: [
          {
            name: 'server',
            image: kubernetes.image,
            imagePullPolicy: 'IfNotPresent',
            command: ['node', '--input-type=module', '-e', bareServer],
            readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 },
          },
        ],
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name },
      spec: { selector: { app: name }, ports: [{ port: 8080 }] },
    },
  ];
  await cluster.apply(...bare('bare'), ...bare('copy'), {
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name: 'echo' },
    spec: {
      package: { inline: 'exports.handler = async ({ body }) => JSON.parse(body)' },
      concurrency: 2 * connections,
      triggers: [{ name: 'web', http: { path: '/echo', methods: ['POST'], auth: 'None' } }],
    },
  });
  await cluster.kubectl('wait', 'pod/bare', 'pod/copy', '--for=condition=Ready', '--timeout=120s');
  await cluster.kubectl('wait', 'fn/echo', '--for=condition=Ready', '--timeout=120s');

  const addressOf = (service: string): Promise<string> =>
    cluster.kubectl('get', 'service', service, '-o', 'jsonpath={.spec.clusterIP}');
  function contender(name: string, host: string, port: number, path: string): Contender {
    const load = httpLoad({ host, port }, { connections, path, body });
    return { name, round: async () => ({ events: requests, seconds: await load.run(requests) }) };
  }
  await report(
    await compare({
      name: 'cluster-rate',
      text: `HTTP requests through Services, ${requests} each round, ${connections} connections, one request at a time on each.`,
      event: 'request',
      contenders: [
        contender('bare Fastify', await addressOf('bare'), 8080, '/echo'),
        contender('an identical copy', await addressOf('copy'), 8080, '/echo'),
        contender(
          'Atoll, at its own Service',
          await addressOf('fn-echo'),
          8080,
          `/http/${namespace}/echo/web/echo`,
        ),
        contender('Atoll, through the gateway', new URL(url).hostname, 80, '/echo'),
      ],
    }),
  );
});

/** The first host that began after that moment, both in ms since the epoch: pods are processes of this machine. */
function hostStartedAt(after: number): number {
  const uptimeMs = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1000;
  const bootedAt = Date.now() - uptimeMs;
  const starts = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => commandLineOf(Number(pid)).includes('runtime/main.js /etc/atoll/host.json'))
    .map((pid) => {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ');
      // Field 22 of proc(5), in ticks of 10 ms.
      return bootedAt + Number(fields[19]) * 10;
    });
  // A tick is coarser than what containerd tells.
  return Math.min(...starts.filter((at) => at >= after - 20));
}
