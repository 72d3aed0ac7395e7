/** Logs of functions on robots, read at the hub over the link. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { LogRecord } from '../../runtime/log.ts';
import { faasFile, functionFolder, startSite, type TestSite } from '../cli/run.ts';
import { missing } from '../support/requirement.ts';
import { startProcess } from '../support/process.ts';
import { online, robotArgs, startHub, until, type Hub } from './fleet.ts';

const skipped = await missing('nats-server');

const counter = `
export const handler = async ({ from, to }) => {
  for (let number = from; number <= to; number += 1) console.log('counted ' + String(number).padStart(200, '0'));
};
`;

describe.skipIf(skipped)('the logs of a robot', () => {
  let hub: Hub;
  let robot: TestSite;

  beforeAll(async () => {
    hub = await startHub();
    robot = await startSite({ args: robotArgs('robot1', await hub.add('robot1'), hub.url) });
    await online(hub, 'robot1');
    await robot.ok(['deploy', await functionFolder('counter', '  permissions: {}\n', counter)]);
  }, 120_000);

  const count = (from: number, to: number): Promise<string> =>
    robot.ok(['invoke', 'counter', '-d', JSON.stringify({ from, to })]);
  const recordsOf = (output: string): LogRecord[] =>
    output
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as LogRecord);
  const numbersIn = (records: readonly LogRecord[]): number[] =>
    records.flatMap(({ message }) => /^counted (\d+)$/.exec(message)?.[1] ?? []).map(Number);

  test('are read whole and in order at the hub, as on the robot', async () => {
    // More than goes over the link at a time.
    await count(1, 3_000);
    const there = recordsOf(await robot.ok(['logs', 'counter', '--since', '1h', '-o', 'json']));
    const here = recordsOf(
      await hub.ok(['logs', 'counter', '--robot', 'robot1', '--since', '1h', '-o', 'json']),
    );
    expect(here).toEqual(there);
    expect(numbersIn(here)).toEqual(Array.from({ length: 3_000 }, (_, index) => index + 1));
    const last = recordsOf(
      await hub.ok(['logs', 'counter', '--robot', 'robot1', '--limit', '5', '-o', 'json']),
    );
    expect(last).toEqual(there.slice(-5));
    const id = there.find(({ requestId }) => requestId !== undefined)!.requestId!;
    const one = await hub.ok(['logs', 'counter', '--robot', 'robot1', '--request-id', id, '-o', 'json']);
    expect(recordsOf(one).every(({ requestId }) => requestId === id)).toBe(true);
  });

  test('of what is not there are refused by name', async () => {
    const unknown = await hub.faas(['logs', 'nothing', '--robot', 'robot1']);
    expect(unknown.code).toBe(3);
    expect(unknown.stderr).toContain('no function default/nothing on "robot1"; there are: default/counter');
    const nobody = await hub.faas(['logs', 'counter', '--robot', 'robot9']);
    expect(nobody.code).toBe(3);
    expect(nobody.stderr).toContain('no robot "robot9"; there are: robot1');
    const noHub = await robot.faas(['logs', 'counter', '--robot', 'robot1']);
    expect(noHub.code).toBe(3);
  });

  test('are followed, and the end says so when the robot goes away', async () => {
    const args = [
      '--site',
      hub.dir,
      'logs',
      'counter',
      '--robot',
      'robot1',
      '-f',
      '--limit',
      '1',
      '-o',
      'json',
    ];
    const follower = await startProcess(process.execPath, [faasFile, ...args], { name: 'faas logs' });
    // What was there; from then on it follows.
    await follower.line(/"message"/);
    await count(5_001, 5_003);
    await follower.line(/counted 0+5003"/);
    expect(numbersIn(recordsOf(follower.stdout()).slice(1))).toEqual([5_001, 5_002, 5_003]);
    // Longer than a silence that would be taken for an end.
    await new Promise((done) => setTimeout(done, 8_000));
    await count(5_004, 5_004);
    await follower.line(/counted 0+5004"/);
    robot.process.signal('SIGKILL');
    const { code } = await follower.exited;
    expect(code).toBe(3);
    expect(follower.stderr()).toMatch(/RobotAway: "robot1" does not answer[^]*faas robots/);

    await until('the hub knows it', async () =>
      (await hub.presence()).find(({ robot: id, online: is }) => id === 'robot1' && !is),
    );
    const away = await hub.faas(['logs', 'counter', '--robot', 'robot1']);
    expect(away).toMatchObject({ code: 3, stdout: '' });
    expect(away.stderr).toMatch(/RobotAway: "robot1" is away since 20\d\d-/);
    robot = await startSite({ dir: robot.dir, args: robot.args });
    await online(hub, 'robot1');
    expect(await hub.ok(['logs', 'counter', '--robot', 'robot1'])).toMatch(/counted 0+5003$/m);
  }, 120_000);
});
