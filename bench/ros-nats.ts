/**
 * What does it cost to carry a ROS topic to NATS? Scans as bytes, by a handler of one line, against what a user would take
 * instead: rclpy with nats-py, and rclnodejs with nats.js. nats-py is installed into bench/peers at the first run.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare } from './frame/rounds.ts';
import { backlog, depth, openScans, rosNote, tellEvery } from './frame/scans.ts';

const peers = join(import.meta.dirname, 'peers');
const packages = join(peers, 'python');
const count = scaled(10_000, { step: tellEvery });

await bench(async (all) => {
  const { nats: startNats, site: startSite, ros, deploy, baseline } = all;
  const env = await ros();
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
});
