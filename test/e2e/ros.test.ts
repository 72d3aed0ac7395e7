/** ROS as its users have it: `faas up` with ROS sourced, functions from folders, and other people's nodes around them. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { missing } from '../support/requirement.ts';
import { rosEnvironment, startRosPeer } from '../support/ros.ts';
import { describes, processNamed, startSite, unready, until, type FunctionSource } from './site.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

/** What it was given goes out on NATS, with what JSON has no word for as text. */
const listener: FunctionSource = {
  name: 'listener',
  spec: {
    triggers: [
      { name: 'plain', ros: { topic: 'scan', type: 'sensor_msgs/msg/LaserScan' } },
      { name: 'raw', ros: { topics: [{ match: '/robot1/numbers', raw: true }] } },
    ],
    onSuccess: { nats: { subject: 'heard' } },
  },
  code: `export const handler = async (event, context) => {
    const { kind, name, subject, type } = context.trigger;
    const trigger = { kind, name, subject, type };
    if (Buffer.isBuffer(event)) return { trigger, number: event.readBigUInt64LE(4).toString() };
    const { header, ranges } = event;
    return { trigger, header, ranges: [ranges.constructor.name, ...ranges].map(String) };
  };`,
};

const service: FunctionSource = {
  name: 'service',
  spec: {
    timeoutSeconds: 2,
    concurrency: 2,
    triggers: [{ name: 'enable', ros: { service: 'enable', type: 'std_srvs/srv/SetBool' } }],
  },
  code: `
    export const handler = async ({ data }, context) => {
      if (data) return { success: true, message: 'as ' + context.trigger.type };
      await new Promise((resolve) => setTimeout(resolve, 60_000));
    };`,
};

const teller: FunctionSource = {
  name: 'teller',
  spec: { triggers: [{ name: 'tell', ros: { service: '/tell', type: 'std_srvs/srv/Trigger' } }] },
  code: `export const handler = async () => { throw new RangeError('too far'); };`,
};

/** Invoked with what to do. */
const driver: FunctionSource = {
  name: 'driver',
  code: `import { ros } from 'atoll';
  export const handler = async ({ publish, call }) => {
    if (publish) await ros.publish('cmd_vel', 'geometry_msgs/msg/Twist', publish);
    if (!call) return;
    try {
      return await ros.call(call, 'std_srvs/srv/SetBool', { data: true }, { timeoutMs: 10_000 });
    } catch (error) {
      return { error: error.code, message: error.message };
    }
  };`,
};

const mistaken: FunctionSource = {
  name: 'mistaken',
  spec: { triggers: [{ name: 'tell', ros: { service: '/mistaken', type: 'std_srvs/srv/Trigger' } }] },
  code: `export const handler = async () => ({ success: true, text: 'there is no such field' });`,
};

describe.skipIf(await missing('ros', 'nats-server'))('a site with ROS', () => {
  test('topics call functions, decoded and raw; services are answered, whatever becomes of the call', async () => {
    const env = await rosEnvironment();
    const site = await startSite({ env, args: ['--ros-namespace', '/robot1'] });
    for (const source of [listener, service, teller, mistaken, driver]) await site.deploy(source);
    for (const { name } of [listener, service, teller, mistaken]) await site.ready(name);
    const nats = await site.nats();
    const heard = nats.subscribe('heard')[Symbol.asyncIterator]();
    const next = async () =>
      ((await heard.next()).value!.json() as { responsePayload: unknown }).responsePayload;
    await nats.flush();
    const peer = await startRosPeer({ env });
    await peer.advertise('/robot1/scan', 'sensor_msgs/msg/LaserScan', { reliability: 'best_effort' });
    await peer.advertise('/robot1/numbers', 'std_msgs/msg/UInt64');
    await Promise.all([peer.matched('/robot1/scan'), peer.matched('/robot1/numbers')]);
    const header = { stamp: { sec: 7, nanosec: 8 }, frame_id: 'laser' };
    await peer.publish('/robot1/scan', { header, ranges: [1.5, NaN, Infinity] });
    expect(await next()).toEqual({
      trigger: { kind: 'ros', name: 'plain', subject: '/robot1/scan', type: 'sensor_msgs/msg/LaserScan' },
      header,
      ranges: ['Float32Array', '1.5', 'NaN', 'Infinity'],
    });
    await peer.publish('/robot1/numbers', { data: 2n ** 64n - 1n });
    expect(await next()).toEqual({
      trigger: { kind: 'ros', name: 'raw', subject: '/robot1/numbers', type: 'std_msgs/msg/UInt64' },
      number: String(2n ** 64n - 1n),
    });

    const call = (data: boolean) => peer.call('/robot1/enable', 'std_srvs/srv/SetBool', { data });
    const slow = call(false);
    // There is a second slot beside the one that waits.
    expect(await call(true)).toEqual({ success: true, message: 'as std_srvs/srv/SetBool' });
    expect(await slow).toMatchObject({
      success: false,
      message: expect.stringMatching(/^Sandbox.Timedout: .*timed out after 2/) as string,
    });
    expect(await peer.call('/tell', 'std_srvs/srv/Trigger')).toEqual({
      success: false,
      message: 'RangeError: too far',
    });
    expect(await peer.call('/mistaken', 'std_srvs/srv/Trigger')).toEqual({
      success: false,
      message:
        'Runtime.InvalidResponse: the returned value is no std_srvs/srv/Trigger_Response: std_srvs/srv/Trigger_Response has no field text; it has success, message',
    });
    await describes(
      site,
      'listener',
      /subscribed to \/robot1\/scan \(sensor_msgs\/msg\/LaserScan, best effort\)/,
    );
    const { stdout } = await site.run(['doctor'], { env });
    expect(stdout).toMatch(/ros .*ROS 2 jazzy, domain \d+.*rclnodejs: /);
  });

  test('a message that failed is a dead letter that still can be decoded, and is run again by a redrive', async () => {
    const env = await rosEnvironment();
    const site = await startSite({ env });
    const fragile = (code: string): FunctionSource => ({
      name: 'fragile',
      spec: {
        triggers: [{ name: 'text', ros: { topic: '/text', qos: 'reliable', type: 'std_msgs/msg/String' } }],
        retry: { maxAttempts: 1 },
        onSuccess: { nats: { subject: 'heard' } },
      },
      code,
    });
    await site.deploy(fragile(`export const handler = ({ data }) => { throw new Error('not ' + data); };`));
    await site.ready('fragile');
    const peer = await startRosPeer({ env });
    await peer.advertise('/text', 'std_msgs/msg/String');
    await peer.matched('/text');
    await peer.publish('/text', { data: 'yet' });
    const letter = await until('the dead letter is there', async () => {
      const { stdout } = await site.faas('dead', 'list', 'fragile', '-o', 'json');
      return stdout.includes('not yet') || undefined;
    });
    expect(letter).toBe(true);
    const nats = await site.nats();
    const heard = nats.subscribe('heard')[Symbol.asyncIterator]();
    await nats.flush();
    await site.deploy(
      fragile(`export const handler = ({ data }, { trigger }) => data + ' on ' + trigger.subject;`),
    );
    await site.faas('dead', 'redrive', 'fragile');
    const { responsePayload } = (await heard.next()).value!.json() as { responsePayload: unknown };
    expect(responsePayload).toBe('yet on /text');
  });

  test('a ROS process that is killed costs its restart; functions, their host and their processes go on', async () => {
    const env = await rosEnvironment();
    const site = await startSite({ env });
    await site.deploy(teller);
    await site.ready('teller');
    const [host, child] = [processNamed(site, 'runtime/main'), processNamed(site, 'invoker/child')];
    const peer = await startRosPeer({ env });
    expect(await peer.call('/tell', 'std_srvs/srv/Trigger')).toMatchObject({
      message: 'RangeError: too far',
    });
    const ros = processNamed(site, 'runtime/ros/main');
    process.kill(ros.pid, 'SIGSEGV');
    expect(await unready(site, 'teller')).toMatchObject({ reason: 'RosUnavailable' });
    await site.ready('teller');
    expect(processNamed(site, 'runtime/ros/main').pid).not.toBe(ros.pid);
    const again = await until('the service answers again', () =>
      peer.call('/tell', 'std_srvs/srv/Trigger', {}, 3_000),
    );
    expect(again).toMatchObject({ success: false, message: 'RangeError: too far' });
    expect([processNamed(site, 'runtime/main').pid, processNamed(site, 'invoker/child').pid]).toEqual([
      host.pid,
      child.pid,
    ]);
    expect(site.output()).toContain('the ROS process ended; it is started again');
    expect(await readFile(join(site.dir, 'logs', 'ros.jsonl'), 'utf8')).toContain('ROS process ready');
    // Without a ros trigger nobody needs it.
    await site.faas('delete', 'teller');
    await until('the ROS process is gone', () =>
      site.processes().every(({ commandLine }) => !commandLine.includes('runtime/ros/main')),
    );
  });
});

describe.skipIf(await missing('ros', 'nats-server'))('a site of another ROS domain', () => {
  test('hears that one once it is started again with it, and the one before no more', async () => {
    const [former, later] = [await rosEnvironment(), await rosEnvironment()];
    const site = await startSite({ env: former });
    await site.deploy({
      name: 'texts',
      spec: {
        triggers: [{ name: 'text', ros: { topic: '/text' } }],
        onSuccess: { nats: { subject: 'heard' } },
      },
      code: `export const handler = ({ data }) => data;`,
    });
    const peers = [
      await startRosPeer({ env: former, name: 'former' }),
      await startRosPeer({ env: later, name: 'later' }),
    ] as const;
    for (const peer of peers)
      await peer.advertise('/text', 'std_msgs/msg/String', { durability: 'transient_local' });
    /** What is heard first when both publish. */
    const heard = async (): Promise<unknown> => {
      const nats = await site.nats();
      const subscription = nats.subscribe('heard', { max: 1 });
      await nats.flush();
      const timer = setInterval(() => {
        for (const [index, peer] of peers.entries()) {
          peer.publish('/text', { data: index === 0 ? 'former' : 'later' }).catch(() => {});
        }
      }, 200);
      try {
        for await (const message of subscription) {
          return message.json<{ responsePayload: unknown }>().responsePayload;
        }
        return undefined;
      } finally {
        clearInterval(timer);
      }
    };
    expect(await heard()).toBe('former');
    await site.stop();
    await site.start({ env: former, args: ['--ros-domain-id', later['ROS_DOMAIN_ID']!] });
    await site.ready('texts');
    expect(await heard()).toBe('later');
    await describes(site, 'texts', /subscribed to \/text/);
  });
});

test('on a site without ROS the condition says what to install, and everything else works', async () => {
  const site = await startSite({ env: { AMENT_PREFIX_PATH: undefined, ROS_DISTRO: undefined } });
  await site.run(['deploy', await site.write(teller), '--no-wait']);
  const trigger = await until('the condition says it', async () =>
    (await site.status('teller')).triggers?.find(({ reason }) => reason === 'RosNotInstalled'),
  );
  expect(trigger).toMatchObject({
    ready: false,
    message: expect.stringContaining('. /opt/ros/<distro>/setup.sh') as string,
  });
  await site.deploy({ name: 'plain', code: 'export const handler = () => 1;' });
  expect(await site.invoke('plain')).toBe(1);
});
