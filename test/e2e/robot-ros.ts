/** What a robot of the lab has of ROS: a simulated robot, and functions/telemetry, which takes over what that publishes. */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { numbersTopic, telemetryFolder, telemetryManifest } from '../../examples/fleet/telemetry-manifest.ts';
import { startSimulatedRobot, type SimulatedRobot } from '../support/ros.ts';
import type { LabRobot } from './robot-lab.ts';

export interface RobotRos {
  /** The simulated robot, after all that runs on the robot was killed; its numbers begin anew once telemetry hears them. */
  start(): Promise<void>;
  /** What telemetry has made of the numbers since it was started last: of those that it took over from ROS, all that it sent. */
  counts(): Promise<{ readonly in: number; readonly out: number; readonly dropped: number }>;
  /** Numbers since the node was started last. */
  published(): Promise<number>;
  /** No further numbers; resolves with how many there were since the node was started last. */
  stop(): Promise<number>;
}

/** `env`: that of the robot's site, from `rosEnvironment()`. `hz`: of the numbers. */
export async function openRos(robot: LabRobot, env: NodeJS.ProcessEnv, hz: number): Promise<RobotRos> {
  const { network } = robot;
  await deployTelemetry(robot);
  let node: SimulatedRobot;

  async function start(): Promise<void> {
    node = await startSimulatedRobot({
      env,
      place: network.place,
      name: `the simulated robot of ${robot.id}`,
      // Several of them share a machine that has two cores.
      rates: { odom: 5, scan: 5, camera: 0 },
    });
    // After a reboot the site starts its functions meanwhile.
    await node.matched(1, 120_000);
    await node.pace(hz);
  }
  await start();

  return {
    start,
    published: async () => (await node.state()).numbers,
    stop: () => node.pace(0),
    async counts() {
      const text = await metricsOf(robot);
      const count = (what: string): number =>
        Number(
          new RegExp(`^telemetry_messages_${what}_total\\{topic="${numbersTopic}"\\} (\\d+)$`, 'm').exec(
            text,
          )?.[1] ?? 0,
        );
      return { in: count('in'), out: count('out'), dropped: count('dropped') + count('filtered') };
    },
  };
}

/** The function as it is, with the robot's id and the numbers besides. */
async function deployTelemetry({ id, site }: LabRobot): Promise<void> {
  const file = join(site.dir, '..', `${id}-telemetry.yaml`);
  await writeFile(file, await telemetryManifest(id, 'cdr'));
  await site.ok(['deploy', telemetryFolder, '-f', file, '--timeout', '120']);
}

/** From inside, where it is answered also while the robot is cut off. */
async function metricsOf({ network, site }: LabRobot): Promise<string> {
  const ask = `process.stdout.write(await (await fetch(process.argv[1])).text())`;
  const { command, args } = network.place.enter({
    command: process.execPath,
    args: ['--input-type=module', '-e', ask, `${site.info.url}/telemetry/metrics`],
  });
  return (await promisify(execFile)(command, args)).stdout;
}
