/** Six robots in six networks, whose links go down and up again and again, while one of them is killed. */
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { missingNetwork } from '../support/network.ts';
import { missing } from '../support/requirement.ts';
import { online, until } from './fleet.ts';
import { startLab, type LabRobot } from './robot-lab.ts';

const skipped = (await missing('nats-server')) ?? missingNetwork();
const soak = process.env['ATOLL_SOAK'] === '1';
const cutsMs = soak ? [5_000, 30_000, 120_000] : [1_000, 2_000, 3_000];
/** Of traffic, at least. */
const lastsMs = soak ? 600_000 : 0;
const perSecond = soak ? 100 : 25;
const ids = ['robot1', 'robot2', 'robot3', 'robot4', 'robot5', 'robot6'];
const killed = 'robot3';

describe.skipIf(skipped)('six robots', () => {
  test(
    'are each at the hub whole and in order, whatever their links do, and none hears of another',
    async () => {
      const lab = await startLab({ robots: ids, perSecond });
      const begun = performance.now();
      const times: Record<string, number[]> = {};

      async function cutAgainAndAgain(robot: LabRobot, number: number): Promise<void> {
        for (const [round, cutMs] of cutsMs.entries()) {
          // Never all at the same moment, and never in the same order.
          await pause(((number * 3 + round * 5) % 7) * 300);
          robot.network.cut();
          await pause(cutMs / 2);
          const dies = robot.id === killed && round === 1;
          if (dies) await robot.kill();
          await pause(cutMs / 2);
          if (dies) await robot.start();
          robot.network.heal();
          (times[robot.id] ??= []).push(await lab.catchUp(robot));
          await online(lab.hub, robot.id);
        }
      }
      await Promise.all(lab.robots.map(cutAgainAndAgain));
      await pause(Math.max(0, lastsMs - (performance.now() - begun)));

      // What is said to one is for that one alone; each hears its own by now.
      const presence = await until('all are online', async () => {
        const all = await lab.hub.presence();
        return all.length === ids.length && all.every(({ online: is }) => is) ? all : undefined;
      });
      expect(presence.map(({ robot }) => robot)).toEqual(ids);
      const heard = lab.robots.flatMap((robot) => robot.heard());
      const books = await lab.close();
      expect(heard).toEqual([]);
      let sum = 0;
      for (const [robot, { stored, got }] of Object.entries(books)) {
        expect({ robot, got }).toEqual({
          robot,
          got: Array.from({ length: got.length }, (_, index) => index + 1),
        });
        expect(got.length - stored).toBeGreaterThanOrEqual(0);
        expect(got.length - stored).toBeLessThanOrEqual(1);
        expect(stored).toBeGreaterThan((perSecond * cutsMs.reduce((all, ms) => all + ms, 0)) / 4_000);
        sum += got.length;
      }
      const all = Object.values(times).flat();
      process.stderr.write(
        `six robots, ${all.length} cuts of ${cutsMs.map((ms) => ms / 1000).join(', ')} s, one killed: ${sum} messages in and out; ` +
          `caught up after ${Math.min(...all)} to ${Math.max(...all)} ms\n`,
      );
    },
    240_000 + lastsMs + 6 * cutsMs.reduce((sum, ms) => sum + ms, 0),
  );
});
