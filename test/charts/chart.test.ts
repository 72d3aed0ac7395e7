import { execFile } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { cp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { readControllerConfig } from '../../controller/config.ts';
import {
  accountRights,
  clusterRights,
  functionRights,
  leaseRights,
  secretRights,
  type Rule,
} from '../../controller/rights.ts';
import { readGatewayConfig } from '../../gateway/config.ts';
import { chart, manifest } from '../../charts/manifest.ts';
import { installDefinitions } from '../support/definitions.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import type { Kubernetes } from '../support/kubernetes.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { judgedBySchemas, kubernetesVersions } from '../support/schemas.ts';

interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec?: unknown;
  readonly data?: Readonly<Record<string, string>>;
}

interface SpecSchema {
  properties: { spec: { properties: Record<string, unknown> } };
}

const root = join(import.meta.dirname, '../..');

/** Every part that is off by default, and everything that changes what is rendered. */
const everything = {
  site: 'hub',
  image: {
    repository: 'registry.example:5000/atoll',
    digest: `sha256:${'0'.repeat(64)}`,
    pullSecrets: ['registry'],
  },
  namespaces: ['lab', 'yard'],
  watchSecretsIn: ['lab'],
  controller: {
    nodeSelector: { 'kubernetes.io/arch': 'amd64' },
    tolerations: [{ key: 'robots', operator: 'Exists' }],
    affinity: { nodeAffinity: {} },
    podAnnotations: { note: 'of the controller' },
    priorityClassName: 'system-cluster-critical',
  },
  gateway: {
    replicas: 1,
    keysSecret: 'atoll-keys',
    tlsSecret: 'atoll-tls',
    allowedOrigins: ['https://ui.example'],
    service: { type: 'LoadBalancer', port: 8700, annotations: { note: 'of the Service' } },
    ingress: {
      enabled: true,
      className: 'nginx',
      annotations: { note: 'of the Ingress' },
      hosts: ['atoll.example'],
      tls: [{ secretName: 'atoll-tls', hosts: ['atoll.example'] }],
    },
    httpRoute: { enabled: true, parentRefs: [{ name: 'door' }], hostnames: ['atoll.example'] },
  },
  nats: {
    credentialsSecret: 'atoll-nats',
    tls: { secret: 'atoll-nats-tls', client: true },
    server: { enabled: true, storage: { className: 'fast' } },
  },
  mqtt: { credentialsSecret: 'atoll-mqtt', tls: { secret: 'atoll-mqtt-tls' } },
  s3: { endpoint: 'http://s3.example:7070', credentialsSecret: 'atoll-s3' },
  keda: { natsMonitoring: 'nats.example:8222', prometheus: 'http://prometheus.example:9090' },
  networkPolicy: { metricsFrom: ['monitoring'] },
  admission: { packages: ['s3://atoll/'] },
  monitoring: {
    podMonitor: { enabled: true, labels: { release: 'prometheus' } },
    rules: { enabled: true },
    dashboards: { enabled: true },
  },
};

async function helm(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(await requireTool('helm'), args, {
    maxBuffer: 64 * 1024 * 1024,
    // Nothing of the user's own: repositories, plug-ins, kubeconfig.
    env: { PATH: process.env['PATH'], HOME: await temporaryFolder() },
  });
  return stdout;
}

async function valuesFile(values: object): Promise<string> {
  const file = join(await temporaryFolder(), 'values.json');
  await writeFile(file, JSON.stringify(values));
  return file;
}

async function render(values: object = {}): Promise<string> {
  const file = await valuesFile(values);
  return helm('template', 'atoll', chart, '--namespace', 'atoll-system', '--values', file);
}

/** kubernetes-validate reads a schema anew for each object and version: 5 s of CPU. */
const schemas = { timeout: 120_000 };

const objectsOf = (text: string): KubernetesObject[] =>
  parseAllDocuments(text)
    .map((document) => document.toJSON() as KubernetesObject | null)
    .filter((object) => object !== null);

/** Without the CustomResourceDefinition, which is generated and compared elsewhere. */
const withoutDefinition = (text: string): string =>
  text
    .split(/^---\n/m)
    .filter((part) => !part.includes('kind: CustomResourceDefinition'))
    .join('---\n');

describe.skipIf(await missing('helm'))('the chart', () => {
  test.each([
    ['with its defaults', {}],
    ['with everything on', everything],
  ])('passes "helm lint --strict" %s', async (_, values) => {
    const said = await helm('lint', '--strict', '--values', await valuesFile(values), chart);
    expect(said).toContain('1 chart(s) linted, 0 chart(s) failed');
  });

  test.each([
    ['defaults.yaml', {}],
    ['everything.yaml', everything],
  ])('renders what %s shows (else: npx vitest run test/charts -u)', async (file, values) => {
    await expect(withoutDefinition(await render(values))).toMatchFileSnapshot(`snapshots/${file}`);
  });

  test.each<[string, object, RegExp]>([
    ['a value that is not there', { nat: { url: '' } }, /nat/],
    ['credentials in an address', { nats: { url: 'nats://user:pass@nats:4222' } }, /nats.*url/s],
    ['a site that is no DNS label', { site: 'Hub_1' }, /site/],
    ['the tag latest', { image: { tag: 'latest' } }, /image.*tag/s],
    [
      'Secrets watched where no Functions run',
      { namespaces: ['lab'], watchSecretsIn: ['yard'] },
      /watchSecretsIn: yard is not among namespaces/,
    ],
    ['no replica', { controller: { replicas: 0 } }, /controller.*replicas/s],
    [
      'a package that could end the expression',
      { admission: { packages: ["s3://a/' || true || '"] } },
      /packages/,
    ],
  ])('is refused with %s, and told where', async (_, values, where) => {
    await expect(render(values)).rejects.toThrow(where);
  });

  test.each([
    ['with its defaults', {}],
    ['with everything on', everything],
  ])(
    'is taken strictly by the schemas of every Kubernetes it is made for, %s',
    schemas,
    async (_, values) => {
      const objects = objectsOf(await render(values));
      const { judged, taken, refused } = await judgedBySchemas(objects);
      expect(refused).toEqual([]);
      expect(taken).toBe(judged * kubernetesVersions.length);
      expect(judged).toBeGreaterThan(20);
      const deployment = objects.find(({ kind }) => kind === 'Deployment')!;
      const wrong = { ...deployment, spec: { ...(deployment.spec as object), replica: 2 } };
      expect((await judgedBySchemas([wrong])).refused).toHaveLength(kubernetesVersions.length);
    },
  );

  test('keeps the CustomResourceDefinition when it is uninstalled, and it is the one of the checkout', async () => {
    const definition = objectsOf(await render()).find(({ kind }) => kind === 'CustomResourceDefinition')!;
    expect(definition.metadata.annotations).toEqual({ 'helm.sh/resource-policy': 'keep' });
    const own = parse(readFileSync(join(root, 'crds/function.yaml'), 'utf8')) as KubernetesObject;
    expect(definition.spec).toEqual(own.spec);
    const without = objectsOf(await render({ crd: { install: false } }));
    expect(without.map(({ kind }) => kind)).not.toContain('CustomResourceDefinition');
  });

  /** Checked as the programs check it. */
  async function configsOf(values: object) {
    const folder = await temporaryFolder();
    const configs = objectsOf(await render(values)).filter(({ kind }) => kind === 'ConfigMap');
    const fileOf = async (part: string): Promise<string> => {
      const map = configs.find(({ metadata }) => metadata.name === `atoll-${part}`)!;
      await writeFile(join(folder, part), map.data![`${part}.json`]!);
      return join(folder, part);
    };
    return {
      controller: await readControllerConfig(await fileOf('controller')),
      gateway: await readGatewayConfig(await fileOf('gateway')),
    };
  }

  test('gives controller and gateway configurations that they take', async () => {
    const { controller, gateway } = await configsOf({ s3: { endpoint: 'http://s3.example:7070' } });
    expect(controller).toMatchObject({
      site: 'local',
      image: expect.stringMatching(/^docker\.io\/library\/atoll:\d/) as string,
      packages: 'http://atoll-gateway.atoll-system.svc:80',
      lease: { namespace: 'atoll-system' },
    });
    expect(controller.namespaces).toBeUndefined();
    expect(gateway).toMatchObject({ site: 'local', listen: { port: 8700 }, s3: { bucket: 'atoll' } });
    expect(gateway.keysFile).toBeUndefined();
  });

  test('writes no secret into a configuration, only where its file lies', async () => {
    const { controller, gateway } = await configsOf(everything);
    expect(gateway).toMatchObject({
      keysFile: '/etc/atoll/keys',
      tls: { certFile: '/etc/atoll-tls/tls.crt' },
      nats: {
        credentialsFile: '/etc/atoll/nats.json',
        tls: {
          ca: '/etc/atoll/nats-tls/ca.crt',
          certificate: '/etc/atoll/nats-tls/tls.crt',
          key: '/etc/atoll/nats-tls/tls.key',
        },
      },
      s3: { credentialsFile: '/etc/atoll/s3.json' },
    });
    expect(controller).toMatchObject({
      site: 'hub',
      image: `registry.example:5000/atoll@sha256:${'0'.repeat(64)}`,
      namespaces: ['lab', 'yard'],
      nats: {
        url: 'nats://atoll-nats.atoll-system.svc:4222',
        credentialsFile: '/etc/atoll/nats.json',
        credentials: { name: 'atoll-nats', key: 'nats.json' },
        tlsSecret: { name: 'atoll-nats-tls', ca: true, client: true },
      },
      mqtt: {
        tls: { ca: '/etc/atoll/mqtt-tls/ca.crt' },
        tlsSecret: { name: 'atoll-mqtt-tls', ca: true, client: false },
      },
      s3: { bucket: 'atoll', credentials: { name: 'atoll-s3', key: 's3.json' } },
      callers: [
        { namespace: 'atoll-system', labels: { 'app.kubernetes.io/component': 'controller' } },
        { namespace: 'atoll-system', labels: { 'app.kubernetes.io/component': 'gateway' } },
        { namespace: 'monitoring' },
      ],
    });
  });

  test('with accounts gives the controller the operator, the gateway the accounts, the server neither', async () => {
    const nats = { accounts: { secret: 'atoll-accounts' }, server: { enabled: true } };
    const { controller, gateway } = await configsOf({ nats });
    expect(controller.nats).toEqual({
      url: 'nats://atoll-nats.atoll-system.svc:4222',
      operatorFile: '/etc/atoll/operator.seed',
    });
    expect(gateway.nats).toEqual({ url: controller.nats!.url, accountsFile: '/etc/atoll/accounts.seed' });
    // Its MQTT would take nobody without a JWT.
    expect(controller.mqtt).toBeUndefined();
    const objects = objectsOf(await render({ nats }));
    const given = (kind: string, name: string): string[] => {
      const object = objects.find((one) => one.kind === kind && one.metadata.name === name);
      return [...JSON.stringify(object).matchAll(/"key":"([\w.]+)"/g)].map(([, key]) => key!);
    };
    expect(given('Deployment', 'atoll-controller')).toEqual(['operator.seed']);
    expect(given('Deployment', 'atoll-gateway')).toEqual(['accounts.seed']);
    expect(given('StatefulSet', 'atoll-nats')).toEqual(['server.conf']);
    await expect(render({ nats: { ...nats, credentialsSecret: 'atoll-nats' } })).rejects.toThrow(
      /set one of them/,
    );
  });

  test('has no right beyond its namespaces when they are named', async () => {
    const objects = objectsOf(await render(everything));
    const wide = objects.filter(({ kind }) => kind === 'ClusterRole');
    expect(wide.map(({ metadata }) => metadata.name).sort()).toEqual([
      'atoll-system-atoll-controller-identity',
      'atoll-system-atoll-gateway-reviews',
    ]);
    expect(objects.filter(({ kind }) => kind === 'Role')).toHaveLength(6);
  });

  test('may read Secrets in the namespaces of watchSecretsIn and in no other', async () => {
    const values = { watchSecretsIn: ['lab'] };
    const { controller } = await configsOf(values);
    expect(controller.watchSecretsIn).toEqual(['lab']);
    const reading = objectsOf(await render(values))
      .filter(({ kind }) => /Role$/.test(kind))
      .filter((role) =>
        (role as unknown as { rules: Rule[] }).rules.some(({ resources }) => resources.includes('secrets')),
      );
    expect(reading.map(({ kind, metadata }) => `${kind} ${metadata.namespace}/${metadata.name}`)).toEqual([
      'Role lab/atoll-controller-secrets',
    ]);
  });

  test('gives the controller the rights that it needs, no more and no fewer', async () => {
    const all = {
      watchSecretsIn: ['lab'],
      keda: { prometheus: 'http://prometheus:9090' },
      nats: { url: 'nats://nats:4222', accounts: { secret: 'atoll-accounts' } },
    };
    const roles = objectsOf(await render(all)).filter(
      ({ kind, metadata }) => /Role$/.test(kind) && metadata.name.includes('-controller'),
    );
    const single = (rules: readonly Omit<Rule, 'why'>[]): string[] =>
      rules.flatMap(({ apiGroups, resources, verbs }) =>
        apiGroups.flatMap((group) =>
          resources.flatMap((resource) => verbs.map((verb) => `${verb} ${resource} ${group}`)),
        ),
      );
    const granted = roles.flatMap((role) => single((role as unknown as { rules: Rule[] }).rules));
    expect(granted.sort()).toEqual(
      single([...functionRights, ...accountRights, ...secretRights, ...leaseRights, ...clusterRights]).sort(),
    );
    const without = await render();
    expect(without).not.toContain('keda.sh');
    expect(without).not.toContain('secrets');
  });

  test('its alerts and dashboards speak of metrics that there are', () => {
    const page = readFileSync(join(root, 'docs/reference/metrics.md'), 'utf8');
    const known = new Set([...page.matchAll(/^\| `(atoll_\w+)` \| (\w+)/gm)].map(([, name]) => name!));
    const files = [
      join(chart, 'files/rules.yaml'),
      ...readdirSync(join(chart, 'files/dashboards')).map((name) => join(chart, 'files/dashboards', name)),
    ];
    const named = files.flatMap((file) => readFileSync(file, 'utf8').match(/\batoll_[a-z_]+/g) ?? []);
    expect(named.length).toBeGreaterThan(15);
    expect(named.filter((name) => !known.has(name.replace(/_bucket$/, '')))).toEqual([]);
  });
});

describe.skipIf(await missing('helm', 'kubernetes', 'openssl', 'definitions'))('on a cluster', () => {
  let cluster: Kubernetes;
  beforeAll(async () => {
    cluster = await startKubernetes({ controllers: true, users: { ada: ['developers'] } });
  });
  const install = (...args: string[]): Promise<string> =>
    helm(...args, '--kubeconfig', cluster.kubeconfigFile, '--namespace', 'atoll-system');
  const functionsPath = (namespace: string): string =>
    `/apis/atoll.dev/v1alpha1/namespaces/${namespace}/functions`;
  /** Of a version whose Functions had no `retry`. */
  async function olderChart(): Promise<string> {
    const folder = join(await temporaryFolder(), 'atoll');
    await cp(chart, folder, { recursive: true });
    const file = join(folder, 'files/function.yaml');
    const definition = parse(readFileSync(file, 'utf8')) as {
      spec: { versions: { schema: { openAPIV3Schema: SpecSchema } }[] };
    };
    delete definition.spec.versions[0]!.schema.openAPIV3Schema.properties.spec.properties['retry'];
    await writeFile(file, stringify(definition));
    return folder;
  }
  const hello = (name: string, uri?: string): object => ({
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name },
    spec: {
      runtime: 'nodejs24.x',
      handler: 'index.handler',
      ...(uri !== undefined && { package: { uri, sha256: '0'.repeat(64) } }),
    },
  });

  test('every object is accepted strictly, and the namespace may enforce the restricted standard', async () => {
    await cluster.kubectl(['create', 'namespace', 'atoll-system']);
    for (const name of ['lab', 'yard']) await cluster.kubectl(['create', 'namespace', name]);
    await cluster.kubectl([
      ...['label', 'namespace', 'atoll-system', 'pod-security.kubernetes.io/enforce=restricted'],
      ...['pod-security.kubernetes.io/warn=restricted'],
    ]);
    await installDefinitions(cluster, [
      'httproutes.gateway.networking.k8s.io',
      'podmonitors.monitoring.coreos.com',
      'prometheusrules.monitoring.coreos.com',
    ]);
    for (const values of [{}, everything]) {
      const objects = objectsOf(await render(values));
      const text = objects.map((object) => JSON.stringify(object)).join('\n---\n');
      const said = await cluster.kubectl(
        ['apply', '--server-side', '--dry-run=server', '--validate=strict', '-f', '-'],
        text,
      );
      expect(said.trim().split('\n')).toHaveLength(objects.length);
      if (values === everything) {
        for (const one of ['ingress.networking.k8s.io', 'httproute.gateway', 'podmonitor', 'prometheusrule'])
          expect(said).toContain(one);
      }
      expect(said).not.toContain('would violate');
      for (const object of objects.filter(({ kind }) => /Deployment|StatefulSet/.test(kind))) {
        const { template, volumeClaimTemplates = [] } = object.spec as {
          template: { metadata: object; spec: { volumes: object[] } };
          volumeClaimTemplates?: { metadata: { name: string } }[];
        };
        const claims = volumeClaimTemplates.map(({ metadata }) => ({ name: metadata.name, emptyDir: {} }));
        const volumes = [...template.spec.volumes, ...claims];
        const { status, body } = await cluster.request(
          'POST',
          '/api/v1/namespaces/atoll-system/pods?dryRun=All&fieldValidation=Strict',
          {
            body: {
              apiVersion: 'v1',
              kind: 'Pod',
              metadata: { ...template.metadata, name: 'tried' },
              spec: {
                ...template.spec,
                volumes,
                serviceAccountName: 'default',
                priorityClassName: undefined,
              },
            },
          },
        );
        expect({ status, body: status === 201 ? undefined : body }).toEqual({ status: 201, body: undefined });
      }
    }
  });

  test('is installed, upgraded and uninstalled, and the users’ Functions stay', async () => {
    await install('install', 'atoll', await olderChart());
    await cluster.kubectl([
      'wait',
      '--for=condition=Established',
      'crd/functions.atoll.dev',
      '--timeout=20s',
    ]);
    await expect
      .poll(async () => (await cluster.request('POST', functionsPath('lab'), { body: hello('kept') })).status)
      .toBe(201);
    // What an older CustomResourceDefinition did not know is a field after the upgrade, with its default.
    const patient = { spec: { retry: { maxAttempts: 7 } } };
    const change = async (): Promise<{ status: number; body: unknown }> =>
      await cluster.request('PATCH', `${functionsPath('lab')}/kept?fieldValidation=Strict`, {
        contentType: 'application/merge-patch+json',
        body: patient,
      });
    expect(JSON.stringify((await change()).body)).toContain('unknown field \\"spec.retry\\"');
    const before = await cluster.kubectl([
      ...[
        'get',
        'deployment',
        'atoll-controller',
        '-n',
        'atoll-system',
        '-o',
        'jsonpath={.metadata.generation}',
      ],
    ]);
    await install('upgrade', 'atoll', chart);
    await expect.poll(async () => (await change()).status).toBe(200);
    const { body: kept } = await cluster.request('GET', `${functionsPath('lab')}/kept`);
    expect(kept).toMatchObject({ spec: { retry: { maxAttempts: 7, minBackoffMs: 1000 } } });
    expect(
      await cluster.kubectl([
        ...['get', 'deployment', 'atoll-controller', '-n', 'atoll-system'],
        ...['-o', 'jsonpath={.metadata.generation}'],
      ]),
    ).toBe(before);
    await install('upgrade', 'atoll', chart, '--set', 'controller.replicas=3');
    await install('uninstall', 'atoll');
    expect((await cluster.request('GET', `${functionsPath('lab')}/kept`)).status).toBe(200);
    const left = await cluster.kubectl([
      ...[
        'get',
        'all,cm,sa,role,rolebinding,clusterrole,clusterrolebinding,netpol,pdb,validatingadmissionpolicy',
      ],
      ...['-A', '-l', 'app.kubernetes.io/instance=atoll', '-o', 'name'],
    ]);
    expect(left.split('\n').filter((line) => line !== '' && !/^(pod|replicaset)/.test(line))).toEqual([]);
  });

  test('packages and names that a namespace does not allow are refused, with what is allowed', async () => {
    await install('install', 'atoll', chart, '--set', 'admission.packages={s3://atoll/}');
    const post = (namespace: string, body: object) =>
      cluster.request('POST', `${functionsPath(namespace)}?dryRun=All`, { body });
    const message = 'allowed are URIs that begin with s3://atoll/';
    // Until the API server has heard of the policy.
    await expect
      .poll(async () => JSON.stringify((await post('lab', hello('a', 's3://other/a.tgz'))).body))
      .toContain(message);
    expect((await post('lab', hello('a', 's3://atoll/a.tgz'))).status).toBe(201);
    expect((await post('lab', hello('a'))).status).toBe(201);

    await cluster.kubectl([
      ...['annotate', 'namespace', 'yard', 'atoll.dev/packages=s3://other/, s3://more/'],
      'atoll.dev/names=^yard-',
    ]);
    await expect.poll(async () => (await post('yard', hello('yard-a', 's3://more/a.tgz'))).status).toBe(201);
    const refused = await post('yard', hello('yard-a', 's3://atoll/a.tgz'));
    expect(refused).toMatchObject({ status: 403, body: { reason: 'Forbidden' } });
    const named = await post('yard', hello('a', 's3://more/a.tgz'));
    expect(JSON.stringify(named.body)).toContain(
      'metadata.name: a is not allowed in this namespace; a name has to match ^yard-',
    );
  });

  test('the plain manifest is applied in one go', async () => {
    await install('uninstall', 'atoll');
    const text = await manifest();
    expect(objectsOf(text)[0]).toMatchObject({ kind: 'Namespace', metadata: { name: 'atoll-system' } });
    expect(text).not.toContain('Helm');
    await cluster.kubectl(
      ['apply', '--server-side', '--force-conflicts', '--validate=strict', '-f', '-'],
      text,
    );
    expect(await cluster.kubectl(['get', 'deployments', '-n', 'atoll-system', '-o', 'name'])).toBe(
      'deployment.apps/atoll-controller\ndeployment.apps/atoll-gateway\n',
    );
  });
});

test('every program that the chart starts is in the image', () => {
  const templates = readdirSync(join(chart, 'templates')).map((name) =>
    readFileSync(join(chart, 'templates', name), 'utf8'),
  );
  const programs = templates.flatMap((text) => [...text.matchAll(/command: \[node, ([\w/]+)\.js/g)]);
  expect(programs.map(([, path]) => path)).toEqual(['controller/main', 'gateway/main']);
  expect(programs.filter(([, path]) => !existsSync(join(root, `${path}.ts`)))).toEqual([]);
});
