import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { headers as newHeaders, type MsgHdrs } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startSite, type Site } from '../examples/site.ts';
import { deployExamples, examples, sendEvents, table, type Result } from '../examples/tour.ts';
import { closeLater } from './support/closing.ts';
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

  test('ends with exit code 1 when the hub lacks a message of a robot and has another twice', async () => {
    const temporary = await temporaryFolder();
    const run = await startProcess(process.execPath, [start, '--robots', '1', '--once'], {
      name: 'npm start',
      env: { ...process.env, TMPDIR: temporary },
    });
    await run.line(/400 numbered messages on/, 200_000);
    const [folder = ''] = (await readdir(temporary)).filter((name) => name.startsWith('atoll-robots-'));
    const subject = 'robots.robot1.kept.numbers';
    const open = async (site: string) => {
      const read = async (file: string) =>
        JSON.parse(await readFile(join(temporary, folder, site, file), 'utf8'));
      const { user, pass } = (await read('nats.json')) as { user: string; pass: string };
      const { nats } = (await read('site.json')) as { nats: { url: string } };
      const connection = await connect({ servers: nats.url, user, pass });
      closeLater(() => connection.close());
      return { connection, manager: await jetstreamManager(connection, { checkAPI: false }) };
    };
    const [hub, robot] = await Promise.all([open('hub'), open('robot1')]);
    const newest = async ({ manager }: typeof hub) =>
      await manager.streams.getMessage('TELEMETRY', { last_by_subj: subject }).catch(() => null);
    const message = await run.until('the hub has one', async () => (await newest(hub)) ?? undefined);
    await hub.manager.streams.deleteMessage('TELEMETRY', message.seq);
    // Otherwise it would wait for what is not there, up to a minute.
    const twice = await run.until('the robot has a later one', async () => {
      const found = await newest(robot);
      return found && found.string() !== message.string() ? found : undefined;
    });
    await jetstream(robot.connection).publish(subject, twice.data, { headers: again(twice.header) });
    const { code } = await run.exited;
    expect(code, run.output()).toBe(1);
    expect(run.stdout()).toMatch(/^✗ +cut for .* out at the hub 400, NOT each once and in order/m);
  }, 300_000);

  test('without ROS begins with installing it, and says what is missing where that is not possible', async () => {
    const [temporary, nothing] = [await temporaryFolder(), await temporaryFolder()];
    const run = await startProcess(process.execPath, [start, '--robots', '1', '--once'], {
      name: 'npm start',
      env: { PATH: nothing, HOME: nothing, ATOLL_TOOLS: join(nothing, 'tools'), TMPDIR: temporary },
    });
    expect((await run.exited).code).toBe(1);
    expect(run.stderr()).toMatch(/^ros \d+\.\d+\.\d+: installing its wheels and building rclnodejs; /m);
    expect(run.stderr()).toMatch(/there is no "python3" on PATH\.\nWhat to do: install it /);
    expect(run.stderr()).toMatch(
      /^the robots are simulated with ROS 2, which could not be installed: see above why$/m,
    );
    expect(run.stdout()).toBe('');
    expect(await readdir(temporary)).toEqual([]);
  });

  // Minutes of wheels and compilers: what `npm test` does in front of it all.
  test.runIf(process.env['ATOLL_SOAK'] === '1')(
    'on a machine with none of its tools installs them, ROS and nats-server, and shows all of it',
    async () => {
      const [temporary, tools] = [await temporaryFolder(), await temporaryFolder()];
      const run = await startProcess(process.execPath, [start, '--robots', '2', '--once'], {
        name: 'npm start',
        env: { ...process.env, ATOLL_TOOLS: tools, TMPDIR: temporary },
      });
      const { code } = await run.exited;
      expect(code, run.output()).toBe(0);
      expect(run.stderr()).toMatch(/^ros: ready after \d+ s$/m);
      expect(run.stdout().match(/^✓ /gm)).toHaveLength(8);
      expect(await readdir(tools)).toContain('ros');
      process.stderr.write(
        `${run
          .stderr()
          .match(/^.*: ready after .*$/gm)!
          .join('\n')}\n`,
      );
    },
    1_800_000,
  );

  test('a number of robots that cannot be is refused with what can be', async () => {
    const run = await startProcess(process.execPath, [start, '--robots', 'many'], { name: 'npm start' });
    expect((await run.exited).code).toBe(2);
    expect(run.stderr()).toContain('--robots must be an integer from 1 to 6, not "many"');
  });
});

/** Of a message that is to be stored once more: by its id it would be known. */
function again(before: MsgHdrs): MsgHdrs {
  const headers = newHeaders();
  for (const name of before.keys().filter((key) => key !== 'Nats-Msg-Id'))
    headers.set(name, before.get(name));
  return headers;
}
