/**
 * What does isolation cost a ROS message? Scans of 360 ranges and 360 intensities as bytes, from a topic to the handler,
 * against a bare subscriber of rclnodejs with the handler inline: as fast as they are handled, and at a pace.
 */
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare } from './frame/rounds.ts';
import { backlog, depth, openScans, rosNote, tellEvery } from './frame/scans.ts';

/** Of six robots, each with two scanners of 25 Hz. */
const hz = 300;

await bench(async (all) => {
  const { nats: startNats, site: startSite, ros, deploy, baseline } = all;
  const env = await ros();
  const server = await startNats();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'scan', 'scan', {
    concurrency: 64,
    triggers: [{ name: 'scans', ros: { topic: '/bench/atoll', raw: true, keepLast: depth } }],
  });
  const inline = await baseline('ros.ts', '/bench/inline', String(depth));
  const copy = await baseline('ros.ts', '/bench/copy', String(depth));
  const topics = ['inline', 'copy', 'atoll'].map((name) => ({ topic: `/bench/${name}` }));
  const scans = await openScans(all, topics);

  for (const { name, text, round } of [
    {
      name: 'ros',
      text: `at most ${backlog} on their way`,
      round: { count: scaled(10_000, { step: tellEvery }) },
    },
    {
      name: 'ros-paced',
      text: `${hz} a second`,
      round: { count: scaled(900, { step: tellEvery }), hz },
    },
  ]) {
    await report(
      await compare({
        name,
        text: `Scans of 360 + 360 floats, ${round.count} each round, ${text}; raw, concurrency 64.`,
        event: 'message',
        parts: { publisher: scans.pid, 'nats-server': server.pid },
        contenders: [
          scans.contender('inline subscriber', '/bench/inline', inline.pid, round),
          scans.contender('an identical copy', '/bench/copy', copy.pid, round),
          scans.contender('Atoll', '/bench/atoll', site.info.pid, round),
        ],
      }),
      [rosNote(env)],
    );
  }
});
