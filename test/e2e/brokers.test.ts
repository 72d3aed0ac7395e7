import { once, type EventEmitter } from 'node:events';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { connectAsync, type MqttClient } from 'mqtt';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { closeLater } from '../support/closing.ts';
import { startMosquitto } from '../support/mosquitto.ts';
import { startNats } from '../support/nats.ts';
import { openJournal, recordModule } from './journal.ts';
import {
  describes,
  processNamed,
  startSite,
  unready,
  until,
  type FunctionSource,
  type Site,
} from './site.ts';

vi.setConfig({ testTimeout: 180_000 });

interface Recorded {
  kind: string;
  subject: string;
  event: { n: number };
  retain?: boolean;
  qos?: number;
}

const recorder = (
  journal: { env: { name: string; value: string } },
  triggers: Record<string, unknown>[],
  spec: Record<string, unknown> = {},
): FunctionSource => ({
  name: 'records',
  spec: { env: [journal.env], concurrency: 2, triggers, ...spec },
  files: recordModule,
  code: `
    import { setTimeout as pause } from 'node:timers/promises';
    import { record } from './record.ts';
    export const handler = async (event, { trigger }) => {
      await pause(event?.slowMs ?? 0);
      const { kind, subject, retain, qos } = trigger;
      record({ kind, subject, retain, qos, event });
      return { ok: true };
    };`,
});

const account = `
  accounts { APP: { jetstream: enabled, users: [{ user: app, password: app }] } }
  no_auth_user: app`;

/** A host that stands still under more than the kernel and the server hold for one client, until `told` comes true. */
async function floodStoodStill(
  site: Site,
  admin: NatsConnection,
  told: [what: string, holds: () => true | undefined | Promise<true | undefined>],
): Promise<void> {
  const triggers = [{ name: 'plain', nats: { subject: 'e2e.flood' } }];
  await site.deploy({
    name: 'slow',
    spec: { triggers },
    code: 'export const handler = async ({ n }) => n;',
  });
  const { pid } = processNamed(site, 'runtime/main');
  process.kill(pid, 'SIGSTOP');
  try {
    const event = JSON.stringify({ n: 1, pad: 'x'.repeat(100_000) });
    for (let n = 0; n < 300; n++) admin.publish('e2e.flood', event);
    await admin.flush();
    await until(...told);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

/** In condition, log and metric; and the host goes on. */
async function toldAsSlowConsumer(site: Site, admin: NatsConnection, condition: RegExp): Promise<void> {
  await describes(site, 'slow', condition);
  const { stdout } = await site.faas('logs', 'slow', '--limit', '10000', '-o', 'json');
  expect(stdout).toContain('cut off by the server for reading too slowly');
  expect(await (await site.fetch('/metrics')).text()).toMatch(
    /^atoll_trigger_slow_consumer_total\{namespace="default",function="slow",trigger="plain"\} 1$/m,
  );
  const answer = await admin.request('e2e.flood', '{"n":2}', { timeout: 20_000 });
  expect(answer.json()).toBe(2);
}

test.each([
  ['that has no accounts', '', 'closed the connection without a word'],
  ['that has', account, 'Slow Consumer'],
])(
  'a host that reads too slowly is cut off by a NATS server %s: said in log, metric and condition, and it goes on',
  async (_which, config, why) => {
    const server = await startNats({
      maxPayload: 1024 * 1024,
      config: `max_pending: 1MB\nwrite_deadline: "1s"\n${config}`,
    });
    const admin = await server.connect();
    const site = await startSite({ args: ['--nats', server.url] });

    await floodStoodStill(site, admin, [
      'the server is rid of the host',
      async () => {
        const answer = await fetch(`${server.monitorUrl}/varz`);
        return ((await answer.json()) as { slow_consumers: number }).slow_consumers > 0 || undefined;
      },
    ]);

    const condition = new RegExp(`plain .*True.*cut off once as a slow consumer \\(.*${why}`);
    await toldAsSlowConsumer(site, admin, condition);
  },
);

test("the site's own nats-server cuts off a host that reads nothing: `faas up` says so, and log, metric and condition", async () => {
  const site = await startSite();
  const admin = await site.nats();

  // Less than the 256 MB that may wait: the server's write_deadline of 10 s ends it.
  await floodStoodStill(site, admin, [
    'faas up says it',
    () => /Slow Consumer Detected/.test(site.output()) || undefined,
  ]);

  await toldAsSlowConsumer(site, admin, /plain .*True.*cut off once as a slow consumer/);
});

// Those below have servers of their own and mostly wait: they do it at the same time.

test.concurrent(
  'a NATS server of others that is away at the start and later: said in the status, and recovered from',
  async () => {
    const server = await startNats();
    const admin = await server.connect({ maxReconnectAttempts: -1, reconnectTimeWait: 100 });
    await (await jetstreamManager(admin)).streams.add({ name: 'E2E', subjects: ['e2e.stream'] });
    await server.stop();
    const journal = await openJournal<Recorded>();
    const site = await startSite({ args: ['--nats', server.url] });
    await site.deploy(
      recorder(journal, [
        { name: 'plain', nats: { subject: 'e2e.plain' } },
        { name: 'stream', jetstream: { stream: 'E2E', startAt: 'All' } },
        { name: 'clock', schedule: { every: '1s' } },
      ]),
      '--no-wait',
    );
    const told = await describes(site, 'records', /clock .*Unavailable/);
    for (const trigger of ['plain', 'stream', 'clock']) {
      expect(told).toMatch(
        new RegExp(`${trigger} .* False +\\w*(Nats|JetStream)Unavailable .*127\\.0\\.0\\.1`),
      );
    }
    const refused = await site.fetch('/2015-03-31/functions/records/invocations', {
      method: 'POST',
      headers: { 'x-amz-invocation-type': 'Event' },
      body: '{}',
    });
    expect(refused.status).toBe(503);

    const kinds = (): Set<string> => new Set(journal.read().map(({ kind }) => kind));
    await server.restart();
    await site.ready('records');
    expect(await admin.request('e2e.plain', '{"n":1}', { timeout: 20_000 })).toBeDefined();
    await jetstream(admin).publish('e2e.stream', '{"n":2}');
    await until('all three came', () => kinds().size === 3 || undefined);

    await server.kill();
    expect(await unready(site, 'records')).toMatchObject({ reason: 'NatsUnavailable' });
    const before = journal.read().length;
    await server.restart();
    await site.ready('records');
    await jetstream(admin).publish('e2e.stream', '{"n":3}');
    await until(
      'events come again',
      () =>
        journal
          .read()
          .slice(before)
          .some(({ event }) => event.n === 3) || undefined,
    );
  },
);

test.concurrent.each([4, 5] as const)(
  'mosquitto, MQTT version %i: topic, retained flag and wildcards arrive; away is said, and recovered from',
  async (version) => {
    const broker = await startMosquitto();
    const client = await connectAsync(broker.url, { protocolVersion: version, reconnectPeriod: 100 });
    closeLater(async () => void (await client.endAsync(true)));
    // Retained: there before anybody subscribes.
    await client.publishAsync('reef/depth', '{"n":1}', { qos: 1, retain: true });
    await broker.stop();
    const journal = await openJournal<Recorded>();
    const site = await startSite({ args: ['--mqtt', broker.url] });
    await site.deploy(
      recorder(journal, [
        { name: 'one', mqtt: { topic: 'fleet/+/battery', qos: 1, version } },
        { name: 'all', mqtt: { topic: 'reef/#', qos: 2, version } },
      ]),
      '--no-wait',
    );
    const told = await describes(site, 'records', /one .* False +MqttUnavailable/);
    expect(told).toMatch(new RegExp(`all .* False +MqttUnavailable .*127\\.0\\.0\\.1:${broker.port}`));

    await broker.restart();
    await site.ready('records');
    await client.publishAsync('reef/a/b', '{"n":2}', { qos: 2 });
    await client.publishAsync('fleet/r7/battery', '{"n":3}', { qos: 1 });
    await client.publishAsync('fleet/r7/camera/battery', '{"n":4}', { qos: 1 });
    const seen = await until('three came', () => {
      const all = journal.read();
      return new Set(all.map(({ event }) => event.n)).size === 3 ? all : undefined;
    });
    const of = (n: number) => seen.find(({ event }) => event.n === n);
    expect(of(1)).toMatchObject({ subject: 'reef/depth', retain: true });
    expect(of(2)).toMatchObject({ subject: 'reef/a/b', retain: false, qos: 2 });
    expect(of(3)).toMatchObject({ subject: 'fleet/r7/battery', retain: false, qos: 1 });
    expect(of(4)).toBeUndefined();

    await broker.stop();
    await describes(site, 'records', /one .* False +MqttUnavailable/);
    await broker.restart();
    await site.ready('records');
    await client.publishAsync('fleet/r8/battery', '{"n":5}', { qos: 1 });
    await until('it came', () => journal.read().some(({ event }) => event.n === 5) || undefined);
  },
);

test.concurrent.for([4, 5] as const)(
  'mosquitto, MQTT version %i: of 400 QoS 1 messages none is lost while handler, broker and site come and go',
  async (version, { onTestFinished: closing }) => {
    const count = 400;
    const broker = await startMosquitto({ closing });
    const journal = await openJournal<Recorded>({ closing });
    const site = await startSite({ args: ['--mqtt', broker.url], closing });
    await site.deploy(
      recorder(journal, [{ name: 'numbers', mqtt: { topic: 'numbers', qos: 1, version } }], {
        timeoutSeconds: 10,
        concurrency: 8,
      }),
    );
    async function connectClient(): Promise<[MqttClient, Promise<never>]> {
      const options = { protocolVersion: version, reconnectPeriod: 0, connectTimeout: 2_000 };
      const client = await connectAsync(broker.url, options);
      const closed = once(client as unknown as EventEmitter, 'close').then(() =>
        Promise.reject(new Error('closed')),
      );
      closed.catch(() => {});
      return [client, closed];
    }
    let [client, closed] = await connectClient();
    closeLater(async () => void (await client.endAsync(true)), closing);
    /** Numbers are sent until they are acknowledged: one may come twice, none may be missing. */
    async function send(from: number, to: number): Promise<void> {
      for (let n = from; n < to;) {
        try {
          if (!client.connected) [client, closed] = await connectClient();
          // One in forty holds a slot for longer than the rest.
          const event = { n, slowMs: n % 40 === 0 ? 1_500 : 5 };
          const done = client.publishAsync('numbers', JSON.stringify(event), { qos: 1 });
          await Promise.race([done, closed]);
          n += 1;
        } catch {
          await pause(50);
        }
      }
    }
    const seen = (): number => new Set(journal.read().map(({ event }) => event.n)).size;
    await send(0, count / 4);
    const second = send(count / 4, count / 2);
    await broker.stop();
    await broker.restart();
    await second;
    const third = send(count / 2, (count * 3) / 4);
    await site.stop();
    await third;
    await site.start();
    const fourth = send((count * 3) / 4, count);
    await until('half of them came', () => seen() > count / 2 || undefined);
    await site.kill();
    await fourth;
    await site.start();
    await until('all came', () => seen() === count || undefined, 60_000).catch((error: unknown) => {
      throw new Error(`${seen()} of ${count} came`, { cause: error });
    });
  },
);

test.concurrent(
  "a host that stood still is sent again what was on its way from nats-server's MQTT listener, and no more",
  async ({ onTestFinished: closing }) => {
    const count = 1_500;
    const journal = await openJournal<Recorded>({ closing });
    const site = await startSite({ closing });
    await site.deploy(recorder(journal, [{ name: 'numbers', mqtt: { topic: 'numbers', qos: 1 } }]));
    const client = await connectAsync(site.info.mqtt?.url ?? '', { protocolVersion: 4 });
    closeLater(() => client.endAsync(true), closing);
    const { pid } = processNamed(site, 'runtime/main');
    process.kill(pid, 'SIGSTOP');
    const sent = Array.from({ length: count }, (_, n) =>
      client.publishAsync('numbers', JSON.stringify({ n }), { qos: 1 }),
    );
    // Longer than the server waits for an acknowledgement: docs/reference/delivery.md.
    await Promise.all([...sent, pause(6_000)]);
    process.kill(pid, 'SIGCONT');
    const times = (): Map<number, number> => {
      const counts = new Map<number, number>();
      for (const { event } of journal.read()) counts.set(event.n, (counts.get(event.n) ?? 0) + 1);
      return counts;
    };
    await until('all came', () => times().size === count || undefined, 60_000);
    expect([...times().values()].filter((one) => one > 1).length).toBeLessThanOrEqual(100);
  },
);
