/** The function as it is in the folder, on a robot with ROS: a simulated robot's topics at the hub, commands back to it. */
import { cp, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { headers as newHeaders, type NatsConnection } from '@nats-io/nats-core';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { parse, stringify } from 'yaml';
import { root, startSite, type TestSite } from '../cli/run.ts';
import { temporaryFolder } from '../support/folder.ts';
import { missing } from '../support/requirement.ts';
import { rosEnvironment, startRosPeer, startSimulatedRobot, type SimulatedRobot } from '../support/ros.ts';
import { online, ours, robotArgs, startHub, until, type Hub } from './fleet.ts';
import { openTelemetryReader, type TelemetryReader } from './telemetry-reader.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

const robot = 'robot1';
const folder = join(root, 'functions', 'telemetry');

describe.skipIf(await missing('ros', 'nats-server'))('telemetry with ROS', () => {
  let env: NodeJS.ProcessEnv;
  let hub: Hub;
  let site: TestSite;
  let simulated: SimulatedRobot;
  let atHub: NatsConnection;
  let reader: TelemetryReader;

  beforeAll(async () => {
    env = await rosEnvironment();
    hub = await startHub();
    const file = await hub.add(robot);
    site = await startSite({
      args: robotArgs(robot, file, hub.url),
      env: env as Record<string, string>,
    });
    await online(hub, robot);
    simulated = await startSimulatedRobot({ env });
    await site.ok(['deploy', folder, '--timeout', '120']);
    atHub = await ours(hub);
    reader = openTelemetryReader(atHub);
  });

  test('the topics of the manifest come as it says', async () => {
    const scans = await reader.heard(`robots.${robot}.live.scan`, 5);
    expect(scans[0]).toMatchObject({
      encoding: 'cdr',
      topic: '/scan',
      type: 'sensor_msgs/msg/LaserScan',
      typed: true,
    });
    expect(scans[0]!.message['ranges']).toBeInstanceOf(Float32Array);
    expect((scans[0]!.message['ranges'] as Float32Array).length).toBe(360);
    expect(scans[0]!.stamp).toEqual((scans[0]!.message['header'] as { stamp: object }).stamp);
    // 10 Hz, of which 5 are asked for: 0.8 s, and not 0.4.
    const seconds = (scans[4]!.received - scans[0]!.received) / 1000;
    expect(seconds).toBeGreaterThan(0.6);
    const odometry = await reader.heard(`robots.${robot}.live.odom`, 2);
    expect(odometry[0]!.encoding).toBe('yaml');
    expect(Object.keys(odometry[0]!.message)).toEqual(['header', 'pose', 'twist']);
    expect(odometry[0]!.message['twist']).toEqual({
      twist: { linear: { x: 0 } },
    });
    const battery = await until('battery states are at the hub', async () => {
      const found = await reader.stored(`robots.${robot}.kept.battery_state`);
      return found.length >= 2 ? found : undefined;
    });
    expect(battery[0]).toMatchObject({ encoding: 'json', sequence: 1 });
    // What is not measured is NaN.
    expect(battery[0]!.message['temperature']).toBeNaN();
    const diagnostics = await until('diagnostics are at the hub', async () => {
      const found = await reader.stored(`robots.${robot}.kept.diagnostics.*`);
      return found.length >= 2 ? found : undefined;
    });
    expect(diagnostics[0]!.message['status']).toMatchObject([{ name: '/battery', hardware_id: 'simulated' }]);
  });

  test('commands come to the robot, and its answers to the hub', async () => {
    const ask = async (name: string, command: object, headers?: Record<string, string>) => {
      const sent = newHeaders();
      for (const [key, value] of Object.entries(headers ?? {})) sent.set(key, value);
      const answer = await atHub.request(`robots.${robot}.cmd.${name}`, JSON.stringify(command), {
        timeout: 20_000,
        headers: sent,
      });
      return answer.json();
    };
    expect(await ask('reset', {}, { 'Atoll-Time': String(Date.now()) })).toEqual({
      ok: true,
      command: 'reset',
      response: { success: true, message: 'odometry is at the origin' },
    });
    const next = simulated.nextCommand();
    expect(await ask('drive', { linear: { x: 0.25 } })).toEqual({
      ok: true,
      command: 'drive',
    });
    expect(await next).toEqual({ linear: 0.25, angular: 0 });
    expect(
      await ask('drive', { linear: { x: 1 } }, { 'Atoll-Time': String(Date.now() - 5_000) }),
    ).toMatchObject({
      code: 'Expired',
    });
    expect(await ask('drive', { linear: { forward: 1 } })).toMatchObject({
      code: 'InvalidCommand',
      message: 'linear has no field "forward"; it has x, y, z',
    });
    expect(simulated.commands.length).toBe(1);
  });

  test('what a changed copy takes besides: frames, new topics, numbers without loss', async () => {
    const copy = join(await temporaryFolder(), 'telemetry');
    await cp(folder, copy, { recursive: true });
    await symlink(join(root, 'node_modules'), join(copy, 'node_modules'));
    const manifest = parse(await readFile(join(copy, 'function.yaml'), 'utf8')) as {
      metadata: { name: string };
      spec: { env: { name: string; value: string }[]; triggers: unknown[] };
    };
    manifest.metadata.name = 'telemetry-more';
    manifest.spec.env.find(({ name }) => name === 'TELEMETRY')!.value = `
robot: "\${ROBOT_ID}"
frames: { bytesPerSecond: 2MB, chunkBytes: 16KiB }
topics:
  - { ros: /numbers, as: json, class: lossless }
  - { ros: /camera/image/compressed, as: cdr, class: frames, enabled: true }
  - { ros: "/**", as: cbor, maxHz: 2 }
deny: [/rosout, /parameter_events, /scan, /odom]
`;
    manifest.spec.triggers = [
      {
        name: 'all',
        ros: {
          topics: [
            { match: '/numbers', raw: true, keepLast: 1000 },
            { match: '/camera/image/compressed', raw: true, keepLast: 1 },
            {
              match: '/**',
              raw: true,
              keepLast: 10,
              exclude: ['/rosout', '/parameter_events'],
            },
          ],
        },
      },
      { name: 'report', schedule: { every: '5s', delivery: 'AtMostOnce' } },
    ];
    await writeFile(join(copy, 'function.yaml'), stringify(manifest));
    await site.ok(['deploy', copy, '--timeout', '120']);

    const [frame] = await reader.heard(`robots.${robot}.live.camera.image.compressed`, 1);
    expect(Buffer.from((frame!.message['data'] as Uint8Array).subarray(1, 4)).toString()).toBe('PNG');

    await simulated.matched(1);
    expect(await simulated.numbers(500, 100)).toBe(500);
    const subject = `robots.${robot}.kept.numbers`;
    const all = await until(
      'all numbers are at the hub',
      async () => {
        const found = await reader.stored(subject);
        return found.length >= 500 ? found : undefined;
      },
      150_000,
    );
    expect(all.map(({ message }) => message['data'])).toEqual(
      Array.from({ length: 500 }, (_, index) => BigInt(index)),
    );

    const peer = await startRosPeer({ env, name: 'newcomer' });
    await peer.advertise('/later/words', 'std_msgs/msg/String');
    await peer.matched('/later/words');
    const [words] = await reader.heard(`robots.${robot}.live.later.words`, 1, () =>
      peer.publish('/later/words', { data: 'Lüfter' }),
    );
    expect(words).toMatchObject({ encoding: 'cbor', message: { data: 'Lüfter' } });
  }, 240_000);

  test('a topic that comes back with another type goes on', async () => {
    const peer = await startRosPeer({ env, name: 'changing' });
    for (const [type, data] of [
      ['std_msgs/msg/String', 'text'],
      ['std_msgs/msg/UInt64', 2n ** 63n],
    ] as const) {
      await peer.advertise('/changing', type);
      const [heard] = await reader.heard(`robots.${robot}.live.changing`, 1, () =>
        peer.publish('/changing', { data }),
      );
      expect(heard).toMatchObject({ type, message: { data } });
      await peer.withdraw('/changing');
    }
  });
});
