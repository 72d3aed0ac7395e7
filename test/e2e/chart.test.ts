/** A user's whole way in a real cluster: the chart, brokers and store beside it, everything through `faas` and kubectl. */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { beforeAll, describe, expect, test } from 'vitest';
import { chart } from '../../charts/manifest.ts';
import type { FunctionObject } from '../../crds/function.ts';
import { faas, functionFolder, greeterSource, type Ended } from '../cli/run.ts';
import { temporaryFolder } from '../support/folder.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { startMosquitto, type MosquittoServer } from '../support/mosquitto.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { startVersitygw, type S3Server } from '../support/s3.ts';

const system = 'atoll-system';
const absent = (await missingNodes()) ?? (await missing('helm', 'nats-server', 'mosquitto', 'versitygw'));

describe.skipIf(absent)('a cluster', { timeout: 180_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let nats: NatsServer;
  let mosquitto: MosquittoServer;
  let s3: S3Server;
  let client: NatsConnection;
  let namespace: string;

  const run = (args: string[]): Promise<Ended> =>
    faas(['--context', 'test', '-n', namespace, ...args], { env: { KUBECONFIG: kubernetes.kubeconfigFile } });
  async function ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(args);
    if (code === 0) return stdout;
    throw new Error(`faas ${args.join(' ')} ended with exit code ${code}:\n${stderr}\n${await state()}`);
  }
  /** For who reads why a test failed. */
  async function state(): Promise<string> {
    const parts = [
      ['get', 'pods,events', '-A', '-o', 'wide'],
      ['logs', '-n', system, '-l', 'app.kubernetes.io/part-of=atoll', '--all-containers', '--tail=20'],
    ];
    return (await Promise.all(parts.map((args) => kubernetes.kubectl(args).catch(String)))).join('\n');
  }
  const get = async (name: string): Promise<FunctionObject> =>
    JSON.parse(await ok('get', name, '-o', 'json')) as FunctionObject;

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['node-1', 'node-2'], audit: true });
    const { place } = kubernetes;
    [nats, mosquitto, s3] = await Promise.all([
      startNats({ place }),
      startMosquitto({ place }),
      startVersitygw({ place }),
    ]);
    client = await nats.connect();
    await (await jetstreamManager(client)).streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
    await install();
    namespace = await kubernetes.namespace();
  }, 240_000);

  /** As docs/reference/chart.md says. Pods here have no DNS, so the gateway's Service gets a fixed address. */
  async function install(): Promise<void> {
    await kubernetes.kubectl(['create', 'namespace', system]);
    const { accessKeyId, secretAccessKey, endpoint, bucket } = s3;
    await kubernetes.kubectl(
      ['create', '-f', '-'],
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'atoll-s3', namespace: system },
        stringData: { 's3.json': JSON.stringify({ accessKeyId, secretAccessKey }) },
      }),
    );
    const [repository, tag] = kubernetes.image.split(/:(?=[^:/]*$)/);
    const values = join(await temporaryFolder(), 'values.json');
    const first = await kubernetes.kubectl([
      'get',
      'service',
      'kubernetes',
      '-n',
      'default',
      '-o',
      'jsonpath={.spec.clusterIP}',
    ]);
    const address = first.replace(/\d+$/, '77');
    await writeFile(
      values,
      JSON.stringify({
        image: { repository, tag },
        controller: { replicas: 2 },
        gateway: { service: { clusterIP: address }, packagesUrl: `http://${address}` },
        nats: { url: nats.url },
        mqtt: { url: mosquitto.url },
        s3: { endpoint, bucket, credentialsSecret: 'atoll-s3' },
      }),
    );
    await promisify(execFile)(
      await requireTool('helm'),
      ['install', 'atoll', chart, '--namespace', system, '--values', values, '--wait', '--timeout', '60s'],
      {
        env: {
          PATH: process.env['PATH'],
          HOME: await temporaryFolder(),
          KUBECONFIG: kubernetes.kubeconfigFile,
        },
      },
    ).catch(async (error: unknown) => {
      throw new Error(`${String(error)}\n${await state()}`);
    });
  }

  async function ask(subject: string, event: object): Promise<object> {
    const answer = await client.request(subject, JSON.stringify(event), { timeout: 5_000 });
    return answer.json<object>();
  }

  test('a function is deployed, called in every way, scaled, replaced, rolled back and deleted', async () => {
    const folder = await functionFolder(
      'greeter',
      `
  timeoutSeconds: 10
  triggers:
    - { name: asked, nats: { subject: shop.greet } }
    - { name: web, http: { path: /greet, auth: None } }
    - { name: orders, jetstream: { stream: ORDERS, startAt: All } }
    - { name: robots, mqtt: { topic: robots/+/greet, qos: 1 } }
    - { name: clock, schedule: { every: 2s } }
`,
    );
    expect(await ok('deploy', folder, '--timeout', '90')).toMatch(
      /^function greeter deployed and ready: .* uploaded/,
    );
    expect(await ok('deploy', folder)).toMatch(/^function greeter unchanged: .* not uploaded again/);

    expect(JSON.parse(await ok('invoke', 'greeter', '-d', '{"name":"reef"}'))).toMatchObject({
      hello: 'reef',
    });
    const failed = await run(['invoke', 'greeter', '-d', '{"fail":"on purpose"}']);
    expect(failed).toMatchObject({ code: 1 });
    expect(failed.stderr).toContain('RangeError: on purpose');
    expect(failed.stderr).toMatch(/at .*index\.ts:\d+/);
    expect(await ask('shop.greet', { name: 'nats' })).toMatchObject({ hello: 'nats' });
    await jetstream(client).publish('orders.new', '{"name":"an order"}');
    const mqtt = await connectAsync(mosquitto.url);
    await mqtt.publishAsync('robots/r1/greet', '{"name":"a robot"}', { qos: 1 });
    await mqtt.endAsync();
    const web = await kubernetes.request(
      'GET',
      `/api/v1/namespaces/${system}/services/atoll-gateway:http/proxy/greet`,
    );
    expect(web).toMatchObject({ status: 200, body: { hello: 'nobody' } });

    const { stdout } = await run(['invoke', 'greeter', '--async', '-d', '{"name":"later"}']);
    expect(stdout).toMatch(/^[0-9a-f-]{36}\n$/);
    for (const name of ['an order', 'a robot', 'later', 'reef']) {
      await expect
        .poll(() => ok('logs', 'greeter', '--since', '5m'), { timeout: 30_000 })
        .toContain(`{ name: '${name}' }`);
    }
    expect(await ok('list')).toMatch(/^greeter +True +nats,http,jetstream,mqtt,schedule/m);
    expect(await ok('describe', 'greeter')).toMatch(/^ +orders +jetstream .* True +Ready/m);

    await kubernetes.kubectl(['scale', 'fn/greeter', '--replicas=3', '-n', namespace]);
    await kubernetes.kubectl([
      'wait',
      'fn/greeter',
      '-n',
      namespace,
      '--for=jsonpath={.status.readyReplicas}=3',
      '--timeout=60s',
    ]);

    const flow = startFlow();
    const first = (await get('greeter')).status?.packageSha256;
    await writeFile(join(folder, 'index.ts'), greeterSource.replace('hello:', 'bye:'));
    await ok('deploy', folder, '--timeout', '120');
    const calls = await flow.stop();
    expect(calls.failed).toEqual([]);
    expect(calls.answered).toBeGreaterThan(50);
    // Pods that are on their way out still take NATS messages while they say goodbye.
    await expect.poll(() => oldAnswers('bye'), { timeout: 30_000 }).toBe(0);
    await expect.poll(() => unhandled(), { timeout: 30_000 }).toBe(0);

    const now = await get('greeter');
    const wrong = { uri: `s3://${s3.bucket}/packages/none.tgz`, sha256: 'f'.repeat(64) };
    await kubernetes.kubectl([
      'patch',
      'fn/greeter',
      '-n',
      namespace,
      '--type=merge',
      '-p',
      JSON.stringify({ spec: { package: wrong } }),
    ]);
    await expect
      .poll(async () => (await get('greeter')).status?.conditions?.find(({ type }) => type === 'Ready'), {
        timeout: 60_000,
      })
      .toMatchObject({
        status: 'False',
        reason: 'PackageNotFound',
        observedGeneration: now.metadata.generation + 1,
      });
    expect(await ask('shop.greet', { name: 'still there' })).toHaveProperty('bye');
    const available = (await get('greeter')).status?.conditions?.find(({ type }) => type === 'Available');
    expect(available).toMatchObject({ status: 'True' });

    expect(await ok('rollback', 'greeter', '--to', first!.slice(0, 12), '--timeout', '120')).toContain(
      'rolled back',
    );
    await expect.poll(() => oldAnswers('hello'), { timeout: 30_000 }).toBe(0);
    expect(await ok('history', 'greeter')).toMatch(new RegExp(`^${first!.slice(0, 12)} .* answers now`, 'm'));

    const url = `http://${await gatewayAddress()}`;
    expect((await fetch(`${url}/greet`)).status).toBe(200);
    const door = `${url}/ns/${namespace}/2015-03-31/functions/greeter/invocations`;
    expect((await fetch(door, { method: 'POST', body: '{}' })).status).toBe(403);

    await ok('delete', 'greeter');
    await expect.poll(() => leftovers(), { timeout: 90_000 }).toEqual([]);

    // What the chart allows is enough for all of this.
    const requests = (await kubernetes.audited()).filter(({ user }) =>
      user.username.startsWith(`system:serviceaccount:${system}:`),
    );
    expect(requests.length).toBeGreaterThan(20);
    const refused = requests.filter(({ responseStatus }) => responseStatus?.code === 403);
    expect(refused.map(({ verb, requestURI, user }) => `${user.username} ${verb} ${requestURI}`)).toEqual([]);
  });

  const gatewayAddress = (): Promise<string> =>
    kubernetes.kubectl(['get', 'service', 'atoll-gateway', '-n', system, '-o', 'jsonpath={.spec.clusterIP}']);

  /** Of ten requests, which any pod may get. */
  async function oldAnswers(property: string): Promise<number> {
    const answers = await Promise.all(Array.from({ length: 10 }, () => ask('shop.greet', { name: 'nats' })));
    return answers.filter((answer) => !(property in answer)).length;
  }

  /** Requests by NATS, 20 a second, and events of a stream beside them. */
  function startFlow(): { stop(): Promise<{ answered: number; failed: unknown[] }> } {
    const failed: unknown[] = [];
    let answered = 0;
    let running = true;
    const flowing = (async () => {
      const asked: Promise<void>[] = [];
      while (running) {
        await jetstream(client).publish('orders.new', '{"name":"flow"}');
        asked.push(
          ask('shop.greet', { name: 'flow' }).then(
            () => void (answered += 1),
            (error: unknown) => void failed.push(String(error)),
          ),
        );
        await pause(50);
      }
      await Promise.all(asked);
    })();
    return {
      async stop() {
        running = false;
        await flowing;
        return { answered, failed };
      },
    };
  }

  /** Of the stream ORDERS: not acknowledged yet by the function's consumer. */
  async function unhandled(): Promise<number> {
    const manager = await jetstreamManager(client);
    const { num_pending, num_ack_pending } = await manager.consumers.info(
      'ORDERS',
      `${namespace}_greeter_orders`,
    );
    return num_pending + num_ack_pending;
  }

  /** Everything of ours in the namespace, and the function's consumers. */
  async function leftovers(): Promise<string[]> {
    const kinds =
      'deployments,daemonsets,replicasets,pods,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers';
    const found = await kubernetes.kubectl([
      'get',
      kinds,
      '-n',
      namespace,
      '-l',
      'atoll.dev/function',
      '-o',
      'name',
    ]);
    const manager = await jetstreamManager(client);
    const consumers: string[] = [];
    for await (const { name } of manager.consumers.list('ORDERS')) consumers.push(name);
    return [...found.split('\n').filter(Boolean), ...consumers];
  }
});
