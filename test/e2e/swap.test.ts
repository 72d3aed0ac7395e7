import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { setTimeout as pause } from 'node:timers/promises';
import { beforeAll, expect, test, vi } from 'vitest';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { liveStatus, startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let site: Site;
beforeAll(async () => {
  site = await startSite();
});

interface Entry {
  what: 'start' | 'done' | 'threw';
  n: number;
  version: number;
}

/** Each call answers with its version; one stream event in ten fails the first time. */
function versioned(
  version: number,
  journal: Journal<Entry>,
  spec: Record<string, unknown> = {},
): FunctionSource {
  return {
    name: 'swapped',
    spec: {
      timeoutSeconds: 10,
      concurrency: 8,
      retry: { maxAttempts: 5, minBackoffMs: 100 },
      env: [journal.env],
      triggers: [
        { name: 'web', http: { path: '/swapped' } },
        { name: 'stream', jetstream: { stream: 'SWAP', startAt: 'All' } },
        // Slow to open and to close.
        { name: 'topic', mqtt: { topic: 'swap/idle', qos: 1 } },
      ],
      ...spec,
    },
    files: recordModule,
    code: `
      import { setTimeout as pause } from 'node:timers/promises';
      import { record } from './record.ts';
      const version = ${version};
      export const handler = async (event, { trigger }) => {
        if (trigger.kind !== 'jetstream') {
          await pause(5);
          return { version };
        }
        const { n } = event;
        record({ what: 'start', n, version });
        await pause(20);
        const fails = n % 10 === 3 && trigger.attempt === 1;
        record({ what: fails ? 'threw' : 'done', n, version });
        if (fails) throw new Error('one in ten');
      };`,
  };
}

/** Calls by HTTP and by invoke, at most about 50 a second each, and events into the stream, until told to stop. */
function startLoad(site: Site, stream: ReturnType<typeof jetstream>) {
  const wrong: string[] = [];
  const versions = new Set<number>();
  let calls = 0;
  let events = 0;
  let going = true;
  async function caller(call: () => Promise<Response>): Promise<void> {
    while (going) {
      const next = pause(40);
      try {
        const answer = await call();
        const text = await answer.text();
        calls += 1;
        const { version } = JSON.parse(text) as { version?: number };
        if (answer.ok && version !== undefined) versions.add(version);
        else wrong.push(`${answer.status} ${text}`);
      } catch (error) {
        wrong.push(String(error));
      }
      await next;
    }
  }
  async function publisher(): Promise<void> {
    while (going) {
      const next = pause(20);
      await stream.publish('swap.events', JSON.stringify({ n: events }));
      events += 1;
      await next;
    }
  }
  const web = () => site.fetch('/swapped');
  const invoke = () =>
    site.fetch('/2015-03-31/functions/swapped/invocations', { method: 'POST', body: '{}' });
  const workers = [caller(web), caller(web), caller(invoke), caller(invoke), publisher()];
  return {
    async stop() {
      going = false;
      await Promise.all(workers);
      return { wrong, versions, calls, events };
    },
  };
}

async function swapUnderLoad(
  sources: (version: number) => FunctionSource,
  journal: Journal<Entry>,
): Promise<void> {
  const nats = await site.nats();
  await (await jetstreamManager(nats)).streams.add({ name: 'SWAP', subjects: ['swap.events'] });
  await site.deploy(sources(0));
  const load = startLoad(site, jetstream(nats));
  const end = Date.now() + 15_000;
  let version = 0;
  while (Date.now() < end) {
    const next = pause(2_000);
    version += 1;
    await site.deploy(sources(version));
    await next;
  }
  const { wrong, versions, calls, events } = await load.stop();
  expect(wrong).toEqual([]);
  expect(calls).toBeGreaterThan(100);
  expect(events).toBeGreaterThan(100);
  expect(Math.max(...versions)).toBe(version);

  const done = (): Entry[] => journal.read().filter(({ what }) => what === 'done');
  await until('all events are done', () => new Set(done().map(({ n }) => n)).size === events || undefined);
  // Long enough for one that came twice to come again.
  await pause(500);
  const all = journal.read();
  const wrongOrder = Array.from({ length: events }, (_, n) => all.filter((entry) => entry.n === n)).filter(
    (entries) => {
      const fails = (entries[0]?.n ?? 0) % 10 === 3;
      const order = fails ? ['start', 'threw', 'start', 'done'] : ['start', 'done'];
      return entries.map(({ what }) => what).join() !== order.join();
    },
  );
  expect(wrongOrder).toEqual([]);
  const { stdout } = await site.faas('dead', 'list', 'swapped', '-o', 'json');
  expect(JSON.parse(stdout)).toEqual([]);
  await (await jetstreamManager(nats)).streams.delete('SWAP');
  await site.faas('delete', 'swapped');
}

test('new versions are deployed under load: no call fails, no event is lost, run twice or in two versions', async () => {
  const journal = await openJournal<Entry>();
  await swapUnderLoad((version) => versioned(version, journal), journal);
});

test('triggers are opened anew under load, when timeout and retry change with the code: the same holds', async () => {
  const journal = await openJournal<Entry>();
  await swapUnderLoad(
    (version) =>
      versioned(version, journal, {
        timeoutSeconds: 10 + version,
        retry: { maxAttempts: 5 + version, minBackoffMs: 100 },
      }),
    journal,
  );
});

const pidFunction = (name: string, spec: Record<string, unknown> = {}, code = ''): FunctionSource => ({
  name,
  spec: { triggers: [{ name: 'ask', nats: { subject: `swap.${name}` } }], ...spec },
  code: `${code}
    export const handler = async () => ({ pid: process.pid, mode: process.env['MODE'] ?? 'none' });`,
});

test('unchanged code is neither uploaded nor restarted', async () => {
  const source = pidFunction('same');
  expect((await site.deploy(source)).stdout).toMatch(/deployed and ready.* uploaded/);
  const before = await site.invoke('same');
  const { stdout } = await site.deploy(source);
  expect(stdout).toMatch(/unchanged.*not uploaded again/);
  expect(await site.invoke('same')).toEqual(before);
});

test('a change of the environment alone restarts the process and uploads nothing', async () => {
  await site.deploy(pidFunction('env', { env: [{ name: 'MODE', value: 'slow' }] }));
  const before = (await site.invoke('env')) as { pid: number };
  expect(before).toMatchObject({ mode: 'slow' });
  const { stdout } = await site.deploy(pidFunction('env', { env: [{ name: 'MODE', value: 'fast' }] }));
  expect(stdout).toMatch(/deployed and ready.*not uploaded again/);
  const after = (await site.invoke('env')) as { pid: number };
  expect(after).toMatchObject({ mode: 'fast' });
  expect(after.pid).not.toBe(before.pid);
});

test('a change of a trigger alone does not restart the process', async () => {
  const nats = await site.nats();
  const asks = async (subject: string): Promise<unknown> => {
    const reply = await nats.request(subject, '{}', { timeout: 5_000 });
    return reply.json();
  };
  const on = (...subjects: string[]): FunctionSource =>
    pidFunction('triggers', {
      triggers: subjects.map((subject, index) => ({ name: `ask-${index}`, nats: { subject } })),
    });
  await site.deploy(on('swap.one'));
  const before = await asks('swap.one');
  await site.deploy(on('swap.two', 'swap.three'));
  expect(await asks('swap.two')).toEqual(before);
  expect(await asks('swap.three')).toEqual(before);
  await expect(asks('swap.one')).rejects.toThrow(/no responders/);
});

test.each([
  [
    'throws while it is loaded',
    'throw new Error("no map of the reef");',
    'Runtime.InitError',
    'Error: no map of the reef (index.ts:1:7)',
  ],
  [
    'imports what is not there',
    'await import(String("./nowhere.mjs"));',
    'Runtime.ImportModuleError',
    'nowhere.mjs',
  ],
])('a version that %s: the old one answers on, and deploy says why', async (_title, code, type, reason) => {
  const name = 'broken';
  await site.deploy(pidFunction(name));
  const before = await site.invoke(name);
  const folder = await site.write(pidFunction(name, {}, code));
  const failed = await site.run(['deploy', folder]);
  expect(failed.code).toBe(1);
  expect(failed.stderr).toContain(reason);
  expect(failed.stderr).toContain(type);
  expect(await site.invoke(name)).toEqual(before);
  // Between two tries it is progressing again, for a moment.
  await until('the status says that the old one answers and the new one will not', async () => {
    const conditions = (await liveStatus(site.info.url, name)).conditions ?? [];
    const told = conditions.map(({ type, status }) => `${type}=${status}`);
    const wanted = ['Ready=False', 'Available=True', 'Progressing=False'];
    return wanted.every((one) => told.includes(one)) || undefined;
  });
  // Mended, it is taken up at once.
  await site.deploy(pidFunction(name, {}, '// mended'));
  expect(await site.invoke(name)).not.toEqual(before);
});

test('a version without the handler that the manifest names: the old one answers on, and deploy says why', async () => {
  await site.deploy(pidFunction('renamed'));
  const before = await site.invoke('renamed');
  const source = pidFunction('renamed');
  const folder = await site.write({ ...source, code: source.code.replace('const handler', 'const main') });
  const failed = await site.run(['deploy', folder]);
  expect(failed.code).toBe(1);
  expect(failed.stderr).toMatch(/handler/);
  expect(await site.invoke('renamed')).toEqual(before);
});
