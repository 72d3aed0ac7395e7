import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { ConsumerInfo, JetStreamManager, StreamConfig } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import type { TriggerSources } from '../../../crds/function.ts';
import { openNats as openLink } from '../../../runtime/clients/nats.ts';
import type { NatsLink } from '../../../runtime/clients/nats.ts';
import type { Delivery } from '../../../runtime/event.ts';
import { openLog } from '../../../runtime/log.ts';
import { stateBucket } from '../../../runtime/streams.ts';
import { openJetStream } from '../../../runtime/triggers/jetstream.ts';
import { closedLater, contextOf, nextOf, testTrigger, textOf } from '../../contracts/trigger.ts';
import type { OpenedTrigger } from '../../contracts/trigger.ts';
import { closeLater } from '../../support/closing.ts';
import { startNats } from '../../support/nats.ts';
import type { NatsServer } from '../../support/nats.ts';

const consumer = 'default_fn_main';

function linkTo(server: NatsServer): NatsLink {
  const link = openLink(
    { url: server.url },
    { name: 'test', site: 'local', log: openLog({ level: 'silent' }) },
  );
  closeLater(() => link.close());
  return link;
}

type Source = Partial<TriggerSources['jetstream']>;
type Given = Parameters<typeof contextOf>[0];

function openOn(link: NatsLink, source: Source = {}, given: Given = {}): OpenedTrigger {
  const { context, reports } = contextOf({ nats: link, ...given });
  const full = { stream: 'ORDERS', startAt: 'New', batchSize: 1, batchWindowMs: 0, ...source } as const;
  return { trigger: closedLater(openJetStream(full, context)), reports };
}

async function readyOn(link: NatsLink, source: Source = {}, given: Given = {}) {
  const opened = openOn(link, source, given);
  await opened.reports.until(({ ready }) => ready);
  const iterator = opened.trigger.deliveries()[Symbol.asyncIterator]();
  return { ...opened, iterator, next: () => nextOf(iterator) };
}

interface Broker {
  server: NatsServer;
  client: NatsConnection;
  manager: JetStreamManager;
  publish(text: string, subject?: string): Promise<number>;
  consumerInfo(): Promise<ConsumerInfo>;
}

async function startBroker(stream: Partial<StreamConfig> = {}): Promise<Broker> {
  const server = await startNats();
  const client = await server.connect({ maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'], ...stream });
  return {
    server,
    client,
    manager,
    publish: async (text, subject = 'orders.new') => (await jetstream(client).publish(subject, text)).seq,
    consumerInfo: () => manager.consumers.info('ORDERS', consumer),
  };
}

/** Resolves when the server's own numbers say so: state, not time. */
async function until<T>(read: () => Promise<T>, condition: (value: T) => boolean): Promise<T> {
  for (const deadline = Date.now() + 20_000; ;) {
    const value = await read().catch(() => undefined);
    if (value !== undefined && condition(value)) return value;
    if (Date.now() > deadline) throw new Error(`still ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const done = { kind: 'done' } as const;

testTrigger('jetstream', { kind: 'jetstream', broker: true }, async ({ away }) => {
  const { server, client } = await startBroker();
  if (away) await server.stop();
  const link = linkTo(server);
  return {
    open: (options) => Promise.resolve(openOn(link, {}, { retry: options?.retry })),
    send: async (data) => void (await jetstream(client).publish('orders.new', data, { retries: 20 })),
    broker: { stop: () => server.kill('SIGKILL'), start: () => server.restart() },
  };
});

test('an event is named after its place in the stream, and says it', async () => {
  const { server, publish } = await startBroker();
  const { next } = await readyOn(linkTo(server));
  const seq = await publish('a', 'orders.eu');
  expect((await next()).event).toMatchObject({
    id: `ORDERS:${seq}`,
    subject: 'orders.eu',
    detail: { stream: 'ORDERS', sequence: seq },
  });
});

test('an event that was done is acknowledged, one that failed finally is terminated: none is left', async () => {
  const { server, publish, consumerInfo } = await startBroker();
  const { next, trigger } = await readyOn(linkTo(server));
  await publish('good');
  await publish('bad');
  await (await next()).settle(done);
  const fault = { code: 'Error', message: 'no' };
  await (await next()).settle({ kind: 'failed', fault, reason: 'Refused' });
  await until(consumerInfo, ({ num_ack_pending: open, num_pending: waiting }) => open + waiting === 0);
  await expect.poll(() => trigger.lag?.(), { timeout: 60_000 }).toBe(0);
});

test('no more is pulled than is asked for, and many demands are one request', async () => {
  const { server, publish, consumerInfo, client } = await startBroker();
  let pulls = 0;
  client.subscribe('$JS.API.CONSUMER.MSG.NEXT.>', { callback: () => void (pulls += 1) });
  await client.flush();
  const { next, trigger } = await readyOn(linkTo(server));
  for (let i = 0; i < 20; i++) await publish(String(i));
  const first = await next();
  expect((await consumerInfo()).num_ack_pending).toBe(1);
  expect(await trigger.lag?.()).toBe(20);
  const before = pulls;
  const more = await Promise.all(Array.from({ length: 10 }, next));
  expect((await consumerInfo()).num_ack_pending).toBe(11);
  expect(pulls - before).toBe(1);
  await Promise.all([first, ...more].map((delivery) => delivery.settle(done)));
});

test('an idle trigger asks about once a minute, not in a loop', async () => {
  const { server, client } = await startBroker();
  let pulls = 0;
  client.subscribe('$JS.API.CONSUMER.MSG.NEXT.>', { callback: () => void (pulls += 1) });
  await client.flush();
  const { next } = await readyOn(linkTo(server));
  void next().catch(() => {});
  await until(
    () => Promise.resolve(pulls),
    (count) => count === 1,
  );
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  expect(pulls).toBe(1);
});

test('a thousand events in backoff delay nobody', async () => {
  const { server, publish, client, consumerInfo } = await startBroker();
  const { next } = await readyOn(linkTo(server));
  for (let i = 0; i < 1_000; i++) client.publish('orders.failing', 'no');
  await client.flush();
  const failing: Promise<void>[] = [];
  for (let i = 0; i < 1_000; i++) {
    failing.push((await next()).settle({ kind: 'retry', delayMs: 60_000, failed: true }));
  }
  await Promise.all(failing);
  await publish('hello');
  const delivery = await next();
  expect(textOf(delivery)).toBe('hello');
  expect((await consumerInfo()).num_ack_pending).toBe(1_001);
});

test('startAt: New takes what comes from now on, All takes what is there', async () => {
  const { server, publish } = await startBroker();
  await publish('old');
  const link = linkTo(server);
  const all = await readyOn(link, { startAt: 'All' }, { name: 'all' });
  const fresh = await readyOn(link, { startAt: 'New' }, { name: 'fresh' });
  await publish('new');
  expect(textOf(await all.next())).toBe('old');
  expect(textOf(await fresh.next())).toBe('new');
});

test('startAt says where a consumer begins that is new: changed later, nothing is repeated and nothing skipped', async () => {
  const { server, publish, consumerInfo } = await startBroker();
  const link = linkTo(server);
  await publish('before');
  const fresh = await readyOn(link, { startAt: 'New' });
  await publish('first');
  const first = await fresh.next();
  expect(textOf(first)).toBe('first');
  await first.settle(done);
  await until(consumerInfo, ({ ack_floor }) => ack_floor.stream_seq === 2);
  await fresh.trigger.close();

  const { created } = await consumerInfo();
  await publish('second');
  const all = await readyOn(link, { startAt: 'All' });
  const second = await all.next();
  expect(textOf(second)).toBe('second');
  await second.settle(done);
  await until(consumerInfo, ({ ack_floor }) => ack_floor.stream_seq === 3);
  await all.trigger.close();

  await publish('third');
  const again = await readyOn(link, { startAt: 'New' });
  expect(textOf(await again.next())).toBe('third');
  expect((await consumerInfo()).created).toBe(created);
  // A trigger of another name has a consumer of its own, and begins where it says.
  const renamed = await readyOn(link, { startAt: 'All' }, { name: 'renamed' });
  expect(textOf(await renamed.next())).toBe('before');
});

test('a subject narrows the stream, and may be changed later', async () => {
  const { server, publish } = await startBroker();
  const link = linkTo(server);
  const narrow = await readyOn(link, { subject: 'orders.eu.>' });
  await publish('us', 'orders.us.1');
  await publish('eu', 'orders.eu.1');
  const delivery = await narrow.next();
  expect(textOf(delivery)).toBe('eu');
  await delivery.settle(done);
  await narrow.trigger.close();
  const wide = await readyOn(link, { subject: 'orders.us.>' });
  await publish('eu', 'orders.eu.2');
  await publish('us', 'orders.us.2');
  expect(textOf(await wide.next())).toBe('us');
});

test('a stream that does not exist yet is StreamNotFound until it appears; nothing in it is missed then', async () => {
  const server = await startNats();
  const client = await server.connect();
  const { reports, trigger } = openOn(linkTo(server), { stream: 'LATER' });
  const state = await reports.until(({ reason }) => reason === 'StreamNotFound');
  expect(state.message).toContain('LATER');
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'LATER', subjects: ['later'] });
  await jetstream(client).publish('later', 'first');
  await reports.until(({ ready }) => ready);
  expect(textOf(await nextOf(trigger.deliveries()[Symbol.asyncIterator]()))).toBe('first');
});

test('a consumer that was deleted is made again and goes on where it was', async () => {
  const { server, publish, manager, consumerInfo } = await startBroker();
  const { next } = await readyOn(linkTo(server));
  await publish('1');
  await (await next()).settle(done);
  const waiting = next();
  await until(consumerInfo, ({ num_waiting: waitingPulls }) => waitingPulls > 0);
  await manager.consumers.delete('ORDERS', consumer);
  await publish('2');
  expect(textOf(await waiting)).toBe('2');
});

test('a stream that is deleted and made anew is consumed from its beginning', async () => {
  const { server, publish, manager, consumerInfo } = await startBroker();
  const { next, reports } = await readyOn(linkTo(server));
  await publish('old');
  await (await next()).settle(done);
  const waiting = next();
  await until(consumerInfo, ({ num_waiting: waitingPulls }) => waitingPulls > 0);
  await manager.streams.delete('ORDERS');
  await reports.until(({ reason }) => reason === 'StreamNotFound');
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  await publish('new');
  expect(textOf(await waiting)).toBe('new');
});

test('a crash of the server between handling and acknowledging runs nothing twice and loses nothing', async () => {
  const { server, publish } = await startBroker();
  const { next, reports, trigger } = await readyOn(linkTo(server));
  const count = 200;
  for (let i = 0; i < count; i++) await publish(String(i));
  const open = await Promise.all(Array.from({ length: count }, next));
  await server.kill('SIGKILL');
  await reports.until(({ ready }) => !ready);
  await Promise.all(open.map((delivery) => delivery.settle(done)));
  await server.restart();
  await reports.until(({ ready }) => ready);
  // A server that was killed has forgotten some deliveries too, and makes them anew: none of them reaches us.
  const waiting = next();
  await publish('last');
  const last = await waiting;
  expect(textOf(last)).toBe('last');
  await last.settle(done);
  await until(
    async () => trigger.lag?.(),
    (lag) => lag === 0,
  );
});

test('an event that the server delivers again while it runs here is not run twice', async () => {
  const { server, publish, manager, consumerInfo } = await startBroker();
  const { next } = await readyOn(linkTo(server));
  await manager.consumers.update('ORDERS', consumer, { ack_wait: 300 * 1e6 });
  await publish('slow');
  const slow = await next();
  const waiting = next();
  // The lease is over long before it is renewed: the server delivers anew, and this host knows the event.
  await until(consumerInfo, ({ num_redelivered: redelivered }) => redelivered > 0);
  await publish('other');
  expect(textOf(await waiting)).toBe('other');
  await slow.settle(done);
  await until(consumerInfo, ({ num_ack_pending: open }) => open <= 1);
});

test('the lease is renewed while an event runs', async () => {
  const { server, publish, client } = await startBroker();
  const { next } = await readyOn(linkTo(server));
  await publish('long');
  await next();
  const renewed = Promise.withResolvers<void>();
  client.subscribe('$JS.ACK.>', {
    callback: (_error, message) => void (message.string() === '+WPI' && renewed.resolve()),
  });
  await renewed.promise;
});

test('at the close what was pulled and not yielded goes back at once', async () => {
  const { server, publish, consumerInfo } = await startBroker();
  const link = linkTo(server);
  const first = await readyOn(link, {}, { retry: { maxAttempts: 1 } });
  const asked = Array.from({ length: 10 }, () => first.iterator.next());
  await until(consumerInfo, ({ num_waiting: waiting }) => waiting > 0);
  for (let i = 0; i < 10; i++) await publish(String(i));
  await first.trigger.close();
  const taken = (await Promise.all(asked)).filter((one) => !one.done);
  const second = await readyOn(link, {}, { retry: { maxAttempts: 1 } });
  const begun = performance.now();
  const rest = await Promise.all(Array.from({ length: 10 - taken.length }, second.next));
  expect(performance.now() - begun).toBeLessThan(5_000);
  const texts = [...taken.map((one) => one.value as Delivery), ...rest].map(textOf);
  expect(new Set(texts).size).toBe(10);
  // Their marks went with them: none was in a handler.
  expect(rest.filter(({ refuse }) => refuse !== undefined)).toEqual([]);
});

test('attempts survive the host: another one goes on counting', async () => {
  const { server, publish } = await startBroker();
  const first = await readyOn(linkTo(server));
  await publish('a');
  await (await first.next()).settle({ kind: 'retry', delayMs: 0, failed: true });
  await (await first.next()).settle({ kind: 'retry', delayMs: 300, failed: true });
  await first.trigger.close();
  const second = await readyOn(linkTo(server));
  const delivery = await second.next();
  expect(delivery.event.attempt).toBe(3);
  await delivery.settle(done);
  const kv = await new Kvm(await server.connect()).open(stateBucket);
  await until(
    async () => (await kv.get('attempts.default.fn.main.ORDERS=3a1'))?.operation,
    (operation) => operation !== 'PUT',
  );
});

test('with maxAttempts 1 an event that was in a handler when the host died is Interrupted, not run again', async () => {
  const { server, publish, manager } = await startBroker();
  const dying = await readyOn(linkTo(server), {}, { retry: { maxAttempts: 1 } });
  const next = await readyOn(linkTo(server), {}, { retry: { maxAttempts: 1 } });
  await publish('once');
  await dying.next();
  // As if the host had died: nobody renews, and the server hands the event to the next one.
  await manager.consumers.update('ORDERS', consumer, { ack_wait: 300 * 1e6 });
  const delivery = await next.next();
  expect(delivery.refuse).toMatchObject({ reason: 'Interrupted', fault: { code: 'Interrupted' } });
  expect(textOf(delivery)).toBe('once');
});

test('with maxAttempts 1 an event that was handed back unrun is handed out again', async () => {
  const { server, publish } = await startBroker();
  const { next } = await readyOn(linkTo(server), {}, { retry: { maxAttempts: 1 } });
  await publish('drained');
  await (await next()).settle({ kind: 'retry', delayMs: 0, failed: false });
  expect((await next()).refuse).toBeUndefined();
});

test('an event that comes back beyond all hand-backs is Poison', async () => {
  const { server, publish } = await startBroker();
  const { next } = await readyOn(linkTo(server), {}, { retry: { maxAttempts: 2 } });
  await publish('poison');
  let delivery = await next();
  for (let deliveries = 1; deliveries <= 22; deliveries++) {
    expect(delivery.refuse).toBeUndefined();
    await delivery.settle({ kind: 'retry', delayMs: 0, failed: false });
    delivery = await next();
  }
  expect(delivery.refuse?.reason).toBe('Poison');
});

test('an event that failed and is too old is refused; one that only waited is not', async () => {
  const { server, publish } = await startBroker();
  const retry = { maxAgeSeconds: 1 };
  const { next } = await readyOn(linkTo(server), {}, { retry });
  await publish('failed');
  await publish('waited');
  const [failed, waited] = [await next(), await next()];
  await failed.settle({ kind: 'retry', delayMs: 1_100, failed: true });
  await waited.settle({ kind: 'retry', delayMs: 1_100, failed: false });
  const back = [await next(), await next()];
  const reasonOf = (text: string) => back.find((one) => textOf(one) === text)?.refuse?.reason;
  expect([reasonOf('failed'), reasonOf('waited')]).toEqual(['EventAgeExceeded', undefined]);
});

test('the consumer of an earlier function of the same name is replaced, somebody else’s is not touched', async () => {
  const { server, publish, manager, consumerInfo } = await startBroker();
  const link = linkTo(server);
  const earlier = await readyOn(link, {}, { function: { namespace: 'default', name: 'fn', uid: 'old' } });
  await publish('for the old one');
  await earlier.trigger.close();
  const { next } = await readyOn(link, {}, { function: { namespace: 'default', name: 'fn', uid: 'new' } });
  expect((await consumerInfo()).config.metadata).toMatchObject({ 'atoll.dev/uid': 'new' });
  await publish('for the new one');
  expect(textOf(await next())).toBe('for the new one');

  await manager.consumers.add('ORDERS', { durable_name: 'default_fn_other', ack_policy: 'explicit' });
  const { reports } = openOn(link, {}, { name: 'other' });
  const state = await reports.until(({ reason }) => reason === 'SubscriptionRefused');
  expect(state.message).toContain('default_fn_other');
});

test('without JetStream the trigger says that there is none', async () => {
  const server = await startNats({ jetstream: false });
  const { reports } = openOn(linkTo(server));
  await reports.until(({ reason }) => reason === 'JetStreamUnavailable');
});

test('a stream of another JetStream domain is consumed through its leaf', async () => {
  const hub = await startNats({ hub: true, domain: 'hub' });
  const leaf = await startNats({ domain: 'robot1', leafOf: hub.leafUrl });
  const manager = await jetstreamManager(await hub.connect());
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  const { next, reports, trigger } = await readyOn(linkTo(leaf), { domain: 'hub' });
  expect(reports.last?.ready).toBe(true);
  await jetstream(await hub.connect()).publish('orders.new', 'from the hub');
  const delivery = await next();
  expect(textOf(delivery)).toBe('from the hub');
  expect(delivery.event.detail).toMatchObject({ domain: 'hub' });
  await delivery.settle(done);
  await until(
    async () => trigger.lag?.(),
    (lag) => lag === 0,
  );
});
