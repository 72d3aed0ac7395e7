/**
 * How old is a robot's state when its hub has it, while camera frames flow on the same link; and what memory does a robot take?
 * Ages are from the publisher in ROS to a subscriber at the hub, on one machine's clock: with as much of a link as loopback
 * gives, and over one of 64 Mbit/s. Frames go through the function of the states, or through one of their own
 * (functions/telemetry/frames.yaml).
 */
import type { ChildProcess } from 'node:child_process';
import { cp, symlink, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { root, startSite, type TestSite } from '../test/cli/run.ts';
import { online, ours, robotArgs, startHub } from '../test/e2e/fleet.ts';
import type { Closing } from '../test/support/closing.ts';
import { temporaryFolder } from '../test/support/folder.ts';
import { bench } from './frame/bench.ts';
import { rounds, scaled } from './frame/options.ts';
import { commandLineOf, pssBytes, treeOf } from './frame/processes.ts';
import { report } from './frame/report.ts';
import type { RobotPublished, RobotRound } from './frame/robot-topics.ts';
import { compare, percentile, type Contender } from './frame/rounds.ts';
import { rosNote } from './frame/scans.ts';

const robot = 'robot1';
const frameFolder = join(import.meta.dirname, 'frame');
const stateHz = 10;
const states = scaled(100, { least: 5 });
/** 5 MB/s. */
const frame = { frameHz: 50, frameBytes: 100_000 };
/** The share is above what flows, so that what is measured is not that frames are left out. */
const bytesPerSecond = 6_000_000;
const linkBytesPerSecond = 8_000_000;
/** After the last was published: what did not come by then was left out for a newer one. */
const lateMs = 1_000;
/** But one always comes, however busy the machine is. */
const patienceMs = 60_000;
const idleMs = scaled(3_000);
const mebibyte = 1024 * 1024;

/** What a robot's `faas up` starts, by a part of the command line. */
const parts = {
  'nats-server': 'nats-server',
  'ROS process': 'runtime/ros/main',
  host: 'runtime/main',
  'handler process': 'invoker/child',
} as const;

await bench(async ({ closing, ros, program }) => {
  const env = await ros();
  const hub = await startHub({ closing });
  const link = await program<string>(process.execPath, [join(frameFolder, 'link.ts'), hub.url]);
  const site = await startSite({
    args: robotArgs(robot, await hub.add(robot), link.told),
    env: env as Record<string, string>,
    closing,
  });
  await online(hub, robot);
  await deployTelemetry(site, closing, {
    name: 'telemetry',
    settings: settingsFor('/bench/state', '/bench/frames'),
    topics: [
      { match: '/bench/state', raw: true, keepLast: 10 },
      { match: '/bench/frames', raw: true, keepLast: 1 },
    ],
  });
  await memory(site);
  await deployTelemetry(site, closing, {
    name: 'telemetry-frames',
    settings: settingsFor('/none', '/bench/apart'),
    topics: [{ match: '/bench/apart', raw: true, keepLast: 1 }],
  });

  const publisher = await program(process.execPath, [
    join(frameFolder, 'robot-publisher.ts'),
    '/bench/state',
    '/bench/frames,/bench/apart',
  ]);
  const listener = await program(process.execPath, [
    join(frameFolder, 'state-listener.ts'),
    ...[hub.info.nats.url, join(hub.dir, 'nats.json'), `robots.${robot}.live.bench.state`],
  ]);
  const publish = asking<RobotPublished>('the publisher', publisher.child);
  const newAges = asking<number[]>('the listener', listener.child);

  let frameBytes = 0;
  const frames = await ours(hub, closing);
  for (const name of ['frames', 'apart']) {
    frames.subscribe(`robots.${robot}.live.bench.${name}`, {
      callback: (_, { data }) => void (frameBytes += data.length),
    });
  }
  await frames.flush();

  /** Of each round, those that warm up first. */
  const all = new Map<string, number[][]>();
  const contender = (name: string, frameTopic?: string): Contender => ({
    name,
    pids: () => [site.info.pid],
    async round() {
      await newAges('');
      frameBytes = 0;
      const ages: number[] = [];
      const seconds = states / stateHz;
      const { states: sent } = await publish({
        ...{ seconds, stateTopic: '/bench/state', stateHz, ...frame },
        ...(frameTopic !== undefined && { frameTopic }),
      } satisfies RobotRound);
      const flowed = frameBytes / seconds / 1e6;
      for (const ended = performance.now(); ages.length < sent; await pause(10)) {
        ages.push(...(await newAges('')));
        if (performance.now() - ended > (ages.length > 0 ? lateMs : patienceMs)) break;
      }
      ages.sort((a, b) => a - b);
      if (ages.length === 0) throw new Error(`${name}: of ${sent} states none came to the hub`);
      all.set(name, [...(all.get(name) ?? []), ages]);
      return {
        events: sent,
        figures: {
          'p50 ms': percentile(ages, 0.5),
          'p99 ms': percentile(ages, 0.99),
          'states lost': sent - ages.length,
          'frames MB/s': flowed,
        },
      };
    },
  });

  const contenders = [
    contender('without frames'),
    contender('the same again'),
    contender('frames by the same function', '/bench/frames'),
    contender('frames by a function of their own', '/bench/apart'),
  ];
  for (const { name, text, rate } of [
    { name: 'robot-state-age', text: 'by loopback', rate: Infinity },
    { name: 'robot-state-age-link', text: 'over a link of 64 Mbit/s', rate: linkBytesPerSecond },
  ]) {
    link.child.stdin!.write(`${rate}\n`);
    all.clear();
    const answer = await compare({
      name,
      text: `The age of a robot's state at its hub, ${states} states each round at ${stateHz} Hz, ${text}, with ${(frame.frameHz * frame.frameBytes) / 1e6} MB/s of frames and without.`,
      event: 'state',
      parts: { publisher: publisher.pid, hub: hub.info.pid },
      contenders,
    });
    const pooled = contenders.map(({ name: title }) => {
      const ages = (all.get(title) ?? [])
        .slice(-rounds)
        .flat()
        .toSorted((a, b) => a - b);
      const figures = [0.5, 0.99, 1].map((share) => percentile(ages, share).toFixed(1)).join(', ');
      return `${title}: p50, p99 and greatest of all ${ages.length}: ${figures} ms`;
    });
    await report(answer, [...pooled, rosNote(env)]);
  }
});

/** Writes lines of JSON to a process and reads one for each. */
function asking<Answer>(name: string, child: ChildProcess): (question: unknown) => Promise<Answer> {
  const answers = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  return async (question) => {
    child.stdin!.write(`${JSON.stringify(question)}\n`);
    const { value, done } = await answers.next();
    if (done === true) throw new Error(`${name} ended in a round; what it said is above`);
    return JSON.parse(value) as Answer;
  };
}

function settingsFor(state: string, frames: string): string {
  return `
robot: ${robot}
frames: { bytesPerSecond: ${bytesPerSecond} }
topics:
  - { ros: ${state}, type: nav_msgs/msg/Odometry, as: cdr, class: latest }
  - { ros: ${frames}, type: sensor_msgs/msg/CompressedImage, as: cdr, class: frames, enabled: true }
`;
}

/** The function of this project, with other topics. */
async function deployTelemetry(
  site: TestSite,
  closing: Closing,
  { name, settings, topics }: { name: string; settings: string; topics: readonly object[] },
): Promise<void> {
  const folder = join(await temporaryFolder({ closing }), 'telemetry');
  await cp(join(root, 'functions', 'telemetry'), folder, { recursive: true });
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'));
  const manifest = {
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name },
    spec: {
      handler: 'index.handler',
      memory: '512Mi',
      timeoutSeconds: 60,
      concurrency: 16,
      permissions: {
        publish: ['robots.*.kept.>', 'robots.*.live.>', 'robots.*.stats.>', 'robots.*.alert.>'],
      },
      env: [{ name: 'TELEMETRY', value: settings }],
      triggers: [
        { name: 'sensors', ros: { topics } },
        { name: 'report', schedule: { every: '5s', delivery: 'AtMostOnce' } },
      ],
    },
  };
  // JSON is YAML.
  await writeFile(join(folder, 'function.yaml'), JSON.stringify(manifest));
  await site.ok(['deploy', folder, '--timeout', '120']);
}

/** Of a robot on which nothing happens: its telemetry waits for topics. */
async function memory(site: TestSite): Promise<void> {
  const answer = await compare({
    name: 'robot-memory',
    text: `Memory (PSS) of an idle robot with ROS and telemetry, by process; ${idleMs / 1000} s before each look.`,
    event: 'look',
    contenders: [
      {
        name: 'a robot',
        async round() {
          await pause(idleMs);
          const all = treeOf(site.info.pid);
          const figures: Record<string, number> = { 'faas up MiB': pssBytes([site.info.pid]) / mebibyte };
          for (const [part, pattern] of Object.entries(parts)) {
            const own = all.filter((pid) => commandLineOf(pid).includes(pattern));
            if (own.length === 0) throw new Error(`no ${part} among ${all.map(commandLineOf).join('; ')}`);
            figures[`${part} MiB`] = pssBytes(own) / mebibyte;
          }
          figures['all MiB'] = pssBytes(all) / mebibyte;
          return { figures };
        },
      },
    ],
  });
  await report(answer);
}
