/**
 * What does it cost to carry a ROS topic to NATS, at one server and from a robot to its hub? Scans as bytes, by a handler of
 * one line, against what a user would take instead: rclpy with nats-py, and rclnodejs with nats.js. nats-py is installed into
 * bench/peers at the first run.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { online, robotArgs, startHub } from '../test/e2e/fleet.ts';
import { bench, type Bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare } from './frame/rounds.ts';
import { backlog, depth, openScans, rosNote, tellEvery } from './frame/scans.ts';

const peers = join(import.meta.dirname, 'peers');
const packages = join(peers, 'python');
const count = scaled(10_000, { step: tellEvery });
const robot = 'robot1';

await bench(async (all) => {
  const env = await all.ros();
  if (!existsSync(packages)) {
    const { status } = spawnSync(
      'python3',
      [
        ...[
          '-m',
          'pip',
          'install',
          '--quiet',
          '--disable-pip-version-check',
          '--no-deps',
          '--only-binary',
          ':all:',
        ],
        ...['--require-hashes', '-r', join(peers, 'requirements.txt'), '--target', packages],
      ],
      { env, stdio: 'inherit' },
    );
    if (status !== 0) throw new Error('nats-py could not be installed; what pip said is above');
  }
  env['PYTHONPATH'] = [packages, env['PYTHONPATH']].filter(Boolean).join(delimiter);
  await toOneServer(all, env);
  await toTheHub(all, env);
});

async function toOneServer(all: Bench, env: NodeJS.ProcessEnv): Promise<void> {
  const { nats: startNats, site: startSite, deploy, baseline } = all;
  const server = await startNats();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'forward', 'forward', {
    concurrency: 64,
    triggers: [{ name: 'scans', ros: { topic: '/bench/atoll', raw: true, keepLast: depth } }],
  });
  const forwarder = (file: string, name: string) =>
    baseline(file, `/bench/${name}`, String(depth), server.url, `bench.${name}`);
  const python = await forwarder('ros_nats.py', 'python');
  const copy = await forwarder('ros_nats.py', 'copy');
  const node = await forwarder('ros.ts', 'node');
  const topics = ['python', 'copy', 'node', 'atoll'].map((name) => ({
    topic: `/bench/${name}`,
    subject: `bench.${name}`,
  }));
  const scans = await openScans(all, topics, server.url);

  await report(
    await compare({
      name: 'ros-nats',
      text: `Scans of 360 + 360 floats to NATS, ${count} each round, at most ${backlog} on their way; concurrency 64.`,
      event: 'message',
      parts: { publisher: scans.pid, 'nats-server': server.pid },
      contenders: [
        scans.contender('rclpy and nats-py', '/bench/python', python.pid, { count }),
        scans.contender('an identical copy', '/bench/copy', copy.pid, { count }),
        scans.contender('rclnodejs and nats.js', '/bench/node', node.pid, { count }),
        scans.contender('Atoll', '/bench/atoll', site.info.pid, { count }),
      ],
    }),
    [rosNote(env)],
  );
}

/**
 * From a robot's topics to a subscriber at its hub. Whoever publishes at the robot's own server crosses the link between the
 * two servers; the other peer has a connection to the hub, and nothing when that is cut.
 */
async function toTheHub(all: Bench, env: NodeJS.ProcessEnv): Promise<void> {
  const { closing, site: startSite, deploy, baseline } = all;
  const hub = await startHub({ closing });
  const site = await startSite(...robotArgs(robot, await hub.add(robot), hub.url));
  await online(hub, robot);
  const subjectOf = (name: string): string => `robots.${robot}.live.${name}`;
  await deploy(site, 'forward', 'forward', {
    concurrency: 64,
    permissions: { publish: [subjectOf('atoll')] },
    env: [{ name: 'SUBJECT', value: subjectOf('atoll') }],
    triggers: [{ name: 'scans', ros: { topic: '/hub/atoll', raw: true, keepLast: depth } }],
  });
  const forwarder = (name: string, at: { dir: string; info: { nats: { url: string } } }) =>
    baseline(
      'ros_nats.py',
      ...[`/hub/${name}`, String(depth), at.info.nats.url, subjectOf(name), join(at.dir, 'programs.json')],
    );
  const python = await forwarder('python', site);
  const copy = await forwarder('copy', site);
  const direct = await forwarder('direct', hub);
  const topics = ['python', 'copy', 'direct', 'atoll'].map((name) => ({
    topic: `/hub/${name}`,
    subject: subjectOf(name),
  }));
  const scans = await openScans(all, topics, hub.info.nats.url, join(hub.dir, 'programs.json'));

  await report(
    await compare({
      name: 'ros-nats-hub',
      text: `The same from a robot to a subscriber at its hub, ${count} each round, at most ${backlog} on their way; concurrency 64. The CPU of Atoll has that of the robot's nats-server in it.`,
      event: 'message',
      parts: { publisher: scans.pid, hub: hub.info.pid },
      contenders: [
        scans.contender('rclpy and nats-py at the robot', '/hub/python', python.pid, { count }),
        scans.contender('an identical copy', '/hub/copy', copy.pid, { count }),
        scans.contender('rclpy and nats-py to the hub', '/hub/direct', direct.pid, { count }),
        scans.contender('Atoll', '/hub/atoll', site.info.pid, { count }),
      ],
    }),
    [rosNote(env)],
  );
}
