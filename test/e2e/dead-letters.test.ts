import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { beforeAll, expect, test, vi } from 'vitest';
import { closeLater } from '../support/closing.ts';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { describes, processNamed, startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 90_000 });

interface Entry {
  what: 'start' | 'done';
  n: number;
  attempt: number;
  pid: number;
}

let site: Site;
let nats: NatsConnection;
let journal: Journal<Entry>;

beforeAll(async () => {
  journal = await openJournal();
  site = await startSite();
  nats = await site.nats();
});

interface Letter {
  seq: number;
  reason: string;
  attempts: number;
  trigger: string;
}

async function letters(name: string, at = site): Promise<Letter[]> {
  const { stdout } = await at.faas('dead', 'list', name, '-o', 'json');
  return JSON.parse(stdout) as Letter[];
}

/** One event in its stream kills the process it runs in. */
const deadly = (name: string, maxAttempts: number): FunctionSource => ({
  name,
  spec: {
    concurrency: 8,
    timeoutSeconds: 10,
    env: [journal.env],
    retry: { maxAttempts, minBackoffMs: 100 },
    triggers: [{ name: 'stream', jetstream: { stream: name.toUpperCase(), startAt: 'All' } }],
  },
  files: recordModule,
  code: `
    import { setTimeout as pause } from 'node:timers/promises';
    import { record } from './record.ts';
    export const handler = async ({ n }, { trigger: { attempt } }) => {
      record({ what: 'start', n, attempt, pid: process.pid });
      await pause(n % 100 === 50 ? 20 : 60);
      if (n % 100 === 50) process.kill(process.pid, 'SIGKILL');
      record({ what: 'done', n, attempt, pid: process.pid });
    };`,
});

async function publish(stream: string, from: number, to: number): Promise<void> {
  await (await jetstreamManager(nats)).streams.add({ name: stream, subjects: [stream.toLowerCase()] });
  for (let n = from; n < to; n++) await jetstream(nats).publish(stream.toLowerCase(), JSON.stringify({ n }));
}

// At the same time, since one of them waits for half a minute.

test.concurrent(
  'an event that kills its process costs its neighbours no attempt, and ends as a dead letter alone',
  async () => {
    await publish('DEADLY', 0, 100);
    await site.deploy(deadly('deadly', 2));
    const done = (): Entry[] => journal.read().filter(({ what, n }) => what === 'done' && n < 100);
    await until('the others are done', () => new Set(done().map(({ n }) => n)).size === 99 || undefined);
    const dead = await until('the one is a dead letter', async () => {
      const found = await letters('deadly');
      return found.length > 0 ? found : undefined;
    });
    expect(dead).toMatchObject([{ reason: 'RetriesExhausted', attempts: 2, trigger: 'stream' }]);
    expect(done()).toHaveLength(99);
    expect(new Set(done().map(({ attempt }) => attempt))).toEqual(new Set([1]));
    // As a suspect among others, and alone; then, as it died alone, once for each further attempt.
    const deaths = journal.read().filter(({ what, n }) => what === 'start' && n === 50);
    expect(deaths.length).toBeGreaterThanOrEqual(2);
    expect(Math.max(...deaths.map(({ attempt }) => attempt))).toBe(2);
  },
);

test.concurrent(
  'with maxAttempts 1 no event is handed out twice: what was with the process is Interrupted or exhausted',
  async () => {
    await publish('ONCE', 200, 300);
    await site.deploy(deadly('once', 1));
    const of = (what: string): number[] =>
      journal
        .read()
        .filter((entry) => entry.what === what && entry.n >= 200 && entry.n < 300)
        .map(({ n }) => n);
    await until(
      'each is done or dead',
      async () => of('done').length + (await letters('once')).length === 100 || undefined,
    );
    expect(new Set(of('start')).size).toBe(of('start').length);
    const reasons = new Set((await letters('once')).map(({ reason }) => reason));
    expect([...reasons].filter((reason) => !['Interrupted', 'RetriesExhausted'].includes(reason))).toEqual(
      [],
    );
  },
);

test.concurrent(
  'with maxAttempts 1 an event that was running when the host was killed is Interrupted, and never runs again',
  async () => {
    // Its host is killed, and those of the others are not.
    const site = await startSite();
    const nats = await site.nats();
    await site.deploy(
      {
        name: 'interrupted',
        spec: {
          timeoutSeconds: 60,
          env: [journal.env],
          retry: { maxAttempts: 1 },
          triggers: [{ name: 'stream', jetstream: { stream: 'INTERRUPTED', startAt: 'All' } }],
        },
        files: recordModule,
        code: `
      import { record } from './record.ts';
      export const handler = async ({ n }, { trigger: { attempt } }) => {
        record({ what: 'start', n, attempt, pid: process.pid });
        if (n === 700) await new Promise(() => {});
      };`,
      },
      '--no-wait',
    );
    await (await jetstreamManager(nats)).streams.add({ name: 'INTERRUPTED', subjects: ['interrupted'] });
    await site.ready('interrupted');
    await jetstream(nats).publish('interrupted', '{"n":700}');
    const started = (n: number): Entry[] => journal.read().filter((entry) => entry.n === n);
    await until('it runs', () => started(700).length === 1 || undefined);
    process.kill(processNamed(site, 'runtime/main').pid, 'SIGKILL');
    await jetstream(nats).publish('interrupted', '{"n":701}');
    await until('the next one ran', () => started(701).length === 1 || undefined, 60_000);
    // The server hands it out again when nobody renewed its lease for 30 s.
    const dead = await until(
      'the one is a dead letter',
      async () => {
        const found = await letters('interrupted', site);
        return found.length > 0 ? found : undefined;
      },
      60_000,
    );
    expect(dead).toMatchObject([{ reason: 'Interrupted', attempts: 1 }]);
    expect(started(700)).toHaveLength(1);
  },
);

test.concurrent('reasons: no JSON, refused by the handler, in a circle', async () => {
  await site.deploy({
    name: 'reasons',
    spec: {
      retry: { maxAttempts: 3, minBackoffMs: 50 },
      triggers: [{ name: 'plain', nats: { subject: 'reasons.in', reply: 'Never' } }],
      onSuccess: { nats: { subject: 'reasons.in' } },
    },
    code: `
      import { PermanentError } from 'atoll';
      export const handler = async (event) => {
        if (event.refuse) throw new PermanentError('never will');
        return 'fine';
      };`,
  });
  nats.publish('reasons.in', 'this is no JSON');
  nats.publish('reasons.in', '{"refuse":true}');
  nats.publish('reasons.in', '{"round":true}');
  const found = await until('three dead letters', async () => {
    const all = await letters('reasons');
    return all.length === 3 ? all : undefined;
  });
  expect(found.map(({ reason }) => reason).sort()).toEqual(['Recursion', 'Refused', 'Undecodable']);
});

test.concurrent(
  'list, show, redrive and purge: a mended function handles what is redriven, once',
  async () => {
    const source = (code: string): FunctionSource => ({
      name: 'mended',
      spec: {
        env: [journal.env],
        retry: { maxAttempts: 2, minBackoffMs: 50 },
        triggers: [{ name: 'plain', nats: { subject: 'mended.in', reply: 'Never' } }],
      },
      files: recordModule,
      code: `import { record } from './record.ts'; export const handler = async (event, { trigger }) => { ${code} };`,
    });
    await site.deploy(source(`throw new Error('broken ' + event.n + record.name);`));
    for (const n of [900, 901, 902]) nats.publish('mended.in', JSON.stringify({ n }));
    const dead = await until('three dead letters', async () => {
      const all = await letters('mended');
      return all.length === 3 ? all : undefined;
    });
    expect(dead.map(({ reason, attempts }) => `${reason} ${attempts}`)).toEqual(
      Array(3).fill('RetriesExhausted 2'),
    );
    const { stdout } = await site.faas('dead', 'show', 'mended', '--seq', String(dead[0]?.seq));
    expect(stdout).toMatch(/broken 90\d/);

    await site.deploy(source(`record({ what: 'done', n: event.n, attempt: trigger.attempt, pid: 0 });`));
    await site.faas('dead', 'purge', 'mended', '--yes', '--seq', String(dead[2]?.seq));
    await site.faas('dead', 'redrive', 'mended');
    const done = (): Entry[] => journal.read().filter(({ n }) => n >= 900);
    await until('both came', () => done().length === 2 || undefined);
    expect(await letters('mended')).toEqual([]);
    expect(done().map(({ attempt }) => attempt)).toEqual([1, 1]);
  },
);

test('full dead letters: what failed finally waits, "faas describe" says so, and it ends by itself once there is room', async () => {
  await site.deploy({
    name: 'full',
    spec: {
      env: [journal.env],
      retry: { maxAttempts: 1 },
      triggers: [{ name: 'plain', mqtt: { topic: 'full/in', qos: 1 } }],
    },
    files: recordModule,
    code: `
      import { record } from './record.ts';
      export const handler = async ({ n }, { trigger: { attempt } }) => {
        record({ what: 'start', n, attempt, pid: process.pid });
        throw new Error('no ' + n);
      };`,
  });
  const manager = await jetstreamManager(nats);
  const limit = (max_msgs_per_subject: number) =>
    manager.streams.update('ATOLL_DEAD', { max_msgs_per_subject });
  const { max_msgs_per_subject: before } = (await manager.streams.info('ATOLL_DEAD')).config;
  const device = await connectAsync(site.info.mqtt?.url ?? '', { protocolVersion: 4 });
  closeLater(() => device.endAsync());
  await device.publishAsync('full/in', '{"n":800}', { qos: 1 });
  await until('the first is stored', async () => (await letters('full')).length === 1 || undefined);
  await limit(1);
  await device.publishAsync('full/in', '{"n":801}', { qos: 1 });
  await describes(site, 'full', /dead letters cannot be stored/);
  await limit(before);
  await until('the second is stored', async () => (await letters('full')).length === 2 || undefined);
  expect((await letters('full')).map(({ reason, attempts }) => `${reason} ${attempts}`)).toEqual([
    'RetriesExhausted 1',
    'RetriesExhausted 1',
  ]);
  expect(journal.read().filter(({ n }) => n === 800 || n === 801)).toHaveLength(2);
});
