/** Real links of real robots that are cut: what was kept is at the hub once and in order, however long it took. */
import { setTimeout as pause } from 'node:timers/promises';
import { expect, describe, test } from 'vitest';
import { openSystemAccount } from '../../controller/broker/system-account.ts';
import { openLog } from '../../runtime/log.ts';
import { startClock } from '../faults/clock.ts';
import { closeLater } from '../support/closing.ts';
import { missingDisk, startDisk } from '../support/disk.ts';
import { missingNetwork, type Cut } from '../support/network.ts';
import { missing } from '../support/requirement.ts';
import { online, until } from './fleet.ts';
import { catchUpMs, startLab, type LabRobot, type RobotLab } from './robot-lab.ts';
import { join } from 'node:path';

const skipped = (await missing('nats-server')) ?? missingNetwork();
const soak = process.env['ATOLL_SOAK'] === '1';
const cutsMs = soak ? [5_000, 30_000, 120_000] : [5_000];
/** Links that are down are the fleet's every day (robot-fleet.test.ts). */
const hows: readonly Cut[] = soak ? ['silence', 'link'] : ['silence'];
const perSecond = 100;

/** All numbers up to one are there, and at most one more: its word was lost with the program. */
async function closeBooks(lab: RobotLab): Promise<void> {
  for (const [robot, { stored, got }] of Object.entries(await lab.close())) {
    expect({ robot, got }).toEqual({
      robot,
      got: Array.from({ length: got.length }, (_, index) => index + 1),
    });
    expect(got.length - stored).toBeGreaterThanOrEqual(0);
    expect(got.length - stored).toBeLessThanOrEqual(1);
  }
}

const figure = (text: string): void => void process.stderr.write(`${text}\n`);
const goesOn = (robot: LabRobot, count = 10): Promise<true> => {
  const before = robot.stored();
  return until('the program goes on', async () => (robot.stored() > before + count ? true : undefined));
};

// Each has a hub and a robot of its own and mostly waits: they do it at the same time.
describe.skipIf(skipped)('a robot that is cut off', () => {
  test.concurrent(
    'is followed again soon after the cut is healed, without a hole',
    async () => {
      const lab = await startLab({ robots: ['robot1'], perSecond });
      const [robot] = lab.robots as [LabRobot];
      for (const [how, cutMs] of hows.flatMap((one) => cutsMs.map((ms) => [one, ms] as const))) {
        robot.network.cut(how);
        await pause(cutMs);
        const behind = robot.stored() - ((await lab.received())['robot1'] ?? 0);
        expect(behind).toBeGreaterThan((perSecond * cutMs) / 4_000);
        robot.network.heal();
        const ms = await lab.catchUp(robot);
        figure(`cut ${cutMs / 1000} s (${how}), ${behind} behind: caught up after ${ms} ms`);
        await online(lab.hub, 'robot1');
      }
      await closeBooks(lab);
    },
    120_000 + hows.length * cutsMs.reduce((sum, ms) => sum + ms + catchUpMs, 0),
  );

  test.concurrent(
    'loses nothing when all of it is killed meanwhile, or the hub',
    async () => {
      const lab = await startLab({ robots: ['robot1'], perSecond });
      const [robot] = lab.robots as [LabRobot];
      robot.network.cut();
      await pause(2_000);
      await robot.kill();
      await lab.restartHub();
      await robot.start();
      await goesOn(robot);
      robot.network.heal();
      figure(`robot and hub killed while cut: caught up after ${await lab.catchUp(robot)} ms`);
      await closeBooks(lab);
    },
    240_000,
  );

  test.concurrent(
    'has a link that is up and carries nothing restarted, and what it kept arrives',
    async () => {
      const lab = await startLab({ robots: ['robot1'], perSecond });
      const [robot] = lab.robots as [LabRobot];
      const system = openSystemAccount({
        settings: { url: lab.hub.info.nats.url, credentialsFile: join(lab.hub.dir, 'nats', 'system.json') },
        site: 'hub',
        log: openLog({ level: 'silent' }),
      });
      closeLater(() => system.close());
      // The link for the claim goes on, so the robot knows that the hub is there.
      const links = await until('both links are seen', async () => {
        const all = await system.links().catch(() => []);
        return all.length === 2 ? all : undefined;
      });
      const link = links.find(({ subscriptions }) => subscriptions.some((one) => one.startsWith('robots.')))!;
      robot.network.cutPort(link.port);
      const since = performance.now();
      const reason = await robot.site.process.line(
        /the link to the hub carries nothing: it is restarted|[Ss]tale/,
        60_000,
      );
      const noticedMs = performance.now() - since;
      const caughtUpMs = await lab.catchUp(robot);
      figure(
        `link half open: noticed after ${Math.round(noticedMs)} ms (${/carries nothing/.test(reason) ? 'by the robot' : 'by nats-server'}), ` +
          `caught up ${caughtUpMs} ms later`,
      );
      expect(noticedMs).toBeLessThan(15_000);
      await online(lab.hub, 'robot1');
      await closeBooks(lab);
    },
    240_000,
  );
});

describe.skipIf(skipped)('what a robot keeps is at the hub once and in order', () => {
  test.skipIf(missingDisk()).concurrent(
    'when its disk was full for a while',
    async () => {
      const disk = await startDisk({ megabytes: 64 });
      const lab = await startLab({ robots: ['robot1'], perSecond, dir: join(disk.path, '.atoll') });
      const [robot] = lab.robots as [LabRobot];
      await goesOn(robot, perSecond);
      disk.fill();
      await until('nothing is stored any more', async () => {
        const before = robot.stored();
        await pause(1_000);
        return robot.stored() === before ? true : undefined;
      });
      const full = robot.stored();
      disk.free();
      await until('the program goes on', async () => (robot.stored() > full + 10 ? true : undefined));
      figure(`disk full after ${full} messages: caught up ${await lab.catchUp(robot)} ms after the next`);
      await closeBooks(lab);
    },
    240_000,
  );

  test.concurrent(
    'when its clock jumps back an hour, and forth again',
    async ({ onTestFinished }) => {
      const clock = await startClock({ closing: onTestFinished });
      const lab = await startLab({ robots: ['robot1'], perSecond, env: { ...clock.env } });
      const [robot] = lab.robots as [LabRobot];
      await goesOn(robot, perSecond);
      for (const offset of ['-1h', '+0']) {
        await clock.jump(offset);
        await goesOn(robot, 2 * perSecond);
        figure(`clock at ${offset}: caught up after ${await lab.catchUp(robot)} ms`);
        await online(lab.hub, 'robot1');
      }
      await closeBooks(lab);
    },
    240_000,
  );
});
