/** A cluster on its bad days: parts of it go away while functions run, and come back without anybody's help. */
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Writable } from 'node:stream';
import { DeleteObjectCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import type { NatsConnection } from '@nats-io/transport-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { openKubernetesBackend } from '../../controller/backends/kubernetes.ts';
import { readControllerConfig, settingsOf } from '../../controller/config.ts';
import type { LeaseTimings } from '../../controller/lease.ts';
import { startReplica, type Replica } from '../../controller/start-replica.ts';
import type { Condition, FunctionObject } from '../../crds/function.ts';
import { readGatewayConfig } from '../../gateway/config.ts';
import { startClusterGateway, type ClusterGateway } from '../../gateway/start-cluster.ts';
import { openLog } from '../../runtime/log.ts';
import { packFiles } from '../../runtime/package/pack.ts';
import { soak } from '../faults/scale.ts';
import { sha256Of } from '../runtime/package/archives.ts';
import { closeLater, type Closing } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { functionsPath, installFunctionKind } from '../support/function-kind.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { startKubernetesProxy } from '../support/kubernetes-proxy.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import { missing } from '../support/requirement.ts';
import { startVersitygw, type S3Server } from '../support/s3.ts';

/** How long something is away: longer than a package's container has patience, and than a lease lasts. */
const awayMs = soak ? 60_000 : 3_000;
/** kube-controller-manager gives a node 20 s, kubelet a container that failed 10 s and more each time. */
const untilMs = soak ? 240_000 : 90_000;
const absent = (await missingNodes()) ?? (await missing('nats-server', 'versitygw'));

describe.skipIf(absent)('a cluster on its bad days', { timeout: soak ? 900_000 : 240_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let nats: NatsServer;
  let client: NatsConnection;
  let s3: S3Server;
  let store: S3Client;
  let gateway: ClusterGateway;
  /** What the controller did not say is no use to whoever reads why a test failed. */
  let logged = '';
  const log = openLog({
    destination: new Writable({
      write(chunk: Buffer, _encoding, done) {
        logged = (logged + chunk.toString()).slice(-20_000);
        done();
      },
    }),
  });
  const namespaces: Record<'robots' | 'packages' | 'servers', string> = {
    robots: '',
    packages: '',
    servers: '',
  };
  const packageCache = (async () => join(await temporaryFolder(), 'packages'))();

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({
      nodes: ['robot-1', 'robot-2'],
      audit: true,
      users: { mortal: ['system:masters'] },
    });
    await installFunctionKind(kubernetes);
    const { place } = kubernetes;
    [nats, s3] = await Promise.all([startNats({ place }), startVersitygw({ place })]);
    client = await nats.connect();
    store = s3.client();
    for (const name of ['robots', 'packages', 'servers'] as const) {
      namespaces[name] = await kubernetes.namespace();
    }
    const { accessKeyId, secretAccessKey, endpoint, bucket } = s3;
    const credentialsFile = join(await temporaryFolder(), 's3.json');
    await writeFile(credentialsFile, JSON.stringify({ accessKeyId, secretAccessKey }), { mode: 0o600 });
    gateway = await startClusterGateway(
      await readGatewayConfig(
        await configFile({
          site: 'hub',
          kubeconfig: kubernetes.kubeconfigFile,
          listen: { host: place.host, port: 0 },
          s3: { endpoint, bucket, credentialsFile },
          packages: { cache: await packageCache },
        }),
      ),
      log,
    );
    closeLater(() => gateway.stop());
    await startController({
      kubeconfig: kubernetes.kubeconfigFile,
      nats: { url: nats.url },
      packages: gateway.url,
      namespaces: Object.values(namespaces),
    });
  }, 180_000);

  async function configFile(config: object, closing?: Closing): Promise<string> {
    const file = join(await temporaryFolder(closing && { closing }), 'config.json');
    await writeFile(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }

  /** As controller/main.ts does. */
  async function startController(
    more: object,
    options: { leaseTimings?: LeaseTimings; closing?: Closing } = {},
  ): Promise<Replica> {
    const config = await readControllerConfig(
      await configFile(
        {
          site: 'hub',
          image: kubernetes.image,
          listen: { host: '127.0.0.1', port: 0 },
          lease: { namespace: 'default' },
          ...more,
        },
        options.closing,
      ),
    );
    const { namespaces: within } = config;
    const { leaseTimings, closing } = options;
    const replica = await startReplica({
      config,
      log,
      ...(leaseTimings && { leaseTimings }),
      openBackend: async (cluster) =>
        openKubernetesBackend({
          cluster,
          settings: settingsOf(config),
          log,
          ...(within && { namespaces: within }),
        }),
    });
    closeLater(() => replica.stop(), closing);
    return replica;
  }

  interface Key {
    readonly namespace: string;
    readonly name: string;
  }
  const pathOf = ({ namespace, name }: Key): string =>
    functionsPath.replace('functions', `namespaces/${namespace}/functions/${name}`);

  async function create({ namespace, name }: Key, spec: object): Promise<void> {
    const body = { apiVersion: 'atoll.dev/v1alpha1', kind: 'Function', metadata: { name, namespace }, spec };
    const path = pathOf({ namespace, name: '' }).slice(0, -1);
    const answer = await kubernetes.request('POST', path, { body });
    if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  }
  async function change(key: Key, spec: object): Promise<void> {
    const contentType = 'application/merge-patch+json';
    const answer = await kubernetes.request('PATCH', pathOf(key), { body: { spec }, contentType });
    if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  }
  async function read(key: Key): Promise<FunctionObject> {
    return (await kubernetes.request('GET', pathOf(key))).body as FunctionObject;
  }
  async function readyOf(key: Key): Promise<Condition | undefined> {
    return (await read(key)).status?.conditions?.find(({ type }) => type === 'Ready');
  }
  /** Tests that run at the same time cannot share expect.poll, which asks in which of them it is. */
  async function until(expectation: () => Promise<void>): Promise<void> {
    const deadline = performance.now() + untilMs;
    for (;;) {
      try {
        return await expectation();
      } catch (error) {
        if (performance.now() > deadline) throw error;
      }
      await pause(100);
    }
  }
  const untilReadyIs = (key: Key, condition: object): Promise<void> =>
    until(async () => expect(await readyOf(key)).toMatchObject(condition));
  /** Of the generation that is declared now. */
  async function untilReady(key: Key): Promise<void> {
    await until(async () => {
      const { metadata, status } = await read(key);
      const ready = status?.conditions?.find(({ type }) => type === 'Ready');
      expect(ready).toMatchObject({ status: 'True', observedGeneration: metadata.generation });
    }).catch(async (error: unknown) => {
      const pods = await kubernetes.kubectl(['get', 'pods,events', '-n', key.namespace]);
      throw new Error(`${String(error)}\n${pods}\n${logged.slice(-4_000)}`, { cause: error });
    });
  }

  interface Pod {
    readonly metadata: { readonly name: string; readonly uid: string };
    readonly spec: { readonly nodeName?: string };
    readonly status: {
      readonly podIP?: string;
      readonly containerStatuses?: readonly { readonly restartCount: number }[];
    };
  }
  async function podsOf({ namespace, name }: Key): Promise<Pod[]> {
    const selector = encodeURIComponent(`atoll.dev/function=${name}`);
    const { body } = await kubernetes.request(
      'GET',
      `/api/v1/namespaces/${namespace}/pods?labelSelector=${selector}`,
    );
    return (body as { items: Pod[] }).items;
  }
  /** Which pods there are and how often their containers began. */
  const lives = async (key: Key): Promise<string[]> =>
    (await podsOf(key))
      .map(({ metadata, status }) => `${metadata.uid} ${status.containerStatuses?.[0]?.restartCount}`)
      .sort();

  const answering = (version: number): object => ({
    package: { inline: `exports.handler = async () => ({ version: ${version}, node: process.env.NODE })` },
    env: [{ name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }],
    timeoutSeconds: 5,
  });
  const on = (node: string): object => ({ placement: { nodeSelector: { 'kubernetes.io/hostname': node } } });
  const byNats = (subject: string) => [{ name: 'asked', nats: { subject } }];
  const byHttp = (path: string) => [{ name: 'web', http: { path, auth: 'None' } }];

  const natsAnswer = async (subject: string): Promise<object> =>
    (await client.request(subject, '{}', { timeout: 20_000 })).json<object>();
  async function httpAnswer(url: string, method = 'GET'): Promise<object> {
    const answer = await fetch(url, {
      method,
      signal: AbortSignal.timeout(20_000),
      ...(method === 'POST' && { body: '{}' }),
    });
    if (!answer.ok) throw new Error(`HTTP ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as object;
  }

  type Calls = Record<string, { answers: object[]; failures: string[] }>;
  /** One call after the other on each way, until it is stopped. */
  function startCalls(ways: Record<string, () => Promise<object>>): { stop(): Promise<Calls> } {
    const calls: Calls = {};
    let running = true;
    const asking = Object.entries(ways).map(async ([way, call]) => {
      const { answers, failures } = (calls[way] = { answers: [] as object[], failures: [] as string[] });
      while (running) {
        await call().then(
          (answer) => answers.push(answer),
          (error: unknown) => failures.push(String(error)),
        );
        await pause(50);
      }
    });
    closeLater(
      async () => void (running = false),
      () => undefined,
    );
    return {
      async stop() {
        running = false;
        await Promise.all(asking);
        return calls;
      },
    };
  }
  function expectAllAnswered(calls: Calls, least: number): void {
    for (const [way, { answers, failures }] of Object.entries(calls)) {
      expect([way, failures]).toEqual([way, []]);
      expect(answers.length, way).toBeGreaterThan(least);
    }
  }

  describe.concurrent('at the same time', () => {
    test('kubelet of a node is away: the function on the other node and the pods on this one answer, the status says why', async () => {
      const namespace = namespaces.robots;
      const both = { namespace, name: 'both' };
      const alone = { namespace, name: 'alone' };
      const everywhere = { namespace, name: 'everywhere' };
      const apart = {
        podAntiAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: [
            {
              topologyKey: 'kubernetes.io/hostname',
              labelSelector: { matchLabels: { 'atoll.dev/function': 'both' } },
            },
          ],
        },
      };
      await create(both, {
        ...answering(1),
        replicas: 2,
        placement: { affinity: apart },
        triggers: [...byHttp('/both'), ...byNats('both')],
      });
      await create(alone, { ...answering(1), ...on('robot-2'), triggers: byHttp('/alone') });
      await create(everywhere, { ...answering(1), placement: { everyNode: true } });
      await untilReady(both);
      await untilReady(alone);
      await untilReady(everywhere);
      const before = [await lives(both), await lives(alone)];

      const calls = startCalls({
        nats: () => natsAnswer('both'),
        both: () => httpAnswer(`${gateway.url}/both`),
      });
      const callsAlone = startCalls({ alone: () => httpAnswer(`${gateway.url}/alone`) });
      const { kubelet } = kubernetes.node('robot-2');
      await kubelet.kill();
      for (const key of [both, alone]) {
        await untilReadyIs(key, {
          status: 'False',
          reason: 'NodeUnreachable',
          message: expect.stringMatching(/^pod fn-.*: its node robot-2 /) as string,
        });
      }
      expect((await read(both)).status).toMatchObject({ replicas: 2, readyReplicas: 1 });
      // Robots come and go: the function of the others is ready.
      await until(async () => expect((await read(everywhere)).status).toMatchObject({ readyReplicas: 1 }));
      await untilReady(everywhere);
      if (soak) await pause(awayMs);
      // A kubelet that starts takes every pod for unready until it has asked it: also the last one, for a moment.
      expectAllAnswered(await callsAlone.stop(), 20);
      await kubelet.restart();
      await untilReady(both);
      await untilReady(alone);
      expectAllAnswered(await calls.stop(), 20);
      expect([await lives(both), await lives(alone)]).toEqual(before);
    });

    test('S3 is away during a rollout, and then packages vanish from it: what runs goes on, what is known is handed on, what is not is named', async () => {
      const shop = { namespace: namespaces.packages, name: 'shop' };
      const version = async (number: number) => {
        const data = `export const handler = async () => ({ version: ${number} });`;
        const { bytes } = await packFiles([{ path: 'index.mjs', data }]);
        const sha256 = sha256Of(bytes);
        const at = { Bucket: s3.bucket, Key: `packages/${sha256}.tgz` };
        const put = (): Promise<unknown> => store.send(new PutObjectCommand({ ...at, Body: bytes }));
        await put();
        return {
          package: { uri: `s3://${s3.bucket}/${at.Key}`, sha256 },
          put,
          remove: () => store.send(new DeleteObjectCommand(at)),
        };
      };
      const [first, second] = [await version(1), await version(2)];
      const spec = { package: first.package, timeoutSeconds: 5, triggers: byHttp('/shop'), ...on('robot-1') };
      await create(shop, spec);
      await untilReady(shop);

      const calls = startCalls({ gateway: () => httpAnswer(`${gateway.url}/shop`) });
      await s3.kill();
      await change(shop, { package: second.package });
      await until(async () => expect(await podsOf(shop)).toHaveLength(2));
      await pause(awayMs);
      const during = await read(shop);
      expect(during.status?.packageSha256).toBe(first.package.sha256);
      const ready = await readyOf(shop);
      expect(ready?.status).not.toBe('True');
      // Its container waits half a minute before it gives up and says so.
      if (soak) {
        await untilReadyIs(shop, { reason: 'PackageUnavailable' });
      }
      await s3.restart();
      await untilReady(shop);
      expect((await read(shop)).status?.packageSha256).toBe(second.package.sha256);

      await second.remove();
      await change(shop, { replicas: 2 });
      await untilReady(shop);
      expect((await read(shop)).status).toMatchObject({ readyReplicas: 2 });

      for (const name of await readdir(await packageCache)) {
        if (name.startsWith(second.package.sha256)) await rm(join(await packageCache, name));
      }
      await change(shop, { replicas: 3 });
      await untilReadyIs(shop, {
        status: 'False',
        reason: 'PackageNotFound',
        message: expect.stringContaining(second.package.sha256) as string,
      });
      const { status } = await read(shop);
      expect(status).toMatchObject({ replicas: 3, readyReplicas: 2 });
      expect(status?.conditions).toContainEqual(
        expect.objectContaining({ type: 'Available', status: 'True' }),
      );
      await second.put();
      await untilReady(shop);
      const asked = await calls.stop();
      expectAllAnswered(asked, 20);
      expect(asked['gateway']?.answers.at(-1)).toEqual({ version: 2 });
    });

    test('a controller that dies after any of its writes is followed by one that goes on: nothing is made twice, nothing is left', async ({
      onTestFinished: closing,
    }) => {
      const namespace = await kubernetes.namespace();
      const key = { namespace, name: 'steps' };
      const lease = { namespace, name: 'steps' };
      const seen = new Map<string, string>();
      const kinds =
        'deployments,replicasets,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,pods';
      const ours = async (): Promise<string[]> =>
        (await kubernetes.kubectl(['get', kinds, '-n', namespace, '-l', 'atoll.dev/function', '-o', 'name']))
          .split('\n')
          .filter(Boolean);

      /** One controller after the other, each of which may write once; gives what they wrote last. */
      async function dieOn(isDone: () => Promise<boolean>): Promise<string[]> {
        const last: string[] = [];
        for (;;) {
          const proxy = await startKubernetesProxy(kubernetes, { seen, closing });
          const kubeconfig = await configFile({}, closing);
          await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('mortal'), proxy.url));
          const cut = proxy.cutAfter(1);
          const replica = await startController({ kubeconfig, lease, namespaces: [namespace] }, { closing });
          const looking = new AbortController();
          const written = await Promise.race([cut, untilDone(isDone, looking.signal)]);
          looking.abort();
          await replica.stop();
          if (written === undefined) return last;
          last.push(written);
          if (last.length > 60) throw new Error(`no end: ${last.join(', ')}`);
          // How long the next one waits for the lease of a dead one is the lease's own test.
          await kubernetes.request(
            'DELETE',
            `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/steps`,
          );
        }
      }
      async function untilDone(isDone: () => Promise<boolean>, signal: AbortSignal): Promise<undefined> {
        while (!signal.aborted && !(await isDone())) await pause(50);
      }
      const isReady = (generation: number) => async (): Promise<boolean> => {
        const ready = await readyOf(key);
        return ready?.status === 'True' && ready.observedGeneration === generation;
      };

      await create(key, { ...answering(1), ...on('robot-1'), replicas: 2 });
      const made = await dieOn(isReady(1));
      await change(key, answering(2));
      const changed = await dieOn(isReady(2));
      for (const kind of [
        'serviceaccounts',
        'configmaps',
        'services',
        'networkpolicies',
        'deployments',
        'poddisruptionbudgets',
      ]) {
        expect(
          made.filter((one) => one.includes(`/${kind}/`)),
          kind,
        ).toHaveLength(1);
      }
      expect(changed.filter((one) => one.includes('/deployments/'))).toHaveLength(1);
      // What is not needed any more goes when the next one looks.
      const tidy = await dieOn(
        async () => (await ours()).filter((one) => one.startsWith('configmap')).length === 1,
      );
      const created = (await kubernetes.audited())
        .filter(({ user, responseStatus }) => user.username === 'mortal' && responseStatus?.code === 201)
        .map(({ objectRef }) => `${objectRef?.resource} ${objectRef?.name}`)
        .filter((one) => !/^(leases|events)/.test(one));
      expect(created).toHaveLength(new Set(created).size);
      const count = async (): Promise<object> => {
        const byKind = Map.groupBy(await ours(), (one) => one.replace(/\/.*/, ''));
        return Object.fromEntries([...byKind].map(([kind, all]) => [kind, all.length]));
      };
      // Pods of before take a few seconds to say goodbye.
      await until(async () =>
        expect(await count()).toEqual({
          configmap: 1,
          'deployment.apps': 1,
          'networkpolicy.networking.k8s.io': 1,
          pod: 2,
          'poddisruptionbudget.policy': 1,
          'replicaset.apps': 2,
          service: 1,
          serviceaccount: 1,
        }),
      );

      await kubernetes.request('DELETE', pathOf(key));
      const removed = await dieOn(async () => (await ours()).every((one) => one.startsWith('pod')));
      await until(async () => expect(await ours()).toEqual([]));
      process.stdout.write(
        `controllers that died: ${made.length} until ready, ${changed.length} on the new version, ${tidy.length} on pruning, ${removed.length} on removing\n`,
      );
    });
  });

  test.each([
    ['the API server', () => kubernetes.apiserver],
    ['etcd', () => kubernetes.etcd],
  ] as const)(
    '%s is away: functions go on answering and none is started again, and the controller is back at work by itself',
    async (what, server) => {
      const key = { namespace: namespaces.servers, name: what.includes('API') ? 'one' : 'two' };
      const { namespace, name } = key;
      await create(key, {
        ...answering(1),
        ...on('robot-1'),
        triggers: [...byHttp(`/${name}`), ...byNats(name)],
      });
      await untilReady(key);
      const before = await lives(key);
      const [pod] = await podsOf(key);
      const calls = startCalls({
        pod: () => httpAnswer(`http://${pod?.status.podIP}:8080/invoke/${namespace}/${name}`, 'POST'),
        nats: () => natsAnswer(name),
        gateway: () => httpAnswer(`${gateway.url}/${name}`),
      });
      await server().kill();
      await pause(awayMs);
      await server().restart();
      const beganMs = performance.now();
      const service = `/api/v1/namespaces/${namespace}/services/fn-${name}`;
      await until(async () =>
        expect(await kubernetes.request('DELETE', service)).toMatchObject({ status: 200 }),
      );
      await until(async () =>
        expect(await kubernetes.request('GET', service)).toMatchObject({ status: 200 }),
      );
      const empty = { namespace, name: `${name}-next` };
      await create(empty, {});
      await untilReadyIs(empty, { reason: 'NoPackage' });
      const tookMs = performance.now() - beganMs;
      expectAllAnswered(await calls.stop(), 20);
      expect(await lives(key)).toEqual(before);
      process.stdout.write(
        `${what} back: the controller repaired and answered after ${tookMs.toFixed(0)} ms\n`,
      );
    },
  );
});
