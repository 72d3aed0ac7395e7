import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { setTimeout as pause } from 'node:timers/promises';
import { beforeEach, expect, test, vi } from 'vitest';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { living, startSite, until, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 90_000 });

interface Entry {
  what: 'start' | 'done';
  kind: string;
  n: number;
}

let site: Site;
let journal: Journal<Entry>;

beforeEach(async () => {
  journal = await openJournal();
  site = await startSite();
  await site.deploy(
    {
      name: 'slow',
      spec: {
        timeoutSeconds: 20,
        concurrency: 4,
        env: [journal.env],
        triggers: [
          { name: 'web', http: { path: '/slow', methods: ['POST'] } },
          { name: 'ask', nats: { subject: 'slow.ask' } },
          { name: 'stream', jetstream: { stream: 'SLOW', startAt: 'All' } },
        ],
      },
      files: recordModule,
      code: `
      import { setTimeout as pause } from 'node:timers/promises';
      import { record } from './record.ts';
      export const handler = async (event, { trigger }) => {
        const { n, ms = 3000 } = trigger.kind === 'http' ? JSON.parse(event.body) : event;
        record({ what: 'start', kind: trigger.kind, n });
        await pause(ms);
        record({ what: 'done', kind: trigger.kind, n });
        return { n };
      };`,
    },
    '--no-wait',
  );
});

const started = (kind: string): boolean =>
  journal.read().some((entry) => entry.what === 'start' && entry.kind === kind);

test('SIGTERM: what runs may end and is answered, what waits is kept, nothing runs twice', async () => {
  const nats = await site.nats();
  await (await jetstreamManager(nats)).streams.add({ name: 'SLOW', subjects: ['slow.stream'] });
  await site.ready('slow');
  const web = site.fetch('/slow', { method: 'POST', body: '{"n":1}' }).then((answer) => answer.json());
  const asked = nats.request('slow.ask', '{"n":2}', { timeout: 15_000 }).then((reply) => reply.json());
  const invoked = site
    .fetch('/2015-03-31/functions/slow/invocations', { method: 'POST', body: '{"n":3}' })
    .then((answer) => answer.json());
  for (let n = 10; n < 20; n++) await jetstream(nats).publish('slow.stream', JSON.stringify({ n }));
  await until(
    'all four kinds run',
    () => ['http', 'nats', 'invoke', 'jetstream'].every(started) || undefined,
  );
  const before = site.processes();
  const startedMs = performance.now();
  const exit = site.stop();
  expect(await Promise.all([web, asked, invoked])).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }]);
  expect(await exit).toEqual({ code: 0, signal: null });
  // 3 s for what runs, again for what had just begun: far from the limit, at which it would be cut.
  expect(performance.now() - startedMs).toBeLessThan(15_000);
  expect(living(before)).toEqual([]);
  // Nothing was cut off in the middle.
  const entries = journal.read();
  expect(entries.filter(({ what }) => what === 'done')).toHaveLength(
    entries.filter(({ what }) => what === 'start').length,
  );

  await site.start();
  const ofStream = (what: string): number[] =>
    journal
      .read()
      .filter((entry) => entry.what === what && entry.kind === 'jetstream')
      .map(({ n }) => n)
      .sort((a, b) => a - b);
  const all = Array.from({ length: 10 }, (_, index) => 10 + index);
  await until('the rest is handled', () => ofStream('done').length >= all.length || undefined);
  expect(ofStream('done')).toEqual(all);
  expect(ofStream('start')).toEqual(all);
});

test('a second SIGTERM: it ends at once, with all that it started', async () => {
  const nats = await site.nats();
  await (await jetstreamManager(nats)).streams.add({ name: 'SLOW', subjects: ['slow.stream'] });
  await site.ready('slow');
  await jetstream(nats).publish('slow.stream', '{"n":1,"ms":15000}');
  await until('it runs', () => started('jetstream') || undefined);
  const before = site.processes();
  process.kill(site.info.pid, 'SIGTERM');
  await until('it says that it stops', () => /again to hurry/.test(site.output()) || undefined);
  // Two that come together are one: a terminal's reaches every process of its group, and may be passed on.
  await pause(500);
  const at = performance.now();
  process.kill(site.info.pid, 'SIGTERM');
  await until('it is gone', () => living(before).length === 0 || undefined);
  expect(performance.now() - at).toBeLessThan(10_000);
});
