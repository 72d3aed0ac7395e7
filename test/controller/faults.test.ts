/** The controller on its bad days. Without nodes: what pods do meanwhile is in test/e2e/cluster-faults.test.ts. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openKubernetesBackend } from '../../controller/backends/kubernetes.ts';
import { readControllerConfig, settingsOf } from '../../controller/config.ts';
import { startReplica, type Replica } from '../../controller/start-replica.ts';
import { openLog } from '../../runtime/log.ts';
import { manifest } from '../contracts/store.ts';
import { startClock } from '../faults/clock.ts';
import { soak } from '../faults/scale.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { functionsPath, installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type AuditEvent, type Kubernetes } from '../support/kubernetes.ts';
import { startKubernetesProxy } from '../support/kubernetes-proxy.ts';
import { startProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import { startWire } from '../support/wire.ts';

/** Of each of those who write at the same time. */
const rounds = soak ? 500 : 30;
const storms = soak ? 20 : 1;
const hourMs = 3_600_000;

describe.skipIf(await missing('kubernetes', 'openssl'))(
  'a controller',
  { timeout: soak ? 900_000 : 120_000 },
  () => {
    let kubernetes: Kubernetes;
    let namespace: string;
    let logged = '';
    const log = openLog({
      destination: new Writable({
        write(chunk: Buffer, _encoding, done) {
          logged += chunk.toString();
          done();
        },
      }),
    });
    beforeAll(async () => {
      kubernetes = await startKubernetes({ audit: true, users: { controller: ['system:masters'] } });
      await installFunctionKind(kubernetes);
    });
    beforeEach(async () => {
      namespace = await kubernetes.namespace();
      logged = '';
    });

    /** Its own namespace has its lease too, so that each test has a controller of its own. */
    async function configFile(url = kubernetes.url): Promise<string> {
      const folder = await temporaryFolder();
      const kubeconfig = join(folder, 'kubeconfig');
      await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('controller'), url), {
        mode: 0o600,
      });
      const file = join(folder, 'config.json');
      const config = {
        image: 'atoll:1',
        kubeconfig,
        listen: { host: '127.0.0.1', port: 0 },
        lease: { namespace },
        namespaces: [namespace],
      };
      await writeFile(file, JSON.stringify(config));
      return file;
    }
    async function start(url?: string): Promise<Replica> {
      const config = await readControllerConfig(await configFile(url));
      const replica = await startReplica({
        config,
        log,
        openBackend: async (cluster) =>
          openKubernetesBackend({ cluster, settings: settingsOf(config), log, namespaces: [namespace] }),
      });
      closeLater(() => replica.stop());
      return replica;
    }

    const functions = (): string => functionsPath.replace('functions', `namespaces/${namespace}/functions`);
    const deployments = (): string => `/apis/apps/v1/namespaces/${namespace}/deployments`;
    async function create(name: string, spec: object = {}): Promise<void> {
      const { status } = await kubernetes.request('POST', functions(), { body: manifest(name, { ...spec }) });
      expect(status).toBe(201);
    }
    async function merge(path: string, body: object): Promise<void> {
      const contentType = 'application/merge-patch+json';
      const answer = await kubernetes.request('PATCH', path, { body, contentType });
      if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
    }
    interface Stored {
      readonly metadata: { readonly generation: number; readonly annotations?: Record<string, string> };
      readonly spec: { readonly replicas?: number };
      readonly status?: {
        readonly observedGeneration?: number;
        readonly replicas?: number;
        readonly conditions?: readonly {
          type: string;
          status: string;
          reason: string;
          lastTransitionTime: string;
        }[];
      };
    }
    const read = async (path: string): Promise<Stored> =>
      (await kubernetes.request('GET', path)).body as Stored;
    const readyOf = ({ status }: Stored) => status?.conditions?.find(({ type }) => type === 'Ready');
    /** undefined: there is none. */
    const replicasOf = async (name: string): Promise<number | undefined> =>
      (await read(`${deployments()}/fn-${name}`)).spec?.replicas;
    const writesOf = (events: readonly AuditEvent[]): string[] =>
      events
        .filter(
          ({ user, verb }) => user.username === 'controller' && !['get', 'list', 'watch'].includes(verb),
        )
        .filter(({ objectRef }) => objectRef?.namespace === namespace && objectRef.resource !== 'leases')
        .map(({ verb, requestURI }) => `${verb} ${requestURI}`);
    const reconciles = async ({ url }: Replica): Promise<number> => {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(
        /^atoll_controller_reconcile_duration_seconds_count{outcome="done"} (.*)$/m.exec(text)?.[1] ?? 0,
      );
    };
    /** Resolves when it wrote nothing between two looks: what it had to do is done, its Events too. */
    async function settled(): Promise<void> {
      let before = -1;
      const look = async (): Promise<boolean> => {
        const written = writesOf(await kubernetes.audited()).length;
        const same = written === before;
        before = written;
        return same;
      };
      await expect.poll(look, { interval: 1_000 }).toBe(true);
    }
    /** What it writes when it looks at the Function anew. */
    async function writesAtALook(replica: Replica, name: string): Promise<string[]> {
      const [looked, before] = [await reconciles(replica), (await kubernetes.audited()).length];
      await merge(`${functions()}/${name}`, { metadata: { labels: { look: String(before) } } });
      await expect.poll(() => reconciles(replica)).toBeGreaterThan(looked);
      return writesOf((await kubernetes.audited()).slice(before));
    }

    test('while others write its spec, its status and its annotations, the last spec is made, the status tells the truth, and then nothing is written any more', async () => {
      const replica = await start();
      const hello = `${functions()}/hello`;
      await create('hello');
      await expect.poll(() => replicasOf('hello')).toBe(1);
      const forged = {
        observedGeneration: 99_999,
        replicas: 77,
        conditions: [
          {
            type: 'Ready',
            status: 'True',
            reason: 'Forged',
            message: 'all is well',
            observedGeneration: 99_999,
            lastTransitionTime: '2020-01-01T00:00:00Z',
          },
        ],
      };
      const often = async (write: (round: number) => Promise<void>): Promise<void> => {
        for (let round = 1; round <= rounds; round++) await write(round);
      };
      await Promise.all([
        often((round) => merge(hello, { spec: { replicas: 1 + round } })),
        often(() => merge(`${hello}/status`, { status: forged })),
        often((round) => merge(hello, { metadata: { annotations: { round: String(round) } } })),
      ]);
      await expect
        .poll(async () => {
          const stored = await read(hello);
          return [
            await replicasOf('hello'),
            stored.status?.observedGeneration,
            stored.status?.replicas,
            readyOf(stored)?.status,
          ];
        })
        .toEqual([1 + rounds, 1 + rounds, 0, 'False']);
      const stored = await read(hello);
      expect(stored.metadata.annotations).toMatchObject({ round: String(rounds) });
      expect(JSON.stringify(stored.status)).not.toContain('Forged');
      await settled();
      expect(await writesAtALook(replica, 'hello')).toEqual([]);
      expect(logged).not.toContain('reconcile failed');
    });

    test('history that is forgotten again and again costs one list of each kind each time, and no change is missed', async () => {
      const wire = await startWire(Number(new URL(kubernetes.url).port));
      const replica = await start(`https://127.0.0.1:${wire.port}`);
      await create('edited');
      await create('drifts');
      await create('new-0');
      await expect.poll(() => replicasOf('new-0')).toBe(1);
      await expect.poll(() => replicasOf('drifts')).toBe(1);
      for (let storm = 1; storm <= storms; storm++) {
        wire.cut();
        await merge(`${functions()}/edited`, { spec: { replicas: 1 + storm } });
        await merge(`${deployments()}/fn-drifts`, { spec: { replicas: 50 } });
        await kubernetes.request('DELETE', `${functions()}/new-${storm - 1}`);
        await create(`new-${storm}`);
        await kubernetes.compact();
        // What it remembers of the time before its start is only what etcd has.
        await kubernetes.apiserver.kill();
        await kubernetes.apiserver.restart();
        const before = (await kubernetes.audited()).length;
        wire.heal();
        await expect
          .poll(
            async () => [
              await replicasOf('edited'),
              await replicasOf('drifts'),
              await replicasOf(`new-${storm - 1}`),
              await replicasOf(`new-${storm}`),
            ],
            { timeout: 40_000 },
          )
          .toEqual([1 + storm, 1, undefined, 1]);
        const lists = (await kubernetes.audited())
          .slice(before)
          .filter(({ user, verb }) => user.username === 'controller' && verb === 'list')
          .map(({ objectRef }) => objectRef?.resource);
        expect(lists).toHaveLength(new Set(lists).size);
        expect(lists).toContain('functions');
      }
      const last = `${functions()}/new-${storms}`;
      await expect.poll(async () => readyOf(await read(last))?.status).toBe('False');
      await settled();
      expect(await writesAtALook(replica, 'edited')).toEqual([]);
    });

    test.each([
      ['ahead', '+1h', hourMs],
      ['behind', '-1h', -hourMs],
    ])(
      'one whose clock is an hour %s does its work, and the next one, whose clock is right, finds nothing to correct',
      async (_where, offset, offMs) => {
        const clock = await startClock({ closing: closeLater });
        await clock.jump(offset);
        // An hour ago the certificate of this cluster was not valid yet.
        const { url } = await startKubernetesProxy(kubernetes);
        const main = join(import.meta.dirname, '../../controller/main.ts');
        const off = await startProcess(process.execPath, [main, await configFile(url)], {
          name: 'controller',
          env: { ...process.env, ...clock.env },
        });
        await off.line(/this controller leads/);
        const hello = `${functions()}/hello`;
        await create('hello', { replicas: 2 });
        await expect.poll(async () => readyOf(await read(hello))?.status).toBe('False');
        expect(await replicasOf('hello')).toBe(2);
        const first = await read(hello);
        const since = (stored: Stored): number =>
          Date.parse(readyOf(stored)?.lastTransitionTime ?? '') - Date.now();
        expect(Math.abs(since(first) - offMs)).toBeLessThan(hourMs / 4);
        await off.stop();

        const replica = await start();
        await expect.poll(() => replica.leads).toBe(true);
        await expect.poll(() => reconciles(replica)).toBeGreaterThan(0);
        expect(await writesAtALook(replica, 'hello')).toEqual([]);
        expect((await read(hello)).status).toEqual(first.status);
        await merge(hello, { spec: { replicas: 3 } });
        await expect.poll(() => replicasOf('hello')).toBe(3);
      },
    );
  },
);
