/**
 * Telemetry from a robot's function to readers at the hub, over real servers. Here its messages come by NATS instead of
 * ROS: a copy of the function, changed as anyone may change it. With ROS: ros-telemetry.test.ts.
 */
import { cp, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { headers as newHeaders, type NatsConnection } from '@nats-io/nats-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import {
  decode,
  encode,
  openAssembly,
  readSchema,
  schemaHash,
  telemetryOf,
  type RosMessage,
} from '../../runtime/telemetry.ts';
import { root, startSite, type TestSite } from '../cli/run.ts';
import { definitions, type KnownType } from '../runtime/telemetry/types.ts';
import { temporaryFolder } from '../support/folder.ts';
import { freePort } from '../support/ports.ts';
import { missing } from '../support/requirement.ts';
import { managerOf, online, ours, robotArgs, startHub, until, type Hub } from './fleet.ts';
import { familyOf } from './site.ts';
import { openTelemetryReader, type TelemetryReader } from './telemetry-reader.ts';

const skipped = await missing('nats-server');
const robot = 'robot1';

const telemetry = `
robot: "\${ROBOT_ID}"
frames: { bytesPerSecond: 5MB, chunkBytes: 64KiB }
topics:
  - { ros: /odom, type: nav_msgs/msg/Odometry, as: yaml, fields: [header.stamp, pose.pose.position, twist.twist.linear.x] }
  - { ros: /scan, as: cdr }
  - { ros: /diagnostics, as: cbor }
  - { ros: /battery_state, as: json, class: lossless }
  - { ros: /ring, as: cdr, class: ring, last: 5 }
  - { ros: /camera/image/compressed, as: cdr, class: frames, enabled: true }
  - { ros: /counters, as: json }
commands:
  - { name: drive, topic: /cmd_vel, type: geometry_msgs/msg/Twist, ttl: 500ms }
`;

/** What comes by NATS is as if it had come from ROS, and definitions are in a file. */
const fed = {
  'index.ts': `
import { handler as telemetry } from './telemetry.ts';
export const handler = (event, context) => {
  const { trigger } = context;
  if (trigger.name !== 'feed') return telemetry(event, context);
  const { Topic: subject, Type: type } = trigger.headers;
  const value = { ...trigger, kind: 'ros', subject, type };
  return telemetry(event, Object.create(context, { trigger: { value } }));
};
`,
  'ros.ts': `
const definitions = ${JSON.stringify(definitions)};
export const ros = { definition: async (type) => definitions[type] ?? Promise.reject(new Error('install ' + type)) };
`,
};

async function changedCopy(): Promise<string> {
  const folder = join(await temporaryFolder(), 'telemetry');
  const source = join(root, 'functions', 'telemetry');
  await cp(source, folder, { recursive: true });
  await cp(join(source, 'index.ts'), join(folder, 'telemetry.ts'));
  for (const [file, text] of Object.entries(fed)) await writeFile(join(folder, file), text);
  const file = join(folder, 'definitions.ts');
  const text = await readFile(file, 'utf8');
  await writeFile(
    file,
    text.replace(
      "import { nats, ros } from 'atoll';",
      "import { nats } from 'atoll';\nimport { ros } from './ros.ts';",
    ),
  );
  // Its npm package lies there.
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'));
  const manifestFile = join(folder, 'function.yaml');
  const manifest = parse(await readFile(manifestFile, 'utf8')) as {
    spec: { env: { name: string; value: string }[]; triggers: { name: string }[] };
  };
  manifest.spec.env.find(({ name }) => name === 'TELEMETRY')!.value = telemetry;
  manifest.spec.triggers = [
    { name: 'feed', nats: { subject: 'feed' }, encoding: 'binary' } as { name: string },
    ...manifest.spec.triggers.filter(({ name }) => name !== 'sensors'),
  ];
  await writeFile(manifestFile, stringify(manifest));
  return folder;
}

describe.skipIf(skipped)('telemetry of a robot', () => {
  let hub: Hub;
  let site: TestSite;
  let [atHub, atRobot]: NatsConnection[] = [];
  let reader: TelemetryReader;

  beforeAll(async () => {
    const port = String(await freePort());
    hub = await startHub({ args: ['--control', '--leaf-port', port, '--telemetry-size', '16Mi'] });
    site = await startSite({ args: robotArgs(robot, await hub.add(robot), hub.url) });
    await online(hub, robot);
    await site.ok(['deploy', await changedCopy(), '--timeout', '120']);
    atHub = await ours(hub);
    reader = openTelemetryReader(atHub);
    atRobot = await ours(site);
  }, 180_000);

  function feed(topic: string, type: KnownType, message: RosMessage | Uint8Array): void {
    const headers = newHeaders();
    headers.set('Topic', topic);
    headers.set('Type', type);
    const data =
      message instanceof Uint8Array ? message : encode(message, 'cdr', readSchema(type, definitions[type]));
    atRobot!.publish('feed', data, { headers });
  }

  const header = { stamp: { sec: 9, nanosec: 1 }, frame_id: 'map' };

  test.each([
    ['/odom', 'nav_msgs/msg/Odometry', { header, twist: { twist: { linear: { x: 0.5 } } } }],
    ['/scan', 'sensor_msgs/msg/LaserScan', { header, ranges: Float32Array.of(1.5, NaN, Infinity) }],
    [
      '/diagnostics',
      'diagnostic_msgs/msg/DiagnosticArray',
      { header, status: [{ level: 2, name: 'Lüfter' }] },
    ],
    ['/counters', 'example_msgs/msg/Counters', { signed: -(2n ** 63n), unsigned: 2n ** 64n - 1n }],
  ] as [string, KnownType, RosMessage][])(
    '%s is read at the hub, without ROS',
    async (topic, type, message) => {
      const heard = await reader.first(`robots.${robot}.live.${topic.slice(1)}`, () =>
        feed(topic, type, message),
      );
      const decoded = await decode(heard, reader);
      expect(decoded).toMatchObject({
        robot,
        topic,
        type,
        typed: true,
        schema: schemaHash(definitions[type]),
      });
      expect(decoded.message).toMatchObject(
        topic === '/odom'
          ? { header: { stamp: header.stamp }, twist: { twist: { linear: { x: 0.5 } } } }
          : message,
      );
      expect(decoded.received).toBeGreaterThan(Date.now() - 60_000);
    },
  );

  test('lossless messages are at the hub once, also when the handler process is killed at it', async () => {
    const count = 200;
    const manager = await managerOf(atHub!);
    for (let number = 1; number <= count; number += 1) {
      feed('/battery_state', 'sensor_msgs/msg/BatteryState', { header, voltage: number });
      if (number % 50 === 25) {
        const children = familyOf(site.process.pid).filter(({ commandLine }) =>
          commandLine.includes('invoker/child'),
        );
        for (const { pid } of children) process.kill(pid, 'SIGKILL');
      }
      if (number % 10 === 0) await new Promise((done) => setTimeout(done, 20));
    }
    const subject = `robots.${robot}.kept.battery_state`;
    await until(
      'the hub has as many',
      async () => {
        const { state } = await manager.streams.info('TELEMETRY', { subjects_filter: subject });
        return (state.subjects?.[subject] ?? 0) >= count || undefined;
      },
      150_000,
    );
    const voltages: number[] = [];
    const runs = new Map<string, number[]>();
    for (const { message, run, sequence } of await reader.stored(subject)) {
      voltages.push(message['voltage'] as number);
      runs.set(run, [...(runs.get(run) ?? []), sequence]);
    }
    expect([...voltages].sort((a, b) => a - b)).toEqual(
      Array.from({ length: count }, (_, index) => index + 1),
    );
    // It was killed in the middle, and each process counted by itself.
    expect(runs.size).toBeGreaterThan(1);
    for (const sequence of runs.values()) expect(sequence).toEqual([...sequence].sort((a, b) => a - b));
  }, 180_000);

  test('lossless messages that nothing disturbs are in order', async () => {
    const manager = await managerOf(atHub!);
    const before = (await manager.streams.info('TELEMETRY')).state.last_seq;
    const count = 500;
    for (let number = 1; number <= count; number += 1) {
      feed('/battery_state', 'sensor_msgs/msg/BatteryState', { voltage: number });
      if (number % 50 === 0) await new Promise((done) => setTimeout(done, 5));
    }
    await until(
      'the hub has them',
      async () => {
        const { state } = await manager.streams.info('TELEMETRY');
        return state.last_seq >= before + count || undefined;
      },
      150_000,
    );
    const voltages: unknown[] = [];
    for (let seq = before + 1; seq <= before + count; seq += 1) {
      const message = await manager.streams.getMessage('TELEMETRY', { seq });
      voltages.push((JSON.parse(message!.string()) as { voltage: number }).voltage);
    }
    expect(voltages).toEqual(Array.from({ length: count }, (_, index) => index + 1));
  }, 180_000);

  test('of a ring the last ones are kept on the robot, and the hub has what came', async () => {
    for (let number = 1; number <= 23; number += 1)
      feed('/ring', 'std_msgs/msg/String', { data: String(number) });
    const subjects = `robots.${robot}.kept.ring.*`;
    const lastOnes = async (connection: NatsConnection) => {
      const manager = await managerOf(connection);
      return await until('the last one is there', async () => {
        const { state } = await manager.streams.info('TELEMETRY', { subjects_filter: subjects });
        const texts: string[] = [];
        for (const subject of Object.keys(state.subjects ?? {})) {
          const message = await manager.streams.getMessage('TELEMETRY', { last_by_subj: subject });
          const received = { data: message!.data, headers: message!.header };
          texts.push((await decode(received, reader)).message['data'] as string);
        }
        if (!texts.includes('23')) return undefined;
        return { counts: Object.values(state.subjects ?? {}), texts: texts.sort() };
      });
    };
    const texts = ['19', '20', '21', '22', '23'];
    expect(await lastOnes(atRobot!)).toEqual({ counts: [1, 1, 1, 1, 1], texts });
    expect(await lastOnes(atHub!)).toMatchObject({ texts });
  });

  test('no message of a robot takes away what the hub has', async () => {
    const manager = await managerOf(atHub!);
    const before = (await manager.streams.info('TELEMETRY')).state;
    const headers = newHeaders();
    headers.set('Nats-Rollup', 'all');
    await atRobot!.request(`robots.${robot}.kept.evil`, '', { headers, timeout: 5_000 });
    const after = await until('it is at the hub', async () => {
      const { state } = await manager.streams.info('TELEMETRY');
      return state.last_seq > before.last_seq ? state : undefined;
    });
    expect(after.messages).toBeGreaterThan(before.messages);
  });

  test('a frame of 2 MB comes in pieces that fit, and is whole again', async () => {
    const image = new Uint8Array(2_000_000).map((_, index) => index % 251);
    const assembly = openAssembly();
    const sizes: number[] = [];
    let got: Uint8Array | undefined;
    await reader.hear(
      `robots.${robot}.live.camera.image.compressed`,
      async () => {
        feed('/camera/image/compressed', 'sensor_msgs/msg/CompressedImage', {
          header,
          format: 'jpeg',
          data: image,
        });
        await pause(1_000);
      },
      async (message) => {
        sizes.push(message.data.byteLength);
        const whole = assembly.add(message);
        if (whole === undefined) return false;
        got = (await decode(whole, reader)).message['data'] as Uint8Array;
        expect(telemetryOf(message).chunk?.of).toBe(31);
        return true;
      },
    );
    expect(Buffer.compare(Buffer.from(got!), Buffer.from(image))).toBe(0);
    expect(Math.max(...sizes)).toBe(65_536);
  });

  test('bytes that are no message are counted, and told on the robot and at the hub', async () => {
    const heard = await reader.first(`robots.${robot}.alert.telemetry`, () =>
      feed('/counters', 'example_msgs/msg/Counters', Uint8Array.of(0, 1, 0, 0, 1)),
    );
    expect(heard.json()).toMatchObject({
      robot,
      topic: '/counters',
      problem: expect.stringMatching(/^it is no example_msgs\/msg\/Counters: /) as string,
    });
    const report = await reader.first(`robots.${robot}.stats.telemetry`, () => {});
    const { topics } = report.json<{ topics: Record<string, unknown>[] }>();
    expect(topics.find(({ topic }) => topic === '/counters')).toMatchObject({ as: 'json', class: 'latest' });
    const answer = await fetch(`${site.info.url}/telemetry/metrics`);
    const text = await answer.text();
    expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4');
    expect(text).toMatch(/^# TYPE telemetry_messages_in_total counter$/m);
    const metric = (name: string) =>
      Number(new RegExp(`^${name}\\{topic="/counters"\\} (\\d+)$`, 'm').exec(text)?.[1]);
    expect(metric('telemetry_decode_errors_total')).toBeGreaterThan(0);
    expect(metric('telemetry_messages_in_total')).toBe(
      metric('telemetry_messages_out_total') +
        metric('telemetry_messages_filtered_total') +
        metric('telemetry_messages_dropped_total'),
    );
  });

  test('a command that is not allowed or too old is answered so, at the hub', async () => {
    const ask = async (name: string, time: number, to = robot) => {
      const headers = newHeaders();
      headers.set('Atoll-Time', String(time));
      const answer = await until('it is answered', () =>
        atHub!.request(`robots.${to}.cmd.${name}`, '{}', { timeout: 5_000, headers }).catch(() => undefined),
      );
      return answer.json();
    };
    expect(await ask('reboot', Date.now())).toEqual({
      ok: false,
      command: 'reboot',
      code: 'UnknownCommand',
      message: 'there is no command "reboot" here; allowed: drive',
    });
    expect(await ask('drive', Date.now() - 10_000)).toMatchObject({ ok: false, code: 'Expired' });
  });

  // The last one: what was kept before gives way.
  test('what robots keep never takes more of the hub than it may, and what gave way is counted', async () => {
    const megabyte = new Uint8Array(1_000_000);
    const last = `robots.${robot}.kept.flood.19`;
    for (let number = 0; number < 20; number += 1) {
      await atRobot!.request(`robots.${robot}.kept.flood.${number}`, megabyte, { timeout: 20_000 });
    }
    const manager = await managerOf(atHub!);
    await until('the last one is at the hub', async () =>
      manager.streams
        .getMessage('TELEMETRY', { last_by_subj: last })
        .catch(() => null)
        .then((one) => one ?? undefined),
    );
    const { state } = await manager.streams.info('TELEMETRY');
    expect(state.bytes).toBeLessThanOrEqual(16 * 1024 * 1024);
    expect(state.messages).toBe(16);
    expect(state.first_seq).toBeGreaterThan(1);
    const { stderr, stdout } = await hub.faas(['robots']);
    expect(stdout).toMatch(/^robot1 +online /m);
    expect(stderr).toContain(
      `Kept of all: 16 messages, 15.3 MiB of 16 MiB; ${state.first_seq - 1} gave way, the oldest first`,
    );
    const metrics = await (await fetch(`${hub.info.url}/metrics`)).text();
    expect(metrics).toContain('\natoll_hub_telemetry_limit_bytes 16777216\n');
    expect(metrics).toContain(`\natoll_hub_telemetry_dropped_messages_total ${state.first_seq - 1}\n`);
  }, 120_000);
});
