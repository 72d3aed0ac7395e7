import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { setTimeout as pause } from 'node:timers/promises';
import { connectAsync } from 'mqtt';
import { beforeAll, expect, test, vi } from 'vitest';
import { closeLater } from '../support/closing.ts';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { liveStatus, startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

let site: Site;
beforeAll(async () => {
  site = await startSite();
});

/** How long versions are exchanged under load: `npm run soak` takes a minute, the gate a few seconds. */
const loadMs = process.env['ATOLL_SOAK'] === '1' ? 60_000 : 12_000;
const deployEveryMs = 2_000;
/** Callers, and how often each calls: 200 calls a second where the machine can. */
const callers = { count: 8, everyMs: 40 };
const publishEveryMs = 20;

interface Entry {
  what: 'begin' | 'done' | 'threw';
  id: string;
  kind: 'http' | 'invoke' | 'jetstream' | 'mqtt';
  n: number;
  version: number;
  /** On the clock that all processes of a machine share, ms. */
  at: number;
}

const triggersWith = ({ qos }: { qos: number }): object[] => [
  { name: 'web', http: { path: '/swapped' } },
  { name: 'stream', jetstream: { stream: 'SWAP', startAt: 'All' } },
  { name: 'topic', mqtt: { topic: 'swap/mqtt', qos } },
];

/** Answers with its version, and fails one in ten: a call always, an event the first time. */
function versioned(
  version: number,
  journal: Journal<Entry>,
  spec: Record<string, unknown> = {},
): FunctionSource {
  return {
    name: 'swapped',
    spec: {
      timeoutSeconds: 10,
      concurrency: 16,
      retry: { maxAttempts: 5, minBackoffMs: 100 },
      env: [journal.env],
      triggers: triggersWith({ qos: 1 }),
      ...spec,
    },
    files: recordModule,
    code: `
      import { setTimeout as pause } from 'node:timers/promises';
      import { record } from './record.ts';
      const version = ${version};
      const now = () => Number(process.hrtime.bigint()) / 1e6;
      export const handler = async (event, { trigger, awsRequestId: id }) => {
        const { kind, attempt } = trigger;
        const n = Number(kind === 'http' ? event.queryStringParameters.n : event.n);
        const own = { id, kind, n, version };
        record({ what: 'begin', ...own, at: now() });
        await pause(kind === 'http' || kind === 'invoke' ? 5 : 20);
        const fails = n % 10 === 3 && attempt === 1;
        record({ what: fails ? 'threw' : 'done', ...own, at: now() });
        if (fails) throw new Error('one in ten');
        return { version };
      };`,
  };
}

interface Load {
  /** Answers that no call may get. */
  wrong: string[];
  versions: Set<number>;
  calls: number;
  /** Accepted by their brokers: the numbers from 0 up to these. */
  events: { jetstream: number; mqtt: number };
}

async function startLoad(
  site: Site,
  stream: ReturnType<typeof jetstream>,
): Promise<{ stop(): Promise<Load> }> {
  const load: Load = { wrong: [], versions: new Set(), calls: 0, events: { jetstream: 0, mqtt: 0 } };
  const device = await connectAsync(site.info.mqtt?.url ?? '', { protocolVersion: 4 });
  closeLater(() => device.endAsync());
  let going = true;
  let called = 0;

  async function every(ms: number, act: () => Promise<void>): Promise<void> {
    while (going) {
      const next = pause(ms);
      await act();
      await next;
    }
  }
  async function call(
    ask: (n: number) => Promise<Response>,
    refusedAs: (answer: Response) => boolean,
  ): Promise<void> {
    const n = called++;
    try {
      const answer = await ask(n);
      const text = await answer.text();
      load.calls += 1;
      if (n % 10 === 3) {
        // The handler's own failure, and told as that.
        if (!refusedAs(answer)) load.wrong.push(`${n}: ${answer.status} ${text}`);
        return;
      }
      const { version } = JSON.parse(text) as { version?: number };
      if (answer.ok && version !== undefined) load.versions.add(version);
      else load.wrong.push(`${n}: ${answer.status} ${text}`);
    } catch (error) {
      load.wrong.push(`${n}: ${String(error)}`);
    }
  }
  const web = () =>
    call(
      (n) => site.fetch(`/swapped?n=${n}`),
      ({ status }) => status === 502,
    );
  const invoke = () =>
    call(
      (n) => site.fetch('/2015-03-31/functions/swapped/invocations', { method: 'POST', body: `{"n":${n}}` }),
      ({ headers }) => headers.get('x-amz-function-error') === 'Unhandled',
    );
  const workers = [
    ...Array.from({ length: callers.count }, (_, index) =>
      every(callers.everyMs, index % 2 === 0 ? web : invoke),
    ),
    every(publishEveryMs, async () => {
      await stream.publish('swap.events', JSON.stringify({ n: load.events.jetstream }));
      load.events.jetstream += 1;
    }),
    every(publishEveryMs, async () => {
      await device.publishAsync('swap/mqtt', JSON.stringify({ n: load.events.mqtt }), { qos: 1 });
      load.events.mqtt += 1;
    }),
  ];
  return {
    async stop() {
      going = false;
      await Promise.all(workers);
      return load;
    },
  };
}

/** Events, by what the handlers wrote down, that were in two versions at once or succeeded more than once. */
function doubled(byEvent: ReadonlyMap<string, readonly Entry[]>): string[] {
  return [...byEvent.values()]
    .filter((entries) => {
      // Each run is a `begin` and the next end of the same version; one without an end never ended.
      const runs = entries
        .filter(({ what }) => what === 'begin')
        .map(({ version, at: begin }) => {
          const end = entries.find(
            (one) => one.what !== 'begin' && one.version === version && one.at >= begin,
          );
          return { version, begin, end: end?.at ?? Infinity };
        });
      const together = runs.some((one) =>
        runs.some((other) => other.version !== one.version && one.begin < other.end && other.begin < one.end),
      );
      return together || entries.filter(({ what }) => what === 'done').length > 1;
    })
    .map((entries) => JSON.stringify(entries));
}

async function swapUnderLoad(
  sources: (version: number) => FunctionSource,
  journal: Journal<Entry>,
): Promise<void> {
  const nats = await site.nats();
  await (await jetstreamManager(nats)).streams.add({ name: 'SWAP', subjects: ['swap.events'] });
  await site.deploy(sources(0));
  const started = performance.now();
  const running = await startLoad(site, jetstream(nats));
  let version = 0;
  while (performance.now() - started < loadMs) {
    const next = pause(deployEveryMs);
    version += 1;
    await site.deploy(sources(version));
    await next;
  }
  const { wrong, versions, calls, events } = await running.stop();
  const seconds = (performance.now() - started) / 1000;
  expect(wrong).toEqual([]);
  expect(Math.max(...versions)).toBe(version);

  const done = (kind: 'jetstream' | 'mqtt'): number =>
    new Set(
      journal
        .read()
        .filter((entry) => entry.what === 'done' && entry.kind === kind)
        .map(({ n }) => n),
    ).size;
  for (const kind of ['jetstream', 'mqtt'] as const) {
    await until(`all ${events[kind]} ${kind} events are done`, () => done(kind) >= events[kind] || undefined);
  }
  // Long enough for one that came twice to come again.
  await pause(500);
  // A message that the MQTT broker sends again is an event of its own, so events are told apart by their ids.
  const byEvent = Map.groupBy(journal.read(), ({ id }) => id);
  expect(doubled(byEvent)).toEqual([]);
  const { stdout } = await site.faas('dead', 'list', 'swapped', '-o', 'json');
  expect(JSON.parse(stdout)).toEqual([]);
  // A retry may run on the next version; it is told only, for how often that happens is chance.
  const moved = [...byEvent.values()].filter(
    (entries) => new Set(entries.map((entry) => entry.version)).size > 1,
  ).length;
  console.log(
    `${version} deploys in ${seconds.toFixed(0)} s: ${calls} calls (${(calls / seconds).toFixed(0)}/s), ` +
      `${events.jetstream} JetStream and ${events.mqtt} MQTT events, of which ${moved} were retried on another version`,
  );
  await (await jetstreamManager(nats)).streams.delete('SWAP');
  await site.faas('delete', 'swapped');
}

test('new versions are deployed under load: no call fails, no event is lost, run in two versions at once or done twice', async () => {
  const journal = await openJournal<Entry>();
  await swapUnderLoad((version) => versioned(version, journal), journal);
});

test('triggers are opened anew under load, when timeout, retry and QoS change with the code: the same holds', async () => {
  const journal = await openJournal<Entry>();
  await swapUnderLoad(
    (version) =>
      versioned(version, journal, {
        timeoutSeconds: 10 + version,
        retry: { maxAttempts: 5 + version, minBackoffMs: 100 },
        triggers: triggersWith({ qos: 1 + (version % 2) }),
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
    const reply = await nats.request(subject, '{}', { timeout: 20_000 });
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
