/** Every way into the dead letters through a whole host, a real handler and real brokers, and the way out again. */
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { headers as natsHeaders, nanos } from '@nats-io/transport-node';
import mqtt from 'mqtt';
import { expect, test, vi } from 'vitest';
import { openNats } from '../../runtime/clients/nats.ts';
import type { FunctionConfig, RuntimeConfig } from '../../runtime/config.ts';
import { handBacksAllowed } from '../../runtime/consumer.ts';
import { openDeadLetters, type DeadLetterEntry } from '../../runtime/dead-letters.ts';
import { maxHops } from '../../runtime/host.ts';
import { openInbox } from '../../runtime/inbox.ts';
import { openLog } from '../../runtime/log.ts';
import { deadStream, inboxStream } from '../../runtime/streams.ts';
import { bufferBytes } from '../../runtime/triggers/buffer.ts';
import { openJournal } from '../e2e/journal.ts';
import { until } from '../e2e/site.ts';
import { closeLater } from '../support/closing.ts';
import { startMosquitto } from '../support/mosquitto.ts';
import { startNats, type NatsOptions } from '../support/nats.ts';
import { functionConfig, startedHost, type StartedHost } from './started-host.ts';

vi.setConfig({ testTimeout: 180_000 });

const silent = openLog({ level: 'silent' });
const target = { namespace: 'default', name: 'fn' };
const mebibyte = 1024 * 1024;
const truncatedBytes = 64 * 1024;
const always = (): boolean => true;
const onStream = { triggers: [{ name: 'in', jetstream: { stream: 'ORDERS', startAt: 'All' } }] };
const onSubject = { triggers: [{ name: 'in', nats: { subject: 'plain.in', reply: 'Never' } }] };
const once = { retry: { maxAttempts: 1, minBackoffMs: 1, maxBackoffMs: 1 } };

/** `code` is the body of a handler of (event, context); what it saw is written down before it begins. */
async function setup(code: string, options: NatsOptions = {}) {
  const server = await startNats(options);
  const client = await server.connect();
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  const link = openNats({ url: server.url }, { name: 'test', site: 'local', log: silent });
  closeLater(() => link.close());
  await link.connection();
  const dead = openDeadLetters(link, { site: 'local', log: silent });
  const inbox = openInbox(link, { site: 'local', log: silent });
  const journal = await openJournal<{ id: string; attempt: number }>();
  const configOf = (spec: object, body = code, generation = 1): FunctionConfig =>
    functionConfig(
      target.name,
      `exports.handler = async (event, { trigger, awsRequestId: id }) => {
        const seen = JSON.stringify({ id, attempt: trigger.attempt }) + '\\n';
        require('node:fs').appendFileSync(${JSON.stringify(journal.path)}, seen);
        ${body}
      };`,
      { spec, generation },
    );
  return {
    server,
    client,
    manager,
    dead,
    inbox,
    configOf,
    runs: () => journal.read(),
    async host(spec: object, settings: Partial<RuntimeConfig> = {}): Promise<StartedHost> {
      const config = configOf(spec);
      const host = await startedHost([config], { nats: { url: server.url }, ...settings });
      await host.untilReady(config);
      return host;
    },
    publish: async (data: Uint8Array | string) => (await jetstream(client).publish('orders.new', data)).seq,
    /** The only one, once it is there. */
    letter: () =>
      until('there is a dead letter', async (): Promise<DeadLetterEntry | undefined> => {
        const letters = await dead.list(target);
        if (letters.length > 1) throw new Error(JSON.stringify(letters));
        return letters[0];
      }),
  };
}

const failing = `throw new TypeError('no ' + event.n);`;

async function metric(host: StartedHost, name: string): Promise<string[]> {
  const { body } = await host.ask('/metrics');
  return body.split('\n').filter((line) => line.startsWith(`${name}{`));
}

test('RetriesExhausted: how often it was tried, since when, its bytes and its last fault', async () => {
  const { host, publish, letter, dead, runs } = await setup(failing);
  const begun = Date.now();
  const running = await host({ ...onStream, retry: { maxAttempts: 3, minBackoffMs: 1, maxBackoffMs: 1 } });
  const seq = await publish('{"n":1}');
  const entry = await letter();
  expect(entry).toMatchObject({
    id: `ORDERS:${seq}`,
    reason: 'RetriesExhausted',
    attempts: 3,
    trigger: 'in',
    subject: 'orders.new',
    size: 7,
    truncated: false,
    fault: {
      code: 'TypeError',
      message: 'no 1',
      stack: expect.arrayContaining([expect.stringContaining('index.js')]) as unknown,
    },
  });
  const [first, last] = [Date.parse(entry.firstTime), Date.parse(entry.time)];
  expect(first).toBeGreaterThanOrEqual(begun);
  expect(last).toBeGreaterThanOrEqual(first);
  expect(last).toBeLessThanOrEqual(Date.now());
  expect(await dead.show(target, entry.seq)).toMatchObject({ text: '{"n":1}' });
  expect(runs().map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
  const labels = 'namespace="default",function="fn",trigger="in",reason="RetriesExhausted"';
  expect(await metric(running, 'atoll_dead_letters_total')).toEqual([
    `atoll_dead_letters_total{${labels}} 1`,
  ]);
});

test('EventAgeExceeded: the next attempt would come too late', async () => {
  const { host, publish, letter, runs } = await setup(failing);
  await host({ ...onStream, retry: { maxAttempts: 9, minBackoffMs: 60_000, maxAgeSeconds: 1 } });
  await publish('{"n":1}');
  expect(await letter()).toMatchObject({
    reason: 'EventAgeExceeded',
    attempts: 1,
    fault: { code: 'TypeError' },
  });
  expect(runs()).toHaveLength(1);
});

test('Undecodable: bytes that are not what the trigger says reach no handler', async () => {
  const { host, publish, letter, dead, runs } = await setup(failing);
  await host(onStream);
  await publish(Uint8Array.of(0xff, 0x00));
  const entry = await letter();
  expect(entry).toMatchObject({ reason: 'Undecodable', size: 2, fault: { code: 'Runtime.InvalidEvent' } });
  expect((await dead.show(target, entry.seq))?.data).toBe('/wA=');
  expect(runs()).toEqual([]);
});

test('Refused: an error that says it is final is not tried again', async () => {
  const { host, publish, letter, runs } = await setup(
    `throw Object.assign(new Error('never'), { retryable: false });`,
  );
  await host(onStream);
  await publish('{"n":1}');
  expect(await letter()).toMatchObject({ reason: 'Refused', attempts: 1, fault: { message: 'never' } });
  expect(runs()).toHaveLength(1);
});

test('Poison: given back without end, it is given up unrun, and the events behind it run', async () => {
  const { host, publish, letter, runs, client } = await setup(`return 'fine';`);
  const before = await host(onStream);
  await before.stop();
  const seq = await publish('{"n":1}');
  const consumer = await jetstream(client).consumers.get('ORDERS', 'default_fn_in');
  for (let times = 0; times < 3 + handBacksAllowed;) {
    const message = await consumer.next();
    if (message === null) continue;
    message.nak();
    times += 1;
  }
  const next = await publish('{"n":2}');
  await host(onStream);
  expect(await letter()).toMatchObject({
    id: `ORDERS:${seq}`,
    reason: 'Poison',
    attempts: 0,
    fault: { code: 'Poison', message: expect.stringContaining('24 times') as string },
  });
  await until('the next one ran', () => runs().some(({ id }) => id === `ORDERS:${next}`) || undefined);
  expect(runs()).toHaveLength(1);
});

test('Recursion: an event that came through 16 functions is stopped', async () => {
  const { host, client, letter, runs } = await setup(`return 'fine';`);
  await host(onSubject);
  const headers = natsHeaders();
  headers.set('Atoll-Hops', String(maxHops));
  client.publish('plain.in', '{"n":1}', { headers });
  expect(await letter()).toMatchObject({ reason: 'Recursion', attempts: 0, fault: { code: 'Recursion' } });
  expect(runs()).toEqual([]);
});

test('Overflow: what finds the buffer full is counted and logged, and all that fitted is handled', async () => {
  const { host, client, runs, dead } = await setup(
    `while (!require('node:fs').existsSync(event.gate ?? '/')) await new Promise((go) => setTimeout(go, 20));`,
  );
  const gate = `${(await openJournal()).path}.open`;
  const running = await host({ ...onSubject, timeoutSeconds: 60 });
  client.publish('plain.in', JSON.stringify({ gate }));
  await until('the slot is taken', () => runs().length === 1 || undefined);
  const size = 4 * mebibyte;
  const fitting = Math.floor(bufferBytes / (size + 512));
  const lag = async (): Promise<number> =>
    Number((await metric(running, 'atoll_trigger_lag_events'))[0]?.split(' ').at(-1));
  const event = JSON.stringify({ pad: 'x'.repeat(size - 10) });
  // One at a time: a server whose 64 MiB for one client are full throws that client out.
  for (let n = 1; n <= fitting; n++) {
    client.publish('plain.in', event);
    await until('it waits', async () => (await lag()) === n || undefined);
  }
  client.publish('plain.in', event);
  await running.untilLogged(({ reason, trigger }) => reason === 'Overflow' && trigger === 'in');
  const { body } = await running.ask('/status');
  expect(body).toMatch(/subscribed to plain\.in; 1 events dropped since its buffer was full; last at 20/);
  expect((await metric(running, 'atoll_dead_letters_total'))[0]).toMatch(
    /trigger="in",reason="Overflow"} 1$/,
  );
  await (await import('node:fs/promises')).writeFile(gate, '');
  await until('all others are handled', () => runs().length === 1 + fitting || undefined);
  expect(await dead.list(target)).toEqual([]);
});

test('TooLarge: a message that no inbox of a foreign NATS server can take is kept in part and acknowledged', async () => {
  const { host, letter, dead, inbox, runs } = await setup(`return 'fine';`, { maxPayload: mebibyte });
  const broker = await startMosquitto();
  await host(
    { triggers: [{ name: 'in', encoding: 'binary', mqtt: { topic: 'lab/scan', qos: 1 } }] },
    { mqtt: { url: broker.url } },
  );
  const device = await mqtt.connectAsync(broker.url, { protocolVersion: 4 });
  closeLater(() => device.endAsync());
  const data = Buffer.alloc(3 * mebibyte, 'scan ');
  await device.publishAsync('lab/scan', data, { qos: 1 });
  const entry = await letter();
  expect(entry).toMatchObject({
    reason: 'TooLarge',
    attempts: 0,
    subject: 'lab/scan',
    size: data.length,
    truncated: true,
    fault: { code: 'TooLarge', message: expect.stringContaining(String(mebibyte)) as string },
  });
  const shown = await dead.show(target, entry.seq);
  expect(Buffer.from(shown?.data ?? '', 'base64').equals(data.subarray(0, truncatedBytes))).toBe(true);
  const redriven = await dead.redrive(target, { inbox, exists: always });
  expect(redriven).toMatchObject({
    redriven: 0,
    refused: [{ seq: entry.seq, reason: expect.stringContaining('first 64 KiB') as string }],
  });
  expect(await dead.list(target)).toHaveLength(1);
  // It did not stop those behind it.
  await device.publishAsync('lab/scan', 'small', { qos: 1 });
  await until('the next one ran', () => runs().length === 1 || undefined);
});

const sizes = [
  { whose: 'of our own, 8 MB', maxPayload: 8 * mebibyte },
  { whose: 'of others, with its default of 1 MB', maxPayload: mebibyte },
];
test.each(sizes)(
  'an event as large as a server may take ($whose) is dead-lettered',
  async ({ maxPayload }) => {
    const { host, publish, letter, dead, inbox, client, configOf, runs } = await setup(
      `throw new Error('too much');`,
      { maxPayload },
    );
    const spec = {
      triggers: [{ name: 'in', encoding: 'binary', jetstream: { stream: 'ORDERS', startAt: 'All' } }],
      memory: '256Mi',
      ...once,
    };
    const running = await host(spec);
    const data = Buffer.alloc(maxPayload, 'wide ');
    const seq = await publish(data);
    const entry = await letter();
    expect(entry).toMatchObject({
      id: `ORDERS:${seq}`,
      reason: 'RetriesExhausted',
      attempts: 1,
      size: maxPayload,
      truncated: true,
      fault: { message: 'too much' },
    });
    const shown = await dead.show(target, entry.seq);
    expect(Buffer.from(shown?.data ?? '', 'base64').equals(data.subarray(0, truncatedBytes))).toBe(true);
    const stored = await (await jetstreamManager(client)).streams.getMessage(deadStream, { seq: entry.seq });
    expect(stored?.header.get('Atoll-Truncated')).toBe(String(maxPayload));
    expect(JSON.parse(stored?.header.get('Atoll-Detail') ?? '')).toEqual({ stream: 'ORDERS', sequence: seq });
    // With the headers that an event in the inbox has it is larger than a message may be: that is said, and it stays.
    expect(await dead.redrive(target, { inbox, exists: always })).toMatchObject({
      redriven: 0,
      refused: [
        {
          seq: entry.seq,
          reason: expect.stringMatching(/has \d+ bytes with its headers; \d+ fit/) as string,
        },
      ],
    });
    expect(await dead.purge(target)).toBe(1);

    // A little less fits the inbox, though not the dead letters: the stream still has the whole of it.
    const less = await publish(data.subarray(0, maxPayload - 1_000));
    expect(await letter()).toMatchObject({ id: `ORDERS:${less}`, truncated: true });
    const mended = configOf(spec, `return event.length;`, 2);
    await running.reload([mended]);
    await running.untilReady(mended);
    expect(await dead.redrive(target, { inbox, exists: always })).toMatchObject({ redriven: 1, refused: [] });
    await until(
      'it ran again',
      () => runs().filter(({ id }) => id === `ORDERS:${less}`).length === 2 || undefined,
    );
    expect(await dead.list(target)).toEqual([]);
  },
);

test('each redrive is one more run: twice within the window in which JetStream knows ids, and after it', async () => {
  const { host, publish, letter, dead, inbox, manager, runs } = await setup(failing);
  await host({ ...onStream, ...once });
  await publish('{"n":1}');
  const redrive = async (expected: number): Promise<void> => {
    const { seq } = await letter();
    // Two at once are what a user in a hurry does.
    const both = await Promise.all(
      [1, 2].map(() => dead.redrive(target, { inbox, seqs: [seq], exists: always })),
    );
    expect(Math.max(...both.map(({ redriven }) => redriven))).toBe(1);
    await until('it failed again', async () => {
      const [last] = await dead.list(target);
      return (last && last.seq > seq) || undefined;
    });
    expect(runs()).toHaveLength(expected);
  };
  await redrive(2);
  await redrive(3);
  const windowMs = 100;
  for (const stream of [inboxStream, deadStream])
    await manager.streams.update(stream, { duplicate_window: nanos(windowMs) });
  await new Promise((resolve) => setTimeout(resolve, 3 * windowMs));
  await redrive(4);
  expect(runs().map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1]);
});

test('a stream that was made anew counts from 1 again: its events have dead letters and redrives of their own', async () => {
  const { host, publish, dead, inbox, manager, runs } = await setup(failing);
  await host({ ...onStream, ...once });
  for (const run of [1, 2]) {
    expect(await publish(JSON.stringify({ n: run }))).toBe(1);
    await until('it failed', async () => (await dead.list(target)).length === 1 || undefined);
    const [{ seq = 0 } = {}] = await dead.list(target);
    expect(await dead.redrive(target, { inbox, exists: always })).toMatchObject({
      redriven: 1,
      duplicates: 0,
    });
    await until('it failed again', async () => {
      const [last] = await dead.list(target);
      return (last && last.seq > seq) || undefined;
    });
    expect(await dead.list(target)).toMatchObject([{ id: 'ORDERS:1', fault: { message: `no ${run}` } }]);
    expect(runs()).toHaveLength(2 * run);
    await dead.purge(target);
    await manager.streams.delete('ORDERS');
    await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  }
});

test('NATS is killed while an event fails: its dead letter is stored once it is back, and it does not run again', async () => {
  const { host, publish, dead, server, runs } = await setup(
    `await new Promise((go) => setTimeout(go, 1_000)); throw new TypeError('no ' + event.n);`,
  );
  await host({ ...onStream, ...once });
  await publish('{"n":1}');
  await until('it runs', () => runs().length === 1 || undefined);
  await server.kill('SIGKILL');
  await server.restart();
  await until('it is stored', async () => (await dead.list(target)).length === 1 || undefined);
  expect(await dead.list(target)).toMatchObject([{ reason: 'RetriesExhausted', attempts: 1 }]);
  expect(runs()).toHaveLength(1);
});

/** One event each, by the three ways on which the verdict of an event travels until it can be stored. */
const sources = ['stream', 'subject', 'inbox'] as const;
test.each(sources)(
  'while dead letters are full, what failed finally waits (%s), is not run again, and is stored in the end',
  async (source) => {
    const { host, client, publish, inbox, dead, manager, runs } = await setup(failing);
    const running = await host({ ...(source === 'stream' ? onStream : onSubject), ...once });
    let sent = 0;
    async function send(): Promise<void> {
      sent += 1;
      const data = JSON.stringify({ n: sent });
      if (source === 'stream') await publish(data);
      else if (source === 'subject') client.publish('plain.in', data);
      else {
        const event = {
          id: `event-${sent}`,
          trigger: 'in',
          kind: 'invoke',
          subject: 'fn',
          time: Date.now(),
        } as const;
        await inbox.put(target, {
          ...event,
          attempt: 1,
          headers: {},
          encoding: 'json',
          data: Buffer.from(data),
        });
      }
    }
    await send();
    await until('the first is stored', async () => (await dead.list(target)).length === 1 || undefined);
    await manager.streams.update(deadStream, { max_msgs_per_subject: 1 });
    await send();
    const told = await running.untilLogged(({ message }) =>
      message.startsWith('dead letters cannot be stored'),
    );
    expect(told).toMatchObject({ trigger: 'in', reason: 'RetriesExhausted', level: 'ERROR' });
    const state = async (): Promise<string> => {
      const { functions } = JSON.parse((await running.ask('/status')).body) as {
        functions: { triggers: { ready: boolean; message: string }[] }[];
      };
      const trigger = functions[0]?.triggers[0];
      return `${trigger?.ready} ${trigger?.message}`;
    };
    expect(await state()).toMatch(
      /^true .*its dead letters cannot be stored and wait: .*maximum messages per subject/,
    );
    // It came back and was tried once more, without a handler.
    const tries = async (): Promise<number> =>
      Number((await metric(running, 'atoll_dead_letters_unstored_total'))[0]?.split(' ').at(-1));
    await until('it was tried again', async () => (await tries()) >= 2 || undefined);
    expect(runs()).toHaveLength(2);
    expect(await dead.list(target)).toHaveLength(1);

    await manager.streams.update(deadStream, { max_msgs_per_subject: 100 });
    await running.untilLogged(({ message }) => message === 'dead letters can be stored again');
    expect(await dead.list(target)).toMatchObject([
      { reason: 'RetriesExhausted', attempts: 1, fault: { code: 'TypeError', message: 'no 1' } },
      { reason: 'RetriesExhausted', attempts: 1, fault: { code: 'TypeError', message: 'no 2' } },
    ]);
    expect(await state()).not.toMatch(/cannot be stored/);
    expect(runs()).toHaveLength(2);
  },
);

test('the verdict outlives the host: the next one stores the dead letter, and runs nothing', async () => {
  const { host, publish, dead, manager, runs } = await setup(failing);
  const first = await host({ ...onStream, ...once });
  await publish('{"n":1}');
  await until('the first is stored', async () => (await dead.list(target)).length === 1 || undefined);
  await manager.streams.update(deadStream, { max_msgs_per_subject: 1 });
  await publish('{"n":2}');
  await first.untilLogged(({ message }) => message.startsWith('dead letters cannot be stored'));
  await first.stop();
  await manager.streams.update(deadStream, { max_msgs_per_subject: 100 });
  await host({ ...onStream, ...once });
  await until('the second is stored', async () => (await dead.list(target)).length === 2 || undefined);
  expect((await dead.list(target)).at(-1)).toMatchObject({ attempts: 1, fault: { message: 'no 2' } });
  expect(runs()).toHaveLength(2);
});

test('dead letters that somebody deleted are made again, with the next one in them', async () => {
  const { host, publish, letter, manager } = await setup(failing);
  await host({ ...onStream, ...once });
  await publish('{"n":1}');
  await letter();
  await manager.streams.delete(deadStream);
  const seq = await publish('{"n":2}');
  expect(await letter()).toMatchObject({ id: `ORDERS:${seq}`, fault: { message: 'no 2' } });
});

test.each(['stream', 'inbox'] as const)('a thousand events in backoff delay nobody (%s)', async (source) => {
  const { host, publish, inbox, manager, runs } = await setup(
    `if (event.n < 1000) throw new Error('later');`,
  );
  const retry = { maxAttempts: 5, minBackoffMs: 3_600_000, maxBackoffMs: 3_600_000 };
  await host({ ...(source === 'stream' ? onStream : onSubject), concurrency: 16, retry });
  const send = async (n: number): Promise<unknown> => {
    const data = JSON.stringify({ n });
    if (source === 'stream') return await publish(data);
    const event = { id: String(n), trigger: 'in', kind: 'invoke', subject: 'fn', time: Date.now() } as const;
    return await inbox.put(target, {
      ...event,
      attempt: 1,
      headers: {},
      encoding: 'json',
      data: Buffer.from(data),
    });
  };
  await Promise.all(Array.from({ length: 1_000 }, (_, n) => send(n)));
  await until('each has failed once', () => runs().length === 1_000 || undefined);
  for (let n = 1_000; n < 1_010; n++) await send(n);
  await until('those that came later ran', () => runs().length === 1_010 || undefined);
  const [stream, consumer] = source === 'stream' ? ['ORDERS', 'default_fn_in'] : [inboxStream, 'default_fn'];
  const pending = async (): Promise<number> =>
    (await manager.consumers.info(stream, consumer)).num_ack_pending;
  await until('all but the thousand are acknowledged', async () => (await pending()) === 1_000 || undefined);
});
