import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { expect, test } from 'vitest';
import { openNats } from '../../runtime/clients/nats.ts';
import { openDeadLetters } from '../../runtime/dead-letters.ts';
import type { DeadLetters } from '../../runtime/dead-letters.ts';
import type { DeadLetterReason, TriggerEvent } from '../../runtime/event.ts';
import { openInbox, openInboxTrigger } from '../../runtime/inbox.ts';
import { openLog } from '../../runtime/log.ts';
import { deadStream } from '../../runtime/streams.ts';
import { bytesOf, closedLater, contextOf, nextOf } from '../contracts/trigger.ts';
import { closeLater } from '../support/closing.ts';
import { startNats } from '../support/nats.ts';
import type { NatsOptions } from '../support/nats.ts';

const silent = openLog({ level: 'silent' });
const target = { namespace: 'default', name: 'fn' };
const fault = { code: 'TypeError', message: 'no such thing', stack: ['at handler'] };
const always = () => true;

async function setup(options: NatsOptions = {}) {
  const server = await startNats(options);
  const link = openNats({ url: server.url }, { name: 'test', site: 'local', log: silent });
  closeLater(() => link.close());
  await link.connection();
  const client = await server.connect();
  return {
    server,
    link,
    client,
    manager: await jetstreamManager(client, { checkAPI: false }),
    dead: openDeadLetters(link, { site: 'local', log: silent, connectionWaitMs: 200 }),
    inbox: openInbox(link, { site: 'local', log: silent }),
    async inboxOf(name = 'fn') {
      const ref = { namespace: 'default', name, uid: `uid-${name}` };
      const { context, reports } = contextOf({ nats: link, name: '$inbox', function: ref });
      const trigger = closedLater(openInboxTrigger(context));
      await reports.until(({ ready }) => ready);
      const iterator = trigger.deliveries()[Symbol.asyncIterator]();
      return { next: () => nextOf(iterator) };
    },
  };
}

let made = 0;
function eventOf(given: Partial<TriggerEvent> = {}): TriggerEvent {
  return {
    id: `event-${++made}`,
    trigger: 'main',
    kind: 'nats',
    subject: 'greet.world',
    time: 1_700_000_000_000,
    attempt: 3,
    headers: { color: 'red' },
    encoding: 'json',
    data: bytesOf('{"a":1}'),
    ...given,
  };
}

const put = (dead: DeadLetters, event: TriggerEvent, reason: DeadLetterReason = 'RetriesExhausted') =>
  dead.put(target, event, fault, reason);

test('a dead letter tells which event failed, why, and how often it was tried', async () => {
  const { dead } = await setup();
  const event = eventOf();
  await put(dead, event);
  const [entry, ...others] = await dead.list(target);
  expect(others).toEqual([]);
  expect(entry).toEqual({
    seq: 1,
    id: event.id,
    namespace: 'default',
    function: 'fn',
    trigger: 'main',
    reason: 'RetriesExhausted',
    attempts: 3,
    time: expect.stringMatching(/^20\d\d-.*Z$/),
    firstTime: '2023-11-14T22:13:20.000Z',
    subject: 'greet.world',
    size: 7,
    truncated: false,
    fault,
  });
  expect(await dead.show(target, 1)).toEqual({
    ...entry,
    data: Buffer.from('{"a":1}').toString('base64'),
    text: '{"a":1}',
    headers: { color: 'red', 'Atoll-First-Time': '1700000000000' },
  });
});

test('a function’s list holds its own, the newest last, and no more than asked for', async () => {
  const { dead } = await setup();
  expect(await dead.list(target)).toEqual([]);
  for (let i = 0; i < 30; i++) {
    await dead.put(target, eventOf({ id: `mine-${i}` }), fault, 'Refused');
    await dead.put({ ...target, name: 'other' }, eventOf({ id: `other-${i}` }), fault, 'Refused');
  }
  await dead.purge(target, [7, 9]);
  expect((await dead.list(target)).map(({ id }) => id)).toHaveLength(28);
  expect((await dead.list(target, { limit: 3 })).map(({ id }) => id)).toEqual([
    'mine-27',
    'mine-28',
    'mine-29',
  ]);
  expect(await dead.list(target, { limit: 1 })).toMatchObject([{ id: 'mine-29', seq: 59 }]);
  expect(await dead.show(target, 60)).toBeUndefined();
  expect(await dead.show(target, 61)).toBeUndefined();
});

test('two functions that fail the same message of a stream each have their dead letter; one that fails it twice has one', async () => {
  const { dead } = await setup();
  const event = eventOf({ id: 'ORDERS:17', kind: 'jetstream' });
  await dead.put(target, event, fault, 'RetriesExhausted');
  await dead.put(target, event, fault, 'RetriesExhausted');
  await dead.put({ ...target, name: 'other' }, event, fault, 'RetriesExhausted');
  expect(await dead.list(target)).toHaveLength(1);
  expect(await dead.list({ ...target, name: 'other' })).toHaveLength(1);
});

test('redrive puts the event into the inbox of the function, and nothing on its subject', async () => {
  const { dead, inbox, inboxOf, client } = await setup();
  const event = eventOf();
  await put(dead, event);
  let others = 0;
  client.subscribe('greet.world', { callback: () => void (others += 1) });
  const { next } = await inboxOf();
  const begun = Date.now();
  expect(await dead.redrive(target, { inbox, exists: always })).toEqual({
    redriven: 1,
    duplicates: 0,
    refused: [],
  });
  const again = (await next()).event;
  expect(again).toMatchObject({
    id: event.id,
    trigger: 'main',
    subject: 'greet.world',
    attempt: 1,
    kind: 'nats',
  });
  expect(again.headers).toMatchObject({ color: 'red', 'Atoll-Redrive': '1' });
  expect(again.time).toBeGreaterThanOrEqual(begun);
  expect(await dead.list(target)).toEqual([]);
  await client.flush();
  expect(others).toBe(0);
});

test('an event may be redriven again and again; since when it is under way stays known', async () => {
  const { dead, inbox, inboxOf } = await setup();
  await put(dead, eventOf());
  const { next } = await inboxOf();
  for (const redrive of ['1', '2', '3']) {
    expect(await dead.redrive(target, { inbox, exists: always })).toMatchObject({
      redriven: 1,
      duplicates: 0,
    });
    const delivery = await next();
    expect(delivery.event.headers['Atoll-Redrive']).toBe(redrive);
    await put(dead, delivery.event);
    await delivery.settle({ kind: 'failed', fault, reason: 'RetriesExhausted' });
  }
  expect(await dead.list(target)).toMatchObject([{ firstTime: '2023-11-14T22:13:20.000Z' }]);
});

test('a redrive that was interrupted after the inbox had the event is finished by the next, and runs nothing twice', async () => {
  const { dead, inbox, inboxOf } = await setup();
  const event = eventOf();
  await put(dead, event);
  await inbox.put(target, event, { redrive: 1 });
  expect(await dead.redrive(target, { inbox, exists: always })).toEqual({
    redriven: 0,
    duplicates: 1,
    refused: [],
  });
  expect(await dead.list(target)).toEqual([]);
  const { next } = await inboxOf();
  await (await next()).settle({ kind: 'done' });
  await inbox.put(target, eventOf({ id: 'other' }));
  expect((await next()).event.id).toBe('other');
});

test('a trigger that is gone is refused, and may be named anew', async () => {
  const { dead, inbox, inboxOf } = await setup();
  await put(dead, eventOf({ trigger: 'gone' }));
  const exists = (name: string, trigger: string) => name === 'other' && trigger === 'main';
  const refused = await dead.redrive(target, { inbox, exists });
  expect(refused).toMatchObject({
    redriven: 0,
    refused: [{ seq: 1, reason: expect.stringContaining('--to') }],
  });
  expect(await dead.list(target)).toHaveLength(1);
  const to = { name: 'other', trigger: 'main' };
  expect(await dead.redrive(target, { inbox, exists, to })).toMatchObject({ redriven: 1 });
  const { next } = await inboxOf('other');
  expect((await next()).event.trigger).toBe('main');
});

test('only the chosen ones are redriven or purged, and never another function’s', async () => {
  const { dead, inbox } = await setup();
  for (let i = 1; i <= 3; i++) await put(dead, eventOf({ id: String(i) }));
  await dead.put({ ...target, name: 'other' }, eventOf(), fault, 'Refused');
  const result = await dead.redrive(target, { inbox, exists: always, seqs: [2, 4] });
  expect(result).toMatchObject({ redriven: 1, refused: [{ seq: 4 }] });
  expect(await dead.purge(target, [3, 4])).toBe(1);
  expect((await dead.list(target)).map(({ id }) => id)).toEqual(['1']);
  expect(await dead.purge(target)).toBe(1);
  expect(await dead.list({ ...target, name: 'other' })).toHaveLength(1);
});

test('an inbox that is full keeps the dead letter where it is', async () => {
  const { dead, inbox, manager } = await setup();
  await inbox.put(target, eventOf());
  await manager.streams.update('ATOLL_INBOX', { max_msgs_per_subject: 1 });
  await put(dead, eventOf());
  const result = await dead.redrive(target, { inbox, exists: always });
  expect(result).toMatchObject({
    redriven: 0,
    refused: [{ seq: 1, reason: expect.stringContaining('waiting') }],
  });
  expect(await dead.list(target)).toHaveLength(1);
});

test('an event that does not fit is kept in part, says so, and cannot be redriven', async () => {
  const { dead, inbox } = await setup({ maxPayload: 256 * 1024 });
  const data = new Uint8Array(256 * 1024 - 100).fill(65);
  await put(dead, eventOf({ data }), 'TooLarge');
  const shown = await dead.show(target, 1);
  expect(shown).toMatchObject({ truncated: true, size: data.length });
  expect(Buffer.from(shown?.data ?? '', 'base64').length).toBe(64 * 1024);
  const result = await dead.redrive(target, { inbox, exists: always });
  expect(result).toMatchObject({ redriven: 0, refused: [{ reason: expect.stringContaining('64 KiB') }] });
  expect(await dead.list(target)).toHaveLength(1);
});

test('the whole of an event whose stream still has it is redriven from there', async () => {
  const { dead, inbox, inboxOf, client, manager } = await setup();
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  const data = new Uint8Array(8 * 1024 * 1024 - 1_500).fill(66);
  const { seq } = await jetstream(client).publish('orders.new', data);
  const detail = { stream: 'ORDERS', sequence: seq };
  const big = eventOf({ id: `ORDERS:${seq}`, kind: 'jetstream', subject: 'orders.new', data, detail });
  // The event fits the inbox; with the words about its failure it does not fit the dead letters.
  await dead.put(target, big, { code: 'Error', message: 'x'.repeat(8_000) }, 'RetriesExhausted');
  expect(await dead.list(target)).toMatchObject([{ truncated: true, size: data.length }]);
  const { next } = await inboxOf();
  expect(await dead.redrive(target, { inbox, exists: always })).toEqual({
    redriven: 1,
    duplicates: 0,
    refused: [],
  });
  expect((await next()).event.data.length).toBe(data.length);
});

test('a fault of any length is kept in 8 KiB, its beginning first', async () => {
  const { dead } = await setup();
  const long = {
    code: 'Error',
    message: `begins ${'ü'.repeat(100_000)}`,
    stack: Array.from({ length: 1_000 }, (_, i) => `at line ${i}`),
  };
  await dead.put(target, eventOf(), long, 'RetriesExhausted');
  const [entry] = await dead.list(target);
  expect(entry?.fault.message).toMatch(/^begins ü/);
  expect(JSON.stringify(entry?.fault).length).toBeLessThanOrEqual(8 * 1024);
});

test('headers that would not be stored are left out, the data are not', async () => {
  const { dead } = await setup();
  await put(dead, eventOf({ headers: { words: 'x'.repeat(70_000), 'Atoll-Hops': '2' } }));
  const shown = await dead.show(target, 1);
  expect(shown).toMatchObject({ truncated: true, headers: { 'Atoll-Hops': '2' } });
});

test('put() rejects when the dead letters are full or away: the event must not be acknowledged', async () => {
  const { dead, manager, server, link } = await setup();
  await put(dead, eventOf());
  await manager.streams.update(deadStream, { max_msgs_per_subject: 1 });
  await expect(put(dead, eventOf())).rejects.toMatchObject({ code: 'JetStreamUnavailable' });
  const gone = new Promise<void>((resolve) => link.onState(() => resolve()));
  await server.stop();
  await gone;
  await expect(put(dead, eventOf())).rejects.toMatchObject({ code: 'NatsUnavailable' });
});

test('put() waits for a connection that is away for a moment', async () => {
  const { link, server } = await setup();
  const dead = openDeadLetters(link, { site: 'local', log: silent });
  const gone = new Promise<void>((resolve) => link.onState(() => resolve()));
  await server.kill('SIGKILL');
  await gone;
  const putting = put(dead, eventOf({ id: 'waited' }));
  await server.restart();
  await putting;
  expect(await dead.list(target)).toMatchObject([{ id: 'waited' }]);
});

test('without JetStream put() rejects and says so', async () => {
  const { dead } = await setup({ jetstream: false });
  await expect(put(dead, eventOf())).rejects.toMatchObject({ code: 'JetStreamUnavailable' });
});

test('what a text shows as text, bytes are shown as bytes only', async () => {
  const { dead } = await setup();
  await put(dead, eventOf({ data: Uint8Array.of(0xff, 0xfe) }));
  const shown = await dead.show(target, 1);
  expect(shown?.data).toBe('//4=');
  expect(shown).not.toHaveProperty('text');
});
