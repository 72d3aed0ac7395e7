import { readFileSync } from 'node:fs';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { expect, test, vi } from 'vitest';
import { faas } from '../cli/run.ts';
import { startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 300_000 });

const count = 5_000;

const source = (body: string): FunctionSource => ({
  name: 'many',
  spec: {
    concurrency: 64,
    retry: { maxAttempts: 1 },
    triggers: [{ name: 'stream', jetstream: { stream: 'MANY', startAt: 'All' } }],
  },
  code: `export const handler = async ({ n }) => { ${body} };`,
});

interface Letter {
  readonly seq: number;
  readonly reason: string;
  readonly fault: { readonly message: string };
}

async function letters(site: Site, ...args: string[]): Promise<{ found: Letter[]; stderr: string }> {
  const { stdout, stderr } = await faas(['dead', 'list', 'many', '-o', 'json', '--site', site.dir, ...args]);
  return { found: JSON.parse(stdout) as Letter[], stderr };
}

/** The most memory that `faas up` ever had, MiB. */
function peakOf(site: Site): number {
  const status = readFileSync(`/proc/${site.info.pid}/status`, 'utf8');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

test(`of ${count} dead letters each command stays usable: pages, one by one, redriven, purged`, async () => {
  const site = await startSite();
  const nats = await site.nats();
  await (await jetstreamManager(nats)).streams.add({ name: 'MANY', subjects: ['many'] });
  const publishing: Promise<unknown>[] = [];
  for (let n = 0; n < count; n += 1) {
    publishing.push(jetstream(nats).publish('many', JSON.stringify({ n }), { timeout: 60_000 }));
    if (publishing.length === 200) await Promise.all(publishing.splice(0));
  }
  await Promise.all(publishing);
  await site.deploy(source('throw new Error(`no ${n}`);'));
  const manager = await jetstreamManager(nats);
  const stored = async (): Promise<number> =>
    await manager.streams.info('ATOLL_DEAD').then(
      ({ state }) => state.messages,
      () => 0,
    );
  await until(`${count} are stored`, async () => (await stored()) === count || undefined, 180_000);
  const before = peakOf(site);

  // A hundred, and what to say for the others; then page by page, without a gap or a doubled one.
  const { found: newest, stderr } = await letters(site);
  expect(newest).toHaveLength(100);
  expect(stderr).toMatch(new RegExp(`Only the newest 100; .*--before ${newest[0]!.seq}`));
  const { found: all } = await letters(site, '--limit', '10000');
  expect(all).toHaveLength(count);
  expect(all.map(({ seq }) => seq)).toEqual([...all.keys()].map((index) => all[0]!.seq + index));
  expect(new Set(all.map(({ fault }) => fault.message)).size).toBe(count);
  expect(new Set(all.map(({ reason }) => reason))).toEqual(new Set(['RetriesExhausted']));
  const pages: Letter[] = [];
  for (let at: number | undefined; ;) {
    const { found } = await letters(
      site,
      '--limit',
      '2000',
      ...(at === undefined ? [] : ['--before', `${at}`]),
    );
    if (found.length === 0) break;
    pages.unshift(...found);
    at = found[0]!.seq;
  }
  expect(pages.map(({ seq }) => seq)).toEqual(all.map(({ seq }) => seq));
  const { stdout: table } = await site.faas('dead', 'list', '--limit', '3');
  expect(table.trim().split('\n')).toHaveLength(4);
  const refused = await site.run(['dead', 'list', 'many', '--limit', '10001']);
  expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('from 1 to 10000') as string });

  const [first, second] = all as [Letter, Letter];
  const { found: one } = await letters(site, '--seq', `${first.seq}`);
  expect(one).toEqual([first]);
  const { stdout: shown } = await site.faas('dead', 'show', 'many', '--seq', `${first.seq}`);
  expect(shown).toContain(first.fault.message);
  const page = await site.faas('dead', 'show', 'many', '--limit', '2', '-o', 'json');
  expect((JSON.parse(page.stdout) as Letter[]).map(({ seq }) => seq)).toEqual(
    all.slice(-2).map(({ seq }) => seq),
  );

  await site.faas('dead', 'purge', 'many', '--seq', `${second.seq}`, '--yes');
  expect((await letters(site, '--limit', '10000')).found).toHaveLength(count - 1);
  // Listing thousands may not cost the site the memory of all of them, over and over.
  expect(peakOf(site) - before).toBeLessThan(200);

  // All but one are handled now; the inbox takes them all, and what fails again comes back as it was.
  await site.deploy(source(`if (n === ${count - 1}) throw new Error('not this one');`));
  const { stdout: redriven } = await site.faas('dead', 'redrive', 'many');
  expect(redriven.trim()).toBe(`${count - 1} redriven`);
  await until(
    'only one came back',
    async () => {
      const { num_pending: waiting, num_ack_pending: running } = await manager.consumers.info(
        'ATOLL_INBOX',
        'default_many',
      );
      return (waiting + running === 0 && (await stored()) === 1) || undefined;
    },
    180_000,
  );
  expect((await letters(site)).found.map(({ fault }) => fault.message)).toEqual(['not this one']);
  expect((await site.faas('dead', 'purge', 'many', '--yes')).stdout.trim()).toBe('1 purged');
  expect((await letters(site)).found).toEqual([]);
});
