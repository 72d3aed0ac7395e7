/**
 * Six robots in six networks, whose links go down and up again and again, while one of them loses its power. A ROS node
 * publishes there, of which functions/telemetry takes over what the hub is to have; a program keeps messages besides.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import { describe, expect, test } from 'vitest';
import { decode, type Decoded } from '../../runtime/telemetry.ts';
import { functionFolder } from '../cli/run.ts';
import { missingNetwork } from '../support/network.ts';
import { missing } from '../support/requirement.ts';
import { rosEnvironment } from '../support/ros.ts';
import { managerOf, online, ours, until } from './fleet.ts';
import { inPairs, startLab, type LabRobot, type RobotLab } from './robot-lab.ts';
import { openRos, type RobotRos } from './robot-ros.ts';

const skipped = (await missing('nats-server')) ?? missingNetwork();
const withoutRos = await missing('ros');
const soak = process.env['ATOLL_SOAK'] === '1';
const cutsMs = soak ? [5_000, 30_000, 120_000] : [1_000, 2_000, 3_000];
/** Of traffic, at least. */
const lastsMs = soak ? 600_000 : 0;
const perSecond = soak ? 50 : 25;
const numbersHz = 20;
const ids = ['robot1', 'robot2', 'robot3', 'robot4', 'robot5', 'robot6'];
/** Six stacks of ROS are more than two cores start in the time that a test of every day may take. */
const withRos = withoutRos ? [] : soak ? ids : ['robot1', 'robot2'];
const killed = 'robot2';
const killedInRound = 1;

describe.skipIf(skipped)('six robots', () => {
  test(
    'are each at the hub whole and in order, whatever their links do, and none hears of another',
    async () => {
      const environments = new Map<string, NodeJS.ProcessEnv>();
      const lab = await startLab({
        robots: ids,
        perSecond,
        async env(id) {
          if (!withRos.includes(id)) return {};
          const env = await rosEnvironment();
          environments.set(id, env);
          return env as Record<string, string>;
        },
      });
      const domains = [...environments.values()].map(({ ROS_DOMAIN_ID: domain }) => domain);
      expect(new Set(domains).size).toBe(withRos.length);
      const ros = new Map<string, RobotRos>();
      await inPairs(lab.robots, async (robot) => {
        const env = environments.get(robot.id);
        if (env === undefined) await robot.site.ok(['deploy', await greeterFolder(), '--timeout', '120']);
        else ros.set(robot.id, await openRos(robot, env, numbersHz));
      });
      const atHub = await ours(lab.hub);
      const scans = count(atHub, 'robots.*.live.scan');

      const begun = performance.now();
      const caughtUp = new Map<string, number[]>();
      let beforeKill = { published: 0, out: 0 };

      async function reboot(robot: LabRobot): Promise<void> {
        const own = ros.get(robot.id);
        if (own) beforeKill = { published: await own.published(), out: (await own.counts()).out };
        await robot.killWhole();
        await robot.start();
        await own?.start();
      }

      async function cut(robot: LabRobot, cutMs: number, reboots: boolean): Promise<void> {
        robot.network.cut('link');
        const since = performance.now();
        await pause(cutMs / 2);
        if (reboots) await reboot(robot);
        await pause(Math.max(0, cutMs - (performance.now() - since)));
        robot.network.heal();
        const ms = await lab.catchUp(robot);
        const name = `${cutMs / 1000} s${reboots ? ', all of the robot killed and started anew meanwhile' : ''}`;
        caughtUp.set(name, [...(caughtUp.get(name) ?? []), ms]);
        await online(lab.hub, robot.id);
      }

      async function cutAgainAndAgain(robot: LabRobot, number: number): Promise<void> {
        const goesOn = (): boolean => performance.now() - begun < lastsMs - cutsMs.at(-1)!;
        for (let round = 0; round < cutsMs.length || goesOn(); round += 1) {
          // Never all at the same moment, and never in the same order.
          await pause(((number * 3 + round * 5) % 7) * 300);
          await cut(robot, cutsMs[round % cutsMs.length]!, robot.id === killed && round === killedInRound);
        }
      }
      await Promise.all(lab.robots.map(cutAgainAndAgain));
      await pause(Math.max(0, lastsMs - (performance.now() - begun)));

      const presence = await until('all are online', async () => {
        const all = await lab.hub.presence();
        return all.length === ids.length && all.every(({ online: is }) => is) ? all : undefined;
      });
      expect(presence.map(({ robot }) => robot)).toEqual(ids);
      // What is not kept comes again, too.
      for (const id of withRos) {
        const before = scans.get(id) ?? 0;
        await until(`scans of ${id} come`, async () => ((scans.get(id) ?? 0) > before ? true : undefined));
      }
      await inPairs(lab.robots, (robot) => tellAndReadLog(lab, atHub, robot));

      for (const robot of lab.robots) {
        const { own, foreign } = robot.heard();
        // It hears both what is said there and what comes over the link.
        for (const subject of ['kept.count', `cmd.${toldOf(robot.id).command}`]) {
          await until(`a program hears ${subject} of ${robot.id}`, async () =>
            own.has(`robots.${robot.id}.${subject}`) ? true : undefined,
          );
        }
        expect({ robot: robot.id, foreign: [...foreign] }).toEqual({ robot: robot.id, foreign: [] });
      }

      const lines: string[] = [];
      for (const [id, own] of ros) lines.push(await closeNumbers(lab, atHub, id, own, beforeKill));
      const books = await lab.close();
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
      for (const [name, times] of caughtUp) {
        times.sort((a, b) => a - b);
        const middle = times[Math.floor(times.length / 2)];
        lines.push(
          `link down for ${name}: ${times.length} times, caught up after ${times[0]} to ${times.at(-1)} ms, median ${middle} ms`,
        );
      }
      lines.push(`${sum} messages of programs in and out`);
      process.stderr.write(`${lines.join('\n')}\n`);
    },
    300_000 + 2 * lastsMs + 6 * cutsMs.reduce((sum, ms) => sum + ms, 0),
  );
});

/**
 * Each number that telemetry took over is at the hub once and in order: since the node was started last all of them, by
 * telemetry's own counts; before a kill those that it had sent by then.
 */
async function closeNumbers(
  lab: RobotLab,
  atHub: NatsConnection,
  id: string,
  ros: RobotRos,
  beforeKill: { readonly published: number; readonly out: number },
): Promise<string> {
  const published = await ros.stop();
  let unchangedSince = performance.now();
  let last = await ros.counts();
  const counts = await until(
    `telemetry of ${id} has all that DDS gives it`,
    async () => {
      const now = await ros.counts();
      if (now.in !== last.in || now.out !== last.out) unchangedSince = performance.now();
      last = now;
      // A number that DDS lost never comes; one that is on its way does.
      const quiet = performance.now() - unchangedSince > 15_000;
      return now.in === now.out + now.dropped && (now.in === published || quiet) ? now : undefined;
    },
    120_000,
  );
  expect({ id, ...counts }).toEqual({ id, in: counts.in, out: counts.in, dropped: 0 });

  const starts = id === killed ? 2 : 1;
  const runs = await until(`the numbers of ${id} are at the hub, of ${starts} starts`, async () => {
    const found = await byRun(lab, atHub, id, 'numbers');
    return found.length === starts && found.at(-1)!.length >= counts.out ? found : undefined;
  });
  for (const run of runs) {
    expect(run.map(({ sequence }) => sequence)).toEqual(run.map((_, index) => index + 1));
    const numbers = run.map(({ message }) => message['data'] as bigint);
    expect(isRising(numbers)).toBe(true);
  }
  // Of a ring the robot keeps the newest: a long cut leaves holes, and nothing comes twice.
  for (const run of await byRun(lab, atHub, id, 'diagnostics.*')) {
    expect(isRising(run.map(({ sequence }) => sequence))).toBe(true);
  }
  expect(runs.at(-1)).toHaveLength(counts.in);
  expect(counts.in).toBeGreaterThan(0);
  let line = `${id}: ${published} numbers of ROS, ${published - counts.in} lost by DDS; taken over ${counts.in}, at the hub ${runs.at(-1)!.length}, once and in order`;
  if (id === killed) {
    const first = runs[0]!.length;
    expect(first).toBeGreaterThanOrEqual(beforeKill.out);
    line += `; before it was killed ${beforeKill.published} and more, ${beforeKill.out} were known to be sent, at the hub ${first}`;
  }
  return line;
}

const isRising = (values: readonly (bigint | number)[]): boolean =>
  values.every((value, index) => index === 0 || value > values[index - 1]!);

/** What the hub has of a topic, in its order, for each start of telemetry. */
async function byRun(lab: RobotLab, atHub: NatsConnection, id: string, topic: string): Promise<Decoded[][]> {
  const { streams } = await managerOf(atHub);
  const definitions = async (schema: string): Promise<string | undefined> => {
    const last_by_subj = `robots.${id}.kept.ros-schemas.${schema}`;
    return (await streams.getMessage('TELEMETRY', { last_by_subj }))?.string();
  };
  const runs = new Map<string, Decoded[]>();
  for (const received of await lab.kept(id, topic)) {
    const message = await decode(received, { definitions });
    const run = runs.get(message.run);
    if (run === undefined) runs.set(message.run, [message]);
    else run.push(message);
  }
  return [...runs.values()];
}

/** What the hub tells a robot, and what its function logs of it. */
const toldOf = (id: string): { fn: string; command: string; logged: string } =>
  withRos.includes(id)
    ? { fn: 'telemetry', command: 'reset', logged: 'command reset was carried out' }
    : { fn: 'greeter', command: 'hello', logged: 'the hub says hello' };

const greeterFolder = (): Promise<string> =>
  functionFolder(
    'greeter',
    `  permissions: {}\n  triggers: [{ name: hub, nats: { subject: 'robots.*.cmd.hello' } }]\n`,
    `export const handler = async () => {
      console.log('the hub says hello');
      return { ok: true };
    };`,
  );

async function tellAndReadLog(lab: RobotLab, atHub: NatsConnection, { id }: LabRobot): Promise<void> {
  const { fn, command, logged } = toldOf(id);
  const since = new Date().toISOString();
  // A service that was started a moment ago is not found at once.
  await until(`${id} does what it is told`, async () => {
    const request = atHub.request(`robots.${id}.cmd.${command}`, '{}', { timeout: 20_000 });
    const answer = await request.then((message) => message.json<{ ok?: boolean }>()).catch(() => undefined);
    return answer?.ok === true ? true : undefined;
  });
  const log = async (): Promise<string> => await lab.hub.ok(['logs', fn, '--robot', id, '--since', since]);
  await until(`the log of ${id} has it`, async () => ((await log()).includes(logged) ? true : undefined));
}

/** Messages by robot, from now on. */
function count(connection: NatsConnection, subject: string): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  connection.subscribe(subject, {
    callback: (error, message) => {
      if (error !== null) return;
      const robot = message.subject.split('.')[1]!;
      counts.set(robot, (counts.get(robot) ?? 0) + 1);
    },
  });
  return counts;
}
