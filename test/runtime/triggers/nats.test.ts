import { writeFile } from 'node:fs/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import { headers } from '@nats-io/nats-core';
import { expect, test } from 'vitest';
import type { NatsConnection } from '@nats-io/transport-node';
import type { TriggerSources } from '../../../crds/function.ts';
import { openNats as openLink } from '../../../runtime/clients/nats.ts';
import type { NatsLink } from '../../../runtime/clients/nats.ts';
import { openLog } from '../../../runtime/log.ts';
import { bufferBytes } from '../../../runtime/triggers/buffer.ts';
import { openNats } from '../../../runtime/triggers/nats.ts';
import { bytesOf, closedLater, contextOf, nextOf, testTrigger, textOf } from '../../contracts/trigger.ts';
import type { OpenedTrigger } from '../../contracts/trigger.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startNats } from '../../support/nats.ts';
import type { NatsServer } from '../../support/nats.ts';

const silent = openLog({ level: 'silent' });

function linkTo(server: NatsServer, settings: { credentialsFile?: string } = {}): NatsLink {
  const link = openLink({ url: server.url, ...settings }, { name: 'test', site: 'local', log: silent });
  closeLater(() => link.close());
  return link;
}

type Source = Partial<TriggerSources['nats']>;

function openOn(
  link: NatsLink,
  source: Source = {},
  given: Parameters<typeof contextOf>[0] = {},
): OpenedTrigger {
  const { context, reports } = contextOf({ nats: link, ...given });
  const trigger = openNats({ subject: 'greet.*', broadcast: false, reply: 'Always', ...source }, context);
  return { trigger: closedLater(trigger), reports };
}

async function readyOn(link: NatsLink, source: Source = {}, given: Parameters<typeof contextOf>[0] = {}) {
  const opened = openOn(link, source, given);
  await opened.reports.until(({ ready }) => ready);
  const iterator = opened.trigger.deliveries()[Symbol.asyncIterator]();
  return { ...opened, next: () => nextOf(iterator) };
}

async function publishAll(client: NatsConnection, subject: string, payloads: Iterable<Uint8Array>) {
  for (const payload of payloads) client.publish(subject, payload);
  await client.flush();
}

testTrigger('nats', { kind: 'nats', broker: true }, async ({ away }) => {
  const server = await startNats();
  if (away) await server.stop();
  const link = linkTo(server);
  return {
    open: (options) => Promise.resolve(openOn(link, {}, { retry: options?.retry })),
    send: async (data) => publishAll(await link.connection(), 'greet.world', [data]),
    broker: { stop: () => server.kill('SIGKILL'), start: () => server.restart() },
  };
});

test('a request is answered with the bytes of the result', async () => {
  const server = await startNats();
  const { next } = await readyOn(linkTo(server));
  const client = await server.connect();
  const answer = client.request('greet.world', 'hi');
  const delivery = await next();
  expect(delivery).toMatchObject({ replies: true, event: { subject: 'greet.world', kind: 'nats' } });
  await delivery.settle({ kind: 'done', result: { encoding: 'json', data: bytesOf('{"hello":"hi"}') } });
  expect((await answer).json()).toEqual({ hello: 'hi' });
});

test('a failed request is answered as NATS services fail, with Lambda’s error object as the body', async () => {
  const server = await startNats();
  const { next } = await readyOn(linkTo(server));
  const client = await server.connect();
  const answer = client.request('greet.world', 'hi');
  const fault = { code: 'TypeError', message: 'not\r\na name', stack: ['at handler'] };
  await (await next()).settle({ kind: 'failed', fault, reason: 'RetriesExhausted' });
  const message = await answer;
  expect(message.headers?.get('Nats-Service-Error')).toBe('TypeError: not a name');
  expect(message.headers?.get('Nats-Service-Error-Code')).toBe('500');
  expect(message.json()).toEqual({
    errorType: 'TypeError',
    errorMessage: 'not\r\na name',
    trace: ['at handler'],
  });
});

test('a request that cannot be run is answered 503 instead of waiting for ever', async () => {
  const server = await startNats();
  const { next } = await readyOn(linkTo(server));
  const client = await server.connect();
  const answer = client.request('greet.world', 'hi');
  await (await next()).settle({ kind: 'retry', delayMs: 0, failed: false });
  expect((await answer).headers?.get('Nats-Service-Error-Code')).toBe('503');
});

test('a result that is too large for the server becomes an error reply', async () => {
  const server = await startNats({ maxPayload: 64 * 1024 });
  const { next } = await readyOn(linkTo(server));
  const client = await server.connect();
  const answer = client.request('greet.world', 'hi');
  await (await next()).settle({ kind: 'done', result: { encoding: 'binary', data: new Uint8Array(65_537) } });
  expect((await answer).headers?.get('Nats-Service-Error-Code')).toBe('413');
});

test('with reply: Never a message with a reply subject is an event like any other', async () => {
  const server = await startNats();
  const { next } = await readyOn(linkTo(server), { reply: 'Never' });
  const client = await server.connect();
  client.publish('greet.world', 'hi', { reply: 'answers.here' });
  expect((await next()).replies).toBe(false);
});

test('id and headers of a message are kept, hops among them', async () => {
  const server = await startNats();
  const { next } = await readyOn(linkTo(server));
  const client = await server.connect();
  const given = headers();
  given.set('Atoll-Id', 'order-17');
  given.set('Atoll-Hops', '3');
  given.append('color', 'red');
  given.append('color', 'blue');
  client.publish('greet.world', 'hi', { headers: given });
  const { event } = await next();
  expect(event.id).toBe('order-17');
  expect(event.headers).toMatchObject({ 'Atoll-Hops': '3', color: 'red, blue' });
});

test('replicas share the events; a function of the same name at another site gets its own', async () => {
  const server = await startNats();
  const received: string[] = [];
  const take = async (link: NatsLink, mark: string, site: string, source: Source = {}) => {
    const { trigger } = await readyOn(link, source, { site });
    void (async () => {
      for await (const delivery of trigger.deliveries()) {
        received.push(mark);
        await delivery.settle({ kind: 'done' });
        if (received.length === expected) done.resolve();
      }
    })();
  };
  const count = 50;
  const expected = 3 * count;
  const done = Promise.withResolvers<void>();
  await take(linkTo(server), 'here', 'here');
  await take(linkTo(server), 'here', 'here');
  await take(linkTo(server), 'there', 'there');
  await take(linkTo(server), 'all', 'here', { broadcast: true });
  await publishAll(await server.connect(), 'greet.world', Array(count).fill(bytesOf('x')));
  await done.promise;
  const of = (mark: string) => received.filter((one) => one === mark).length;
  expect([of('here'), of('there'), of('all')]).toEqual([count, count, count]);
});

test('a queue of a manifest is taken literally: whoever else is in that group shares the events', async () => {
  const server = await startNats();
  const { next, trigger } = await readyOn(linkTo(server), { queue: 'workers' });
  const client = await server.connect();
  const other: string[] = [];
  client.subscribe('greet.world', {
    queue: 'workers',
    callback: (_error, message) => void other.push(message.string()),
  });
  await client.flush();
  const count = 100;
  await publishAll(client, 'greet.world', Array(count).fill(bytesOf('x')));
  const first = await next();
  await first.settle({ kind: 'done' });
  await trigger.close();
  let mine = 1;
  for await (const delivery of trigger.deliveries()) {
    mine += 1;
    await delivery.settle({ kind: 'done' });
  }
  expect(other.length).toBeGreaterThan(0);
  expect(mine + other.length).toBe(count);
});

test('what overflows the buffer is dropped and said, a request is answered 503; the rest is all there', async () => {
  const server = await startNats();
  const { next, reports, trigger } = await readyOn(linkTo(server));
  const client = await server.connect();
  const chunk = 1024 * 1024;
  const fitting = Math.floor(bufferBytes / (chunk + 512));
  // One at a time: a server whose 64 MiB for one client are full throws that client out.
  for (let i = 0; i < fitting; i++) {
    await publishAll(client, 'greet.world', [new Uint8Array(chunk).fill(i)]);
    await expect.poll(() => trigger.lag!(), { interval: 1 }).toBe(i + 1);
  }
  await publishAll(client, 'greet.world', Array(3).fill(new Uint8Array(chunk)));
  const refused = await client.request('greet.world', new Uint8Array(chunk), { timeout: 25_000 });
  expect(refused.headers?.get('Nats-Service-Error-Code')).toBe('503');
  expect(reports.dropped).toEqual(Array(3).fill('greet.world'));
  for (let i = 0; i < fitting; i++) expect((await next()).event.data[0]).toBe(i);
});

test('a thousand events in backoff delay nobody', async () => {
  const server = await startNats();
  const { next } = await readyOn(linkTo(server));
  const client = await server.connect();
  await publishAll(client, 'greet.failing', Array(1_000).fill(bytesOf('no')));
  for (let i = 0; i < 1_000; i++)
    await (await next()).settle({ kind: 'retry', delayMs: 60_000, failed: true });
  client.publish('greet.world', 'hello');
  expect(textOf(await next())).toBe('hello');
});

test('at the close what waits for its next attempt is yielded at once, and the end waits for what is open', async () => {
  const server = await startNats();
  const { trigger, reports } = openOn(linkTo(server));
  await reports.until(({ ready }) => ready);
  const iterator = trigger.deliveries()[Symbol.asyncIterator]();
  await publishAll(await server.connect(), 'greet.world', [bytesOf('slow')]);
  await (await nextOf(iterator)).settle({ kind: 'retry', delayMs: 60_000, failed: true });
  await trigger.close();
  const again = await nextOf(iterator);
  expect(again.event.attempt).toBe(2);
  const end = iterator.next();
  await again.settle({ kind: 'retry', delayMs: 60_000, failed: true });
  const third = await end;
  expect(third.value).toMatchObject({ event: { attempt: 3 } });
  const last = iterator.next();
  await third.value.settle({ kind: 'done' });
  expect((await last).done).toBe(true);
});

test('a subject that a stream stores is warned of, since its publishers wait for the stream’s word', async () => {
  const server = await startNats();
  const client = await server.connect();
  await (await jetstreamManager(client)).streams.add({ name: 'GREETINGS', subjects: ['greet.>'] });
  const { reports } = openOn(linkTo(server));
  const state = await reports.until(({ message }) => message.includes('GREETINGS'));
  expect(state).toMatchObject({ ready: true, reason: 'Ready' });
  expect(state.message).toContain('reply: Never');
});

test('a subscription that the user may not have is SubscriptionRefused, and the subject is named', async () => {
  const server = await startNats({
    config: `authorization { users: [{ user: app, password: secret, permissions: { subscribe: ["_INBOX.>"] } }] }`,
  });
  const file = `${await temporaryFolder()}/nats.json`;
  await writeFile(file, JSON.stringify({ user: 'app', pass: 'secret' }), { mode: 0o600 });
  const { reports } = openOn(linkTo(server, { credentialsFile: file }));
  const state = await reports.until(({ reason }) => reason === 'SubscriptionRefused');
  expect(state.message).toContain('greet.*');
});
