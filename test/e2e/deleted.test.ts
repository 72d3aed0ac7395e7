import { join } from 'node:path';
import { jetstream, jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import { connect, connectAsync } from 'mqtt';
import { beforeAll, expect, test, vi } from 'vitest';
import { graceMs } from '../../runtime/triggers/forget.ts';
import { closeLater } from '../support/closing.ts';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

interface Entry {
  kind: string;
  version: string;
  n?: number;
  time?: string;
}

let site: Site;
let nats: NatsConnection;
let manager: JetStreamManager;
let journal: Journal<Entry>;

const source = (name: string, version: string): FunctionSource => ({
  name,
  spec: {
    env: [journal.env],
    retry: { maxAttempts: 10, minBackoffMs: 60_000 },
    triggers: [
      { name: 'new', jetstream: { stream: 'DELETED', subject: `gone.${name}`, startAt: 'New' } },
      { name: 'topic', mqtt: { topic: `deleted/${name}`, qos: 1 } },
      { name: 'clock', schedule: { every: '1s', catchUp: true } },
    ],
  },
  files: recordModule,
  code: `
    import { record } from './record.ts';
    export const handler = async (event, { trigger }) => {
      if (event.fail) throw new Error('not now');
      record({ kind: trigger.kind, version: '${version}', n: event.n, time: event.time });
    };`,
});

const entries = (version: string, kind: string): Entry[] =>
  journal.read().filter((entry) => entry.version === version && entry.kind === kind);

beforeAll(async () => {
  journal = await openJournal();
  site = await startSite();
  nats = await site.nats();
  manager = await jetstreamManager(nats);
  await manager.streams.add({ name: 'DELETED', subjects: ['gone.>'] });
  await site.deploy(source('old', 'old'));
  // Has no package, so what is sent to it waits in the inbox.
  await site.faas('apply', '-f', join(await site.write({ name: 'never', code: '' }), 'function.yaml'));
  for (const n of [1, 2, 3]) await site.faas('invoke', 'never', '--async', '-d', JSON.stringify({ n }));
  // One that failed once: it leaves a record of its attempts.
  await site.faas('invoke', 'old', '--async', '-d', '{"fail":true}');
  await until(
    'its failure is recorded',
    async () => (await stateKeys('old')).some((key) => key.startsWith('attempts.')) || undefined,
  );
});

async function publish(topic: string, event: object): Promise<void> {
  const client = await connectAsync(site.info.mqtt?.url ?? '', { protocolVersion: 4 });
  await client.publishAsync(topic, JSON.stringify(event), { qos: 1 });
  await client.endAsync();
}

async function stateKeys(name: string): Promise<string[]> {
  const keys: string[] = [];
  const kv = await new Kvm(nats).open('ATOLL_STATE');
  for await (const key of await kv.keys()) if (key.split('.')[2] === name) keys.push(key);
  return keys;
}

async function consumers(name: string): Promise<string[]> {
  const found: string[] = [];
  for await (const stream of manager.streams.names()) {
    for await (const consumer of manager.consumers.list(stream)) {
      const parts = consumer.name.split('_');
      if (parts[0] === 'default' && parts[1] === name) found.push(`${stream}/${consumer.name}`);
    }
  }
  return found;
}

/** Whether the broker keeps a session under the trigger's client id. */
async function sessionOf(name: string): Promise<boolean> {
  const client = connect(site.info.mqtt?.url ?? '', {
    protocolVersion: 4,
    clientId: `atoll-local-default-${name}-topic`,
    clean: false,
    reconnectPeriod: 0,
  });
  closeLater(async () => void (await client.endAsync(true)));
  return await new Promise<boolean>((resolve, reject) => {
    client.once('connect', ({ sessionPresent }) => resolve(sessionPresent));
    client.once('error', reject);
  });
}

test('a function that is made again under the same name begins anew: consumers, MQTT session and ticks', async () => {
  await site.deploy(source('again', 'first'));
  const stream = jetstream(nats);
  await stream.publish('gone.again', '{"n":1}');
  await publish('deleted/again', { n: 2 });
  await until(
    'both came, and a tick',
    () => ['jetstream', 'mqtt', 'schedule'].every((kind) => entries('first', kind).length > 0) || undefined,
  );
  await site.faas('delete', 'again');
  await until('it is gone', async () => {
    const answer = await site.fetch('/2015-03-31/functions/again/invocations', {
      method: 'POST',
      body: '{}',
    });
    return answer.status === 404 || undefined;
  });
  const gone = entries('first', 'schedule').length;
  // For nobody: the new one has "startAt: New", and had no session when this was published.
  await stream.publish('gone.again', '{"n":3}');
  await publish('deleted/again', { n: 4 });
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  const deployedMs = Date.now();
  await site.deploy(source('again', 'second'));
  await stream.publish('gone.again', '{"n":5}');
  await publish('deleted/again', { n: 6 });
  await until(
    'both came, and ticks',
    () =>
      (entries('second', 'jetstream').some(({ n }) => n === 5) &&
        entries('second', 'mqtt').some(({ n }) => n === 6) &&
        entries('second', 'schedule').length > 1) ||
      undefined,
  );
  expect(entries('second', 'jetstream').map(({ n }) => n)).toEqual([5]);
  expect(entries('second', 'mqtt').map(({ n }) => n)).toEqual([6]);
  // Ticks have whole seconds.
  const ticks = entries('second', 'schedule').map(({ time }) => Date.parse(time ?? ''));
  expect(Math.min(...ticks)).toBeGreaterThanOrEqual(deployedMs - 1_000);
  expect(entries('first', 'schedule')).toHaveLength(gone);
});

test('what deleted functions left in the brokers is forgotten, what waited for them is dead-lettered', async () => {
  expect((await consumers('old')).length).toBeGreaterThanOrEqual(2);
  expect((await stateKeys('old')).map((key) => key.split('.')[0])).toEqual(
    expect.arrayContaining(['attempts', 'schedule', 'mqtt-topic']),
  );
  await site.faas('delete', 'old', 'never');
  // What is younger than a minute might belong to a Function that is about to appear.
  await until(
    'consumers and keys are gone',
    async () => {
      const left = [...(await consumers('old')), ...(await consumers('never')), ...(await stateKeys('old'))];
      if (left.length > 0) throw new Error(left.join(', '));
      return true;
    },
    2 * graceMs,
  );
  expect(await sessionOf('old')).toBe(false);
  for (const [name, count] of [
    ['never', 3],
    ['old', 1],
  ] as const) {
    const { stdout } = await site.faas('dead', 'list', name, '-o', 'json');
    const letters = JSON.parse(stdout) as { reason: string }[];
    expect(letters.map(({ reason }) => reason)).toEqual(Array<string>(count).fill('FunctionDeleted'));
  }
  // Nothing of the one that lives was touched.
  expect((await consumers('again')).length).toBeGreaterThanOrEqual(2);
  await publish('deleted/again', { n: 7 });
  await until('it still comes', () => entries('second', 'mqtt').some(({ n }) => n === 7) || undefined);
});

test('dead letters of a deleted function are redriven into another one', async () => {
  const none = await site.run(['dead', 'redrive', 'never']);
  expect(none.stdout + none.stderr).toMatch(/refused|--to/);
  await site.faas('dead', 'redrive', 'never', '--to', 'again/invoke');
  await until('they came', () => entries('second', 'invoke').length === 3 || undefined);
  expect(
    entries('second', 'invoke')
      .map(({ n }) => n)
      .sort(),
  ).toEqual([1, 2, 3]);
  const { stdout } = await site.faas('dead', 'list', 'never', '-o', 'json').catch(() => ({ stdout: '[]' }));
  expect(JSON.parse(stdout)).toEqual([]);
});
