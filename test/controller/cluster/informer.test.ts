import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { beforeAll, describe, expect, test } from 'vitest';
import { openCluster, type Cluster } from '../../../controller/cluster/client.ts';
import {
  openInformer,
  type ClusterObject,
  type Informer,
  type InformerOptions,
} from '../../../controller/cluster/informer.ts';
import { keyText } from '../../../controller/stores/store.ts';
import { openLog } from '../../../runtime/log.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startKubernetes, type AuditEvent, type Kubernetes } from '../../support/kubernetes.ts';
import { missing } from '../../support/requirement.ts';

const resource = { group: '', version: 'v1', plural: 'configmaps' };
const quick = { minBackoffMs: 50, maxBackoffMs: 500 };

describe.skipIf(await missing('kubernetes', 'openssl'))('an informer', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes({ audit: true, users: { informer: [], watcher: ['system:masters'] } });
  });

  async function clusterOf(user: string): Promise<Cluster> {
    const kubeconfig = join(await temporaryFolder(), 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf(user)), { mode: 0o600 });
    const cluster = await openCluster({ kubeconfig });
    closeLater(() => cluster.close());
    return cluster;
  }
  async function opened(
    user: string,
    options: Omit<InformerOptions<ClusterObject>, 'cluster' | 'resource'>,
  ): Promise<Informer<ClusterObject>> {
    const informer = openInformer({ cluster: await clusterOf(user), resource, timings: quick, ...options });
    closeLater(() => informer.close());
    return informer;
  }
  const pathOf = (namespace: string, name = ''): string =>
    `/api/v1/namespaces/${namespace}/configmaps${name && `/${name}`}`;
  async function make(namespace: string, name: string, labels = {}): Promise<ClusterObject> {
    const body = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, labels } };
    const answer = await kubernetes.request('POST', pathOf(namespace), { body });
    expect(answer.status).toBe(201);
    return answer.body as ClusterObject;
  }
  const asked = async (user: string, verb: string, namespace: string): Promise<AuditEvent[]> =>
    (await kubernetes.audited()).filter(
      (event) =>
        event.user.username === user && event.verb === verb && event.objectRef?.namespace === namespace,
    );

  test('many objects come in pages, and all are there', async () => {
    const namespace = await kubernetes.namespace();
    const names = Array.from({ length: 600 }, (_, i) => `object-${i}`);
    for (let i = 0; i < names.length; i += 20) {
      await Promise.all(names.slice(i, i + 20).map((name) => make(namespace, name)));
    }
    const informer = await opened('watcher', { namespaces: [namespace] });
    await informer.untilSynced();
    expect(
      informer
        .all()
        .map(({ metadata }) => metadata.name)
        .sort(),
    ).toEqual(names.sort());
    expect(await asked('watcher', 'list', namespace)).toHaveLength(6);
  });

  test('of some namespaces only, with rights in those only', async () => {
    const [mine, other, theirs] = [
      await kubernetes.namespace(),
      await kubernetes.namespace(),
      await kubernetes.namespace(),
    ];
    for (const namespace of [mine, other, theirs]) await make(namespace, 'here');
    for (const namespace of [mine, other]) {
      await kubernetes.kubectl([
        'create',
        'role',
        'r',
        '-n',
        namespace,
        '--verb=list,watch',
        '--resource=configmaps',
      ]);
      await kubernetes.kubectl([
        'create',
        'rolebinding',
        'r',
        '-n',
        namespace,
        '--role=r',
        '--user=informer',
      ]);
    }
    const informer = await opened('informer', { namespaces: [mine, other] });
    await informer.untilSynced();
    expect(
      informer
        .all()
        .map(({ metadata }) => metadata.namespace)
        .sort(),
    ).toEqual([mine, other].sort());
    const gone = changed(informer, (_before, after) => after === undefined);
    await kubernetes.request('DELETE', pathOf(other, 'here'));
    expect(keyText(await gone)).toBe(`${other}/here`);
    // Without the right to list one of them it says that it does not know all.
    const partial = await opened('informer', { namespaces: [mine, theirs] });
    await expect.poll(() => partial.all().length).toBe(1);
    expect(partial.synced).toBe(false);
    const left = new AbortController();
    const waiting = partial.untilSynced(left.signal);
    left.abort(new Error('no longer wanted'));
    await expect(waiting).rejects.toThrow('no longer wanted');
  });

  test('an object that loses the label it was chosen by is gone', async () => {
    const namespace = await kubernetes.namespace();
    await make(namespace, 'chosen', { app: 'a' });
    await make(namespace, 'other');
    const informer = await opened('watcher', { namespaces: [namespace], labelSelector: 'app=a' });
    await informer.untilSynced();
    expect(informer.all().map(({ metadata }) => metadata.name)).toEqual(['chosen']);
    const gone = changed(informer, (_before, after) => after === undefined);
    await kubernetes.kubectl(['label', 'configmap', 'chosen', 'app-', '-n', namespace]);
    expect((await gone).name).toBe('chosen');
  });

  test('what a write of ours gave is known at once, and old news of it is none', async () => {
    const namespace = await kubernetes.namespace();
    const informer = await opened('watcher', { namespaces: [namespace] });
    await informer.untilSynced();
    const told: string[] = [];
    informer.watch((key, before, after) =>
      told.push(
        `${key.name} ${before?.metadata.resourceVersion ?? '-'} ${after?.metadata.resourceVersion ?? '-'}`,
      ),
    );
    const first = await make(namespace, 'a');
    informer.learn(first);
    const key = { namespace, name: 'a' };
    expect(informer.get(key)?.metadata.resourceVersion).toBe(first.metadata.resourceVersion);
    const { body } = await kubernetes.request('DELETE', pathOf(namespace, 'a'));
    informer.forget(key, (body as { details: { uid: string } }).details.uid);
    expect(informer.get(key)).toBeUndefined();
    const second = await make(namespace, 'a');
    informer.learn(second);
    // Everything of before has come when this has.
    await make(namespace, 'last');
    await expect.poll(() => informer.get({ namespace, name: 'last' })).toBeDefined();
    const [one, two] = [first.metadata.resourceVersion, second.metadata.resourceVersion];
    expect(told.filter((text) => text.startsWith('a '))).toEqual([`a - ${one}`, `a ${one} -`, `a - ${two}`]);
  });

  test('everything is listed anew now and then, without a word when nothing changed', async () => {
    const namespace = await kubernetes.namespace();
    await make(namespace, 'a');
    const informer = await opened('watcher', {
      namespaces: [namespace],
      timings: { ...quick, relistMs: 1_000 },
    });
    await informer.untilSynced();
    let told = 0;
    informer.watch(() => (told += 1));
    await expect.poll(async () => (await asked('watcher', 'list', namespace)).length).toBeGreaterThan(2);
    expect(told).toBe(0);
  });

  test('what never changes is followed in silence: no watch of it is taken for dead', async () => {
    // Nobody ever made one here, so the server has nothing to send, not even a bookmark.
    const resource = { group: 'storage.k8s.io', version: 'v1', plural: 'csistoragecapacities' };
    const warned: string[] = [];
    const log = openLog({
      destination: new Writable({
        write(line: Buffer, _encoding, done) {
          warned.push(line.toString());
          done();
        },
      }),
    });
    const watchMs = 500;
    const informer = openInformer({
      cluster: await clusterOf('watcher'),
      resource,
      log,
      timings: { ...quick, watchMs, silentMs: 2 * watchMs + 2_000 },
    });
    closeLater(() => informer.close());
    await informer.untilSynced();
    const watches = async (): Promise<number> =>
      (await kubernetes.audited()).filter(
        ({ verb, objectRef }) => verb === 'watch' && objectRef?.resource === resource.plural,
      ).length;
    const before = await watches();
    await expect.poll(watches).toBeGreaterThan(before + 3);
    expect(warned).toEqual([]);
  });

  test('two replicas that the server refuses come back apart from each other, later and later', async () => {
    const namespace = await kubernetes.namespace();
    const before = (await kubernetes.audited()).length;
    const informers = [0.1, 0.9].map((random) =>
      opened('informer', {
        namespaces: [namespace],
        timings: { minBackoffMs: 100, maxBackoffMs: 400 },
        random: () => random,
      }),
    );
    await Promise.all(informers);
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    const refused = (await kubernetes.audited())
      .slice(before)
      .filter(({ responseStatus }) => responseStatus?.code === 403);
    // 55 or 95 ms, then 110 or 190, then 220 or 380 each time.
    expect(refused.length).toBeGreaterThan(4);
    expect(refused.length).toBeLessThan(26);
  });

  function changed(
    informer: Informer<ClusterObject>,
    fits: (before: ClusterObject | undefined, after: ClusterObject | undefined) => boolean,
  ): Promise<{ namespace: string; name: string }> {
    return new Promise((resolve) => {
      const stop = informer.watch((key, before, after) => {
        if (!fits(before, after)) return;
        stop();
        resolve(key);
      });
    });
  }
});
