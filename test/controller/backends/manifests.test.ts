import { expect, test } from 'vitest';
import type { Workload } from '../../../controller/backends/backend.ts';
import {
  manifestsOf,
  type ClusterSettings,
  type Manifest,
  type Manifests,
} from '../../../controller/backends/manifests.ts';
import { newOperatorSeed, openOperatorKeys } from '../../../controller/broker/account-keys.ts';
import type { PackageConfig, RuntimeConfig } from '../../../runtime/config.ts';
import { workload } from '../../contracts/backend.ts';
import { startKubernetes, type Kubernetes } from '../../support/kubernetes.ts';
import { judgedBySchemas, kubernetesVersions } from '../../support/schemas.ts';

const settings: ClusterSettings = {
  image: 'atoll:0.1.0',
  site: 'hub',
  nats: { url: 'nats://nats.atoll:4222', credentials: { name: 'atoll-nats', key: 'credentials.json' } },
  mqtt: { url: 'mqtt://mqtt.atoll:1883', credentials: { name: 'atoll-mqtt', key: 'credentials.json' } },
  s3: {
    endpoint: 'http://s3.atoll:7070',
    region: 'us-east-1',
    bucket: 'packages',
    credentials: { name: 'atoll-s3', key: 'credentials.json' },
  },
  callers: [
    { namespace: 'atoll', labels: { 'app.kubernetes.io/part-of': 'atoll' } },
    { namespace: 'monitoring' },
  ],
};
const keda = { natsMonitoring: 'nats.atoll:8222', prometheus: 'http://prometheus.monitoring:9090' };

function made(spec: object = {}, more: Partial<Workload> = {}, with_ = settings): Manifests {
  return manifestsOf({ ...workload({ spec }), ...more }, with_);
}

interface Template {
  metadata: { labels: Record<string, string>; annotations: Record<string, string> };
  spec: {
    [field: string]: unknown;
    terminationGracePeriodSeconds: number;
    initContainers: [Container];
    containers: [Container];
    volumes: { name: string; projected?: { sources: unknown[] } }[];
  };
}
interface Container {
  env?: { name: string }[];
  volumeMounts: { name: string; mountPath: string }[];
  resources: { requests: Record<string, string>; limits: Record<string, string> };
}

const kinds = ({ objects }: Manifests): string[] => objects.map(({ kind }) => kind);
const specOf = ({ objects }: Manifests, kind: string): Record<string, unknown> => {
  const object = objects.find((one) => one.kind === kind);
  if (!object) throw new Error(`there is no ${kind}`);
  return object['spec'] as Record<string, unknown>;
};
const templateOf = (manifests: Manifests, kind = 'Deployment'): Template =>
  specOf(manifests, kind)['template'] as Template;
function dataOf({ objects }: Manifests): { host: RuntimeConfig; fetch: PackageConfig } {
  const data = objects.find(({ kind }) => kind === 'ConfigMap')?.['data'] as Record<string, string>;
  return {
    host: JSON.parse(data['host.json']!) as RuntimeConfig,
    fetch: JSON.parse(data['package.json']!) as PackageConfig,
  };
}

test('a function is a Deployment, a Service and what belongs to them, all owned by the Function', () => {
  const manifests = made();
  expect(kinds(manifests)).toEqual(['ServiceAccount', 'ConfigMap', 'NetworkPolicy', 'Service', 'Deployment']);
  for (const { kind, metadata } of manifests.objects) {
    expect(metadata).toMatchObject({
      name: kind === 'ConfigMap' ? manifests.config : 'fn-hello',
      namespace: 'default',
      labels: { 'app.kubernetes.io/managed-by': 'atoll', 'atoll.dev/function': 'hello' },
      ownerReferences: [
        {
          apiVersion: 'atoll.dev/v1alpha1',
          kind: 'Function',
          name: 'hello',
          uid: 'uid-hello',
          controller: true,
        },
      ],
    });
  }
  expect(manifests.config).toMatch(/^fn-hello-[0-9a-f]{10}$/);
});

test('the same workload gives the same objects, and a new generation alone replaces no pod', () => {
  const first = made({ replicas: 2 });
  expect(made({ replicas: 2 })).toEqual(first);
  const next = made({ replicas: 5 }, { generation: 2 });
  expect(templateOf(next)).toEqual(templateOf(first));
  expect(next.config).toBe(first.config);
  expect(specOf(next, 'Deployment')['replicas']).toBe(5);
});

test.each([
  ['the code', { package: { inline: 'exports.handler = () => 2' } }],
  ['a variable', { env: [{ name: 'A', value: 'b' }] }],
  ['the timeout', { timeoutSeconds: 31 }],
  ['a trigger', { triggers: [{ name: 't', nats: { subject: 'a' } }] }],
])('%s in another form replaces the pods, which get a config of their own', (_what, spec) => {
  const [before, after] = [made(), made(spec)];
  expect(after.config).not.toBe(before.config);
  expect(templateOf(after)).not.toEqual(templateOf(before));
});

test('a DaemonSet where every node is to run it, without a budget for disruptions', () => {
  const manifests = made({ placement: { everyNode: true }, replicas: 3 });
  expect(kinds(manifests)).toContain('DaemonSet');
  expect(kinds(manifests)).not.toContain('Deployment');
  expect(kinds(manifests)).not.toContain('PodDisruptionBudget');
  expect(templateOf(manifests, 'DaemonSet').spec).not.toHaveProperty('topologySpreadConstraints');
});

test.each([
  [{ replicas: 1 }, false],
  [{ replicas: 2 }, true],
  [{ scaling: { minReplicas: 1, maxReplicas: 4, targetCPUPercent: 50 } }, false],
  [{ scaling: { minReplicas: 2, maxReplicas: 4, targetCPUPercent: 50 } }, true],
])('%j: a budget for disruptions %s', (spec, there) => {
  expect(kinds(made(spec)).includes('PodDisruptionBudget')).toBe(there);
});

test('with scaling nobody writes replicas but the autoscaler', () => {
  const manifests = made({
    replicas: 7,
    scaling: { minReplicas: 0, maxReplicas: 4, targetCPUPercent: 50 },
  });
  expect(specOf(manifests, 'Deployment')).not.toHaveProperty('replicas');
  expect(specOf(manifests, 'HorizontalPodAutoscaler')).toMatchObject({
    scaleTargetRef: { kind: 'Deployment', name: 'fn-hello' },
    minReplicas: 1,
    maxReplicas: 4,
    metrics: [{ resource: { name: 'cpu', target: { averageUtilization: 50 } } }],
  });
  expect(manifests.ignored).toEqual(['scaling.minReplicas 0 (by CPU at least 1 has to run)']);
});

test('lag is scaled by KEDA, on each stream of the function and on the inbox', () => {
  const spec = {
    scaling: { minReplicas: 0, maxReplicas: 9, targetLag: 20 },
    triggers: [
      { name: 'orders', jetstream: { stream: 'ORDERS' } },
      { name: 'clock', schedule: { every: '1m' } },
    ],
  };
  expect(made(spec).ignored).toEqual(['scaling.targetLag (KEDA is not installed)']);
  const accounts = openOperatorKeys(newOperatorSeed());
  const separate = made(spec, {}, { ...settings, keda, accounts });
  expect(kinds(separate)).not.toContain('ScaledObject');
  expect(separate.ignored).toEqual([
    'scaling.targetLag (KEDA cannot see into NATS accounts of namespaces; targetInFlight needs none)',
  ]);
  const manifests = made(spec, {}, { ...settings, keda });
  expect(manifests.ignored).toEqual([]);
  const { triggers, ...rest } = specOf(manifests, 'ScaledObject');
  expect(rest).toMatchObject({ minReplicaCount: 0, maxReplicaCount: 9 });
  expect(triggers).toEqual(
    [
      { stream: 'ORDERS', consumer: 'default_hello_orders' },
      { stream: 'ATOLL_INBOX', consumer: 'default_hello' },
    ].map((consumer) => ({
      type: 'nats-jetstream',
      metadata: {
        natsServerMonitoringEndpoint: 'nats.atoll:8222',
        account: '$G',
        ...consumer,
        lagThreshold: '20',
      },
    })),
  );
});

test('invocations in flight are scaled by KEDA through Prometheus, which has to be known', () => {
  const spec = { scaling: { minReplicas: 1, maxReplicas: 9, targetInFlight: 8 } };
  const [trigger] = specOf(made(spec, {}, { ...settings, keda }), 'ScaledObject')['triggers'] as object[];
  expect(trigger).toEqual({
    type: 'prometheus',
    metadata: {
      serverAddress: 'http://prometheus.monitoring:9090',
      query: 'sum(atoll_invocations_in_flight{namespace="default",function="hello"})',
      threshold: '8',
    },
  });
  expect(made(spec, {}, { ...settings, keda: {} }).ignored).toEqual([
    'scaling.targetInFlight (the controller is not told where Prometheus is)',
  ]);
});

const secretEnv = {
  env: [
    { name: 'PLAIN', value: 'x' },
    { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'robot', key: 'token' } } },
    { name: 'MODE', valueFrom: { configMapKeyRef: { name: 'modes', key: 'mode', optional: true } } },
    { name: 'NODE_OPTIONS', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
  ],
};

test('secrets are files for the host, and what a pod knows of itself never acts on the host', () => {
  const manifests = made(secretEnv);
  const { containers, volumes } = templateOf(manifests).spec;
  expect(containers[0].env?.map(({ name }) => name)).toEqual(['ATOLL_FIELD_NODE_OPTIONS']);
  expect(volumes.find(({ name }) => name === 'atoll-config')?.projected?.sources).toEqual(
    expect.arrayContaining([
      { secret: { name: 'robot', items: [{ key: 'token', path: 'env/TOKEN' }], optional: true } },
      { configMap: { name: 'modes', items: [{ key: 'mode', path: 'env/MODE' }], optional: true } },
    ]),
  );
  expect(dataOf(manifests).host.functions[0]?.env).toEqual([
    { name: 'PLAIN', value: 'x' },
    { name: 'TOKEN', file: '/etc/atoll/env/TOKEN' },
    { name: 'MODE', file: '/etc/atoll/env/MODE', optional: true },
    { name: 'NODE_OPTIONS', variable: 'ATOLL_FIELD_NODE_OPTIONS' },
  ]);
});

test('the key of the package store is in the container that fetches packages, and in no other', () => {
  const manifests = made();
  const { host, fetch } = dataOf(manifests);
  expect(fetch.s3?.credentialsFile).toBe('/etc/atoll/s3.json');
  expect(host).not.toHaveProperty('s3');
  const { initContainers, containers, volumes } = templateOf(manifests).spec;
  const withKey = volumes.filter(({ projected }) => JSON.stringify(projected ?? '').includes('atoll-s3'));
  expect(withKey.map(({ name }) => name)).toEqual(['atoll-fetch']);
  expect(initContainers[0].volumeMounts.map(({ name }) => name)).toContain('atoll-fetch');
  expect(containers[0].volumeMounts.map(({ name }) => name)).not.toContain('atoll-fetch');
});

test('where the gateway hands out packages, the fetching container alone has a token for that and nothing else', () => {
  const manifests = made({}, {}, { ...settings, packages: 'http://gateway.atoll:80' });
  expect(dataOf(manifests).fetch.relay).toEqual({
    url: 'http://gateway.atoll:80',
    tokenFile: '/etc/atoll/token',
  });
  const { volumes } = templateOf(manifests).spec;
  const withToken = volumes.filter(({ projected }) =>
    projected?.sources.some((source) => 'serviceAccountToken' in (source as object)),
  );
  expect(withToken.map(({ name }) => name)).toEqual(['atoll-fetch']);
  expect(JSON.stringify(withToken)).toContain('"audience":"packages.atoll.dev"');
});

test('only the callers reach a host, and without callers nobody', () => {
  expect(specOf(made(), 'NetworkPolicy')).toMatchObject({
    policyTypes: ['Ingress'],
    ingress: [
      {
        from: [
          {
            namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'atoll' } },
            podSelector: { matchLabels: { 'app.kubernetes.io/part-of': 'atoll' } },
          },
          { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'monitoring' } } },
        ],
      },
    ],
  });
  // `from: []` would be everybody.
  const nobody = {
    matchExpressions: ['Exists', 'DoesNotExist'].map((operator) => ({ key: 'atoll.dev/function', operator })),
  };
  expect(specOf(made({}, {}, { ...settings, callers: [] }), 'NetworkPolicy')['ingress']).toEqual([
    { from: [{ podSelector: nobody }], ports: [{ port: 'http', protocol: 'TCP' }] },
  ]);
});

test.each([
  [{ memory: '128Mi' }, '416Mi', '208Mi'],
  [{ memory: '256Mi', processes: 4, spareProcesses: 1 }, '1856Mi', '1104Mi'],
  [{ memory: '100M' }, '376Mi', '176Mi'],
])('%j: the pod may have %s and asks for %s', (spec, limit, request) => {
  const manifests = made(spec);
  const { limits, requests } = templateOf(manifests).spec.containers[0].resources;
  expect(limits['memory']).toBe(limit);
  expect(requests['memory']).toBe(request);
  expect(manifests.memoryLimit).toBe(limit);
});

test('spec.pod.resources takes the place of what is derived, resource by resource', () => {
  const resources = { limits: { memory: '1Gi', 'nvidia.com/gpu': 1 }, requests: { cpu: '2' } };
  expect(templateOf(made({ pod: { resources } })).spec.containers[0].resources).toEqual({
    // No request for memory: it is the limit then, as Kubernetes has it.
    requests: { cpu: '2' },
    limits: { memory: '1Gi', 'nvidia.com/gpu': 1 },
  });
});

test('a pod has the time to end that the function has, and some more for saying goodbye', () => {
  const seconds = (timeoutSeconds: number): number =>
    templateOf(made({ timeoutSeconds })).spec.terminationGracePeriodSeconds;
  expect(seconds(900) - seconds(1)).toBe(899);
  expect(seconds(1)).toBeGreaterThanOrEqual(16);
  // The host says goodbye itself: a hook would keep the signal from it, and it would go on taking events.
  const manifests = made();
  expect(templateOf(manifests).spec.containers[0]).not.toHaveProperty('lifecycle');
  expect(dataOf(manifests).host.goodbyeMs).toBe(5_000);
});

const pod = {
  labels: { team: 'lab' },
  annotations: { 'prometheus.io/scrape': 'false', note: 'x' },
  volumes: [
    { name: 'data', persistentVolumeClaim: { claimName: 'data' } },
    { name: 'api', projected: { sources: [{ serviceAccountToken: { path: 'token' } }] } },
  ],
  volumeMounts: [
    { name: 'data', mountPath: '/mnt/data', readOnly: true },
    { name: 'api', mountPath: '/tmp/api' },
  ],
  imagePullSecrets: [{ name: 'registry' }],
};

test('labels, annotations, volumes and pull secrets of spec.pod are the pod’s', () => {
  const { metadata, spec } = templateOf(made({ pod }));
  expect(metadata.labels).toMatchObject({ team: 'lab', 'atoll.dev/function': 'hello' });
  expect(metadata.annotations).toMatchObject({ 'prometheus.io/scrape': 'false', note: 'x' });
  expect(spec.volumes).toEqual(expect.arrayContaining(pod.volumes));
  expect(spec.containers[0].volumeMounts).toEqual(expect.arrayContaining(pod.volumeMounts));
  expect(spec.initContainers[0].volumeMounts).not.toEqual(expect.arrayContaining(pod.volumeMounts));
  expect(spec['imagePullSecrets']).toEqual(pod.imagePullSecrets);
});

const shapes: Record<string, object> = {
  'the least': {},
  'every kind of variable': secretEnv,
  'every node': {
    placement: {
      everyNode: true,
      nodeSelector: { robot: 'yes' },
      tolerations: [{ key: 'robot', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 3600 }],
    },
  },
  'several replicas with an affinity': {
    replicas: 3,
    placement: {
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: {
            nodeSelectorTerms: [{ matchExpressions: [{ key: 'gpu', operator: 'Exists' }] }],
          },
        },
      },
    },
  },
  'scaling by CPU': { scaling: { minReplicas: 2, maxReplicas: 4, targetCPUPercent: 50 } },
  'everything of spec.pod': { pod: { ...pod, resources: { limits: { memory: '1Gi' } } } },
  'the longest timeout and the most memory': {
    timeoutSeconds: 900,
    memory: '10Gi',
    processes: 64,
    spareProcesses: 16,
  },
  'sixteen triggers': {
    triggers: Array.from({ length: 16 }, (_, n) => ({ name: `t${n}`, mqtt: { topic: `a/${n}` } })),
  },
};

test('the API server takes every object strictly, and the pods in a namespace of restricted ones', async () => {
  const kubernetes = await startKubernetes();
  const namespace = await kubernetes.namespace();
  const enforce = { 'pod-security.kubernetes.io/enforce': 'restricted' };
  await kubernetes.request('PATCH', `/api/v1/namespaces/${namespace}`, {
    contentType: 'application/merge-patch+json',
    body: { metadata: { labels: enforce } },
  });
  const key = { namespace, name: 'hello' };
  const [account] = made({}, { key }).objects;
  expect((await create(kubernetes, account!, { dryRun: false })).status).toBe(201);
  for (const [what, spec] of Object.entries(shapes)) {
    const manifests = made(spec, { key }, { ...settings, packages: 'http://gateway.atoll:80' });
    for (const object of manifests.objects.filter(({ kind }) => kind !== 'ServiceAccount')) {
      const answer = await create(kubernetes, object);
      expect(answer, `${what}: ${object.kind} ${JSON.stringify(answer.body)}`).toMatchObject({ status: 201 });
      expect(answer.headers['warning'], `${what}: ${object.kind}`).toBeUndefined();
    }
    const runner = manifests.objects.find(({ kind }) => kind === 'Deployment' || kind === 'DaemonSet')!;
    const template = templateOf(manifests, runner.kind);
    const bare = { ...account!.metadata, labels: template.metadata.labels };
    const answer = await create(kubernetes, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: bare,
      spec: template.spec,
    });
    expect(answer, `${what}: ${JSON.stringify(answer.body)}`).toMatchObject({ status: 201 });
  }
});

test(
  'the schemas of every Kubernetes it is made for take every object strictly',
  { timeout: 120_000 },
  async () => {
    const objects = Object.values(shapes).flatMap(
      (spec) => made(spec, {}, { ...settings, packages: 'http://gateway.atoll:80' }).objects,
    );
    const { judged, taken, refused } = await judgedBySchemas(objects);
    expect(refused).toEqual([]);
    expect(taken).toBe(judged * kubernetesVersions.length);
    expect(judged).toBe(objects.length);
  },
);

const plurals: Record<string, string> = {
  ServiceAccount: 'serviceaccounts',
  ConfigMap: 'configmaps',
  NetworkPolicy: 'networkpolicies',
  Service: 'services',
  Deployment: 'deployments',
  DaemonSet: 'daemonsets',
  PodDisruptionBudget: 'poddisruptionbudgets',
  HorizontalPodAutoscaler: 'horizontalpodautoscalers',
  Pod: 'pods',
};

function create(kubernetes: Kubernetes, object: Manifest, { dryRun = true } = {}) {
  const api = object.apiVersion === 'v1' ? '/api/v1' : `/apis/${object.apiVersion}`;
  const path = `${api}/namespaces/${object.metadata.namespace}/${plurals[object.kind]}`;
  const query = `fieldValidation=Strict${dryRun ? '&dryRun=All' : ''}`;
  return kubernetes.request('POST', `${path}?${query}`, { body: object });
}

test('certificates for brokers are files of a Secret, only for who reads them, and named where they lie', () => {
  const tlsSecret = { name: 'atoll-tls', ca: true, client: true };
  const nats = { url: 'tls://nats.atoll:4222', tlsSecret };
  const mqtt = { url: 'mqtts://mqtt.atoll:8883', tlsSecret: { ...tlsSecret, client: false } };
  const all = made({}, {}, { ...settings, nats, mqtt });
  const { data } = all.objects.find(({ kind }) => kind === 'ConfigMap') as unknown as {
    data: Record<string, string>;
  };
  const host = JSON.parse(data['host.json']!) as RuntimeConfig;
  expect(host.nats).toEqual({
    url: nats.url,
    tls: {
      ca: '/etc/atoll/nats-tls/ca.crt',
      certificate: '/etc/atoll/nats-tls/tls.crt',
      key: '/etc/atoll/nats-tls/tls.key',
    },
  });
  expect(host.mqtt).toEqual({ url: mqtt.url, tls: { ca: '/etc/atoll/mqtt-tls/ca.crt' } });
  const { template } = specOf(all, 'Deployment') as unknown as { template: Template };
  const sources = (volume: string): string[] =>
    (template.spec.volumes.find(({ name }) => name === volume)?.projected?.sources ?? []).flatMap((source) =>
      [...JSON.stringify(source).matchAll(/"path":"([\w-]+-tls[^"]*)"/g)].map(([, path]) => path!),
    );
  expect(sources('atoll-config')).toEqual([
    'nats-tls/ca.crt',
    'nats-tls/tls.crt',
    'nats-tls/tls.key',
    'mqtt-tls/ca.crt',
  ]);
  expect(sources('atoll-fetch')).toEqual([]);
});
