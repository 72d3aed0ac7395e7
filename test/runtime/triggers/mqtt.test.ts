import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import mqtt from 'mqtt';
import type { IClientOptions, IClientPublishOptions, MqttClient } from 'mqtt';
import { describe, expect, test } from 'vitest';
import type { TriggerSources } from '../../../crds/function.ts';
import { AtollError } from '../../../runtime/errors.ts';
import { forgetMqtt, mqttClientId } from '../../../runtime/clients/mqtt.ts';
import type { Delivery } from '../../../runtime/event.ts';
import { openInboxTrigger } from '../../../runtime/inbox.ts';
import type { Inbox } from '../../../runtime/inbox.ts';
import { inboxEventsPerTrigger, inboxStream, inboxSubject, stateBucket } from '../../../runtime/streams.ts';
import { knownSessionKey, openMqtt } from '../../../runtime/triggers/mqtt.ts';
import type { MqttTiming } from '../../../runtime/triggers/mqtt.ts';
import type { Trigger } from '../../../runtime/triggers/trigger.ts';
import { closedLater, contextOf, testTrigger } from '../../contracts/trigger.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startMosquitto } from '../../support/mosquitto.ts';
import { startNats } from '../../support/nats.ts';
import { freePort } from '../../support/ports.ts';
import { inboxEvents, inboxSize, openHost, until } from './context.ts';
import type { TestHost, TestHostOptions } from './context.ts';

const sourceOf = (source: Partial<TriggerSources['mqtt']>): TriggerSources['mqtt'] => ({
  topic: 'cell/+/state',
  qos: 1,
  version: 4,
  delivery: 'AtLeastOnce',
  ...source,
});
/** Short enough that a takeover can be waited for. */
const timing: MqttTiming = { leaseTtlMs: 1_200, keepaliveSeconds: 5 };

interface Opened extends TestHost {
  readonly trigger: Trigger;
  close(): Promise<void>;
}

async function openTrigger(
  source: Partial<TriggerSources['mqtt']>,
  options: TestHostOptions,
  times: MqttTiming = timing,
): Promise<Opened> {
  const host = await openHost(options);
  const trigger = openMqtt(sourceOf(source), host.context, times);
  const close = closeLater(async () => {
    await trigger.close();
    await host.link?.close();
  });
  return { ...host, trigger, close };
}

async function connectClient(url: string, options: IClientOptions = {}): Promise<MqttClient> {
  const client = await mqtt.connectAsync(url, { reconnectPeriod: 100, ...options });
  closeLater(() => client.endAsync(true));
  return client;
}

async function publish(
  client: MqttClient,
  topic: string,
  value: unknown,
  options: IClientPublishOptions = {},
) {
  await client.publishAsync(topic, JSON.stringify(value), { qos: 1, ...options });
}

async function valuesInInbox(server: Parameters<typeof inboxEvents>[0]): Promise<unknown[]> {
  const events = await inboxEvents(server);
  return events.map(({ data }) => JSON.parse(Buffer.from(data).toString()) as unknown);
}

const count = (server: Parameters<typeof inboxEvents>[0], wanted: number, timeoutMs = 20_000) =>
  until(timeoutMs, async () => expect(await inboxSize(server)).toBeGreaterThanOrEqual(wanted));

for (const delivery of ['AtMostOnce', 'AtLeastOnce'] as const) {
  testTrigger(`mqtt, delivery ${delivery}`, { kind: 'mqtt', broker: true }, async ({ away }) => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const host = await openHost({ nats });
    if (away) await mosquitto.stop();
    return {
      async open({ retry } = {}) {
        const { nats: link, inbox } = host.context;
        const parts = delivery === 'AtLeastOnce' && link && inbox ? { nats: link, inbox } : {};
        const { context, reports } = contextOf({ retry, ...parts, mqtt: { url: mosquitto.url } });
        const session = openMqtt(sourceOf({ delivery }), context, timing);
        // Events come out of the inbox where they go into it.
        const outlet = context.inbox ? openInboxTrigger({ ...context, report: () => {} }) : session;
        const trigger: Trigger = {
          deliveries: () => outlet.deliveries(),
          async close() {
            await session.close();
            await outlet.close();
          },
        };
        return { trigger: closedLater(trigger), reports };
      },
      async send(data) {
        const client = await mqtt.connectAsync(mosquitto.url);
        await client.publishAsync('cell/1/state', Buffer.from(data), { qos: 1 });
        await client.endAsync();
      },
      broker: { stop: () => mosquitto.stop(), start: () => mosquitto.restart() },
    };
  });
}

describe.each([
  { broker: 'the NATS listener', version: 4, native: true },
  { broker: 'mosquitto', version: 4, native: false },
  { broker: 'mosquitto', version: 5, native: false },
] as const)('protocol version $version of $broker', ({ version, native }) => {
  async function startBroker() {
    const port = await freePort();
    // What was not acknowledged NATS sends again after 30 s by default, also to one who connects again before.
    const listener = `mqtt { listen: "127.0.0.1:${port}", ack_wait: "2s" }`;
    const nats = await startNats(native ? { config: listener } : {});
    const mosquitto = native ? undefined : await startMosquitto();
    return { nats, mosquitto, url: mosquitto?.url ?? `mqtt://127.0.0.1:${port}` };
  }

  test.each([1, 2] as const)('a QoS %i message reaches the inbox with its topic', async (qos) => {
    const { nats, url } = await startBroker();
    const { untilState } = await openTrigger({ version, qos }, { nats, mqttUrl: url });
    const { message } = await untilState({ ready: true });
    expect(message).toContain('subscribed to "cell/+/state"');
    const client = await connectClient(url);
    await publish(client, 'cell/7/state', { n: 1 }, { qos });
    await count(nats, 1);
    const [event] = await inboxEvents(nats);
    expect(event).toMatchObject({
      kind: 'mqtt',
      trigger: 'in',
      subject: 'cell/7/state',
      encoding: 'json',
      detail: { retain: false, qos, dup: false },
    });
    expect(Buffer.from(event?.data ?? []).toString()).toBe('{"n":1}');
  });

  test('a retained message is marked, # matches every level below, and $ topics stay out', async () => {
    const { nats, url } = await startBroker();
    const client = await connectClient(url);
    await publish(client, 'plant/a/b/c', 'old', { retain: true });
    const { untilState } = await openTrigger({ version, topic: 'plant/#' }, { nats, mqttUrl: url });
    await untilState({ ready: true });
    await publish(client, 'plant', 'top');
    await publish(client, 'plant/x', 'new');
    await publish(client, 'other/x', 'not asked for');
    await count(nats, 3);
    const events = await inboxEvents(nats);
    expect(events.map(({ subject, detail }) => [subject, detail?.['retain']]).sort()).toEqual([
      ['plant', false],
      ['plant/a/b/c', true],
      ['plant/x', false],
    ]);
  });

  test('a trigger on # gets what others publish, and never what Atoll says to itself', async () => {
    const { nats, url } = await startBroker();
    const { untilState } = await openTrigger({ version, topic: '#' }, { nats, mqttUrl: url });
    await untilState({ ready: true });
    const client = await connectClient(url);
    await publish(client, 'one', 1);
    await publish(client, 'atoll/local/else', 'not for handlers');
    await publish(client, 'two', 2);
    await count(nats, 2);
    // Had the first been fed back, its copy would lie before the second.
    expect((await inboxEvents(nats)).map(({ subject }) => subject)).toEqual(['one', 'two']);
  });

  test('messages sent while the host is down wait at the broker', async () => {
    const { nats, url } = await startBroker();
    const before = await openTrigger({ version }, { nats, mqttUrl: url });
    await before.untilState({ ready: true });
    await before.close();
    const client = await connectClient(url);
    for (let n = 0; n < 50; n++) await publish(client, 'cell/1/state', n);
    const after = await openTrigger({ version }, { nats, mqttUrl: url });
    await after.untilState({ ready: true });
    await count(nats, 50);
    expect(await valuesInInbox(nats)).toEqual(Array.from({ length: 50 }, (_, n) => n));
  });

  test('the broker restarts: nothing acknowledged to the publisher is lost, and the topic is subscribed again', async () => {
    const { nats, mosquitto, url } = await startBroker();
    const { untilState } = await openTrigger({ version }, { nats, mqttUrl: url });
    await untilState({ ready: true });
    const publisher = await connectClient(url);
    const sending = (async () => {
      for (let n = 0; n < 200; n++) await publish(publisher, 'cell/1/state', n);
    })();
    await count(nats, 20);
    await (mosquitto ?? nats).restart();
    await untilState({ ready: true });
    await sending;
    await until(40_000, async () => {
      expect(new Set(await valuesInInbox(nats)).size).toBe(200);
    });
  });

  test.each([1, 2] as const)('a QoS %i message that the inbox did not store is sent again', async (qos) => {
    const { nats, url } = await startBroker();
    const host = await openHost({ nats, mqttUrl: url });
    const { inbox } = host.context;
    let refusals = 0;
    const trigger = openMqtt(
      sourceOf({ version, qos }),
      {
        ...host.context,
        inbox: {
          get ready() {
            return inbox?.ready ?? false;
          },
          onReady: (listener) => inbox?.onReady(listener) ?? (() => {}),
          put(target, event) {
            if (refusals++ > 0 && inbox) return inbox.put(target, event);
            return Promise.reject(new AtollError('InboxUnavailable', 'in this test, the first time'));
          },
        },
      },
      timing,
    );
    closeLater(() => trigger.close());
    await host.untilState({ ready: true });
    const client = await connectClient(url);
    await publish(client, 'cell/1/state', 'again', { qos });
    await count(nats, 1);
    expect(host.states.map(({ reason }) => reason)).toContain('InboxUnavailable');
    expect(await valuesInInbox(nats)).toEqual(['again']);
  });

  test('messages are stored without waiting for each other, and what one that fails held up is not stored twice', async () => {
    const { nats, url } = await startBroker();
    const host = await openHost({ nats, mqttUrl: url });
    const { inbox } = host.context;
    const othersStored = Promise.withResolvers<void>();
    let puts = 0;
    const trigger = openMqtt(
      sourceOf({ version }),
      {
        ...host.context,
        inbox: {
          get ready() {
            return inbox?.ready ?? false;
          },
          onReady: (listener) => inbox?.onReady(listener) ?? (() => {}),
          async put(target, event) {
            const turn = (puts += 1);
            if (turn === 1) {
              await othersStored.promise;
              throw new AtollError('InboxUnavailable', 'in this test, the first message');
            }
            const stored = await (inbox as Inbox).put(target, event);
            if (turn === 3) othersStored.resolve();
            return stored;
          },
        },
      },
      timing,
    );
    closeLater(() => trigger.close());
    await host.untilState({ ready: true });
    const client = await connectClient(url);
    await Promise.all(['a', 'b', 'c'].map((value) => publish(client, 'cell/1/state', value)));
    await count(nats, 3);
    // Sent again in its turn, so nothing before it is still on its way.
    await publish(client, 'cell/1/state', 'd');
    await count(nats, 4);
    expect(await valuesInInbox(nats)).toEqual(['b', 'c', 'a', 'd']);
    expect(puts).toBe(5);
  });

  test('a topic that the manifest no longer names is unsubscribed', async () => {
    const { nats, url } = await startBroker();
    const before = await openTrigger({ version, topic: 'old/topic' }, { nats, mqttUrl: url });
    await before.untilState({ ready: true });
    await before.close();
    const after = await openTrigger({ version, topic: 'new/topic' }, { nats, mqttUrl: url });
    await after.untilState({ ready: true });
    const client = await connectClient(url);
    await publish(client, 'old/topic', 'old');
    await publish(client, 'new/topic', 'new');
    await count(nats, 1);
    expect(await valuesInInbox(nats)).toEqual(['new']);
    const kv = await new Kvm(await nats.connect()).open(stateBucket);
    const key = knownSessionKey({ namespace: 'default', name: 'echo' }, 'in');
    expect((await kv.get(key))?.json()).toEqual({
      uid: 'uid-1',
      clientId: 'atoll-local-default-echo-in',
      version,
      topics: ['new/topic'],
    });
  });

  test('a new function of an old name does not get what waited for the old one', async () => {
    const { nats, url } = await startBroker();
    const before = await openTrigger({ version }, { nats, mqttUrl: url, uid: 'uid-1' });
    await before.untilState({ ready: true });
    await before.close();
    const client = await connectClient(url);
    await publish(client, 'cell/1/state', 'for the old one');
    const after = await openTrigger({ version }, { nats, mqttUrl: url, uid: 'uid-2' });
    await after.untilState({ ready: true });
    await publish(client, 'cell/1/state', 'for the new one');
    await count(nats, 1);
    expect(await valuesInInbox(nats)).toEqual(['for the new one']);
  });

  test('a forgotten session keeps nothing', async () => {
    const { nats, url } = await startBroker();
    const before = await openTrigger({ version }, { nats, mqttUrl: url });
    await before.untilState({ ready: true });
    await before.close();
    const clientId = mqttClientId('local', { namespace: 'default', name: 'echo' }, 'in');
    expect(clientId).toBe('atoll-local-default-echo-in');
    await forgetMqtt({ url }, clientId, version);
    const probe = mqtt.connect(url, { clientId, clean: false, protocolVersion: version });
    closeLater(() => probe.endAsync(true));
    const present = await new Promise((resolve) => {
      probe.once('connect', ({ sessionPresent }) => resolve(sessionPresent));
    });
    expect(present).toBe(false);
  });

  test('delivery AtMostOnce works without NATS and hands its events over itself', async () => {
    const { url } = await startBroker();
    const { trigger, untilState, close } = await openTrigger(
      { version, delivery: 'AtMostOnce' },
      { mqttUrl: url },
    );
    await untilState({ ready: true });
    const client = await connectClient(url);
    await publish(client, 'cell/9/state', { n: 1 });
    const deliveries = trigger.deliveries()[Symbol.asyncIterator]();
    const { value } = (await deliveries.next()) as { value: Delivery };
    expect(value.event).toMatchObject({ kind: 'mqtt', subject: 'cell/9/state', attempt: 1 });
    expect(value).toMatchObject({ replies: false, redeliverable: true });
    await value.settle({ kind: 'retry', delayMs: 1, failed: true });
    const again = (await deliveries.next()) as { value: Delivery };
    expect(again.value.event).toMatchObject({ id: value.event.id, attempt: 2 });
    await again.value.settle({ kind: 'done' });
    await close();
    expect(await deliveries.next()).toEqual({ done: true, value: undefined });
  });
});

describe('delivery AtLeastOnce', () => {
  test('while the inbox is away the holder disconnects, the broker queues, and nothing is lost', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    // With the usual ttl: it is the inbox that makes it disconnect, not the lease.
    const { untilState } = await openTrigger({}, { nats, mqttUrl: mosquitto.url }, { keepaliveSeconds: 5 });
    await untilState({ ready: true });
    const client = await connectClient(mosquitto.url);
    const send = async (from: number, to: number): Promise<void> => {
      await Promise.all(
        Array.from({ length: to - from }, (_, n) => publish(client, 'cell/1/state', from + n)),
      );
    };
    await send(0, 100);
    await count(nats, 100);
    await nats.kill();
    await untilState({ ready: false, reason: 'JetStreamUnavailable' });
    await until(5_000, () =>
      expect(mosquitto.output()).toContain('atoll-local-default-echo-in disconnected'),
    );
    await send(100, 600);
    await nats.restart();
    await untilState({ ready: true });
    const sending = send(600, 1_000);
    await count(nats, 650);
    await nats.kill();
    await sending;
    await nats.restart();
    await until(20_000, async () => expect(new Set(await valuesInInbox(nats)).size).toBe(1_000));
    // What was on its way when the server died may have been stored and sent again.
    const values = (await valuesInInbox(nats)) as number[];
    expect([...new Set(values)].sort((a, b) => a - b)).toEqual(Array.from({ length: 1_000 }, (_, n) => n));
    expect(values.length).toBeLessThan(1_010);
  });

  test('nobody takes anything out of the inbox: the session lives on, far beyond its keep-alive', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const { untilState, states } = await openTrigger(
      {},
      { nats, mqttUrl: mosquitto.url },
      { ...timing, keepaliveSeconds: 1 },
    );
    await untilState({ ready: true });
    const client = await connectClient(mosquitto.url);
    const sent = 40;
    for (let n = 0; n < sent; n++) {
      await publish(client, 'cell/1/state', n);
      // Time has to pass here: four keep-alives of it.
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await count(nats, sent);
    expect(states.filter(({ ready }) => !ready).map(({ reason }) => reason)).toEqual([
      'Connecting',
      'Connecting',
    ]);
    expect(mosquitto.output()).not.toContain('exceeded timeout');
  });

  test('a handler that takes 31 s per event, longer than the lease of 30 s and six keep-alives: nothing is lost or run twice', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const { context, states, untilState } = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    await untilState({ ready: true });
    const outlet = closedLater(openInboxTrigger({ ...context, report: () => {} }));
    const deliveries = outlet.deliveries()[Symbol.asyncIterator]();
    const next = async (): Promise<Delivery> => (await deliveries.next()).value as Delivery;
    const client = await connectClient(mosquitto.url);
    const values = (some: Delivery[]) => some.map(({ event }) => Buffer.from(event.data).toString());
    await publish(client, 'cell/1/state', 0);
    await publish(client, 'cell/1/state', 1);
    const slow = [await next(), await next()];
    const third = next();
    await new Promise((resolve) => setTimeout(resolve, 31_000));
    await publish(client, 'cell/1/state', 2);
    // The first two run still: neither may come again before the third.
    expect(values([...slow, await third])).toEqual(['0', '1', '2']);
    for (const delivery of [...slow, await third]) await delivery.settle({ kind: 'done' });
    await until(10_000, async () => expect(await inboxSize(nats)).toBe(0));
    expect(states.filter(({ reason }) => reason === 'MqttUnavailable')).toEqual([]);
    expect(mosquitto.output()).not.toContain('exceeded timeout');
  });

  test('of two replicas one holds the session, and the other takes over when it closes', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const times = { ...timing, leaseTtlMs: 120_000 };
    const first = await openTrigger({}, { nats, mqttUrl: mosquitto.url }, times);
    await first.untilState({ ready: true });
    const second = await openTrigger({}, { nats, mqttUrl: mosquitto.url }, times);
    expect((await second.untilState({ ready: true })).message).toMatch(/the MQTT session is with local-/);
    const client = await connectClient(mosquitto.url);
    const sending = (async () => {
      for (let n = 0; n < 300; n++) await publish(client, 'cell/1/state', n);
    })();
    await count(nats, 50);
    const closingAt = performance.now();
    await first.close();
    await until(60_000, () => expect(second.states.at(-1)?.message).toContain('subscribed to'));
    // Released, not run out.
    expect(performance.now() - closingAt).toBeLessThan(times.leaseTtlMs / 2);
    await sending;
    await count(nats, 300);
    // It waited for the message it was taking, so not even one comes twice.
    expect(await valuesInInbox(nats)).toEqual(Array.from({ length: 300 }, (_, n) => n));
    expect(mosquitto.output()).not.toContain('already connected');
  });

  test('the old holder disconnects before the new one gets the lease, however long its last message takes', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const host = await openHost({ nats, mqttUrl: mosquitto.url });
    const inbox = host.context.inbox as Inbox;
    const storing = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const slow: Inbox = {
      get ready() {
        return inbox.ready;
      },
      onReady: (listener) => inbox.onReady(listener),
      async put(target, event) {
        storing.resolve();
        await gate.promise;
        return inbox.put(target, event);
      },
    };
    const first = openMqtt(sourceOf({}), { ...host.context, inbox: slow }, timing);
    await host.untilState({ ready: true });
    const second = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    await second.untilState({ ready: true });
    const client = await connectClient(mosquitto.url);
    await publish(client, 'cell/1/state', 'last');
    await storing.promise;
    const closed = first.close();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(second.states.at(-1)?.message).toContain('stands by');
    gate.resolve();
    await closed;
    await until(5_000, () => expect(second.states.at(-1)?.message).toContain('subscribed to'));
    expect(await valuesInInbox(nats)).toEqual(['last']);
    expect(mosquitto.output()).not.toContain('already connected');
  });

  test('the holder is cut off from NATS: the other takes over after the ttl, never at the same time', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const first = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    await first.untilState({ ready: true });
    const second = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    await second.untilState({ ready: true });
    await first.link?.close();
    await first.untilState({ ready: false, reason: 'JetStreamUnavailable' });
    const client = await connectClient(mosquitto.url);
    for (let n = 0; n < 20; n++) await publish(client, 'cell/1/state', n);
    await until(15_000, () => expect(second.states.at(-1)?.message).toContain('subscribed to'));
    await count(nats, 20);
    expect(await valuesInInbox(nats)).toEqual(Array.from({ length: 20 }, (_, n) => n));
    expect(mosquitto.output()).not.toContain('already connected');
  });

  test('an event too big for the inbox is dead-lettered and acknowledged; the next one gets through', async () => {
    const [nats, mosquitto] = await Promise.all([startNats({ maxPayload: 64 * 1024 }), startMosquitto()]);
    const { untilState, deadLetters } = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    await untilState({ ready: true });
    const client = await connectClient(mosquitto.url);
    await publish(client, 'cell/1/state', 'x'.repeat(100 * 1024));
    await publish(client, 'cell/1/state', 'small');
    await count(nats, 1);
    expect(await valuesInInbox(nats)).toEqual(['small']);
    expect(deadLetters).toHaveLength(1);
    expect(deadLetters[0]).toMatchObject({ reason: 'TooLarge', fault: { code: 'TooLarge' } });
    expect(deadLetters[0]?.event.data.length).toBe(100 * 1024 + 2);
  });

  test('a full inbox stops acknowledging: the broker keeps the rest until there is room', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const { untilState } = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    await untilState({ ready: true });
    const manager = await jetstreamManager(await nats.connect());
    const subject = inboxSubject('local', { namespace: 'default', name: 'echo' }, 'in');
    const client = manager.jetstream();
    for (let filled = 0; filled < inboxEventsPerTrigger; filled += 500) {
      await Promise.all(Array.from({ length: 500 }, () => client.publish(subject, '0')));
    }
    const publisher = await connectClient(mosquitto.url);
    await publish(publisher, 'cell/1/state', 'waits');
    await untilState({ ready: false, reason: 'InboxFull' });
    await manager.streams.purge(inboxStream);
    await count(nats, 1, 25_000);
    expect(await valuesInInbox(nats)).toEqual(['waits']);
  });

  test('a broker that is away, at start and later, is named with its address; the trigger recovers', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    await mosquitto.stop();
    const { untilState } = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    const { message } = await untilState({ ready: false, reason: 'MqttUnavailable' });
    expect(message).toBe(`${mosquitto.url}: connection refused`);
    await mosquitto.restart();
    await untilState({ ready: true });
    await mosquitto.kill();
    await untilState({ ready: false, reason: 'MqttUnavailable' });
    await mosquitto.restart();
    await untilState({ ready: true });
  });

  test('a broker that hangs is noticed by the keep-alive, and closing does not wait for it for ever', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const host = await openTrigger({}, { nats, mqttUrl: mosquitto.url }, { ...timing, keepaliveSeconds: 1 });
    await host.untilState({ ready: true });
    process.kill(mosquitto.pid, 'SIGSTOP');
    closeLater(() => Promise.resolve(void process.kill(mosquitto.pid, 'SIGCONT')));
    await host.untilState({ ready: false, reason: 'MqttUnavailable' });
    const closingAt = performance.now();
    await host.close();
    expect(performance.now() - closingAt).toBeLessThan(15_000);
    process.kill(mosquitto.pid, 'SIGCONT');
  });

  test('without NATS, or without JetStream, it is not ready and says what would work', async () => {
    const mosquitto = await startMosquitto();
    const without = await openTrigger({}, { mqttUrl: mosquitto.url });
    const { message } = await without.untilState({ ready: false, reason: 'JetStreamUnavailable' });
    expect(message).toContain('"delivery: AtMostOnce" works without');
    const nats = await startNats({ jetstream: false });
    const host = await openTrigger({}, { nats, mqttUrl: mosquitto.url });
    const state = await host.untilState({ ready: false, reason: 'JetStreamUnavailable' });
    expect(state.message).toContain('"delivery: AtMostOnce" works without');
    const lossy = await openTrigger(
      { delivery: 'AtMostOnce' },
      { nats, mqttUrl: mosquitto.url, trigger: 'lossy' },
    );
    await lossy.untilState({ ready: true });
  });

  test('a site without a broker says so', async () => {
    const { untilState } = await openTrigger({}, {});
    expect((await untilState({ ready: false })).reason).toBe('MqttUnavailable');
  });

  test('a refused subscription is told and tried again', async () => {
    const port = await freePort();
    const config = (denied: string): string => `
      mqtt { listen: "127.0.0.1:${port}" }
      no_auth_user: all
      accounts { A { jetstream: enabled, users: [
        { user: all, password: all },
        { user: some, password: some, permissions: { subscribe: { deny: ["${denied}"] } } }
      ] } }`;
    const nats = await startNats({ config: config('secret.>') });
    const credentialsFile = await credentials({ username: 'some', password: 'some' });
    const host = await openHost({ nats });
    const mqttSettings = { url: `mqtt://127.0.0.1:${port}`, credentialsFile };
    const trigger = openMqtt(
      sourceOf({ topic: 'secret/#' }),
      { ...host.context, mqtt: mqttSettings },
      timing,
    );
    closeLater(() => trigger.close());
    const { message } = await host.untilState({ ready: false, reason: 'SubscriptionRefused' });
    expect(message).toContain('"secret/#" (0x80)');
  });

  test('wrong credentials are told without showing them, and a file that everyone may read is not used', async () => {
    const port = await freePort();
    const nats = await startNats({
      config: `
        mqtt { listen: "127.0.0.1:${port}" }
        accounts { A { jetstream: enabled, users: [{ user: u, password: p }, { user: n, password: n }] } }
        no_auth_user: n`,
    });
    const open = async (file: string): Promise<TestHost> => {
      const host = await openHost({ nats });
      const settings = { url: `mqtt://127.0.0.1:${port}`, credentialsFile: file };
      const trigger = openMqtt(sourceOf({}), { ...host.context, mqtt: settings }, timing);
      closeLater(() => trigger.close());
      return host;
    };
    const wrong = await open(await credentials({ username: 'u', password: 'hunter2' }));
    const { message } = await wrong.untilState({ ready: false, reason: 'MqttUnavailable' });
    expect(message).toMatch(/Not authorized|Bad username or password/);
    expect(JSON.stringify([wrong.states, wrong.logs])).not.toContain('hunter2');
    const file = await credentials({ username: 'u', password: 'p' });
    await chmod(file, 0o644);
    const loose = await open(file);
    // The first one holds the lease.
    await loose.untilState({ ready: true });
  });

  test('MQTT 5 asked of a broker that speaks 3.1.1 only: the message says what to write', async () => {
    const nats = await startNats({ mqtt: true });
    const { untilState } = await openTrigger({ version: 5 }, { nats, mqttUrl: nats.mqttUrl });
    const { message } = await untilState({ ready: false, reason: 'MqttUnavailable' });
    expect(message).toContain('use "version: 4"');
  });

  test('MQTT 5 properties become headers; those that would be taken for ours do not', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const { untilState } = await openTrigger({ version: 5 }, { nats, mqttUrl: mosquitto.url });
    await untilState({ ready: true });
    const client = await connectClient(mosquitto.url, { protocolVersion: 5 });
    await publish(client, 'cell/1/state', 1, {
      properties: {
        contentType: 'application/json',
        responseTopic: 'answers/here',
        correlationData: Buffer.from([0, 1, 2]),
        userProperties: {
          Robot: 'r7',
          'größe in mm': '±3',
          many: ['1', '2'],
          'Nats-Rollup': 'all',
          'Atoll-Redrive': '7',
          'Atoll-Hops': '3',
        },
      },
    });
    await count(nats, 1);
    const [event] = await inboxEvents(nats);
    expect(event?.headers).toEqual({
      Robot: 'r7',
      'größe in mm': '±3',
      many: '1, 2',
      'Atoll-Hops': '3',
      'Content-Type': 'application/json',
      'Response-Topic': 'answers/here',
      'Correlation-Data': 'AAEC',
    });
  });
});

describe('messages that may be lost', () => {
  test('QoS 0 waits in the host; what does not fit its buffer is counted', async () => {
    const mosquitto = await startMosquitto();
    const host = await openTrigger({ qos: 0 }, { mqttUrl: mosquitto.url });
    await host.untilState({ ready: true });
    const client = await connectClient(mosquitto.url);
    const mebibyte = Buffer.alloc(1024 * 1024);
    for (let n = 0; n < 70; n++) await client.publishAsync('cell/1/state', mebibyte, { qos: 1 });
    await until(15_000, () => expect(host.dropped).toHaveLength(7));
    expect(await host.trigger.lag?.()).toBe(63);
  });

  test('with NATS only one replica connects; when NATS is away one that is connected goes on', async () => {
    const [nats, mosquitto] = await Promise.all([startNats(), startMosquitto()]);
    const first = await openTrigger({ qos: 0 }, { nats, mqttUrl: mosquitto.url });
    await first.untilState({ ready: true });
    const second = await openTrigger({ qos: 0 }, { nats, mqttUrl: mosquitto.url });
    expect((await second.untilState({ ready: true })).message).toMatch(/the MQTT session is with local-/);
    await second.close();
    await nats.stop();
    await until(5_000, () => expect(first.logs.map(({ message }) => message)).toContain('mqtt lease lost'));
    const client = await connectClient(mosquitto.url);
    await publish(client, 'cell/1/state', 1);
    await until(5_000, async () => expect(await first.trigger.lag?.()).toBe(1));
    expect(first.states.at(-1)?.ready).toBe(true);
  });
});

async function credentials(content: Record<string, string>): Promise<string> {
  const file = join(await temporaryFolder(), 'mqtt.json');
  await writeFile(file, JSON.stringify(content), { mode: 0o600 });
  return file;
}
