import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Writable } from 'node:stream';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import mqtt, { type MqttClient } from 'mqtt';
import { expect, test } from 'vitest';
import { startSweep, type SweepOptions } from '../../../controller/broker/sweep.ts';
import { openDirectoryStore } from '../../../controller/stores/directory.ts';
import { sitePaths, type SitePaths } from '../../../controller/stores/site.ts';
import type { Store } from '../../../controller/stores/store.ts';
import { mqttClientId } from '../../../runtime/clients/mqtt.ts';
import { openNats } from '../../../runtime/clients/nats.ts';
import { consumerLabels } from '../../../runtime/consumer.ts';
import { openDeadLetters, type DeadLetters } from '../../../runtime/dead-letters.ts';
import { openInbox, type Inbox } from '../../../runtime/inbox.ts';
import { openLog } from '../../../runtime/log.ts';
import { openState } from '../../../runtime/streams.ts';
import { knownSessionKey } from '../../../runtime/triggers/mqtt.ts';
import { manifest } from '../../contracts/store.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startNats, type NatsServer } from '../../support/nats.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const hello = { namespace: 'default', name: 'hello' };
const orders = { triggers: [{ name: 'orders', jetstream: { stream: 'ORDERS' } }] };

interface Lab {
  readonly server: NatsServer;
  readonly nats: NatsConnection;
  readonly manager: JetStreamManager;
  readonly inbox: Inbox;
  readonly deadLetters: DeadLetters;
  readonly store: Store;
  readonly paths: SitePaths;
  sweep(options?: Partial<SweepOptions>): void;
  /** The function's consumer on the stream ORDERS, as its trigger makes it. */
  addConsumer(name: string, uid: string, trigger: string): Promise<void>;
  consumers(): Promise<string[]>;
}

async function lab(options: { mqtt?: boolean } = {}): Promise<Lab> {
  const server = await startNats(options);
  const nats = await server.connect();
  const manager = await jetstreamManager(nats);
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders'] });
  const link = openNats({ url: server.url }, { name: 'test', site: 'local', log });
  closeLater(() => link.close());
  await link.connection();
  const dir = await temporaryFolder();
  const store = await openDirectoryStore({ dir });
  const deadLetters = openDeadLetters(link, { site: 'local', log });
  const inbox = openInbox(link, { site: 'local', log });
  return {
    server,
    nats,
    manager,
    inbox,
    deadLetters,
    store,
    paths: sitePaths(dir),
    sweep(more) {
      const sweep = startSweep({
        store,
        link,
        deadLetters,
        site: 'local',
        owner: { id: 'folder', place: 'here' },
        log,
        graceMs: 0,
        settleMs: 50,
        ...more,
      });
      closeLater(() => sweep.stop());
    },
    async addConsumer(name, uid, trigger) {
      const metadata = {
        [consumerLabels.site]: 'local',
        [consumerLabels.uid]: uid,
        [consumerLabels.trigger]: trigger,
      };
      await manager.consumers.add('ORDERS', { durable_name: name, metadata });
    },
    async consumers() {
      const names: string[] = [];
      for await (const { name } of manager.consumers.list('ORDERS')) names.push(name);
      return names.sort();
    },
  };
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`it never came true: ${holds.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('what a deleted Function or trigger left is forgotten at the change, and what lives stays', async () => {
  const { store, addConsumer, consumers, sweep, inbox, deadLetters, manager } = await lab();
  const living = await store.put(manifest('hello', orders));
  const doomed = await store.put(manifest('doomed', orders));
  await addConsumer('living', living.metadata.uid, 'orders');
  await addConsumer('former-trigger', living.metadata.uid, 'former');
  await addConsumer('doomed', doomed.metadata.uid, 'orders');
  await manager.consumers.add('ORDERS', { durable_name: 'not-ours' });
  await until(async () => inbox.ready);
  await inbox.put(doomed.metadata, {
    id: 'e1',
    trigger: 'invoke',
    kind: 'invoke',
    subject: 'invoke',
    time: Date.now(),
    attempt: 1,
    headers: {},
    encoding: 'json',
    data: Buffer.from('1'),
  });
  sweep();
  await until(async () => !(await consumers()).includes('former-trigger'));
  expect(await consumers()).toEqual(['doomed', 'living', 'not-ours']);
  await store.remove(doomed.metadata);
  await until(async () => !(await consumers()).includes('doomed'));
  expect(await consumers()).toEqual(['living', 'not-ours']);
  const dead = async () => deadLetters.list({ namespace: 'default', name: 'doomed' }, { limit: 10 });
  await until(async () => (await dead()).length > 0);
  expect((await dead()).map(({ reason }) => reason)).toEqual(['FunctionDeleted']);
});

test('nothing is swept while a stored Function cannot be read: its events are not those of a deleted one', async () => {
  const { store, paths, addConsumer, consumers, sweep } = await lab();
  const { metadata } = await store.put(manifest('hello', orders));
  await addConsumer('hello', metadata.uid, 'orders');
  await addConsumer('gone', 'uid-of-nobody', 'orders');
  const file = paths.functionFile(hello);
  await writeFile(file, 'spec: [oops');
  sweep();
  const other = paths.functionFile({ namespace: 'lab', name: 'other' });
  await mkdir(dirname(other), { recursive: true });
  // Long enough for several sweeps to be asked for and done.
  for (let round = 0; round < 5; round += 1) {
    await store.put(manifest('other', { timeoutSeconds: round + 1 }, { namespace: 'lab' }));
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  expect(await consumers()).toEqual(['gone', 'hello']);
  await rm(file);
  await until(async () => (await consumers()).length === 0);
});

test('the broker forgets the MQTT session of a deleted trigger, with what it queued, and not that of another site', async () => {
  const { server, nats, store, sweep } = await lab({ mqtt: true });
  const url = server.mqttUrl;
  const session = async (clientId: string): Promise<MqttClient> =>
    mqtt.connectAsync(url, { clientId, clean: false, protocolVersion: 4 });
  const clientIds = [mqttClientId('local', hello, 'door'), mqttClientId('other', hello, 'bell')];
  const kv = await openState(nats);
  for (const [index, clientId] of clientIds.entries()) {
    const device = await session(clientId);
    await device.subscribeAsync('door', { qos: 1 });
    await device.endAsync();
    const known = { uid: 'uid-of-nobody', clientId, version: 4, topics: ['door'] };
    await kv.put(knownSessionKey(hello, index === 0 ? 'door' : 'bell'), JSON.stringify(known));
  }
  await store.put(manifest('living'));
  sweep({ mqtt: { url } });
  await until(async () => (await kv.get(knownSessionKey(hello, 'door')))?.operation !== 'PUT');
  const present = async (clientId: string): Promise<boolean> => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const device = mqtt.connect(url, { clientId, clean: false, protocolVersion: 4 });
    device.once('connect', ({ sessionPresent }) => resolve(sessionPresent));
    const answer = await promise;
    await device.endAsync();
    return answer;
  };
  expect(await Promise.all(clientIds.map(present))).toEqual([false, true]);
  expect((await kv.get(knownSessionKey(hello, 'bell')))?.operation).toBe('PUT');
});
