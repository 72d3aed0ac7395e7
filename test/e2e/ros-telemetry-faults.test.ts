/**
 * Telemetry of real ROS on its bad days: odd messages, a clock that is set, a link that is cut, a disk that is full. The
 * function is the one in the folder, with a manifest as a user would write it; the robot's names are in a namespace.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { decode, openAssembly, telemetryOf } from '../../runtime/telemetry.ts';
import { functionFolder, root, startSite, type TestSite } from '../cli/run.ts';
import { startClock, type Clock } from '../faults/clock.ts';
import { closeLater } from '../support/closing.ts';
import { missingDisk, startDisk, type Disk } from '../support/disk.ts';
import { temporaryFolder } from '../support/folder.ts';
import { freePort } from '../support/ports.ts';
import { missing } from '../support/requirement.ts';
import { rosEnvironment, startRosPeer, type RosPeer } from '../support/ros.ts';
import { startWire, type Wire } from '../support/wire.ts';
import { managerOf, online, ours, robotArgs, startHub, until, type Hub } from './fleet.ts';
import { openTelemetryReader, type TelemetryReader } from './telemetry-reader.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

const robot = 'robot1';
const folder = join(root, 'functions', 'telemetry');

const telemetry = `
robot: "\${ROBOT_ID}"
namespace: /robot1
topics:
  - { ros: /robot1/numbers, as: json, class: lossless }
  - { ros: /robot1/floats, as: yaml }
  - { ros: /robot1/same_floats, as: json }
  - { ros: /robot1/large, as: yaml }
  - { ros: /robot1/big, as: cdr }
  - { ros: /robot1/typed, type: std_msgs/msg/Int32, as: json }
  - { ros: /robot1/ticks, as: json, maxHz: 10 }
  - { ros: /robot1/seldom, as: json, everyNth: 1000000, atLeastEvery: 300ms }
  - { ros: "/many/*", as: cbor, maxHz: 5 }
`;

interface Counts {
  readonly topic: string;
  readonly in: number;
  readonly out: number;
  readonly filtered: number;
  readonly dropped: number;
  readonly decodeErrors: number;
  readonly problem?: string;
}

/** With ROS's environment, the clock and room for frames. */
async function manifest(clock: Clock): Promise<string> {
  const variables = clock.variables.map(({ name, value }) => ({ name, value }));
  const spec = {
    handler: 'index.handler',
    memory: '256Mi',
    timeoutSeconds: 60,
    concurrency: 16,
    retry: { maxAttempts: 100, minBackoffMs: 500, maxBackoffMs: 5_000 },
    permissions: { publish: ['robots.*.kept.>', 'robots.*.live.>', 'robots.*.stats.>', 'robots.*.alert.>'] },
    env: [{ name: 'ROBOT_ID', value: robot }, { name: 'TELEMETRY', value: telemetry }, ...variables],
    triggers: [
      {
        name: 'sensors',
        ros: {
          topics: [
            // Below the namespace of the site.
            { match: 'numbers', raw: true, keepLast: 1000 },
            { match: '/robot1/*', raw: true, keepLast: 100 },
            { match: '/many/*', raw: true, keepLast: 1 },
          ],
        },
      },
      { name: 'report', schedule: { every: '1s', delivery: 'AtMostOnce' } },
      { name: 'metrics', http: { path: '/telemetry/metrics', methods: ['GET'] } },
    ],
  };
  const file = join(await temporaryFolder(), 'function.yaml');
  await writeFile(
    file,
    JSON.stringify({
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name: 'telemetry' },
      spec,
    }),
  );
  return file;
}

const dockFolder = (): Promise<string> =>
  functionFolder(
    'dock',
    `  permissions: {}\n  triggers: [{ name: dock, ros: { service: dock, type: std_srvs/srv/Trigger } }]\n`,
    `export const handler = async () => ({ success: true, message: 'docked without a hub' });`,
  );

describe.skipIf((await missing('ros', 'nats-server', 'faketime')) ?? missingDisk())(
  'telemetry of ROS',
  () => {
    let hub: Hub;
    let site: TestSite;
    let peer: RosPeer;
    let clock: Clock;
    let disk: Disk;
    let wire: Wire;
    let atHub: NatsConnection;
    let reader: TelemetryReader;
    /** Of `/robot1/numbers`: how many there were. */
    let numbers = 0;

    beforeAll(async () => {
      clock = await startClock({ closing: (close) => closeLater(close) });
      disk = await startDisk({ megabytes: 192 });
      const env = (await rosEnvironment()) as Record<string, string>;
      const leafPort = await freePort();
      hub = await startHub({ args: ['--control', '--leaf-port', String(leafPort)] });
      wire = await startWire(leafPort);
      const file = await hub.add(robot);
      const [withClock = ''] = clock.env['PATH']!.split(delimiter);
      site = await startSite({
        dir: join(disk.path, '.atoll'),
        args: [...robotArgs(robot, file, `nats://127.0.0.1:${wire.port}`), '--ros-namespace', '/robot1'],
        env: { ...env, ...clock.env, PATH: [withClock, env['PATH']].join(delimiter) },
      });
      await online(hub, robot);
      await site.ok(['deploy', folder, '-f', await manifest(clock), '--timeout', '120']);
      peer = await startRosPeer({ env, namespace: '/robot1' });
      atHub = await ours(hub);
      reader = openTelemetryReader(atHub);
      await peer.advertise('numbers', 'std_msgs/msg/UInt64', { depth: 5000 });
      await peer.matched('numbers');
    });

    /** The counters of a topic once they are as asked for, as the hub is told them every second. */
    async function counted(topic: string, holds: (counts: Counts) => boolean): Promise<Counts> {
      const subscription = atHub.subscribe(`robots.${robot}.stats.telemetry`);
      try {
        for await (const message of subscription) {
          const { topics } = message.json<{ topics: Counts[] }>();
          const found = topics.find((one) => one.topic === topic);
          if (found !== undefined && holds(found)) return found;
        }
        throw new Error('the subscription ended');
      } finally {
        subscription.unsubscribe();
      }
    }

    async function publishNumbers(count: number, hz: number): Promise<void> {
      const first = numbers;
      numbers += count;
      await peer.burst('numbers', { count, hz, field: 'data', first });
    }

    const keptSubject = `robots.${robot}.kept.numbers`;

    async function numbersAtHub(): Promise<number> {
      const manager = await managerOf(atHub);
      const { state } = await manager.streams.info('TELEMETRY', { subjects_filter: keptSubject });
      return state.subjects?.[keptSubject] ?? 0;
    }

    /** Their values, in the order in which the hub has them. */
    const storedNumbers = async (): Promise<number[]> =>
      (await reader.stored(keptSubject)).map(({ message }) => Number(message['data']));

    const allNumbersAreThere = (): Promise<true> =>
      until(
        `${numbers} numbers are at the hub`,
        async () => ((await numbersAtHub()) >= numbers ? true : undefined),
        120_000,
      );
    const counting = (): number[] => Array.from({ length: numbers }, (_, index) => index);

    test('NaN, the infinities and 64 bits arrive as they were, below the namespace', async () => {
      const data = [NaN, Infinity, -Infinity, 0.1];
      for (const topic of ['floats', 'same_floats'])
        await peer.advertise(topic, 'std_msgs/msg/Float64MultiArray');
      const yaml = await reader.first(`robots.${robot}.live.floats`, () => peer.publish('floats', { data }));
      expect(yaml.string()).toContain('data: [.nan, .inf, -.inf, 0.1]\n');
      expect(telemetryOf(yaml)).toMatchObject({ topic: '/robot1/floats', encoding: 'yaml' });
      const json = await reader.first(`robots.${robot}.live.same_floats`, () =>
        peer.publish('same_floats', { data }),
      );
      expect(json.string()).toContain('"data":["NaN","Infinity","-Infinity",0.1]');
      for (const message of [yaml, json]) {
        expect((await decode(message, reader)).message['data']).toEqual(Float64Array.from(data));
      }
      await peer.advertise('large', 'std_msgs/msg/UInt64');
      const large = await reader.first(`robots.${robot}.live.large`, () =>
        peer.publish('large', { data: 2n ** 64n - 1n }),
      );
      expect(large.string()).toBe('data: 18446744073709551615\n');
      expect((await decode(large, reader)).message).toEqual({ data: 2n ** 64n - 1n });
    });

    test('what is not of its type is counted and told, and the topic goes on', async () => {
      await peer.advertise('typed', 'std_msgs/msg/String');
      await peer.matched('typed');
      await peer.publish('typed', { data: 'no number' });
      expect(await counted('/robot1/typed', ({ dropped }) => dropped > 0)).toMatchObject({
        in: 1,
        out: 0,
        dropped: 1,
        problem: 'its publisher has std_msgs/msg/String, and TELEMETRY has std_msgs/msg/Int32 for it',
      });
      await peer.withdraw('typed');
      await peer.advertise('typed', 'std_msgs/msg/Int32');
      const typed = await reader.first(`robots.${robot}.live.typed`, () =>
        peer.publish('typed', { data: 7 }),
      );
      expect(typed.string()).toBe('{"data":7}');

      // A list that says it is longer than the message.
      await peer.publishRaw('floats', Uint8Array.of(0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0));
      const floats = await counted('/robot1/floats', ({ decodeErrors }) => decodeErrors > 0);
      expect(floats).toMatchObject({ decodeErrors: 1, dropped: 1 });
      expect(floats.problem).toMatch(/^it is no std_msgs\/msg\/Float64MultiArray: /);
      await reader.first(`robots.${robot}.live.floats`, () => peer.publish('floats', { data: [1] }));
    });

    test('a message of 20 MB is dropped: the numbers of its topic say so, and the next one comes', async () => {
      const type = 'std_msgs/msg/UInt8MultiArray';
      await peer.advertise('big', type);
      await peer.matched('big');
      const alerts: unknown[] = [];
      const subscription = atHub.subscribe(`robots.${robot}.alert.telemetry`, {
        callback: (_error, message) => void alerts.push(message.json()),
      });
      // Told once a minute only: the robot knows of this interest before that in the numbers.
      await reader.first(`robots.${robot}.stats.telemetry`, () => {});
      await peer.publish('big', { data: new Uint8Array(20_000_000) });
      const problem = 'it has more than 15 MiB, which is the most that a handler is handed';
      const lost = { in: 1, out: 0, filtered: 0, dropped: 1, decodeErrors: 0 };
      expect(await counted('/robot1/big', ({ dropped }) => dropped > 0)).toMatchObject({
        type,
        ...lost,
        problem,
      });
      const alert = { robot, function: 'telemetry', topic: '/robot1/big', type, problem };
      await expect.poll(() => alerts, { timeout: 60_000 }).toContainEqual(expect.objectContaining(alert));
      subscription.unsubscribe();
      const metrics = await (await fetch(`${site.info.url}/telemetry/metrics`)).text();
      expect(metrics).toContain('\ntelemetry_messages_in_total{topic="/robot1/big"} 1\n');
      expect(metrics).toContain('\ntelemetry_messages_dropped_total{topic="/robot1/big"} 1\n');
      const data = Uint8Array.of(1, 2, 3);
      const next = await reader.first(`robots.${robot}.live.big`, () => peer.publish('big', { data }));
      expect((await decode(next, reader)).message['data']).toEqual(data);
    });

    test('200 topics that appear at once are all at the hub', async () => {
      const names = Array.from({ length: 200 }, (_, index) => `/many/topic${index}`);
      for (const name of names) await peer.advertise(name, 'std_msgs/msg/Int32');
      const heard = new Map<string, unknown>();
      await reader.hear(
        `robots.${robot}.live.many.*`,
        async () => {
          for (const [index, name] of names.entries()) {
            if (!heard.has(name)) await peer.publish(name, { data: index });
          }
        },
        async (message) => {
          const { topic, message: read } = await decode(message, reader);
          heard.set(topic, read['data']);
          return heard.size === names.length;
        },
      );
      expect(names.map((name) => heard.get(name))).toEqual(names.map((_, index) => index));
      for (const name of names) await peer.withdraw(name);
    });

    test('a clock that is set back an hour, and forth again, holds up nothing', async () => {
      const hour = 3_600_000;
      let isOver = false;
      const publishing = (async () => {
        for (const topic of ['ticks', 'seldom']) await peer.advertise(topic, 'std_msgs/msg/Int64');
        // Short ones one after the other, so that it ends when all was heard.
        while (!isOver) {
          await Promise.all([
            ...['ticks', 'seldom'].map((topic) => peer.burst(topic, { count: 20, hz: 20, field: 'data' })),
            publishNumbers(20, 20),
          ]);
        }
      })();
      const seen: Record<string, { sequence: number; received: number }[]> = { ticks: [], seldom: [] };
      const subscriptions = Object.entries(seen).map(([topic, list]) => {
        const subscription = atHub.subscribe(`robots.${robot}.live.${topic}`, {
          callback: (_error, message) => void list.push(telemetryOf(message)),
        });
        return subscription;
      });
      try {
        for (const [offset, isSo] of [
          ['+0', () => true],
          ['-1h', (received: number) => received < Date.now() - hour / 2],
          ['+0', (received: number) => received > Date.now() - hour / 2],
        ] as const) {
          await clock.jump(offset);
          const before = Object.values(seen).map((list) => list.length);
          await until(`both topics come with the clock at ${offset}`, async () =>
            Object.values(seen).every(
              (list, index) => list.slice(before[index]).filter(({ received }) => isSo(received)).length >= 5,
            )
              ? true
              : undefined,
          );
        }
      } finally {
        await clock.jump('+0');
        isOver = true;
        await publishing;
        for (const subscription of subscriptions) subscription.unsubscribe();
      }
      for (const list of Object.values(seen)) {
        const sequence = list.map((one) => one.sequence);
        expect(sequence).toEqual(sequence.toSorted((a, b) => a - b));
        expect(new Set(sequence).size).toBe(sequence.length);
      }
      await allNumbersAreThere();
      expect(await storedNumbers()).toEqual(counting());
    });

    test('a link that is cut: services of the robot answer, and what came meanwhile is at the hub afterwards, once and in order', async () => {
      await site.ok(['deploy', await dockFolder(), '--timeout', '120']);
      const before = await numbersAtHub();
      wire.cut();
      const asked = performance.now();
      await expect(peer.call('/robot1/dock', 'std_srvs/srv/Trigger')).resolves.toEqual({
        success: true,
        message: 'docked without a hub',
      });
      const answeredMs = performance.now() - asked;
      await publishNumbers(300, 100);
      // The link is still cut.
      await expect(peer.call('/robot1/dock', 'std_srvs/srv/Trigger')).resolves.toMatchObject({
        success: true,
      });
      expect(await numbersAtHub()).toBe(before);
      wire.heal();
      process.stderr.write(`link cut: a ROS service found and answered after ${Math.round(answeredMs)} ms\n`);
      const healedMs = performance.now();
      await allNumbersAreThere();
      process.stderr.write(`link healed: 300 numbers after ${Math.round(performance.now() - healedMs)} ms\n`);
      expect(await storedNumbers()).toEqual(counting());
      const counts = await counted('/robot1/numbers', ({ out }) => out >= numbers);
      expect(counts).toMatchObject({ in: numbers, out: numbers, filtered: 0, dropped: 0 });
    });

    test("the robot's disk is full: what cannot be kept comes again, and nothing is lost or doubled", async () => {
      disk.fill();
      await publishNumbers(300, 100);
      // Longer than telemetry waits in order.
      await pause(6_000);
      const stuck = numbers - (await numbersAtHub());
      disk.free();
      const freedMs = performance.now();
      await allNumbersAreThere();
      process.stderr.write(
        `disk full: ${stuck} of 300 numbers waited; all at the hub ${Math.round(performance.now() - freedMs)} ms after there was room\n`,
      );
      expect(stuck).toBeGreaterThan(0);
      const stored = await storedNumbers();
      expect(stored.toSorted((a, b) => a - b)).toEqual(counting());
      expect(await counted('/robot1/numbers', ({ out }) => out >= numbers)).toMatchObject({ dropped: 0 });
    });

    test('frames.yaml: an image larger than a message of NATS may be comes in pieces, whole', async () => {
      const text = await readFile(join(folder, 'frames.yaml'), 'utf8');
      const file = join(await temporaryFolder(), 'frames.yaml');
      // The share of a faster link, for the sake of the test's time.
      const faster = text.replace('bytesPerSecond: 500kB', 'bytesPerSecond: 20MB');
      expect(faster).not.toBe(text);
      await writeFile(file, faster);
      await site.ok(['deploy', folder, '-f', file, '--timeout', '120']);
      const image = new Uint8Array(8_500_000).map((_, index) => index % 251);
      const topic = '/camera/image/compressed';
      await peer.advertise(topic, 'sensor_msgs/msg/CompressedImage');
      await peer.matched(topic);
      const assembly = openAssembly();
      let largest = 0;
      let got: Uint8Array | undefined;
      await reader.hear(
        `robots.${robot}.live.camera.image.compressed`,
        async () => {
          await peer.publish(topic, { format: 'jpeg', data: image });
          await pause(2_000);
        },
        async (message) => {
          largest = Math.max(largest, message.data.byteLength);
          const whole = assembly.add(message);
          if (whole === undefined) return false;
          got = (await decode(whole, reader)).message['data'] as Uint8Array;
          return true;
        },
      );
      expect(Buffer.compare(Buffer.from(got!), Buffer.from(image))).toBe(0);
      expect(largest).toBe(64 * 1024);
    });
  },
);
