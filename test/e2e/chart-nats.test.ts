/** The chart's own nats-server in a real cluster: who may come in, what it keeps, and that it keeps it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, credsAuthenticator, type NatsConnection } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { accountsSecret } from '../../charts/accounts.ts';
import { chart } from '../../charts/manifest.ts';
import { newOperatorSeed, openOperatorKeys } from '../../controller/broker/account-keys.ts';
import { faas, functionFolder } from '../cli/run.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { writeNatsImage } from '../support/kubernetes-images.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { installRelease, systemNamespace, type Release } from '../support/release.ts';
import { missing } from '../support/requirement.ts';

const login = { user: 'atoll', pass: 'not-a-secret-outside-of-this-test' };
const mqttLogin = { username: login.user, password: login.pass };
const secrets = {
  'atoll-nats': { 'nats.json': JSON.stringify(login) },
  'atoll-mqtt': { 'mqtt.json': JSON.stringify(mqttLogin) },
};
const absent = (await missingNodes()) ?? (await missing('helm', 'nats-server'));

describe.skipIf(absent)('the nats-server of the chart', { timeout: 240_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let release: Release;
  let address: string;
  let namespace: string;

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['node-1'] });
    const values = parse(await readFile(join(chart, 'values.yaml'), 'utf8')) as {
      nats: { server: { image: string } };
    };
    const [node] = kubernetes.nodes;
    await node!.importImage(await writeNatsImage(await temporaryFolder(), values.nats.server.image));
    // A disk of the node, since nothing here makes disks. Nobody else gives it to the user that pods run as.
    const path = '/var/lib/nats-disk';
    await node!.run('install', '-d', '-o', '65532', '-g', '65532', path);
    await kubernetes.kubectl(
      ['create', '-f', '-'],
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'PersistentVolume',
        metadata: { name: 'disk' },
        spec: {
          storageClassName: 'node',
          capacity: { storage: '1Gi' },
          accessModes: ['ReadWriteOnce'],
          hostPath: { path },
        },
      }),
    );
    const server = { enabled: true, storage: { className: 'node', size: '1Gi' } };
    release = await installRelease(kubernetes, {
      secrets,
      values: {
        site: 'yard',
        nats: { server, credentialsSecret: 'atoll-nats' },
        mqtt: { credentialsSecret: 'atoll-mqtt' },
      },
    });
    // By its name it is found where there is DNS.
    address = await kubernetes.kubectl([
      ...['get', 'service', 'atoll-nats', '-n', systemNamespace],
      ...['-o', 'jsonpath={.spec.clusterIP}'],
    ]);
    await release.upgrade({
      values: { nats: { url: `nats://${address}:4222` }, mqtt: { url: `mqtt://${address}:1883` } },
    });
    namespace = await kubernetes.namespace();
    for (const [name, stringData] of Object.entries(secrets)) {
      const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace }, stringData };
      await kubernetes.kubectl(['create', '-f', '-'], JSON.stringify(secret));
    }
  }, 360_000);

  async function client(): Promise<NatsConnection> {
    const nc = await connect({ servers: `nats://${address}:4222`, ...login, maxReconnectAttempts: -1 });
    closeLater(() => nc.close());
    return nc;
  }

  /** Resolves when the function is ready. */
  async function runs(within: string, name: string, spec: object): Promise<void> {
    const metadata = { name, namespace: within };
    const object = { apiVersion: 'atoll.dev/v1alpha1', kind: 'Function', metadata, spec };
    await kubernetes.kubectl(['apply', '-f', '-'], JSON.stringify(object));
    await kubernetes
      .kubectl(['wait', `fn/${name}`, '-n', within, '--for=condition=Ready', '--timeout=120s'])
      .catch(async (error: unknown) => {
        throw new Error(`${String(error)}\n${await release.state()}`);
      });
  }

  const echo = (triggers: object[]): object => ({
    package: { inline: 'exports.handler = (event) => event' },
    triggers,
    onSuccess: { nats: { subject: 'done' } },
  });

  const pod = ['pod', 'atoll-nats-0', '-n', systemNamespace];
  const read = (path: string): Promise<string> =>
    kubernetes.kubectl(['get', ...pod, '-o', `jsonpath=${path}`]).catch(() => '');
  async function replacePod(): Promise<void> {
    const uid = await read('{.metadata.uid}');
    const uidAndReady = '{.metadata.uid} {.status.containerStatuses[0].ready}';
    await kubernetes.kubectl(['delete', ...pod]);
    await expect
      .poll(() => read(uidAndReady), { timeout: 60_000 })
      .toMatch(new RegExp(`^(?!${uid})\\S+ true$`));
  }

  test('serves functions by NATS, JetStream and MQTT, and has everything again after its pod was replaced', async () => {
    const nc = await client();
    await (await jetstreamManager(nc)).streams.add({ name: 'ORDERS', subjects: ['orders'] });
    const done: string[] = [];
    nc.subscribe('done', {
      callback: (_error, message) => {
        done.push(message.json<{ responsePayload: string }>().responsePayload);
      },
    });
    const triggers = [
      { name: 'asked', nats: { subject: 'echo' } },
      { name: 'orders', jetstream: { stream: 'ORDERS', startAt: 'All' } },
      { name: 'robots', mqtt: { topic: 'robots', qos: 1 } },
    ];
    await runs(namespace, 'echo', echo(triggers));
    const ask = async (): Promise<unknown> =>
      (await nc.request('echo', '"asked"', { timeout: 5_000 })).json();
    const send = async (topic: string): Promise<void> => {
      const mqtt = await connectAsync(`mqtt://${address}:1883`, { ...mqttLogin, connectTimeout: 5_000 });
      await mqtt.publishAsync('robots', JSON.stringify(topic), { qos: 1 });
      await mqtt.endAsync();
    };
    expect(await ask()).toBe('asked');
    await jetstream(nc).publish('orders', '"first order"');
    await send('first robot');
    for (const one of ['first order', 'first robot']) {
      await expect.poll(() => done, { timeout: 60_000 }).toContain(one);
    }
    // This cluster was given no S3.
    const folder = await functionFolder('packed');
    const deployed = await faas(['--context', 'test', '-n', namespace, 'deploy', folder], {
      env: { KUBECONFIG: kubernetes.kubeconfigFile },
    });
    expect(deployed).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(
        /^error: NoPackageStore: .* has no store for packages\n.*s3\.endpoint/m,
      ) as string,
    });

    const stranger = connect({ servers: `nats://${address}:4222`, reconnect: false });
    await expect(stranger).rejects.toThrow(/authorization/i);
    await expect(connectAsync(`mqtt://${address}:1883`, {}, false)).rejects.toThrow();

    const ip = await read('{.status.podIP}');
    const { server_name: name } = (await (await fetch(`http://${ip}:8222/varz`)).json()) as {
      server_name: string;
    };
    expect(name).toBe('yard-atoll-nats-0');
    await replacePod();
    await expect.poll(() => ask().catch(String), { timeout: 60_000 }).toBe('asked');
    const { state } = await (await jetstreamManager(nc)).streams.info('ORDERS');
    expect(state.messages).toBe(1);
    await jetstream(nc).publish('orders', '"second order"');
    await expect
      .poll(async () => send('second robot').then(() => 'sent', String), { timeout: 60_000 })
      .toBe('sent');
    for (const one of ['second order', 'second robot']) {
      await expect.poll(() => done, { timeout: 60_000 }).toContain(one);
    }
    expect(done.filter((one) => one === 'first order')).toHaveLength(1);
  });

  test('keeps the pods of each namespace in its own NATS account, and has it again after its pod was replaced', async () => {
    const seed = newOperatorSeed();
    const operator = openOperatorKeys(seed);
    await kubernetes.kubectl(['create', '-f', '-'], JSON.stringify(accountsSecret('/data/accounts', seed)));
    await kubernetes.kubectl(['delete', 'fn', 'echo', '-n', namespace, '--ignore-not-found']);
    await release.upgrade({
      values: {
        nats: { credentialsSecret: '', accounts: { secret: 'atoll-accounts' } },
        mqtt: { url: '', credentialsSecret: '' },
      },
    });
    const [lab, yard] = [await kubernetes.namespace(), await kubernetes.namespace()];
    const triggers = [
      { name: 'asked', nats: { subject: 'echo' } },
      { name: 'clock', schedule: { every: '1s' } },
    ];
    const asking = `import { nats } from 'atoll';
      export const handler = (subject) =>
        nats.request(subject, 'me').then((reply) => reply.string(), ({ code }) => code);`;
    await Promise.all([
      runs(lab, 'echo', echo(triggers)),
      runs(yard, 'asks', {
        package: { inline: asking },
        permissions: { call: ['echo', 'nearby'] },
        triggers: [{ name: 'asked', nats: { subject: 'asks' } }],
      }),
    ]);
    const administrator = async (within: string): Promise<NatsConnection> => {
      const nc = await connect({
        servers: `nats://${address}:4222`,
        authenticator: credsAuthenticator(Buffer.from(operator.administrator(within, 'test'))),
        maxReconnectAttempts: -1,
      });
      closeLater(() => nc.close());
      return nc;
    };
    const [inLab, inYard] = [await administrator(lab), await administrator(yard)];
    const ask = async (nc: NatsConnection, subject: string, event: string): Promise<unknown> =>
      (await nc.request(subject, JSON.stringify(event), { timeout: 10_000 })).json();
    expect(await ask(inLab, 'echo', 'me')).toBe('me');
    inYard.subscribe('nearby', { callback: (_error, message) => void message.respond('heard') });
    await inYard.flush();
    expect(await ask(inYard, 'asks', 'nearby')).toBe('heard');
    expect(await ask(inYard, 'asks', 'echo')).toBe('NoResponders');

    await replacePod();
    await expect.poll(() => ask(inLab, 'echo', 'me').catch(String), { timeout: 60_000 }).toBe('me');
    // Inbox and state, too: a tick comes through them.
    const isTick = (text: string): boolean => text.includes('Scheduled Event');
    const done: string[] = [];
    inLab.subscribe('done', { callback: (_error, message) => void done.push(message.string()) });
    await expect.poll(() => done.some(isTick), { timeout: 60_000 }).toBe(true);
    const before = connect({ servers: `nats://${address}:4222`, ...login, reconnect: false });
    await expect(before).rejects.toThrow(/authorization/i);
  });
});
