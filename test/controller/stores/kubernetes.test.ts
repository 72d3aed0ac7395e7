import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { openCluster, type Cluster } from '../../../controller/cluster/client.ts';
import type { InformerTimings } from '../../../controller/cluster/informer.ts';
import { openKubernetesStore, type KubernetesStore } from '../../../controller/stores/kubernetes.ts';
import { keyText, UnreadableObjectError, type Key } from '../../../controller/stores/store.ts';
import { manifest, testStore, told } from '../../contracts/store.ts';
import { soak } from '../../faults/scale.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import {
  deleteFunctions,
  functionsPath,
  installFunctionKind,
  makeUnreadable,
} from '../../support/function-kind.ts';
import { startKubernetes, type AuditEvent, type Kubernetes } from '../../support/kubernetes.ts';
import { missing } from '../../support/requirement.ts';
import { startWire, type Wire } from '../../support/wire.ts';

const hello = { namespace: 'default', name: 'hello' };
const quick: Partial<InformerTimings> = { minBackoffMs: 50, maxBackoffMs: 1_000 };
/** Of other kinds, beside the Functions. */
const others = soak ? 10_000 : 2_000;

describe.skipIf(await missing('kubernetes', 'openssl'))('in a cluster', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes({ audit: true, users: { atoll: ['system:masters'] } });
    await installFunctionKind(kubernetes);
    await kubernetes.kubectl(['create', 'namespace', 'lab']);
  });

  interface Opened {
    readonly store: KubernetesStore;
    readonly cluster: Cluster;
    readonly kubeconfig: string;
  }

  /** A store of the user `atoll` on a cluster without Functions; through the wire when one is given. */
  async function opened(
    options: { wire?: Wire; token?: string; timings?: Partial<InformerTimings>; answerMs?: number } = {},
  ): Promise<Opened> {
    await deleteFunctions(kubernetes);
    const { wire, token = kubernetes.tokenOf('atoll'), timings = quick, answerMs } = options;
    const kubeconfig = join(await temporaryFolder(), 'kubeconfig');
    const url = wire === undefined ? kubernetes.url : `https://127.0.0.1:${wire.port}`;
    await writeFile(kubeconfig, kubernetes.kubeconfig(token, url), { mode: 0o600 });
    const cluster = await openCluster({ kubeconfig, ...(answerMs !== undefined && { answerMs }) });
    const store = openKubernetesStore({ cluster, timings });
    closeLater(async () => {
      await store.close();
      await cluster.close();
    });
    return { store, cluster, kubeconfig };
  }

  const openWire = (): Promise<Wire> => startWire(Number(new URL(kubernetes.url).port));

  const pathOf = ({ namespace, name }: Key): string =>
    functionsPath.replace('functions', `namespaces/${namespace}/functions/${name}`);
  /** As kubectl of somebody else would. */
  async function edit(key: Key, spec: object): Promise<void> {
    const contentType = 'application/merge-patch+json';
    const { status } = await kubernetes.request('PATCH', pathOf(key), { body: { spec }, contentType });
    expect(status).toBe(200);
  }
  const timeoutOf = async (store: KubernetesStore, key = hello): Promise<number | undefined> =>
    (await store.get(key))?.spec.timeoutSeconds;
  /** What the store's user asked for since the call. */
  async function asked(work: () => Promise<unknown>): Promise<AuditEvent[]> {
    const before = (await kubernetes.audited()).length;
    await work();
    return (await kubernetes.audited()).slice(before).filter(({ user }) => user.username === 'atoll');
  }
  const writes = (events: readonly AuditEvent[]): string[] =>
    events
      .filter(({ verb }) => !['get', 'list', 'watch'].includes(verb))
      .map(({ verb, requestURI }) => `${verb} ${requestURI}`);

  describe('that asks the server each time', () => {
    testStore({ open: async () => (await opened()).store });
  });

  describe('that follows by a watch', () => {
    testStore({
      open: async () => {
        const { store } = await opened();
        await store.synced();
        return store;
      },
    });
  });

  test(
    `reading costs no request once it follows, and ${others} objects of other kinds cost nothing at all`,
    async () => {
      const wire = await openWire();
      // One watch, however long this takes on a busy machine.
      const { store } = await opened({ wire, timings: { ...quick, watchMs: 300_000 } });
      await store.put(manifest('hello'));
      await store.synced();
      const namespace = await kubernetes.namespace();
      const before = wire.bytes;
      const events = await asked(async () => {
        const path = `/api/v1/namespaces/${namespace}/configmaps`;
        let made = 0;
        const makers = Array.from({ length: 20 }, async () => {
          while (made < others) {
            const name = `other-${made++}`;
            const body = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { a: name } };
            expect((await kubernetes.request('POST', path, { body })).status).toBe(201);
          }
        });
        await Promise.all(makers);
        for (let i = 0; i < 100; i++) expect(await store.list()).toHaveLength(1);
        expect(await store.get(hello)).toBeDefined();
      });
      expect(events).toEqual([]);
      // A bookmark or two, whatever happens elsewhere.
      expect(wire.bytes - before).toBeLessThan(5_000);
    },
    soak ? 600_000 : 120_000,
  );

  test('a status that is the same is not written again, a part that is gone is taken away', async () => {
    const { store } = await opened();
    await store.put(manifest('hello'));
    await store.synced();
    const lastError = { code: 'NoPackage', message: 'none', time: '2026-11-28T10:00:00.000Z' };
    await store.writeStatus(hello, { replicas: 1, lastError });
    expect(await asked(() => store.writeStatus(hello, { lastError, replicas: 1 }))).toEqual([]);
    const events = await asked(() => store.writeStatus(hello, { replicas: 2 }));
    expect(writes(events)).toEqual([`patch ${pathOf(hello)}/status?fieldManager=atoll`]);
    expect((await kubernetes.request('GET', pathOf(hello))).body).toMatchObject({ status: { replicas: 2 } });
    expect((await store.get(hello))?.status).toEqual({ replicas: 2 });
  });

  test('our own status is no news, that of somebody else is', async () => {
    const { store } = await opened();
    await store.put(manifest('hello'));
    await store.synced();
    let heard = 0;
    await told(store, hello);
    store.watch(() => (heard += 1));
    await new Promise<void>((done) => queueMicrotask(done));
    heard = 0;
    await store.writeStatus(hello, { replicas: 1 });
    const foreign = told(store, hello);
    await new Promise<void>((done) => queueMicrotask(done));
    await kubernetes.request('PATCH', `${pathOf(hello)}/status`, {
      body: { status: { replicas: 7 } },
      contentType: 'application/merge-patch+json',
    });
    await foreign;
    await expect.poll(async () => (await store.get(hello))?.status).toEqual({ replicas: 7 });
    // The watch may be faster than the answer to our own write.
    expect(heard).toBeLessThanOrEqual(2);
  });

  test('the status of a Function that was made anew meanwhile is not overwritten', async () => {
    const wire = await openWire();
    const { store: late } = await opened({ wire, answerMs: 1_000 });
    const { store } = await opened();
    await store.put(manifest('hello'));
    await late.synced();
    await edit(hello, { timeoutSeconds: 7 });
    await expect.poll(() => timeoutOf(late)).toBe(7);
    // From here on it hears nothing for a while, and takes the second for the first.
    wire.freeze();
    await store.remove(hello);
    await store.put(manifest('hello'));
    await expect
      .poll(() => late.writeStatus(hello, { replicas: 3 }).catch((error: unknown) => error))
      .toMatchObject({ code: 'Conflict' });
    expect((await store.get(hello))?.status).toBeUndefined();
  });

  test('what the API server refuses beyond our own rules is told with its causes', async () => {
    const { store } = await opened();
    const policy = {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingAdmissionPolicy',
      metadata: { name: 'no-long-timeouts' },
      spec: {
        matchConstraints: {
          resourceRules: [
            {
              apiGroups: ['atoll.dev'],
              apiVersions: ['*'],
              operations: ['CREATE', 'UPDATE'],
              resources: ['functions'],
            },
          ],
        },
        validations: [{ expression: 'object.spec.timeoutSeconds < 100', message: 'this site allows 100 s' }],
      },
    };
    const binding = {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingAdmissionPolicyBinding',
      metadata: { name: 'no-long-timeouts' },
      spec: { policyName: 'no-long-timeouts', validationActions: ['Deny'] },
    };
    const base = '/apis/admissionregistration.k8s.io/v1';
    await kubernetes.request('POST', `${base}/validatingadmissionpolicies`, { body: policy });
    await kubernetes.request('POST', `${base}/validatingadmissionpolicybindings`, { body: binding });
    closeLater(async () => {
      await kubernetes.request('DELETE', `${base}/validatingadmissionpolicybindings/no-long-timeouts`);
      await kubernetes.request('DELETE', `${base}/validatingadmissionpolicies/no-long-timeouts`);
    });
    const put = (): Promise<unknown> =>
      store
        .put(manifest('hello', { timeoutSeconds: 500 }), { dryRun: true })
        .catch((error: unknown) => error);
    await expect.poll(put).toMatchObject({
      code: 'InvalidObject',
      message: expect.stringContaining('this site allows 100 s') as string,
    });
  });

  test.each([
    ['a label that Kubernetes takes for none', { labels: { 'a b': 'x' } }, 'metadata.labels'],
    ['an annotation of a name that is none', { annotations: { '-': 'x' } }, 'metadata.annotations'],
  ])('%s is refused by the server alone', async (_what, metadata, field) => {
    const { store } = await opened();
    await expect(store.put(manifest('hello', {}, metadata))).rejects.toMatchObject({
      code: 'InvalidObject',
      problems: [expect.stringContaining(field)],
    });
  });

  test('a namespace that is not there, and a kind that is not installed, are said as such', async () => {
    const { store } = await opened();
    await expect(store.put(manifest('hello', {}, { namespace: 'nowhere' }))).rejects.toThrow(
      'namespaces "nowhere" not found',
    );
    const bare = await startKubernetes();
    const kubeconfig = bare.kubeconfigFile;
    const cluster = await openCluster({ kubeconfig });
    closeLater(() => cluster.close());
    const other = openKubernetesStore({ cluster, timings: quick });
    closeLater(() => other.close());
    for (const ask of [() => other.list(), () => other.get(hello), () => other.put(manifest('hello'))]) {
      await expect(ask()).rejects.toThrow('kubectl apply -f crds/function.yaml');
    }
    // A controller that is there first waits for it.
    const synced = other.synced();
    await installFunctionKind(bare);
    await synced;
    await other.put(manifest('hello'));
    expect(await other.list()).toHaveLength(1);
  });

  test('what is stored by an older definition and is not valid any more is unreadable, and its last good form is listed', async () => {
    const { store } = await opened();
    await store.put(manifest('hello'));
    await store.synced();
    const good = await store.list();
    await makeUnreadable(kubernetes, pathOf(hello));
    await expect
      .poll(() => store.get(hello).catch((error: unknown) => error))
      .toBeInstanceOf(UnreadableObjectError);
    expect((await store.keys()).map(keyText)).toEqual(['default/hello']);
    expect((await store.list()).map(({ spec }) => spec.handler)).toEqual([good[0]?.spec.handler]);
  });

  test('one that a finalizer keeps counts as gone, and is told when it is', async () => {
    const { store } = await opened();
    await store.put(manifest('hello'));
    await store.synced();
    const contentType = 'application/merge-patch+json';
    const finalizers = (value: string[]): Promise<unknown> =>
      kubernetes.request('PATCH', pathOf(hello), { body: { metadata: { finalizers: value } }, contentType });
    await finalizers(['example.com/wait']);
    await expect.poll(() => store.remove(hello)).toBe(true);
    expect(await store.get(hello)).toBeUndefined();
    expect(await store.keys()).toEqual([]);
    await expect(store.put(manifest('hello'))).rejects.toThrow('is being deleted');
    await finalizers([]);
    await expect
      .poll(() =>
        store.put(manifest('hello')).then(
          () => 'stored',
          () => 'kept',
        ),
      )
      .toBe('stored');
  });

  describe('when things go wrong', () => {
    test('while the API server is down what was known is served; when it is back changes come again', async () => {
      const { store } = await opened();
      await store.put(manifest('hello', { timeoutSeconds: 5 }));
      await store.synced();
      await kubernetes.apiserver.kill();
      expect(await timeoutOf(store)).toBe(5);
      await expect(store.put(manifest('hello'))).rejects.toMatchObject({ code: 'ClusterUnavailable' });
      await kubernetes.apiserver.restart();
      const changed = toldOfTimeout(store, 9);
      await edit(hello, { timeoutSeconds: 9 });
      await changed;
      await kubernetes.apiserver.kill();
      await kubernetes.apiserver.restart();
      await edit(hello, { timeoutSeconds: 11 });
      await toldOfTimeout(store, 11);
    });

    test('a frozen API server is noticed by its silence, and waited for', async () => {
      const { store } = await opened({ timings: { ...quick, silentMs: 2_000 }, answerMs: 2_000 });
      await store.put(manifest('hello', { timeoutSeconds: 5 }));
      await store.synced();
      await kubernetes.apiserver.pause();
      await expect(store.put(manifest('hello', { timeoutSeconds: 6 }))).rejects.toThrow('does not answer');
      expect(await timeoutOf(store)).toBe(5);
      kubernetes.apiserver.resume();
      await expect
        .poll(() =>
          edit(hello, { timeoutSeconds: 9 }).then(
            () => true,
            () => false,
          ),
        )
        .toBe(true);
      await toldOfTimeout(store, 9);
    });

    test('a connection that is open at our end only is dropped, and nothing is missed', async () => {
      const wire = await openWire();
      const { store } = await opened({ wire, timings: { ...quick, silentMs: 2_000 }, answerMs: 2_000 });
      await store.put(manifest('hello', { timeoutSeconds: 5 }));
      await store.synced();
      // The watch is there when it has told something.
      await edit(hello, { timeoutSeconds: 7 });
      await toldOfTimeout(store, 7);
      const { connections } = wire;
      wire.freeze();
      await edit(hello, { timeoutSeconds: 9 });
      await toldOfTimeout(store, 9);
      expect(wire.connections).toBeGreaterThan(connections);
    });

    test('a slow connection makes everything later, and nothing is asked for twice', async () => {
      const wire = await openWire();
      wire.slow(64 * 1024);
      const answerMs = 4_000;
      const { store } = await opened({ wire, timings: { ...quick, watchMs: 300_000 }, answerMs });
      const inline = `export const handler = async () => 1;${'/'.repeat(8 * 1024)}`;
      const names = Array.from({ length: 40 }, (_, number) => `slow-${number}`);
      for (const name of names) {
        const body = manifest(name, { package: { inline } });
        const path = functionsPath.replace('functions', 'namespaces/default/functions');
        expect((await kubernetes.request('POST', path, { body })).status).toBe(201);
      }
      const since = performance.now();
      const events = await asked(async () => {
        await store.synced();
        expect((await store.list()).map(({ metadata }) => metadata.name).sort()).toEqual([...names].sort());
        // Longer than any answer may be silent, but this one never was.
        expect(performance.now() - since).toBeGreaterThan(answerMs);
        const key = { namespace: 'default', name: 'slow-7' };
        const changed = toldOfTimeout(store, 9, key);
        await edit(key, { timeoutSeconds: 9 });
        await changed;
      });
      expect(events.filter(({ verb }) => verb === 'list')).toHaveLength(1);
      expect(events.filter(({ verb }) => verb === 'watch').length).toBeLessThanOrEqual(1);
    });

    test('what happened during an outage that the server has forgotten is found by listing', async () => {
      const wire = await openWire();
      const { store } = await opened({ wire });
      for (const name of ['a', 'b', 'c']) await store.put(manifest(name));
      await store.synced();
      const seen = new Set<string>();
      await told(store, { namespace: 'default', name: 'c' });
      store.watch((key) => seen.add(key.name));
      await new Promise<void>((done) => queueMicrotask(done));
      wire.cut();
      seen.clear();
      await edit({ namespace: 'default', name: 'a' }, { timeoutSeconds: 9 });
      await kubernetes.request('DELETE', pathOf({ namespace: 'default', name: 'b' }));
      await kubernetes.request('POST', pathOf({ namespace: 'default', name: '' }).slice(0, -1), {
        body: manifest('d'),
      });
      await kubernetes.compact();
      // What it remembers of the time before its start is only what etcd has.
      await kubernetes.apiserver.restart();
      const events = await asked(async () => {
        wire.heal();
        await expect.poll(() => [...seen].sort()).toEqual(['a', 'b', 'd']);
      });
      expect(events.filter(({ verb }) => verb === 'list')).toHaveLength(1);
      expect((await store.keys()).map(({ name }) => name)).toEqual(['a', 'c', 'd']);
      expect(await timeoutOf(store, { namespace: 'default', name: 'a' })).toBe(9);
    });

    test('a token that is not good any more is read again from its file', async () => {
      const account = '/api/v1/namespaces/default/serviceaccounts';
      const make = async (): Promise<string> => {
        await kubernetes.request('POST', account, { body: { metadata: { name: 'controller' } } });
        const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} };
        const answer = await kubernetes.request('POST', `${account}/controller/token`, { body });
        return (answer.body as { status: { token: string } }).status.token;
      };
      const first = await make();
      await kubernetes.kubectl([
        ...['create', 'clusterrolebinding', 'controller', '--clusterrole=cluster-admin'],
        '--serviceaccount=default:controller',
      ]);
      const { store, kubeconfig } = await opened({ token: first });
      await store.put(manifest('hello', { timeoutSeconds: 5 }));
      await store.synced();
      // With its account the token ends.
      await kubernetes.request('DELETE', `${account}/controller`);
      await expect
        .poll(() => store.put(manifest('x'), { dryRun: true }).catch((error: unknown) => error))
        .toMatchObject({
          code: 'ClusterForbidden',
        });
      await writeFile(kubeconfig, kubernetes.kubeconfig(await make()), { mode: 0o600 });
      await store.put(manifest('hello', { timeoutSeconds: 6 }));
      await edit(hello, { timeoutSeconds: 9 });
      await toldOfTimeout(store, 9);
    });

    test('whoever is not let in asks less and less often', async () => {
      const { store } = await opened({ token: 'wrong', timings: {} });
      const before = (await kubernetes.audited()).length;
      void store.synced();
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      const refused = (await kubernetes.audited())
        .slice(before)
        .filter(({ responseStatus }) => responseStatus?.code === 401);
      // At 0.2, 0.4, 0.8, 1.6 s and so on, each halved at most, and each asked twice for a new token.
      expect(refused.length).toBeGreaterThan(2);
      expect(refused.length).toBeLessThan(16);
    });

    /** Resolves when a change was told and reads so. */
    async function toldOfTimeout(store: KubernetesStore, timeoutSeconds: number, key = hello): Promise<void> {
      const { promise, resolve } = Promise.withResolvers<void>();
      const stop = store.watch(() => {
        void timeoutOf(store, key).then((now) => now === timeoutSeconds && resolve());
      });
      await promise;
      stop();
    }
  });
});
