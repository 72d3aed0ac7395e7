import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startSite, type Site } from '../examples/site.ts';
import { deployExamples, examples, sendEvents, table, type Result } from '../examples/tour.ts';

let site: Site;
let dir: string;
let results: Result[];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'atoll-examples-'));
  site = await startSite(dir, { show: false });
  await deployExamples(site, () => undefined);
  results = await sendEvents(site);
}, 120_000);

afterAll(async () => {
  await site?.stop();
  await rm(dir, { recursive: true, force: true });
});

test.each([...Object.keys(examples), 'invoke'])('the %s example answers a real event', (name) => {
  const row = results.find((result) => (name === 'invoke' ? result.trigger === name : result.name === name));
  expect(row, table(results)).toMatchObject({ ok: true });
});

test('an answered event has its REPORT in the log', async () => {
  const { stdout } = await site.faas('logs', 'nats-echo', '-o', 'json');
  const records = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const report = records.find(({ source, trigger }) => source === 'report' && trigger === 'echo');
  expect(report).toMatchObject({ message: 'REPORT', attempt: 1, outcome: 'returned', coldStart: true });
  expect(records).toContainEqual(
    expect.objectContaining({ source: 'handler', message: 'echo hello', requestId: report?.['requestId'] }),
  );
});
