import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { Kvm } from '@nats-io/kv';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openLocalBackend } from '../../controller/backends/local.ts';
import { readControllerConfig } from '../../controller/config.ts';
import { startReplica, type Replica } from '../../controller/start-replica.ts';
import { openSiteFolder } from '../../controller/stores/site.ts';
import { openLog } from '../../runtime/log.ts';
import { manifest } from '../contracts/store.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import {
  deleteFunctions,
  functionsPath,
  installFunctionKind,
  makeUnreadable,
} from '../support/function-kind.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { startNats } from '../support/nats.ts';
import { missing } from '../support/requirement.ts';

let logged = '';
const log = openLog({
  destination: new Writable({
    write(chunk: Buffer, _encoding, done) {
      logged += chunk.toString();
      done();
    },
  }),
});
const leaseTimings = { durationMs: 6_000, deadlineMs: 4_000, retryMs: 500 };
const hello = functionsPath.replace('functions', 'namespaces/default/functions/hello');
const functions = functionsPath.replace('functions', 'namespaces/default/functions');

describe.skipIf(await missing('kubernetes', 'openssl'))('a controller in a cluster', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes({ audit: true, users: { controller: ['system:masters'] } });
    await installFunctionKind(kubernetes);
  });
  beforeEach(() => deleteFunctions(kubernetes));

  /** Its functions run on this machine: what is tried here is everything before that. */
  async function start(more: object = {}): Promise<Replica> {
    const folder = await temporaryFolder();
    const kubeconfig = join(folder, 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('controller')), { mode: 0o600 });
    const file = join(folder, 'config.json');
    const listen = { host: '127.0.0.1', port: 0 };
    await writeFile(file, JSON.stringify({ image: 'atoll:1', kubeconfig, listen, ...more }));
    const replica = await startReplica({
      config: await readControllerConfig(file),
      openBackend: async (_cluster, { site }) =>
        openLocalBackend({ paths: await openSiteFolder(await temporaryFolder()), site, log }),
      log,
      leaseTimings,
    });
    closeLater(() => replica.stop());
    return replica;
  }

  interface Stored {
    metadata: { uid: string; generation: number; resourceVersion: string };
    status?: {
      observedGeneration?: number;
      packageSha256?: string;
      history?: { packageSha256: string }[];
      conditions?: { type: string; status: string; reason: string }[];
    };
  }
  const read = async (): Promise<Stored> => (await kubernetes.request('GET', hello)).body as Stored;
  const readyOf = ({ status }: Stored, field: 'status' | 'reason' = 'status'): string | undefined =>
    status?.conditions?.find(({ type }) => type === 'Ready')?.[field];
  async function untilReady(generation: number): Promise<Stored> {
    await expect
      .poll(async () => {
        const stored = await read();
        return [readyOf(stored), stored.status?.observedGeneration];
      })
      .toEqual(['True', generation]);
    return read();
  }
  interface Told {
    readonly reason: string;
    readonly type: string;
    readonly regarding: object;
    readonly note: string;
    readonly series?: { readonly count: number };
  }
  const readEvents = async (): Promise<Told[]> => {
    const path = '/apis/events.k8s.io/v1/namespaces/default/events';
    return ((await kubernetes.request('GET', path)).body as { items: Told[] }).items;
  };
  const merge = (body: object) =>
    kubernetes.request('PATCH', hello, { body, contentType: 'application/merge-patch+json' });
  const metric = async ({ url }: Replica, name: string): Promise<number> => {
    const text = await (await fetch(`${url}/metrics`)).text();
    return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
  };

  test('what kubectl applies is reconciled, its status, history and Events say so, and then nothing is written any more', async () => {
    const replica = await start();
    await expect.poll(async () => (await fetch(`${replica.url}/readyz`)).status).toBe(200);
    await kubernetes.kubectl(['apply', '-f', '-'], JSON.stringify(manifest('hello')));
    await kubernetes.kubectl(['wait', 'functions/hello', '--for=condition=Ready', '--timeout=25s']);
    const first = await untilReady(1);
    expect(first.status?.history).toHaveLength(1);
    await kubernetes.kubectl(['wait', 'fn/hello', '--for=condition=Available', '--timeout=25s']);
    const [head = '', row = ''] = (await kubernetes.kubectl(['get', 'fn'])).split('\n');
    expect(head.trim().split(/\s+/)).toEqual(['NAME', 'READY', 'REPLICAS', 'TRIGGERS', 'PACKAGE', 'AGE']);
    expect(row).toMatch(/^hello +True +1 /);
    const wide = (await kubernetes.kubectl(['get', 'functions', '-o', 'wide'])).split('\n')[0] ?? '';
    expect(wide.trim().split(/\s+/).length).toBeGreaterThan(6);
    const explained = await kubernetes.kubectl(['explain', 'function.spec.triggers']);
    expect(explained).toMatch(/KIND: +Function/);
    for (const kind of ['http', 'jetstream', 'mqtt', 'nats', 'ros', 'schedule']) {
      expect(explained).toMatch(new RegExp(`^ +${kind}\\t<Object>\\n +\\S`, 'm'));
    }
    await merge({ spec: { package: { inline: 'exports.handler = () => 2' } } });
    const second = await untilReady(2);
    expect(second.status?.history?.map(({ packageSha256 }) => packageSha256)).toEqual([
      first.status?.packageSha256,
      second.status?.packageSha256,
    ]);

    await merge({ spec: { package: { inline: 'syntax error here' } } });
    await expect.poll(async () => readyOf(await read(), 'reason')).toBe('Runtime.UserCodeSyntaxError');
    await merge({ spec: { package: { inline: 'exports.handler = () => 2' } } });
    await untilReady(4);
    // They are written after the status.
    await expect
      .poll(
        async () =>
          (await readEvents()).find(({ note }) => note.startsWith('package, handler'))?.series?.count ?? 1,
      )
      .toBeGreaterThan(1);
    const events = await readEvents();
    expect(events).toContainEqual(
      expect.objectContaining({
        type: 'Warning',
        reason: 'Runtime.UserCodeSyntaxError',
        regarding: expect.objectContaining({ kind: 'Function', name: 'hello' }) as object,
      }),
    );
    // Ready came twice: one Event, counted.
    const ready = events.filter(
      ({ reason, note }) => reason === 'Ready' && note.startsWith('package, handler'),
    );
    expect(ready).toHaveLength(1);
    expect(ready[0]).toMatchObject({
      type: 'Normal',
      action: 'Ready=True',
    });
    const described = await kubernetes.kubectl(['describe', 'functions', 'hello']);
    const [, told = ''] = described.split(/^Events:/m);
    expect(told).toMatch(/^ +Warning +Runtime\.UserCodeSyntaxError .*atoll\.dev\/controller +\S/m);
    expect(told).toMatch(/^ +Normal +Ready /m);

    const reconciled = await metric(
      replica,
      'atoll_controller_reconcile_duration_seconds_count{outcome="done"}',
    );
    const before = (await kubernetes.audited()).length;
    await merge({ metadata: { labels: { team: 'arm' } } });
    await expect
      .poll(() => metric(replica, 'atoll_controller_reconcile_duration_seconds_count{outcome="done"}'))
      .toBeGreaterThan(reconciled);
    const written = (await kubernetes.audited())
      .slice(before)
      .filter(({ user, verb }) => user.username === 'controller' && !['get', 'list', 'watch'].includes(verb))
      .filter(({ objectRef }) => objectRef?.resource !== 'leases');
    expect(written).toEqual([]);
    expect(await metric(replica, 'atoll_controller_leader')).toBe(1);
    expect(await metric(replica, 'atoll_controller_queue_depth')).toBe(0);
    expect(await metric(replica, 'atoll_controller_queue_adds_total')).toBeGreaterThan(3);
  });

  test('a Function that cannot be read any more is told once by an Event, and goes on running', async () => {
    await start();
    await kubernetes.request('POST', functions, { body: manifest('hello') });
    const before = await untilReady(1);
    await makeUnreadable(kubernetes, hello);
    const told = async (): Promise<Told[]> =>
      (await readEvents()).filter(({ reason }) => reason === 'InvalidObject');
    await expect.poll(told).toHaveLength(1);
    const stored = await read();
    const { uid } = stored.metadata;
    expect((await told())[0]).toMatchObject({
      type: 'Warning',
      action: 'Ready=False',
      regarding: { kind: 'Function', namespace: 'default', name: 'hello', uid },
      note: expect.stringContaining('spec.handler') as string,
    });
    expect((await told())[0]?.series).toBeUndefined();
    expect(readyOf(stored, 'reason')).toBe('InvalidObject');
    expect(stored.status?.packageSha256).toBe(before.status?.packageSha256);
    // A look at it again is no second Event.
    await merge({ metadata: { labels: { seen: 'again' } } });
    await merge({ spec: { handler: 'index.handler' } });
    await expect.poll(async () => readyOf(await read())).toBe('True');
    expect((await told())[0]?.series).toBeUndefined();
  });

  test('of many changes at once the last one counts, and those that a status came too late for are no failures', async () => {
    await start();
    await kubernetes.request('POST', functions, { body: manifest('hello') });
    await untilReady(1);
    logged = '';
    for (let timeoutSeconds = 31; timeoutSeconds <= 70; timeoutSeconds++) {
      expect((await merge({ spec: { timeoutSeconds } })).status).toBe(200);
    }
    await untilReady(41);
    expect(logged).not.toContain('reconcile failed');
  });

  test('two replicas: one works, and when it stops the other goes on', async () => {
    const first = await start();
    await expect.poll(() => first.leads).toBe(true);
    const second = await start();
    await expect.poll(async () => (await fetch(`${second.url}/readyz`)).status).toBe(200);
    await kubernetes.request('POST', functions, { body: manifest('hello') });
    await untilReady(1);
    expect([second.leads, await metric(second, 'atoll_controller_leader')]).toEqual([false, 0]);
    await first.stop();
    await expect.poll(() => second.leads).toBe(true);
    await merge({ spec: { timeoutSeconds: 7 } });
    await untilReady(2);
  });

  test('the leader sweeps the broker in the name of its cluster', async () => {
    const nats = await startNats();
    await start({ nats: { url: nats.url } });
    const { body } = await kubernetes.request('GET', '/api/v1/namespaces/kube-system');
    const { uid } = (body as { metadata: { uid: string } }).metadata;
    const manager = new Kvm(await nats.connect());
    await expect
      .poll(async () => (await (await manager.open('ATOLL_STATE')).get('site.local'))?.string())
      .toContain(`"cluster-${uid}"`);
  });

  test.each([
    ['an image is missing', { image: undefined }, 'image: is required'],
    ['a field is misspelt', { namespace: ['a'] }, 'did you mean "namespaces"'],
    ['a port is none', { listen: { port: 70_000 } }, 'from 0 to 65535'],
  ])('a configuration is refused where %s, with what is allowed', async (_what, wrong, says) => {
    const file = join(await temporaryFolder(), 'config.yaml');
    await writeFile(file, JSON.stringify({ image: 'atoll:1', ...wrong }));
    await expect(readControllerConfig(file)).rejects.toThrow(says);
  });
});
