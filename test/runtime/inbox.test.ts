import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstreamManager } from '@nats-io/jetstream';
import { expect, test } from 'vitest';
import { openNats } from '../../runtime/clients/nats.ts';
import type { NatsLink } from '../../runtime/clients/nats.ts';
import type { TriggerEvent } from '../../runtime/event.ts';
import { openInbox, openInboxTrigger } from '../../runtime/inbox.ts';
import type { Inbox } from '../../runtime/inbox.ts';
import { openLog } from '../../runtime/log.ts';
import { inboxEventsPerTrigger, inboxMaxEventBytes, inboxStream } from '../../runtime/streams.ts';
import { bytesOf, closedLater, contextOf, nextOf, testTrigger, textOf } from '../contracts/trigger.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNats } from '../support/nats.ts';
import type { NatsServer } from '../support/nats.ts';

const silent = openLog({ level: 'silent' });
const target = { namespace: 'default', name: 'fn' };

function linkTo(server: NatsServer): NatsLink {
  const link = openNats({ url: server.url }, { name: 'test', site: 'local', log: silent });
  closeLater(() => link.close());
  return link;
}

async function readyInbox(link: NatsLink, site = 'local'): Promise<Inbox> {
  const inbox = openInbox(link, { site, log: silent });
  await becomes(inbox, true);
  return inbox;
}

function becomes(inbox: Inbox, wanted: boolean): Promise<void> {
  if (inbox.ready === wanted) return Promise.resolve();
  return new Promise((resolve) => {
    const stop = inbox.onReady((ready) => {
      if (ready !== wanted) return;
      stop();
      resolve();
    });
  });
}

async function readyTrigger(link: NatsLink, given: Parameters<typeof contextOf>[0] = {}) {
  const { context, reports } = contextOf({ nats: link, name: '$inbox', ...given });
  const trigger = closedLater(openInboxTrigger(context));
  await reports.until(({ ready }) => ready);
  const iterator = trigger.deliveries()[Symbol.asyncIterator]();
  return { trigger, reports, next: () => nextOf(iterator) };
}

let made = 0;
function eventOf(given: Partial<TriggerEvent> = {}): TriggerEvent {
  return {
    id: `event-${++made}`,
    trigger: 'measurements',
    kind: 'mqtt',
    subject: 'plant/line 1/temp',
    time: Date.now(),
    attempt: 1,
    headers: {},
    encoding: 'json',
    data: bytesOf('{}'),
    ...given,
  };
}

testTrigger('inbox', { kind: 'mqtt', broker: true }, async ({ away }) => {
  const server = await startNats();
  if (away) await server.stop();
  const link = linkTo(server);
  const inbox = openInbox(link, { site: 'local', log: silent });
  return {
    open: (options) => {
      const { context, reports } = contextOf({ nats: link, name: '$inbox', retry: options?.retry });
      return Promise.resolve({ trigger: closedLater(openInboxTrigger(context)), reports });
    },
    send: async (data) => {
      await becomes(inbox, true);
      await inbox.put(target, eventOf({ data }));
    },
    broker: { stop: () => server.kill('SIGKILL'), start: () => server.restart() },
  };
});

test('an event comes out as it went in, whatever its headers, topic and id hold', async () => {
  const link = linkTo(await startNats());
  const inbox = await readyInbox(link);
  const { next } = await readyTrigger(link);
  const event = eventOf({
    id: 'id: with ü, spaces / and %',
    subject: '$site/größe {a b}/#1',
    time: 1_700_000_000_000,
    encoding: 'binary',
    data: Uint8Array.of(0, 255, 10, 13),
    detail: { retain: true, qos: 2, note: 'ü\n' },
    headers: {
      plain: 'value',
      'Atoll-Hops': '4',
      'with space': ' trimmed? ',
      empty: '',
      lines: 'a\r\nNats-Rollup: all',
      'Nats-Rollup': 'all',
      'Nats-Expected-Stream': 'ANOTHER',
      'Nats-Msg-Id': 'theirs',
      'Atoll-Id': 'not ours',
      größe: '3',
    },
  });
  expect(await inbox.put(target, event)).toEqual({ duplicate: false });
  const delivery = await next();
  expect({ ...delivery.event, data: Uint8Array.from(delivery.event.data) }).toEqual(event);
  expect([delivery.replies, delivery.redeliverable]).toEqual([false, true]);
});

test('what was put while the function was down waits for it', async () => {
  const link = linkTo(await startNats());
  const inbox = await readyInbox(link);
  await inbox.put(target, eventOf({ trigger: 'invoke', kind: 'invoke', data: bytesOf('"early"') }));
  await inbox.put({ namespace: 'default', name: 'other' }, eventOf({ data: bytesOf('"not for fn"') }));
  const { next, trigger } = await readyTrigger(link);
  const delivery = await next();
  expect(textOf(delivery)).toBe('"early"');
  expect(delivery.event.trigger).toBe('invoke');
  await delivery.settle({ kind: 'done' });
  // The acknowledgement and the question take different ways through the server.
  await expect.poll(() => trigger.lag?.(), { timeout: 60_000 }).toBe(0);
});

test('the same event twice is stored once, and said; redriven it is another one', async () => {
  const link = linkTo(await startNats());
  const inbox = await readyInbox(link);
  const event = eventOf({ id: 'nightly:1700000000000', kind: 'schedule' });
  expect(await inbox.put(target, event)).toEqual({ duplicate: false });
  expect(await inbox.put(target, event)).toEqual({ duplicate: true });
  expect(await inbox.put(target, event, { redrive: 1 })).toEqual({ duplicate: false });
});

test('two functions with the same tick of schedules of one name both get it', async () => {
  const link = linkTo(await startNats());
  const inbox = await readyInbox(link);
  const tick = eventOf({ id: 'nightly:1700000000000', trigger: 'nightly', kind: 'schedule' });
  expect(await inbox.put(target, tick)).toEqual({ duplicate: false });
  expect(await inbox.put({ ...target, name: 'other' }, tick)).toEqual({ duplicate: false });
});

test('one flooded function is InboxFull, and takes nothing of the share of others', async () => {
  const server = await startNats();
  const link = linkTo(server);
  const inbox = await readyInbox(link);
  const manager = await jetstreamManager(await server.connect());
  await manager.streams.update(inboxStream, { max_msgs_per_subject: 3 });
  for (let i = 0; i < 3; i++) await inbox.put(target, eventOf());
  await expect(inbox.put(target, eventOf())).rejects.toMatchObject({
    code: 'InboxFull',
    message: expect.stringContaining('default/fn'),
  });
  expect(inbox.ready).toBe(true);
  await inbox.put(target, eventOf({ trigger: 'another' }));
  await inbox.put({ ...target, name: 'other' }, eventOf());
});

test('an event that does not fit is TooLarge, by data or by headers, and nothing else suffers', async () => {
  const link = linkTo(await startNats());
  const inbox = await readyInbox(link);
  const large = eventOf({ data: new Uint8Array(inboxMaxEventBytes) });
  await expect(inbox.put(target, large)).rejects.toMatchObject({ code: 'TooLarge' });
  const wordy = eventOf({ headers: { words: 'x'.repeat(70_000) } });
  await expect(inbox.put(target, wordy)).rejects.toMatchObject({ code: 'TooLarge' });
  expect(inbox.ready).toBe(true);
  const fitting = eventOf({ data: new Uint8Array(inboxMaxEventBytes - 4096) });
  expect(await inbox.put(target, fitting)).toEqual({ duplicate: false });
});

test('where messages may be no larger than the server of others allows, that is the limit', async () => {
  const link = linkTo(await startNats({ maxPayload: 1024 * 1024 }));
  const inbox = await readyInbox(link);
  const event = eventOf({ data: new Uint8Array(1024 * 1024) });
  await expect(inbox.put(target, event)).rejects.toMatchObject({ code: 'TooLarge' });
});

test('while NATS is away put() is InboxUnavailable at once, and ready tells both changes', async () => {
  const server = await startNats();
  const link = linkTo(server);
  const inbox = await readyInbox(link);
  await server.kill('SIGKILL');
  await becomes(inbox, false);
  await expect(inbox.put(target, eventOf())).rejects.toMatchObject({ code: 'InboxUnavailable' });
  await server.restart();
  await becomes(inbox, true);
  expect(await inbox.put(target, eventOf())).toEqual({ duplicate: false });
});

test('without JetStream the inbox is not ready, and put() says why', async () => {
  const link = linkTo(await startNats({ jetstream: false }));
  await link.connection();
  const inbox = openInbox(link, { site: 'local', log: silent });
  await expect(inbox.put(target, eventOf())).rejects.toMatchObject({ code: 'InboxUnavailable' });
  expect(inbox.ready).toBe(false);
});

async function readyInboxOf(permissions: string, inboxPrefix?: string): Promise<Inbox> {
  const server = await startNats({
    config: `authorization { users: [{ user: "site", password: "secret", permissions: ${permissions} }] }`,
  });
  const credentialsFile = join(await temporaryFolder(), 'credentials.json');
  await writeFile(credentialsFile, JSON.stringify({ user: 'site', pass: 'secret' }), { mode: 0o600 });
  const settings = { url: server.url, credentialsFile, ...(inboxPrefix !== undefined && { inboxPrefix }) };
  const link = openNats(settings, { name: 'test', site: 'local', log: silent });
  closeLater(() => link.close());
  return readyInbox(link);
}

test('a NATS user who may not publish into the inbox is told so at once', async () => {
  const inbox = await readyInboxOf('{ publish: { deny: ["atoll.*.inbox.>"] } }');
  await expect(inbox.put(target, eventOf())).rejects.toMatchObject({
    code: 'InboxUnavailable',
    message: expect.stringMatching(/permissions violation for publish/i),
  });
});

test('a NATS user who may have answers at subjects of its own only gets them there', async () => {
  const inbox = await readyInboxOf('{ subscribe: ["_INBOX.local.default_fn.>"] }', '_INBOX.local.default_fn');
  expect(await inbox.put(target, eventOf())).toEqual({ duplicate: false });
});

test('many events are on their way at a time, and a server that stands still fails each of them in its time', async () => {
  const server = await startNats();
  const inbox = await readyInbox(linkTo(server));
  const events = Array.from({ length: 1_000 }, () => eventOf());
  const stored = await Promise.all(events.map((event) => inbox.put(target, event)));
  expect(stored.filter(({ duplicate }) => duplicate)).toEqual([]);
  await server.pause();
  const failed = Promise.allSettled([eventOf(), eventOf()].map((event) => inbox.put(target, event)));
  for (const one of await failed) {
    expect(one).toMatchObject({
      status: 'rejected',
      reason: { code: 'InboxUnavailable', message: expect.stringContaining('no answer') },
    });
  }
  server.resume();
  await becomes(inbox, true);
  expect(await inbox.put(target, events[0] as TriggerEvent)).toEqual({ duplicate: true });
});

test('an inbox that was deleted is made again', async () => {
  const server = await startNats();
  const link = linkTo(server);
  const inbox = await readyInbox(link);
  await (await jetstreamManager(await server.connect())).streams.delete(inboxStream);
  await inbox.put(target, eventOf()).catch(() => {});
  await becomes(inbox, true);
  expect(await inbox.put(target, eventOf())).toEqual({ duplicate: false });
});

test('sites that share a NATS account share the stream, and neither sees the events of the other', async () => {
  const server = await startNats();
  const link = linkTo(server);
  const [here, there] = [await readyInbox(link, 'here'), await readyInbox(link, 'there')];
  await there.put(target, eventOf({ data: bytesOf('there') }));
  await here.put(target, eventOf({ data: bytesOf('here') }));
  const { next } = await readyTrigger(link, { site: 'here' });
  expect(textOf(await next())).toBe('here');
});

test('the stream is a work queue on disk that refuses what exceeds a trigger’s share', async () => {
  const server = await startNats();
  await readyInbox(linkTo(server));
  const manager = await jetstreamManager(await server.connect());
  expect((await manager.streams.info(inboxStream)).config).toMatchObject({
    subjects: ['atoll.local.inbox.>'],
    retention: 'workqueue',
    storage: 'file',
    discard: 'new',
    discard_new_per_subject: true,
    max_msgs_per_subject: inboxEventsPerTrigger,
  });
});
