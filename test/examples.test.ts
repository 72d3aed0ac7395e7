import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startSite, type Site } from '../examples/site.ts';
import { deployExamples, examples, sendEvents, table, type Result } from '../examples/tour.ts';
import { temporaryFolder } from './support/folder.ts';
import { startProcess } from './support/process.ts';
import { missing } from './support/requirement.ts';

const start = join(import.meta.dirname, '..', 'examples', 'start.ts');

describe('the examples on a site', () => {
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
    const row = results.find((result) =>
      name === 'invoke' ? result.trigger === name : result.name === name,
    );
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
});

describe.skipIf(await missing('ros', 'nats-server'))('npm start -- --robots 2 --once', () => {
  test('shows telemetry, commands, services and a cut link, and leaves nothing behind', async () => {
    const temporary = await temporaryFolder();
    const run = await startProcess(process.execPath, [start, '--robots', '2', '--once'], {
      name: 'npm start',
      env: { ...process.env, TMPDIR: temporary },
    });
    const { code } = await run.exited;
    expect(code, run.output()).toBe(0);
    const shown = run.stdout();
    for (const robot of ['robot1', 'robot2']) {
      const message = (rest: string): RegExp => new RegExp(`^  [\\d:.]{12}  ${robot} +${rest}`, 'm');
      expect(shown).toMatch(message('/odom +yaml +at x -?0\\.00 m, y -?0\\.00 m, 0\\.00 m/s$'));
      expect(shown).toMatch(message('/scan +cdr +360 ranges, the nearest 3\\.00 m$'));
      expect(shown).toMatch(message('/battery_state +json +9\\d\\.\\d %, 2[45]\\.\\d\\d V$'));
      expect(shown).toMatch(message('/diagnostics +cbor +/battery: ok$'));
      const row = (rest: string): RegExp => new RegExp(`^✓ +${rest}`, 'm');
      expect(shown).toMatch(row(`command +${robot} .*"ok":true.*0\\.25 m/s`));
      expect(shown).toMatch(row(`service +${robot} .*"success":true`));
      const link = robot === 'robot1' ? 'cut for [\\d.]+ s' : 'never cut';
      const sent = '400 messages on /numbers +in 400, out at the hub 400, each once and in order';
      expect(shown).toMatch(row(`${link} +${robot} +${sent}`));
    }
    expect(shown).toMatch(/^robot1 +offline .*\n?robot2 +online/m);
    expect((await readdir(temporary)).filter((name) => name.startsWith('atoll-robots-'))).toEqual([]);
  }, 300_000);

  test('a number of robots that cannot be is refused with what can be', async () => {
    const run = await startProcess(process.execPath, [start, '--robots', 'many'], { name: 'npm start' });
    expect((await run.exited).code).toBe(2);
    expect(run.stderr()).toContain('--robots must be an integer from 1 to 6, not "many"');
  });
});
