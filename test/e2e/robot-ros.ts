/** What a robot of the lab has of ROS: a simulated robot, and functions/telemetry, which takes over what that publishes. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parse, stringify } from 'yaml';
import { root } from '../cli/run.ts';
import { startSimulatedRobot, type SimulatedRobot } from '../support/ros.ts';
import type { LabRobot } from './robot-lab.ts';

const folder = join(root, 'functions', 'telemetry');
/** Of class lossless: each message is one more than the last. */
const numbersTopic = '/numbers';

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

interface Manifest {
  readonly spec: {
    readonly env: { readonly name: string; value: string }[];
    readonly triggers: { readonly name: string; readonly ros?: { readonly topics: object[] } }[];
  };
}

/** The function as it is, with the robot's id and the numbers besides. */
async function deployTelemetry({ id, site }: LabRobot): Promise<void> {
  const manifest = parse(await readFile(join(folder, 'function.yaml'), 'utf8')) as Manifest;
  const { env, triggers } = manifest.spec;
  for (const variable of env) {
    if (variable.name === 'ROBOT_ID') variable.value = id;
    if (variable.name !== 'TELEMETRY') continue;
    const settings = parse(variable.value) as { topics: object[] };
    settings.topics.push({ ros: numbersTopic, as: 'cdr', class: 'lossless' });
    variable.value = stringify(settings);
  }
  const sensors = triggers.find(({ ros }) => ros !== undefined);
  sensors?.ros?.topics.push({ match: numbersTopic, raw: true, keepLast: 1_000 });
  const file = join(site.dir, '..', `${id}-telemetry.yaml`);
  await writeFile(file, stringify(manifest));
  await site.ok(['deploy', folder, '-f', file, '--timeout', '120']);
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
