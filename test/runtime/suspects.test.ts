/** Who pays for a crash, a timeout or a restart: never the events that only happened to be there. */
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { expect, test, vi } from 'vitest';
import { openNats } from '../../runtime/clients/nats.ts';
import { openDeadLetters } from '../../runtime/dead-letters.ts';
import { openLog } from '../../runtime/log.ts';
import { openJournal } from '../e2e/journal.ts';
import { until } from '../e2e/site.ts';
import { closeLater } from '../support/closing.ts';
import { startNats } from '../support/nats.ts';
import { functionConfig, startedHost, type StartedHost } from './started-host.ts';

vi.setConfig({ testTimeout: 180_000 });

interface Entry {
  what: 'start' | 'done';
  n: number;
  attempt: number;
  version: string;
}

const target = { namespace: 'default', name: 'fn' };

/** `code` is the body of a handler of (n, again, together): whether n ran before, and how many run in its process now. */
async function setup(code: string) {
  const server = await startNats();
  const client = await server.connect();
  await (await jetstreamManager(client)).streams.add({ name: 'WORK', subjects: ['work'] });
  const log = openLog({ level: 'silent' });
  const link = openNats({ url: server.url }, { name: 'test', site: 'local', log });
  closeLater(() => link.close());
  await link.connection();
  const dead = openDeadLetters(link, { site: 'local', log });
  const journal = await openJournal<Entry>();
  const configOf = (spec: object, generation = 1) =>
    functionConfig(
      target.name,
      `// version ${generation}
      const { appendFileSync, readFileSync } = require('node:fs');
      const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      let running = 0;
      const together = () => running;
      async function work(n, again) {
        ${code}
      }
      exports.handler = async ({ n }, { trigger: { attempt }, functionVersion: version }) => {
        const path = ${JSON.stringify(journal.path)};
        const record = (what) => appendFileSync(path, JSON.stringify({ what, n, attempt, version }) + '\\n');
        running += 1;
        record('start');
        await work(n, readFileSync(path, 'utf8').split('"what":"start","n":' + n + ',').length > 2);
        record('done');
        running -= 1;
        return { n };
      };`,
      {
        generation,
        spec: { triggers: [{ name: 'in', jetstream: { stream: 'WORK', startAt: 'All' } }], ...spec },
      },
    );
  const entries = (what: Entry['what']) => journal.read().filter((entry) => entry.what === what);
  return {
    configOf,
    entries,
    letters: () => dead.list(target),
    async publish(count: number): Promise<void> {
      for (let n = 0; n < count; n++) await jetstream(client).publish('work', JSON.stringify({ n }));
    },
    async host(config: ReturnType<typeof configOf>): Promise<StartedHost> {
      const host = await startedHost([config], { nats: { url: server.url } });
      await host.untilReady(config);
      return host;
    },
    handled: (count: number) =>
      until(
        `${count} are handled`,
        () => new Set(entries('done').map(({ n }) => n)).size >= count || undefined,
        60_000,
      ),
  };
}

/** Those that run for the first time wait for each other, so that all are in flight when one of them does it. */
const meet = (count: number, then: string): string => `
  while (!again && together() < ${count}) await pause(10);
  if (n === 7) { ${then} }
  if (!again) await pause(60_000);`;

test.each([
  ['crashes', 'process.exit(1);', { timeoutSeconds: 20 }],
  [
    'is killed by a signal',
    "process.kill(process.pid, 'SIGKILL'); await pause(60_000);",
    { timeoutSeconds: 20 },
  ],
  ['spins', 'for (;;);', { timeoutSeconds: 4 }],
])('at concurrency 64 one event that %s costs its 63 neighbours nothing', async (_what, then, spec) => {
  const { configOf, entries, letters, publish, host, handled } = await setup(meet(64, then));
  await publish(64);
  const running = await host(
    configOf({ ...spec, concurrency: 64, retry: { maxAttempts: 2, minBackoffMs: 1, maxBackoffMs: 1 } }),
  );
  await handled(63);
  const [letter] = await until(
    'the one is a dead letter',
    async () => {
      const found = await letters();
      return found.length > 0 ? found : undefined;
    },
    60_000,
  );
  expect(letter).toMatchObject({ reason: 'RetriesExhausted', attempts: 2 });
  expect(await letters()).toHaveLength(1);
  const done = entries('done');
  expect(done.map(({ n }) => n).sort((a, b) => a - b)).toEqual(
    Array.from({ length: 64 }, (_, n) => n).filter((n) => n !== 7),
  );
  // No attempt of theirs was used up, though each was handed out twice: all 64, and then one by one.
  expect(new Set(done.map(({ attempt }) => attempt))).toEqual(new Set([1]));
  expect(entries('start').filter(({ n }) => n !== 7)).toHaveLength(126);
  const { body } = await running.ask('/metrics');
  expect(body).toContain('trigger="in",outcome="returned"} 63');
  expect(body).not.toContain('outcome="returnedUnrun"');
});

test('with maxAttempts 1 nothing runs twice: what was in flight with others is Interrupted', async () => {
  const { configOf, entries, letters, publish, host } = await setup(meet(8, 'process.exit(1);'));
  await publish(8);
  await host(configOf({ concurrency: 8, timeoutSeconds: 20, retry: { maxAttempts: 1 } }));
  await until('all eight are dead letters', async () => (await letters()).length === 8 || undefined);
  expect(new Set((await letters()).map(({ reason }) => reason))).toEqual(new Set(['Interrupted']));
  expect(entries('start')).toHaveLength(8);
});

test.concurrent(
  'in a process that spins a caller is answered 503, and an event of a source that keeps it runs again',
  async () => {
    const { configOf, entries, publish, host } = await setup('if (n === 0) for (;;);');
    const retry = { maxAttempts: 2, minBackoffMs: 1, maxBackoffMs: 1 };
    const running = await host(configOf({ concurrency: 4, timeoutSeconds: 4, retry }));
    await publish(2);
    await until('it spins', () => entries('start').length > 0 || undefined);
    // So late that its own time is not over when the process is ended for the other's.
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const { status, body } = await running.ask('/invoke/default/fn', { n: 2 });
    expect({ status, body: JSON.parse(body) as unknown }).toMatchObject({
      status: 503,
      body: { code: 'FunctionNotReady' },
    });
    await until('its neighbour was handled', () => entries('done').length > 0 || undefined);
    expect(entries('done')).toMatchObject([{ n: 1, attempt: 1 }]);
  },
);

test.concurrent.each([1, 2])(
  'three rolling restarts and three new versions exhaust no event with maxAttempts %i',
  async (maxAttempts) => {
    const { configOf, entries, letters, publish, host, handled } = await setup('await pause(400);');
    const spec = { concurrency: 4, timeoutSeconds: 20, retry: { maxAttempts } };
    const count = 60;
    await publish(count);
    let running = await host(configOf(spec));
    for (let round = 1; round <= 3; round++) {
      const before = entries('done').length;
      await until('some were handled, and more run', () => entries('done').length > before + 3 || undefined);
      const next = configOf(spec, round + 1);
      await running.reload([next]);
      await running.untilReady(next);
      const after = entries('done').length;
      await until('the new version runs', () => entries('done').length > after + 3 || undefined);
      await running.stop();
      running = await host(next);
    }
    await handled(count);
    expect(await letters()).toEqual([]);
    const all = Array.from({ length: count }, (_, n) => n);
    for (const what of ['start', 'done'] as const) {
      expect(
        entries(what)
          .map(({ n }) => n)
          .sort((a, b) => a - b),
      ).toEqual(all);
    }
    expect(new Set(entries('start').map(({ attempt }) => attempt))).toEqual(new Set([1]));
    expect(new Set(entries('start').map(({ version }) => version)).size).toBe(4);
  },
);
