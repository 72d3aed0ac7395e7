/** The chart's own nats-server in a real cluster: who may come in, what it keeps, and that it keeps it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { chart } from '../../charts/manifest.ts';
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

  test('serves functions by NATS, JetStream and MQTT, and has everything again after its pod was replaced', async () => {
    const nc = await client();
    await (await jetstreamManager(nc)).streams.add({ name: 'ORDERS', subjects: ['orders'] });
    const done: string[] = [];
    nc.subscribe('done', {
      callback: (_error, message) => {
        done.push(message.json<{ responsePayload: string }>().responsePayload);
      },
    });
    await kubernetes.kubectl(
      ['apply', '-f', '-'],
      JSON.stringify({
        apiVersion: 'atoll.dev/v1alpha1',
        kind: 'Function',
        metadata: { name: 'echo', namespace },
        spec: {
          package: { inline: 'exports.handler = (event) => event' },
          triggers: [
            { name: 'asked', nats: { subject: 'echo' } },
            { name: 'orders', jetstream: { stream: 'ORDERS', startAt: 'All' } },
            { name: 'robots', mqtt: { topic: 'robots', qos: 1 } },
          ],
          onSuccess: { nats: { subject: 'done' } },
        },
      }),
    );
    await kubernetes
      .kubectl(['wait', 'fn/echo', '-n', namespace, '--for=condition=Ready', '--timeout=120s'])
      .catch(async (error: unknown) => {
        throw new Error(`${String(error)}\n${await release.state()}`);
      });
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
    const stranger = connect({ servers: `nats://${address}:4222`, reconnect: false });
    await expect(stranger).rejects.toThrow(/authorization/i);
    await expect(connectAsync(`mqtt://${address}:1883`, {}, false)).rejects.toThrow();

    const pod = ['pod', 'atoll-nats-0', '-n', systemNamespace];
    const read = (path: string): Promise<string> =>
      kubernetes.kubectl(['get', ...pod, '-o', `jsonpath=${path}`]).catch(() => '');
    const ip = await read('{.status.podIP}');
    const { server_name: name } = (await (await fetch(`http://${ip}:8222/varz`)).json()) as {
      server_name: string;
    };
    expect(name).toBe('yard-atoll-nats-0');
    const uid = await read('{.metadata.uid}');
    await kubernetes.kubectl(['delete', ...pod]);
    await expect
      .poll(
        async () => `${await read('{.metadata.uid}')} ${await read('{.status.containerStatuses[0].ready}')}`,
        {
          timeout: 60_000,
        },
      )
      .toMatch(new RegExp(`^(?!${uid})\\S+ true$`));
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
});
