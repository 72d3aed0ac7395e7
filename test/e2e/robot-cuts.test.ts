/** Real links of real robots, cut as a cable is: what was kept is at the hub once and in order, however long it took. */
import { join } from 'node:path';
import { writeFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { JetStreamManager } from '@nats-io/jetstream';
import { describe, expect, test } from 'vitest';
import { startSite, type TestSite } from '../cli/run.ts';
import { temporaryFolder } from '../support/folder.ts';
import { missingNetwork, startNetwork, type Network } from '../support/network.ts';
import { freePort } from '../support/ports.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import { managerOf, online, ours, robotArgs, startHub, until, type Hub } from './fleet.ts';

const skipped = (await missing('nats-server')) ?? missingNetwork();
const soak = process.env['ATOLL_SOAK'] === '1';
const cutsMs = soak ? [5_000, 30_000, 120_000] : [5_000];
const perSecond = 100;
/** A plain source needs up to 49 s after a longer cut. */
const catchUpMs = 90_000;

interface Lab {
  readonly network: Network;
  readonly hub: Hub;
  robot: TestSite;
  program: RunningProcess;
  restartHub(): Promise<void>;
  startRobot(): Promise<void>;
  startProgram(): Promise<void>;
  /** Messages of the robot that were stored on it, by its program's word. */
  stored(): number;
  manager(): Promise<JetStreamManager>;
}

async function lab(): Promise<Lab> {
  const network = startNetwork();
  const keys = join(await temporaryFolder(), 'keys');
  await writeFile(keys, '{"id":"test","secret":"a-long-secret-of-this-test-only-0123456789"}\n', {
    mode: 0o600,
  });
  const args = [
    ...['--control', '--insecure', '--leaf-port', String(await freePort())],
    ...['--host', network.outsideHost, '--keys', keys],
  ];
  const hub = await startHub({ args });
  const file = await hub.add('robot1');
  const dir = join(await temporaryFolder(), '.atoll');
  const made: Lab = {
    network,
    hub,
    robot: undefined as unknown as TestSite,
    program: undefined as unknown as RunningProcess,
    async restartHub() {
      process.kill(made.hub.info.pid, 'SIGKILL');
      await made.hub.process.exited;
      Object.assign(made, { hub: await startHub({ dir: hub.dir, args }) });
    },
    async startRobot() {
      const { place } = network;
      made.robot = await startSite({
        dir,
        place,
        args: [...robotArgs('robot1', file, hub.url), '--insecure'],
      });
    },
    async startProgram() {
      const script = join(import.meta.dirname, 'robot-program.ts');
      const launch = network.place.enter({
        command: process.execPath,
        args: [script, dir, String(perSecond)],
      });
      made.program = await startProcess(launch.command, launch.args, { name: 'a program of the robot' });
      await made.program.line(/^1$/);
    },
    stored: () => Number(made.program.stdout().trimEnd().split('\n').at(-1)),
    manager: async () => await managerOf(await ours(made.hub)),
  };
  await made.startRobot();
  await online(made.hub, 'robot1');
  await made.startProgram();
  return made;
}

const received = async (manager: JetStreamManager): Promise<number> =>
  (await manager.streams.info('TELEMETRY').catch(() => undefined))?.state.messages ?? 0;

/** ms until the hub has what was stored when it was asked, and what came meanwhile up to a second's worth. */
async function catchUp({ stored }: Pick<Lab, 'stored'>, manager: JetStreamManager): Promise<number> {
  const since = performance.now();
  await until(
    'the hub has caught up',
    async () => (stored() - (await received(manager)) <= perSecond / 2 ? true : undefined),
    catchUpMs,
  );
  return Math.round(performance.now() - since);
}

async function closeBooks({ program, hub, stored, manager }: Lab): Promise<void> {
  void hub;
  program.signal('SIGTERM');
  await program.exited;
  const last = stored();
  const at = await manager();
  // One more may have been stored whose word was lost with the program.
  const count = await until(
    'the hub has all',
    async () => {
      const has = await received(at);
      return has >= last ? has : undefined;
    },
    catchUpMs,
  );
  const got: number[] = [];
  for (let seq = 1; seq <= count; seq += 1) {
    got.push(Number((await at.streams.getMessage('TELEMETRY', { seq }))!.string()));
  }
  expect(got).toEqual(Array.from({ length: count }, (_, index) => index + 1));
  expect(count - last).toBeLessThanOrEqual(1);
}

describe.skipIf(skipped)('a robot that is cut off', () => {
  test(
    'is followed again soon after the cut is healed, without a hole',
    async () => {
      const made = await lab();
      const manager = await made.manager();
      const figures: string[] = [];
      for (const cutMs of cutsMs) {
        made.network.cut();
        await pause(cutMs);
        const behind = made.stored() - (await received(manager));
        expect(behind).toBeGreaterThan((perSecond * cutMs) / 4_000);
        made.network.heal();
        figures.push(
          `cut ${cutMs / 1000} s, ${behind} behind: caught up after ${await catchUp(made, manager)} ms`,
        );
        await online(made.hub, 'robot1');
      }
      process.stderr.write(`${figures.join('\n')}\n`);
      await closeBooks(made);
    },
    120_000 + cutsMs.reduce((sum, ms) => sum + ms + catchUpMs, 0),
  );

  test('loses nothing when all of it is killed meanwhile, or the hub', async () => {
    const made = await lab();
    made.network.cut();
    await pause(2_000);
    const before = made.stored();
    process.kill(made.robot.info.pid, 'SIGKILL');
    await made.robot.process.exited;
    await made.restartHub();
    await made.startRobot();
    await until('the program goes on', async () => (made.stored() > before + 10 ? true : undefined));
    made.network.heal();
    const ms = await catchUp(made, await made.manager());
    process.stderr.write(`robot and hub killed while cut: caught up after ${ms} ms\n`);
    await closeBooks(made);
  }, 240_000);
});
