import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { expect, test, vi } from 'vitest';
import { openNats } from '../../../runtime/clients/nats.ts';
import { openDeadLetters } from '../../../runtime/dead-letters.ts';
import { openInbox, openInboxTrigger } from '../../../runtime/inbox.ts';
import type { Delivery } from '../../../runtime/event.ts';
import { openLog } from '../../../runtime/log.ts';
import { inboxStream, stateBucket } from '../../../runtime/streams.ts';
import { forget } from '../../../runtime/triggers/forget.ts';
import type { Living } from '../../../runtime/triggers/forget.ts';
import { openJetStream } from '../../../runtime/triggers/jetstream.ts';
import type { FunctionRef } from '../../../runtime/triggers/trigger.ts';
import { bytesOf, closedLater, contextOf, nextOf } from '../../contracts/trigger.ts';
import { closeLater } from '../../support/closing.ts';
import { missingDisk, startDisk } from '../../support/disk.ts';
import { startNats, type NatsOptions } from '../../support/nats.ts';

const log = openLog({ level: 'silent' });

const owner = { id: 'this-folder', place: 'robot:/srv/site' };

async function setup(site = 'local', options: NatsOptions = {}) {
  const server = await startNats(options);
  const link = openNats({ url: server.url }, { name: 'test', site, log });
  closeLater(() => link.close());
  await link.connection();
  const client = await server.connect();
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  const dead = openDeadLetters(link, { site, log });
  const inbox = openInbox(link, { site, log });
  return {
    server,
    link,
    client,
    manager,
    dead,
    inbox,
    sweep: (living: Living[], graceMs = 0) =>
      forget(living, { link, deadLetters: dead, site, owner, log, graceMs }),
    async openTriggers(ref: FunctionRef, name: string) {
      const source = { stream: 'ORDERS', startAt: 'New', batchSize: 1, batchWindowMs: 0 } as const;
      const stream = contextOf({ nats: link, function: ref, name });
      closedLater(openJetStream(source, stream.context));
      const own = contextOf({ nats: link, function: ref, name: '$inbox' });
      closedLater(openInboxTrigger(own.context));
      await Promise.all([stream, own].map(({ reports }) => reports.until(({ ready }) => ready)));
    },
    async consumersOf(stream: string) {
      const names: string[] = [];
      for await (const { name } of manager.consumers.list(stream)) names.push(name);
      return names.toSorted();
    },
  };
}

const ref = (name: string): FunctionRef => ({ namespace: 'default', name, uid: `uid-${name}` });
const living = (name: string, ...triggers: string[]): Living => ({ ...ref(name), triggers });

test('consumers of functions and triggers that are gone go; those of the living and of others stay', async () => {
  const { openTriggers, manager, sweep, consumersOf } = await setup();
  await openTriggers(ref('alive'), 'kept');
  await openTriggers(ref('alive'), 'dropped');
  await openTriggers(ref('dead'), 'main');
  await manager.consumers.add('ORDERS', { durable_name: 'somebody_else_s', ack_policy: 'explicit' });
  const swept = await sweep([living('alive', 'kept')]);
  expect(await consumersOf('ORDERS')).toEqual(['default_alive_kept', 'somebody_else_s']);
  expect(await consumersOf(inboxStream)).toEqual(['default_alive']);
  expect(swept.consumers.toSorted()).toEqual([
    'ATOLL_INBOX/default_dead',
    'ORDERS/default_alive_dropped',
    'ORDERS/default_dead_main',
  ]);
  expect((await sweep([living('alive', 'kept')])).consumers).toEqual([]);
});

test('a function that was made again under its name has another uid: what the old one had goes', async () => {
  const { openTriggers, sweep, consumersOf } = await setup();
  await openTriggers(ref('fn'), 'main');
  await sweep([{ namespace: 'default', name: 'fn', uid: 'another', triggers: ['main'] }]);
  expect(await consumersOf('ORDERS')).toEqual([]);
});

test('what is younger than the grace stays: it may belong to a function that is not on the list yet', async () => {
  const { openTriggers, sweep, consumersOf, inbox, dead } = await setup();
  await openTriggers(ref('young'), 'main');
  await inbox.put({ namespace: 'default', name: 'younger' }, eventOf('1'));
  await sweep([], 60_000);
  expect(await consumersOf('ORDERS')).toEqual(['default_young_main']);
  expect(await dead.list({ namespace: 'default', name: 'younger' })).toEqual([]);
});

test('a site of the same name in another folder is refused, and what it would have swept stays', async () => {
  const { openTriggers, link, dead, consumersOf, sweep } = await setup('here');
  await openTriggers(ref('fn'), 'main');
  await sweep([{ ...ref('fn'), triggers: ['main'] }]);
  const other = { id: 'another-folder', place: 'robot:/srv/other' };
  const swept = forget([], { link, deadLetters: dead, site: 'here', owner: other, log, graceMs: 0 });
  await expect(swept).rejects.toMatchObject({
    code: 'SiteInUse',
    message: expect.stringContaining(owner.place),
  });
  expect(await consumersOf('ORDERS')).toEqual(['default_fn_main']);
});

test('consumers of another site that shares the server are not touched', async () => {
  const { openTriggers, link, consumersOf } = await setup('here');
  await openTriggers(ref('fn'), 'main');
  await forget([], {
    link,
    site: 'elsewhere',
    owner,
    log,
    graceMs: 0,
    deadLetters: openDeadLetters(link, { site: 'elsewhere', log }),
  });
  expect(await consumersOf('ORDERS')).toEqual(['default_fn_main']);
});

test('events that waited for a deleted function are dead-lettered FunctionDeleted, those of the living wait on', async () => {
  const { inbox, dead, sweep, manager } = await setup();
  const gone = { namespace: 'default', name: 'gone' };
  for (const id of ['1', '2', '3']) await inbox.put(gone, eventOf(id));
  await inbox.put({ namespace: 'default', name: 'alive' }, eventOf('4'));
  expect((await sweep([living('alive')])).deadLettered).toBe(3);
  const letters = await dead.list(gone);
  expect(letters.map(({ id, reason, attempts }) => ({ id, reason, attempts }))).toEqual(
    ['1', '2', '3'].map((id) => ({ id, reason: 'FunctionDeleted', attempts: 0 })),
  );
  expect((await manager.streams.info(inboxStream)).state.messages).toBe(1);
});

test('keys of what is gone go; leases of others stay, and mqtt sessions are told for whoever cleans them', async () => {
  const { client, sweep } = await setup();
  const kv = await new Kvm(jetstream(client)).create(stateBucket);
  const keys = [
    'attempts.default.gone.main.ORDERS=3a1',
    'attempts.default.alive.main.ORDERS=3a1',
    'schedule.default.alive.kept',
    'schedule.default.alive.dropped',
    'mqtt.default.gone.main',
    'leader',
  ];
  for (const key of keys) await kv.put(key, '{}');
  const session = { clientId: 'atoll-local-default-gone-main', version: 4 };
  await kv.put('mqtt-topic.default.gone.main', JSON.stringify(session));
  const swept = await sweep([living('alive', 'main', 'kept')]);
  expect(swept.keys.toSorted()).toEqual([
    'attempts.default.gone.main.ORDERS=3a1',
    'mqtt.default.gone.main',
    'schedule.default.alive.dropped',
  ]);
  expect(swept.mqttSessions).toEqual([
    { key: 'mqtt-topic.default.gone.main', value: session, revision: expect.any(Number) },
  ]);
  expect((await kv.get('leader'))?.operation).toBe('PUT');
  expect((await kv.get('mqtt-topic.default.gone.main'))?.operation).toBe('PUT');
});

test('without NATS the sweep rejects, so that it is tried again', async () => {
  const { link, server, sweep } = await setup();
  const away = new Promise<void>((resolve) => link.onState(() => resolve()));
  await server.stop();
  await away;
  await expect(sweep([])).rejects.toMatchObject({ code: 'NatsUnavailable' });
});

function eventOf(id: string) {
  return {
    id,
    trigger: 'main',
    kind: 'mqtt',
    subject: 'a/b',
    time: Date.now(),
    attempt: 1,
    headers: {},
    encoding: 'json',
    data: bytesOf('{}'),
  } as const;
}

test.skipIf(missingDisk())(
  'what was handled while the disk was full does not stay in the inbox; what was not is still there',
  async () => {
    const disk = await startDisk({ megabytes: 64 });
    const { server, link, inbox, manager, sweep } = await setup('local', {
      storeDir: join(disk.path, 'store'),
    });
    const events = 1_000;
    for (let n = 0; n < events; n++) await inbox.put(ref('fn'), eventOf(String(n)));
    // That of a host which is gone afterwards: one that lives on acknowledges again what it is not sure of.
    const host = openNats({ url: server.url }, { name: 'host', site: 'local', log });
    closeLater(() => host.close());
    const { context } = contextOf({ nats: host, function: ref('fn'), name: '$inbox' });
    const trigger = closedLater(openInboxTrigger(context));
    const deliveries = trigger.deliveries()[Symbol.asyncIterator]();
    const taken: Delivery[] = [];
    while (taken.length < events) taken.push(await nextOf(deliveries));

    disk.fill();
    // From the first write that fails on, the stream changes nothing any more. More than fits into a page of its file.
    const tooMuch = { ...eventOf('one more'), data: new Uint8Array(64 * 1024) };
    await expect(inbox.put(ref('fn'), tooMuch)).rejects.toMatchObject({ code: 'InboxUnavailable' });
    const handled = taken.slice(0, 600);
    for (const delivery of handled) await delivery.settle({ kind: 'done' });
    await (await host.connection()).flush();
    let admin = manager;
    const consumer = async () => await admin.consumers.info(inboxStream, 'default_fn');
    const stored = async () => (await admin.streams.info(inboxStream)).state.messages;
    await vi.waitFor(
      async () => expect((await consumer()).num_ack_pending).toBe(events - handled.length),
      10_000,
    );
    await host.close();
    disk.free();
    await server.restart();
    admin = await jetstreamManager(await server.connect());
    await vi.waitFor(() => expect(link.state.connected).toBe(true), 20_000);
    // Their acknowledgement is known, and they are there: else this test would show nothing.
    expect(await stored()).toBeGreaterThan(events - handled.length);
    expect((await consumer()).ack_floor.stream_seq).toBe(handled.length);

    expect((await sweep([living('fn', 'topic')])).settled).toBeGreaterThan(0);
    expect(await stored()).toBe(events - handled.length);
    expect((await sweep([living('fn', 'topic')])).settled).toBe(0);
  },
);
