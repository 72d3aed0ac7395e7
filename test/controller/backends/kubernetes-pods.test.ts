/** The backend with real nodes: pods of our own image, each with a host. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { Writable } from 'node:stream';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Backend, Workload } from '../../../controller/backends/backend.ts';
import { openKubernetesBackend } from '../../../controller/backends/kubernetes.ts';
import type { ClusterSettings } from '../../../controller/backends/manifests.ts';
import { openCluster } from '../../../controller/cluster/client.ts';
import { openKubernetesStore } from '../../../controller/stores/kubernetes.ts';
import type { Key } from '../../../controller/stores/store.ts';
import { openPackageCache } from '../../../gateway/packages.ts';
import { openReviews } from '../../../gateway/reviews.ts';
import { startGateway, type Gateway } from '../../../gateway/start.ts';
import { openS3 } from '../../../runtime/clients/s3.ts';
import { openLog } from '../../../runtime/log.ts';
import { packFiles } from '../../../runtime/package/pack.ts';
import { hello, isReady, testBackend, untilObserved, workload } from '../../contracts/backend.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { installFunctionKind } from '../../support/function-kind.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../../support/kubernetes-nodes.ts';
import { startVersitygw, type S3Server } from '../../support/s3.ts';
import { sha256Of } from '../../runtime/package/archives.ts';
import { declare, undeclare } from './function-objects.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });

describe.skipIf(await missingNodes())('pods on nodes', { timeout: 90_000 }, () => {
  let kubernetes: KubernetesWithNodes;

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['robot-1', 'robot-2'] });
    await installFunctionKind(kubernetes);
  }, 120_000);

  interface Opened extends Backend {
    /** The real name of a namespace: each test has its own. */
    namespace(name: string): string;
  }

  async function open(change: Partial<ClusterSettings> = {}): Promise<Opened> {
    const real = new Map<string, string>();
    for (const name of ['default', 'lab']) {
      const namespace = await kubernetes.namespace();
      const labels = { 'pod-security.kubernetes.io/enforce': 'restricted' };
      await kubernetes.request('PATCH', `/api/v1/namespaces/${namespace}`, {
        contentType: 'application/merge-patch+json',
        body: { metadata: { labels } },
      });
      real.set(name, namespace);
    }
    const namespace = (name: string): string => real.get(name) ?? name;
    const out = ({ namespace: name, ...key }: Key): Key => ({ ...key, namespace: namespace(name) });
    const shown = (name: string | undefined): string | undefined =>
      [...real].find(([, there]) => there === name)?.[0] ?? name;
    const cluster = await openCluster({ kubeconfig: kubernetes.kubeconfigFile });
    const backend = openKubernetesBackend({
      cluster,
      settings: { image: kubernetes.image, site: 'hub', callers: [], ...change },
      namespaces: [...real.values()],
      watchSecretsIn: [namespace('default')],
      log,
    });
    closeLater(async () => {
      await backend.close();
      await cluster.close();
      await kubernetes.kubectl(['delete', 'namespace', '--wait=false', ...real.values()]);
    });
    return {
      namespace,
      async ensure(wanted) {
        const { uid } = await declare(kubernetes, { key: out(wanted.key) });
        await backend.ensure({ ...wanted, key: out(wanted.key), uid });
      },
      async remove(key) {
        await undeclare(kubernetes, out(key));
        await backend.remove(out(key));
      },
      observe: (key) => backend.observe(out(key)),
      address: (key) => backend.address(out(key)),
      async *logs(key, query) {
        for await (const { namespace: there, ...record } of backend.logs(out(key), query)) {
          const name = shown(there);
          yield { ...record, ...(name !== undefined && { namespace: name }) };
        }
      },
      watch: (listener) =>
        backend.watch(({ namespace: there, name }) => listener({ namespace: shown(there) ?? there, name })),
      close: () => backend.close(),
    };
  }

  async function invoke(backend: Backend, key: Key, payload: unknown = null) {
    const address = backend.address(key);
    if (address === undefined) throw new Error('it listens nowhere');
    const { namespace } = backend as Opened;
    const path = `/invoke/${namespace(key.namespace)}/${key.name}`;
    const asked = request(`${address}${path}`, { method: 'POST', agent: false });
    asked.end(JSON.stringify(payload));
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    return {
      outcome: String(response.headers['atoll-outcome']),
      body: JSON.parse(await text(response)) as unknown,
    };
  }

  const kubectl = (backend: Opened, ...args: string[]): Promise<string> =>
    kubernetes.kubectl([...args, '-n', backend.namespace('default')]);

  testBackend({ open: () => open(), invoke });

  const failed =
    (reason: string) =>
    (observation: Awaited<ReturnType<Backend['observe']>>): boolean =>
      observation?.problem?.reason === reason;

  test('a secret reaches the handler; neither the pod nor its config nor the environment of the host has it', async () => {
    const backend = await open();
    const env = [
      { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'robot', key: 'token' } } },
      { name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
      { name: 'MAYBE', valueFrom: { configMapKeyRef: { name: 'none', key: 'none', optional: true } } },
    ];
    const code = `
      const { readFileSync } = require('node:fs');
      exports.handler = (name) => name === 'host'
        ? readFileSync('/proc/' + process.ppid + '/environ', 'utf8')
        : process.env[name] ?? null;`;
    await kubectl(backend, 'create', 'secret', 'generic', 'robot', '--from-literal=token=hunter2');
    await backend.ensure(workload({ code, spec: { env } }));
    await untilObserved(backend, hello, isReady());
    const value = async (name: string): Promise<unknown> => (await invoke(backend, hello, name)).body;
    expect(await value('TOKEN')).toBe('hunter2');
    expect(await value('NODE')).toMatch(/^robot-[12]$/);
    expect(await value('MAYBE')).toBeNull();
    const host = await value('host');
    expect(host).toContain('ATOLL_FIELD_NODE=robot-');
    expect(host).not.toContain('hunter2');
    expect(await kubectl(backend, 'get', 'configmaps,pods,deployments', '-o', 'json')).not.toContain(
      'hunter2',
    );
  });

  test('a secret that changed comes to the handler by new pods, where it is watched', async () => {
    const backend = await open();
    const token = async (value: string): Promise<unknown> =>
      kubernetes.kubectl(
        ['apply', '-n', backend.namespace('default'), '-f', '-'],
        JSON.stringify({
          apiVersion: 'v1',
          kind: 'Secret',
          metadata: { name: 'robot' },
          stringData: { token: value },
        }),
      );
    await token('first');
    const env = [{ name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'robot', key: 'token' } } }];
    const wanted = workload({ code: 'exports.handler = () => process.env.TOKEN', spec: { env } });
    await backend.ensure(wanted);
    await untilObserved(backend, hello, isReady());
    expect((await invoke(backend, hello)).body).toBe('first');
    // As the engine does: what the backend tells of is ensured again.
    let ensured = Promise.resolve();
    const stop = backend.watch(() => {
      ensured = ensured.then(() => backend.ensure(wanted));
    });
    await token('second');
    await expect.poll(async () => (await invoke(backend, hello)).body, { timeout: 60_000 }).toBe('second');
    stop();
    await ensured;
  });

  test('a missing secret is named by the host', async () => {
    const backend = await open();
    const env = [{ name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'robot', key: 'token' } } }];
    await backend.ensure(workload({ spec: { env } }));
    const observation = await untilObserved(
      backend,
      hello,
      (one) => one?.hosts[0]?.handler.reason === 'SecretNotFound',
    );
    expect(observation?.hosts[0]?.handler.message).toContain('the key "token" of the Secret "robot"');
  });

  test('a package comes from S3 by a key that only its own container has', async () => {
    const s3 = await startVersitygw({ place: kubernetes.place });
    const { bytes } = await packFiles([{ path: 'index.mjs', data: reading }]);
    const { accessKeyId, secretAccessKey, endpoint, region, bucket } = s3;
    const client = s3.client();
    await client.send(new PutObjectCommand({ Bucket: bucket, Key: 'hello.tgz', Body: bytes }));
    const credentials = { name: 'atoll-s3', key: 's3.json' };
    const backend = await open({ s3: { endpoint, region, bucket, credentials } });
    const json = JSON.stringify({ accessKeyId, secretAccessKey });
    await kubectl(backend, 'create', 'secret', 'generic', credentials.name, `--from-literal=s3.json=${json}`);
    const sha256 = sha256Of(bytes);
    await backend.ensure(workload({ spec: { package: { uri: `s3://${bucket}/hello.tgz`, sha256 } } }));
    const observation = await untilObserved(backend, hello, isReady());
    expect(observation?.hosts[0]?.packageSha256).toBe(sha256);
    const { body } = await invoke(backend, hello);
    expect(body).toContain('/etc/atoll/host.json');
    expect(body).not.toContain('s3.json');

    const missing = { uri: `s3://${bucket}/none.tgz`, sha256 };
    await backend.ensure(workload({ generation: 2, spec: { package: missing } }));
    const refused = await untilObserved(backend, hello, failed('PackageNotFound'));
    expect(refused?.problem?.message).toMatch(/^pod fn-hello-.*: s3:\/\/.*none.tgz/);
    expect((await invoke(backend, hello)).outcome).toBe('returned');
  });

  test('a package comes from the gateway by a token of the pod, also while S3 is away', async () => {
    const s3 = await startVersitygw({ place: kubernetes.place });
    const { bytes } = await packFiles([{ path: 'index.mjs', data: reading }]);
    const sha256 = sha256Of(bytes);
    const key = `packages/${sha256}.tgz`;
    await s3.client().send(new PutObjectCommand({ Bucket: s3.bucket, Key: key, Body: bytes }));
    const { url } = await gatewayFor(s3);
    const backend = await open({ packages: url });
    const spec = { package: { uri: `s3://${s3.bucket}/${key}`, sha256 } };
    await declare(kubernetes, { key: { ...hello, namespace: backend.namespace('default') } });
    await kubectl(
      backend,
      'patch',
      'fn',
      'hello',
      '--type=merge',
      '-p',
      JSON.stringify({ spec: { package: { ...spec.package, inline: null } } }),
    );
    await backend.ensure(workload({ spec }));
    const observation = await untilObserved(backend, hello, isReady());
    expect(observation?.hosts[0]?.packageSha256).toBe(sha256);
    expect((await invoke(backend, hello)).body).not.toContain('token');

    await s3.kill();
    await backend.ensure(workload({ generation: 2, spec: { ...spec, timeoutSeconds: 31 } }));
    await untilObserved(backend, hello, isReady(2));
    expect((await invoke(backend, hello)).outcome).toBe('returned');
  });

  async function gatewayFor(s3: S3Server): Promise<Gateway> {
    const folder = await temporaryFolder();
    const { accessKeyId, secretAccessKey, endpoint, region, bucket } = s3;
    const credentialsFile = join(folder, 's3.json');
    await writeFile(credentialsFile, JSON.stringify({ accessKeyId, secretAccessKey }), { mode: 0o600 });
    const store3 = await openS3({ endpoint, region, bucket, credentialsFile });
    const cluster = await openCluster({ kubeconfig: kubernetes.kubeconfigFile });
    const store = openKubernetesStore({ cluster, log });
    await store.synced();
    const gateway = await startGateway({
      host: kubernetes.place.host,
      port: 0,
      reviews: openReviews((path, body) => cluster.request('POST', path, { body })),
      site: 'hub',
      siteInfo: () => ({}),
      store,
      // Nobody calls a function here.
      backend: { address: () => undefined, observe: () => Promise.resolve(undefined), async *logs() {} },
      packages: await openPackageCache({ folder: join(folder, 'packages'), s3: store3, bucket, log }),
      log,
    });
    closeLater(async () => {
      await gateway.stop(Date.now());
      await store.close();
      await cluster.close();
      store3.close();
    });
    return gateway;
  }

  test('an image that no node has is told of', async () => {
    const backend = await open({ image: 'docker.io/library/atoll:none' });
    await backend.ensure(workload());
    const unknown = await untilObserved(backend, hello, failed('ImagePullBackOff'));
    expect(unknown?.problem?.message).toContain('atoll:none');
  });

  test('memory beyond the limit of the pod is told of', async () => {
    const backend = await open();
    const resources = { limits: { memory: '24Mi' } };
    await backend.ensure(workload({ spec: { pod: { resources } } }));
    const observation = await untilObserved(backend, hello, failed('OOMKilled'));
    expect(observation?.problem?.message).toContain('more than its limit of 24Mi');
  });

  test('the logs of all replicas are one, with what a container that ended had said, and new pods are followed', async () => {
    const backend = await open();
    const code = `exports.handler = (event) => {
      if (event === 'die') process.kill(process.ppid, 'SIGKILL');
      console.log(event, require('node:os').hostname());
    }`;
    const replicas = (count: number): Workload =>
      workload({ code, generation: count, spec: { replicas: count } });
    await backend.ensure(replicas(1));
    await untilObserved(backend, hello, isReady(1));
    await invoke(backend, hello, 'first');
    await invoke(backend, hello, 'die').catch(() => {});
    await untilObserved(backend, hello, (one) => !isReady(1)(one));
    await untilObserved(backend, hello, isReady(1));
    const ending = new AbortController();
    const followed = backend.logs(hello, { follow: true, signal: ending.signal })[Symbol.asyncIterator]();
    const said = async (word: string): Promise<string> => {
      for (;;) {
        const { value, done } = await followed.next();
        if (done) throw new Error('the log ended');
        if (value.source === 'handler' && value.message.startsWith(word)) return value.message;
      }
    };
    const first = await said('first');
    await backend.ensure(replicas(2));
    await untilObserved(backend, hello, isReady(2));
    await Promise.all([invoke(backend, hello, 'then'), invoke(backend, hello, 'then')]);
    const then = [await said('then'), await said('then')];
    expect(new Set(then).size).toBe(2);
    expect(then).toContain(first.replace('first', 'then'));
    ending.abort();
    const kept: string[] = [];
    for await (const one of backend.logs(hello, {})) if (one.source === 'handler') kept.push(one.message);
    expect(kept[0]).toBe(first);
    expect(kept.slice(1).sort()).toEqual(then.sort());
  });

  test('requests that come while replicas are replaced are all answered', async () => {
    const backend = await open();
    const answering = (answer: number, generation: number): Workload =>
      workload({ code: `exports.handler = () => ${answer}`, generation, spec: { replicas: 2 } });
    await backend.ensure(answering(1, 1));
    await untilObserved(backend, hello, isReady());
    let rolling = true;
    const answers = new Set<unknown>();
    const asking = (async () => {
      while (rolling) answers.add(JSON.stringify(await invoke(backend, hello)));
    })();
    await backend.ensure(answering(2, 2));
    await untilObserved(backend, hello, isReady(2));
    rolling = false;
    await asking;
    expect([...answers].sort()).toEqual([1, 2].map((body) => JSON.stringify({ outcome: 'returned', body })));
  });

  test('one on every node, each by its turn', async () => {
    const backend = await open();
    const code = "exports.handler = () => require('node:os').hostname()";
    await backend.ensure(workload({ code, spec: { placement: { everyNode: true } } }));
    await untilObserved(backend, hello, (one) => one?.readyReplicas === 2 && isReady()(one));
    const [first, second, third] = [
      await invoke(backend, hello),
      await invoke(backend, hello),
      await invoke(backend, hello),
    ];
    expect(first.body).not.toBe(second.body);
    expect(third).toEqual(first);
  });

  test('a robot that is away does not keep the function of the others from being ready', async () => {
    const backend = await open();
    await backend.ensure(workload({ spec: { placement: { everyNode: true } } }));
    await untilObserved(backend, hello, (one) => one?.readyReplicas === 2 && isReady()(one));
    const node = kubernetes.node('robot-2');
    node.cut();
    closeLater(async () => node.heal());
    await expect
      .poll(() => backend.observe(hello), { timeout: 60_000 })
      .toMatchObject({
        readyReplicas: 1,
        rollout: { wanted: 1, updated: 1, old: 0 },
      });
    // The DaemonSet learns of the node's taint a moment later, and then wants one pod less by itself.
    const misscheduled = '{.items[0].status.numberMisscheduled}';
    await expect
      .poll(() => kubectl(backend, 'get', 'daemonsets', '-o', `jsonpath=${misscheduled}`), {
        timeout: 60_000,
      })
      .toBe('1');
    await expect
      .poll(async () => (await backend.observe(hello))?.rollout)
      .toEqual({ wanted: 1, updated: 1, old: 0 });
    expect(isReady()(await backend.observe(hello))).toBe(true);
    expect((await invoke(backend, hello)).outcome).toBe('returned');
    node.heal();
    await untilObserved(backend, hello, (one) => one?.readyReplicas === 2 && one.rollout?.wanted === 2);
  });

  test('a host that is killed is started again in its pod, from the package that lies there', async () => {
    const backend = await open();
    const code =
      'exports.handler = (event) => event === "die" ? process.kill(process.ppid, "SIGKILL") : process.pid';
    await backend.ensure(workload({ code }));
    await untilObserved(backend, hello, isReady());
    await invoke(backend, hello, 'die').catch(() => {});
    await untilObserved(backend, hello, (one) => !isReady()(one));
    await untilObserved(backend, hello, isReady());
    expect((await invoke(backend, hello)).outcome).toBe('returned');
    const restarts = '{.items[0].status.containerStatuses[0].restartCount}';
    expect(await kubectl(backend, 'get', 'pods', '-o', `jsonpath=${restarts}`)).toBe('1');
  });
});

const reading = `
import { readdirSync } from 'node:fs';
export const handler = () => readdirSync('/etc/atoll', { recursive: true }).map((name) => '/etc/atoll/' + name);
`;
