import { randomUUID } from 'node:crypto';
import { Writable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import type { Backend, Observation, Workload } from '../../../controller/backends/backend.ts';
import { openKubernetesBackend } from '../../../controller/backends/kubernetes.ts';
import { manifestsOf, type ClusterSettings } from '../../../controller/backends/manifests.ts';
import { openCluster } from '../../../controller/cluster/client.ts';
import { keyText, type Key } from '../../../controller/stores/store.ts';
import { openLog } from '../../../runtime/log.ts';
import { untilObserved } from '../../contracts/backend.ts';
import { closeLater } from '../../support/closing.ts';
import { installDefinitions } from '../../support/definitions.ts';
import { startKubernetes, type Kubernetes } from '../../support/kubernetes.ts';
import { missing } from '../../support/requirement.ts';
import { installFunctionKind } from '../../support/function-kind.ts';
import { declare, undeclare } from './function-objects.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });

const settings: ClusterSettings = { image: 'atoll:0.1.0', site: 'hub', callers: [{ namespace: 'atoll' }] };

describe.skipIf(await missing('kubernetes', 'openssl'))('objects in a cluster without nodes', () => {
  let starting: Promise<Kubernetes> | undefined;
  /** One for the whole file; a namespace for each test. */
  const cluster = (): Promise<Kubernetes> =>
    (starting ??= startKubernetes({
      controllers: true,
      scheduler: true,
      audit: true,
      // The file ends it.
      closing: () => undefined,
    }).then(async (kubernetes) => {
      await installFunctionKind(kubernetes);
      return kubernetes;
    }));

  interface Scene {
    readonly kubernetes: Kubernetes;
    readonly namespace: string;
    readonly key: Key;
    readonly backend: Backend;
    wants(spec?: object, options?: { generation?: number; code?: string }): Promise<Workload>;
    kubectl(...args: string[]): Promise<string>;
    /** `kind/name resourceVersion` of everything of ours, sorted. */
    versions(): Promise<string[]>;
    /** Of a field, such as `{.spec.replicas}`. */
    field(object: string, path: string): Promise<string>;
  }

  async function scene(options: { settings?: Partial<ClusterSettings> } = {}): Promise<Scene> {
    const kubernetes = await cluster();
    const namespace = await kubernetes.namespace();
    const key = { namespace, name: `f-${randomUUID().slice(0, 8)}` };
    const backend = await openBackend(kubernetes, namespace, { ...settings, ...options.settings });
    const kubectl = (...args: string[]): Promise<string> => kubernetes.kubectl([...args, '-n', namespace]);
    return {
      kubernetes,
      namespace,
      key,
      backend,
      wants: (spec = {}, more = {}) => declare(kubernetes, { key, spec, ...more }),
      kubectl,
      versions: async () => {
        const text = await kubectl(
          ...['get', kinds, '-l', 'app.kubernetes.io/managed-by=atoll'],
          ...[
            '-o',
            'jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\\n"}{end}',
          ],
        );
        return text.trim().split('\n').filter(Boolean).sort();
      },
      field: (object, path) => kubectl('get', object, '-o', `jsonpath=${path}`),
    };
  }

  async function openBackend(
    kubernetes: Kubernetes,
    namespace: string,
    of: ClusterSettings,
  ): Promise<Backend> {
    const client = await openCluster({ kubeconfig: kubernetes.kubeconfigFile, userAgent: namespace });
    const backend = openKubernetesBackend({ cluster: client, settings: of, namespaces: [namespace], log });
    closeLater(async () => {
      await backend.close();
      await client.close();
    });
    return backend;
  }

  const kinds =
    'serviceaccounts,configmaps,services,networkpolicies,deployments,daemonsets,poddisruptionbudgets,horizontalpodautoscalers';

  /** As the engine does: whenever the backend tells of the key, the same is ensured again. Returns the way to stop. */
  function keep(backend: Backend, workload: Workload): () => void {
    let again = Promise.resolve();
    return backend.watch((key) => {
      if (keyText(key) !== keyText(workload.key)) return;
      // A failure is tried again at the next change.
      again = again.then(() => backend.ensure(workload)).catch(() => {});
    });
  }

  const writesOf = async ({ kubernetes, namespace }: Scene): Promise<string[]> =>
    (await kubernetes.audited())
      .filter(({ userAgent, verb }) => userAgent === namespace && !['get', 'list', 'watch'].includes(verb))
      .map(({ verb, objectRef }) => `${verb} ${objectRef?.resource} ${objectRef?.name}`);

  const untilReplicas = (one: Scene, count: number): Promise<void> =>
    expect
      .poll(() => one.field(`deployment/fn-${one.key.name}`, '{.status.replicas}'))
      .toBe(String(count)) as Promise<void>;

  test('ensuring twice writes once, also for a backend that has just been started', async () => {
    const one = await scene();
    const workload = await one.wants({ replicas: 2 });
    await one.backend.ensure(workload);
    await untilReplicas(one, 2);
    // The Deployment's status goes on changing for a moment.
    await expect
      .poll(async () => {
        const before = await one.versions();
        await new Promise((resolve) => setTimeout(resolve, 300));
        return JSON.stringify(before) === JSON.stringify(await one.versions());
      })
      .toBe(true);
    const versions = await one.versions();
    expect(versions.map((line) => line.split('/')[0])).toEqual(
      expect.arrayContaining(['ConfigMap', 'Deployment', 'NetworkPolicy', 'PodDisruptionBudget', 'Service']),
    );
    const writes = await writesOf(one);
    expect(writes).toHaveLength(6);
    await one.backend.ensure(workload);
    await one.backend.ensure({ ...workload });
    expect(await writesOf(one)).toEqual(writes);

    const next = await openBackend(one.kubernetes, one.namespace, settings);
    await next.ensure(workload);
    expect(await writesOf(one)).toEqual(writes);
    expect(await one.versions()).toEqual(versions);
  });

  test.each<[string, object]>([
    [
      'a Deployment with all that a spec can say',
      {
        replicas: 2,
        env: [
          { name: 'PLAIN', value: 'x' },
          { name: 'SECRET', valueFrom: { secretKeyRef: { name: 'some', key: 'key' } } },
        ],
        placement: {
          nodeSelector: { robot: 'arm' },
          tolerations: [{ key: 'robot', operator: 'Exists' }],
        },
        pod: {
          labels: { team: 'arm' },
          annotations: { note: 'x' },
          // Not as the API server writes it.
          resources: { requests: { cpu: '1000m', memory: '1024Mi' }, limits: { memory: '2048Mi' } },
          volumes: [{ name: 'maps', emptyDir: {} }],
          volumeMounts: [{ name: 'maps', mountPath: '/maps' }],
          imagePullSecrets: [{ name: 'registry' }],
        },
      },
    ],
    ['a DaemonSet', { placement: { everyNode: true } }],
    ['an autoscaler', { scaling: { minReplicas: 1, maxReplicas: 3, targetCPUPercent: 50 } }],
  ])('a backend that has just been started writes nothing about %s', async (_what, spec) => {
    const one = await scene();
    const workload = await one.wants(spec);
    await one.backend.ensure(workload);
    await one.backend.ensure(workload);
    const writes = await writesOf(one);
    expect(writes.length).toBeGreaterThan(4);
    await one.backend.close();
    const next = await openBackend(one.kubernetes, one.namespace, settings);
    await next.ensure(workload);
    expect(await writesOf(one)).toEqual(writes);
  });

  test('what was edited while no backend ran is put right by the next one, and only that', async () => {
    const one = await scene();
    const workload = await one.wants({ replicas: 2 });
    await one.backend.ensure(workload);
    const writes = await writesOf(one);
    await one.backend.close();
    const name = `fn-${one.key.name}`;
    await one.kubectl('scale', 'deployment', name, '--replicas=1');
    await one.kubectl('label', 'service', name, 'app.kubernetes.io/managed-by-');
    await one.kubectl('annotate', 'networkpolicy', name, 'somebody=else');
    await one.kubectl('delete', 'serviceaccount', name);
    const next = await openBackend(one.kubernetes, one.namespace, settings);
    await next.ensure(workload);
    expect((await writesOf(one)).slice(writes.length).sort()).toEqual([
      `patch deployments ${name}`,
      `patch serviceaccounts ${name}`,
      `patch services ${name}`,
    ]);
    expect(await one.field(`deployment/${name}`, '{.spec.replicas}')).toBe('2');
  });

  test('a new generation changes what it is about and nothing else', async () => {
    const one = await scene();
    await one.backend.ensure(await one.wants({ replicas: 1 }));
    const before = await one.versions();
    await one.backend.ensure(await one.wants({ replicas: 0 }, { generation: 2 }));
    const changed = (await one.versions()).filter((line) => !before.includes(line));
    // The config says which generation wanted it last.
    expect(changed.map((line) => line.split(/[/ ]/)[0])).toEqual(['ConfigMap', 'Deployment']);
  });

  test.each(['Service', 'Deployment', 'ConfigMap', 'ServiceAccount', 'NetworkPolicy'])(
    'a %s of somebody else that has our name is not touched, and keeps the function from running',
    async (kind) => {
      const one = await scene();
      const workload = await one.wants();
      const manifests = manifestsOf(workload, settings);
      const name = kind === 'ConfigMap' ? manifests.config : `fn-${one.key.name}`;
      const theirs = `${kind}/${name}`;
      await one.kubernetes.kubectl(
        ['create', '-n', one.namespace, '-f', '-'],
        JSON.stringify(foreign(kind, name)),
      );
      // Also with our labels: only the owner counts.
      const labels = ['app.kubernetes.io/managed-by=atoll', `atoll.dev/function=${one.key.name}`];
      await one.kubectl('label', theirs, ...labels);
      // The Deployment's own controller writes its status.
      if (kind === 'Deployment') {
        await expect.poll(() => one.field(theirs, '{.status.observedGeneration}')).toBe('1');
      }
      const before = await one.kubectl('get', theirs, '-o', 'json');
      await one.backend.ensure(workload);
      expect((await one.backend.observe(one.key))?.problem).toEqual({
        reason: 'NameTaken',
        message: expect.stringContaining(`${theirs.replace('/', ` ${one.namespace}/`)} exists`) as string,
      });
      await one.backend.remove(one.key);
      expect(await one.kubectl('get', theirs, '-o', 'json')).toBe(before);

      await one.kubectl('delete', theirs);
      await one.backend.ensure(workload);
      expect((await one.backend.observe(one.key))?.problem?.reason).not.toBe('NameTaken');
      await untilReplicas(one, 1);
    },
  );

  function foreign(kind: string, name: string): object {
    const selector = { matchLabels: { app: 'theirs' } };
    const [apiVersion, fields] = {
      Service: ['v1', { spec: { ports: [{ port: 80 }] } }] as const,
      ConfigMap: ['v1', { data: { theirs: 'yes' } }] as const,
      ServiceAccount: ['v1', {}] as const,
      NetworkPolicy: ['networking.k8s.io/v1', { spec: { podSelector: selector } }] as const,
      Deployment: [
        'apps/v1',
        {
          spec: {
            replicas: 0,
            selector,
            template: {
              metadata: { labels: selector.matchLabels },
              spec: { containers: [{ name: 'theirs', image: 'none' }] },
            },
          },
        },
      ] as const,
    }[kind]!;
    return { apiVersion, kind, metadata: { name }, ...fields };
  }

  test('what is edited by hand is put right, what is deleted comes back, and what is not ours stays', async () => {
    const one = await scene();
    const workload = await one.wants({ replicas: 2 });
    await one.backend.ensure(workload);
    await untilReplicas(one, 2);
    const stop = keep(one.backend, workload);
    const deployment = `deployment/fn-${one.key.name}`;
    const image = '{.spec.template.spec.containers[0].image}';

    await one.kubectl('set', 'image', deployment, 'host=evil:1');
    await expect.poll(() => one.field(deployment, image)).toBe('atoll:0.1.0');
    await one.kubectl('scale', deployment, '--replicas=5');
    await expect.poll(() => one.field(deployment, '{.spec.replicas}')).toBe('2');
    await one.kubectl(
      'patch',
      `service/fn-${one.key.name}`,
      '-p',
      '{"spec":{"selector":{"atoll.dev/function":"x"}}}',
    );
    await expect
      .poll(() => one.field(`service/fn-${one.key.name}`, '{.spec.selector.atoll\\.dev/function}'))
      .toBe(one.key.name);
    const uid = await one.field(deployment, '{.metadata.uid}');
    await one.kubectl('delete', deployment, `service/fn-${one.key.name}`, '--wait=true');
    await expect.poll(() => one.field(deployment, '{.metadata.uid}').catch(() => uid)).not.toBe(uid);
    await expect.poll(() => one.kubectl('get', 'service', '-o', 'name')).toContain(`fn-${one.key.name}`);

    const config = await one.kubectl('get', 'configmap', '-o', 'name', '-l', 'atoll.dev/function');
    const configName = config.trim();
    const configUid = await one.field(configName, '{.metadata.uid}');
    await one.kubectl('delete', configName);
    await expect
      .poll(() => one.field(configName, '{.metadata.uid}').catch(() => configUid))
      .not.toBe(configUid);

    await one.kubectl('annotate', deployment, 'theirs=stays');
    await one.kubectl('label', deployment, 'app.kubernetes.io/name=other', '--overwrite');
    await expect
      .poll(() => one.field(deployment, '{.metadata.labels.app\\.kubernetes\\.io/name}'))
      .toBe(one.key.name);
    expect(await one.field(deployment, '{.metadata.annotations.theirs}')).toBe('stays');
    stop();
  }, 120_000);

  test('what is no longer wanted goes: budget, autoscaler, and the Deployment for a DaemonSet', async () => {
    const one = await scene();
    const scaling = { minReplicas: 1, maxReplicas: 3, targetCPUPercent: 50 };
    const kindsNow = async (): Promise<string[]> =>
      (await one.versions()).map((line) => line.split('/')[0] ?? '').filter((kind) => !always.has(kind));
    const always = new Set(['ConfigMap', 'NetworkPolicy', 'Service', 'ServiceAccount']);
    await one.backend.ensure(await one.wants({ replicas: 2 }));
    expect(await kindsNow()).toEqual(['Deployment', 'PodDisruptionBudget']);
    await one.backend.ensure(await one.wants({ replicas: 1 }, { generation: 2 }));
    expect(await kindsNow()).toEqual(['Deployment']);
    await one.backend.ensure(await one.wants({ scaling }, { generation: 3 }));
    expect(await kindsNow()).toEqual(['Deployment', 'HorizontalPodAutoscaler']);
    await one.backend.ensure(await one.wants({ placement: { everyNode: true } }, { generation: 4 }));
    await expect.poll(kindsNow).toEqual(['DaemonSet']);
    await one.backend.ensure(await one.wants({}, { generation: 5 }));
    await expect.poll(kindsNow).toEqual(['Deployment']);
  });

  test('both ScaledObjects are stored as they were made by KEDA’s own definition, put right when they are edited, and go', async () => {
    const kubernetes = await cluster();
    await installDefinitions(kubernetes, ['scaledobjects.keda.sh']);
    const withKeda = {
      nats: { url: 'nats://nats.atoll:4222' },
      keda: { natsMonitoring: 'nats.atoll:8222', prometheus: 'http://prometheus.monitoring:9090' },
    };
    const one = await scene({ settings: withKeda });
    const object = `scaledobject/fn-${one.key.name}`;
    const stored = async (): Promise<object> =>
      JSON.parse(await one.field(object, '{.spec}').catch(() => '{}')) as object;
    const triggers = [{ name: 'orders', jetstream: { stream: 'ORDERS' } }];
    let generation = 0;
    for (const target of [{ targetLag: 20 }, { targetInFlight: 8 }]) {
      const scaling = { minReplicas: 0, maxReplicas: 9, ...target };
      const workload = await one.wants({ scaling, triggers }, { generation: ++generation });
      await one.backend.ensure(workload);
      const manifests = manifestsOf(workload, { ...settings, ...withKeda });
      const made = manifests.objects.find(({ kind }) => kind === 'ScaledObject')!;
      expect(await stored()).toEqual(made['spec']);
      const strictly = await kubernetes.request(
        'POST',
        `/apis/keda.sh/v1alpha1/namespaces/${one.namespace}/scaledobjects?dryRun=All&fieldValidation=Strict`,
        { body: { ...made, metadata: { name: 'tried' } } },
      );
      expect(strictly, JSON.stringify(strictly.body)).toMatchObject({ status: 201 });

      const stop = keep(one.backend, workload);
      await one.kubectl('patch', object, '--type=merge', '-p', '{"spec":{"maxReplicaCount":50}}');
      await expect.poll(stored).toMatchObject({ maxReplicaCount: 9 });
      await one.kubectl('delete', object);
      await expect.poll(stored).toEqual(made['spec']);
      stop();
    }
    await one.backend.ensure(await one.wants({}, { generation: generation + 1 }));
    await expect.poll(() => one.kubectl('get', 'scaledobjects', '-o', 'name')).toBe('');
  }, 120_000);

  test('replicas are the autoscaler’s as soon as there is one, and stay what they are at that moment', async () => {
    const one = await scene();
    const deployment = `deployment/fn-${one.key.name}`;
    await one.backend.ensure(await one.wants({ replicas: 3 }));
    await untilReplicas(one, 3);
    const scaling = { minReplicas: 1, maxReplicas: 9, targetCPUPercent: 50 };
    const scaled = await one.wants({ replicas: 3, scaling }, { generation: 2 });
    await one.backend.ensure(scaled);
    expect(await one.field(deployment, '{.spec.replicas}')).toBe('3');
    const stop = keep(one.backend, scaled);
    await one.kubectl('scale', deployment, '--replicas=5');
    await untilReplicas(one, 5);
    await one.backend.ensure(scaled);
    expect(await one.field(deployment, '{.spec.replicas}')).toBe('5');
    stop();
    await one.backend.ensure(await one.wants({ replicas: 2 }, { generation: 3 }));
    expect(await one.field(deployment, '{.spec.replicas}')).toBe('2');
  });

  test('an older version that answers keeps its config, while newer ones come and do not get ready', async () => {
    const one = await scene();
    const version = (generation: number): Promise<Workload> =>
      one.wants({}, { code: `exports.handler = () => ${generation}`, generation });
    const configs = async (): Promise<string[]> =>
      (await one.versions())
        .filter((line) => line.startsWith('ConfigMap/'))
        .map((line) => line.split(/[/ ]/)[1] ?? '');
    await one.backend.ensure(await version(1));
    await untilReplicas(one, 1);
    const [first = ''] = await configs();
    // What kubelet would say.
    const pod = await one.kubectl('get', 'pods', '-o', 'name');
    const status = JSON.stringify({
      status: { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] },
    });
    await one.kubectl('patch', pod.trim(), '--subresource=status', '-p', status);
    await untilObserved(one.backend, one.key, (observation) => observation?.readyReplicas === 1);
    for (const generation of [2, 3, 4, 5]) {
      const wanted = await version(generation);
      await one.backend.ensure(wanted);
      await untilReplicas(one, 2);
      await one.backend.ensure(wanted);
    }
    const last = await version(5);
    const stop = keep(one.backend, last);
    await expect.poll(configs).toHaveLength(2);
    expect(await configs()).toContain(first);
    expect(await one.backend.observe(one.key)).toMatchObject({
      readyReplicas: 1,
      rollout: { wanted: 1, updated: 0, old: 1 },
    });
    expect(one.backend.address(one.key)).toBeUndefined();

    // A pod that is made in its place runs the same.
    await one.kubectl('delete', pod.trim(), '--force');
    await expect
      .poll(() =>
        one.kubectl('get', 'pods', '-o', 'jsonpath={.items[*].metadata.annotations.atoll\\.dev/config}'),
      )
      .toContain(first);
    expect(await configs()).toContain(first);
    stop();
  });

  test('a Function whose package was taken away is kept as it answered last, also by a backend that was not there', async () => {
    const one = await scene();
    const deployment = `deployment/fn-${one.key.name}`;
    const config = (): Promise<string> =>
      one.field(deployment, '{.spec.template.metadata.annotations.atoll\\.dev/config}').catch(() => '');
    const version = (digit: string, generation: number): Promise<Workload> =>
      one.wants(
        { package: { uri: `s3://functions/${digit}.tgz`, sha256: digit.repeat(64) }, memory: '64Mi' },
        { generation },
      );
    await one.backend.ensure(await version('a', 1));
    await untilReplicas(one, 1);
    const answered = await config();
    await one.backend.ensure(await version('b', 2));
    await untilReplicas(one, 2);
    expect(await config()).not.toBe(answered);

    // What else was changed with it waits for the next package, as it does without a controller.
    const { spec, ...rest } = await one.wants({ memory: '512Mi' }, { generation: 3 });
    const { package: _taken, ...without } = spec;
    const taken: Workload = { ...rest, spec: without, lastAnswered: 'a'.repeat(64) };
    await one.backend.ensure(taken);
    expect(await config()).toBe(answered);
    expect(await one.field(`configmap/${answered}`, '{.metadata.annotations.atoll\\.dev/generation}')).toBe(
      '1',
    );
    const memory = '{.spec.template.spec.containers[0].resources.limits.memory}';
    expect(await one.field(deployment, memory)).toBe('336Mi');

    const next = await openBackend(one.kubernetes, one.namespace, settings);
    const uid = await one.field(deployment, '{.metadata.uid}');
    await one.kubectl('delete', deployment, '--wait=true');
    const ensured = async (workload: Workload): Promise<void> => {
      // What is still going, or was not heard of yet, is for the next time.
      await next.ensure(workload).catch(() => {});
    };
    await expect.poll(() => ensured(taken).then(config)).toBe(answered);
    expect(await one.field(deployment, '{.metadata.uid}')).not.toBe(uid);
    expect(await one.field(deployment, memory)).toBe('336Mi');

    const more = { ...taken, generation: 4, spec: { ...taken.spec, replicas: 3 } };
    await next.ensure(more);
    expect(await one.field(deployment, '{.spec.replicas}')).toBe('3');
    const writes = await writesOf(one);
    await next.ensure(more);
    expect(await writesOf(one)).toEqual(writes);

    // Of its own knowledge: what it could be read from is gone.
    await one.kubectl('delete', 'configmap', answered);
    await expect
      .poll(async () => {
        await ensured(more);
        return one.field(`configmap/${answered}`, '{.data.host\\.json}').catch(() => '');
      })
      .toContain('"memory":"64Mi"');
  });

  test('removing leaves nothing, and what is made anew under the name belongs to the new Function', async () => {
    const one = await scene();
    await one.backend.ensure(await one.wants({ replicas: 2 }));
    await untilReplicas(one, 2);
    await undeclare(one.kubernetes, one.key);
    // The garbage collector is at it too.
    await one.backend.remove(one.key);
    expect(await one.backend.observe(one.key)).toBeUndefined();
    await expect.poll(() => one.versions()).toEqual([]);
    await expect.poll(() => one.kubectl('get', 'pods,replicasets', '-o', 'name')).toBe('');

    await one.backend.ensure(await one.wants());
    await untilReplicas(one, 1);
  });

  test('a Function that took a name just after another was deleted replaces what that left', async () => {
    const one = await scene();
    const first = await one.wants();
    await one.backend.ensure(first);
    await one.kubernetes.controllerManager.pause();
    closeLater(async () => one.kubernetes.controllerManager.resume());
    await undeclare(one.kubernetes, one.key);
    const second = await one.wants();
    expect(second.uid).not.toBe(first.uid);
    await expect
      .poll(async () => {
        await one.backend.ensure(second).catch(() => {});
        return one
          .field(`deployment/fn-${one.key.name}`, '{.metadata.ownerReferences[0].uid}')
          .catch(() => '');
      })
      .toBe(second.uid);
    expect((await one.backend.observe(one.key))?.problem).toBeUndefined();
  });

  const why =
    (reason: string) =>
    (observation: Observation | undefined): boolean =>
      observation?.problem?.reason === reason;

  test('the pods that the ReplicaSet makes wait for a node, and the function says so', async () => {
    const one = await scene();
    await one.backend.ensure(await one.wants({ replicas: 2 }));
    const observation = await untilObserved(
      one.backend,
      one.key,
      (now) => now?.replicas === 2 && why('Unschedulable')(now),
    );
    expect(observation).toMatchObject({ readyReplicas: 0, hosts: [] });
    expect(observation?.problem?.message).toMatch(/^pod fn-.*: no nodes available/);
    expect(one.backend.address(one.key)).toBeUndefined();
  });

  const pods = async (one: Scene): Promise<string[]> =>
    (await one.kubectl('get', 'pods', '-o', 'name')).split('\n').filter(Boolean);
  const pathOf = (one: Scene, pod: string): string =>
    `/api/v1/namespaces/${one.namespace}/pods/${pod.slice('pod/'.length)}`;
  const isReady = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] };
  /** As kubelet tells it. */
  async function tell(one: Scene, pod: string, status: object): Promise<void> {
    const contentType = 'application/strategic-merge-patch+json';
    expect(
      await one.kubernetes.request('PATCH', `${pathOf(one, pod)}/status`, { body: { status }, contentType }),
    ).toMatchObject({ status: 200 });
  }

  test('whoever drains nodes gets one pod of a function at a time', async () => {
    const one = await scene();
    await one.backend.ensure(await one.wants({ replicas: 2 }));
    await untilReplicas(one, 2);
    const [first, second] = await pods(one);
    const drain = (pod: string): Promise<{ status: number; body: unknown }> =>
      one.kubernetes.request('POST', `${pathOf(one, pod)}/eviction`, {
        body: { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: pod.slice('pod/'.length) } },
      });
    const allowed = (): Promise<string> =>
      one.field(`pdb/fn-${one.key.name}`, '{.status.disruptionsAllowed} of {.status.currentHealthy}');
    for (const pod of [first!, second!]) await tell(one, pod, isReady);
    await expect.poll(allowed).toBe('1 of 2');
    expect((await drain(first!)).status).toBe(201);
    const refused = await drain(second!);
    expect({ status: refused.status, body: JSON.stringify(refused.body) }).toEqual({
      status: 429,
      body: expect.stringContaining("violate the pod's disruption budget") as string,
    });
    await expect.poll(async () => (await pods(one)).filter((pod) => pod !== first).length).toBe(2);
    const third = (await pods(one)).find((pod) => pod !== first && pod !== second)!;
    await tell(one, third, isReady);
    await expect.poll(allowed).toBe('1 of 2');
    expect((await drain(second!)).status).toBe(201);
  });

  test('a pod that its node gave up is told of until another is ready in its place, though it stays', async () => {
    const one = await scene();
    await one.backend.ensure(await one.wants());
    await untilReplicas(one, 1);
    const [evicted] = await pods(one);
    await tell(one, evicted!, { phase: 'Failed', reason: 'Evicted', message: 'The node was low on memory.' });
    await expect.poll(async () => (await pods(one)).length).toBe(2);
    const next = (await pods(one)).find((pod) => pod !== evicted);
    await untilObserved(one.backend, one.key, (now) => now?.replicas === 1 && now.problem !== undefined);
    await tell(one, next!, isReady);
    await untilObserved(one.backend, one.key, (now) => now?.readyReplicas === 1 && !now.problem);
    expect(await one.field(evicted!, '{.status.phase}')).toBe('Failed');
  });

  test('a quota that does not allow the pods is told of', async () => {
    const one = await scene();
    await one.kubectl('create', 'quota', 'small', '--hard=limits.memory=1Mi');
    // Admission learns of a quota by a watch of its own.
    await expect.poll(() => one.field('quota/small', '{.status.hard}')).toContain('1Mi');
    await one.backend.ensure(await one.wants());
    const observation = await untilObserved(one.backend, one.key, why('QuotaExceeded'));
    expect(observation?.problem?.message).toContain('exceeded quota: small');
  });

  test('a quota that does not allow the pods of every node is told of, and no more once it does', async () => {
    const one = await scene();
    const node = `node-${randomUUID().slice(0, 8)}`;
    await one.kubernetes.request('POST', '/api/v1/nodes', { body: { metadata: { name: node } } });
    closeLater(async () => void (await one.kubernetes.request('DELETE', `/api/v1/nodes/${node}`)));
    await one.kubectl('create', 'quota', 'small', '--hard=limits.memory=1Mi');
    await expect.poll(() => one.field('quota/small', '{.status.hard}')).toContain('1Mi');
    const workload = await one.wants({ placement: { everyNode: true } });
    await one.backend.ensure(workload);
    const observation = await untilObserved(one.backend, one.key, why('QuotaExceeded'));
    // No name of a pod, which is another at every attempt.
    expect(observation?.problem?.message).toMatch(/^its pods are refused: exceeded quota: small, /);
    await one.kubectl('delete', 'quota', 'small');
    const stop = keep(one.backend, workload);
    await untilObserved(one.backend, one.key, (now) => now?.replicas === 1 && !why('QuotaExceeded')(now));
    stop();
  });

  test('what the API server does not take is told of, and what runs goes on running', async () => {
    const one = await scene();
    await one.backend.ensure(await one.wants());
    await untilReplicas(one, 1);
    const volumes = [{ name: 'odd', emptyDir: { sizeLimit: 'much' } }];
    await one.backend.ensure(await one.wants({ pod: { volumes } }, { generation: 2 }));
    expect((await one.backend.observe(one.key))?.problem).toMatchObject({
      reason: 'InvalidObject',
      message: expect.stringContaining('quantities must match') as string,
    });
    const volumeMounts = [{ name: 'lost', mountPath: '/mnt/lost' }];
    await one.backend.ensure(await one.wants({ pod: { volumeMounts } }, { generation: 3 }));
    expect((await one.backend.observe(one.key))?.problem).toMatchObject({
      reason: 'InvalidObject',
      message: expect.stringContaining('Not found: "lost"') as string,
    });
    await untilReplicas(one, 1);
  });

  test('an API server that was away is found again, and what was changed meanwhile is put right', async () => {
    const one = await scene();
    const workload = await one.wants();
    await one.backend.ensure(workload);
    await untilReplicas(one, 1);
    const stop = keep(one.backend, workload);
    await one.kubernetes.apiserver.kill();
    await one.kubernetes.apiserver.restart();
    await one.kubectl('set', 'image', `deployment/fn-${one.key.name}`, 'host=evil:1');
    await expect
      .poll(() => one.field(`deployment/fn-${one.key.name}`, '{.spec.template.spec.containers[0].image}'))
      .toBe('atoll:0.1.0');
    stop();
  });
});
