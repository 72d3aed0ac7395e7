import { stat } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import type {
  RosLink,
  RosMessage,
  RosRequest,
  RosServiceStatus,
  RosTopicSpec,
  RosTopicStatus,
} from '../../../runtime/clients/ros.ts';
import { codecOf } from '../../../runtime/ros/message.ts';
import { missing } from '../../support/requirement.ts';
import { startRosPeer, type RosPeer } from '../../support/ros.ts';
import { linkIs, rosMachine } from '../ros/ros-process.ts';

// Nodes in Python take seconds to start on a busy machine, and discovery does.
vi.setConfig({ testTimeout: 180_000 });

const entry = (match: string, more: Partial<RosTopicSpec> = {}): RosTopicSpec => ({
  match,
  maxHz: 0,
  keepLast: 10,
  qos: 'auto',
  ...more,
});

/** A subscription whose messages are taken as they come. */
function heardBy(link: RosLink, topics: RosTopicSpec[], options: { ask?: number } = {}) {
  const messages: RosMessage[] = [];
  const statuses: string[] = [];
  const waiting: (() => void)[] = [];
  const look = (): void => waiting.splice(0).forEach((wake) => wake());
  let status = new Map<string, RosTopicStatus>();
  const subscription = link.subscribe({
    topics,
    onMessage(message) {
      messages.push(message);
      if (options.ask === undefined) subscription.request(1);
      look();
    },
    onStatus(all) {
      status = new Map(all.topics.map((one) => [one.topic, one]));
      statuses.push(JSON.stringify(all));
      look();
    },
  });
  subscription.request(options.ask ?? 10);
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>((resolve) => waiting.push(resolve));
  };
  return {
    subscription,
    messages,
    until,
    topic: (name: string) => status.get(name),
    count: (messages_: number) => until(() => messages.length >= messages_),
    subscribed: (name: string) => until(() => status.get(name)?.qos !== undefined),
  };
}

/** Discovery takes its time, and nobody tells when it is done. */
async function sees(peer: RosPeer, node: string): Promise<void> {
  await peer.process.until(`${node} is seen`, async () =>
    (await peer.graph()).nodes.includes(node) ? true : undefined,
  );
}

const decoded = ({ schema, data }: { schema: { type: string; definition: string }; data: Uint8Array }) =>
  codecOf(schema.definition, schema.type).decode(data);

describe.skipIf(await missing('ros'))('the link to the ROS process', () => {
  test('speaks through a socket that is ours alone, and says whose node it is', async () => {
    const machine = await rosMachine({ namespace: '/robot1' });
    expect((await stat(machine.socket)).mode & 0o777).toBe(0o600);
    const link = machine.link();
    await linkIs(link, true);
    expect(link.state).toEqual({
      connected: true,
      reason: 'Ready',
      message: 'node /robot1/atoll of ROS jazzy',
    });
    const peer = await startRosPeer({ env: machine.env });
    await sees(peer, '/robot1/atoll');
    const { services } = await peer.graph();
    expect(services['/robot1/atoll/get_parameters']).toEqual(['rcl_interfaces/srv/GetParameters']);
    // The wheels have no program ros2: what "ros2 param" does with each verb, by the client of rclpy that it uses.
    const names = ['site', 'namespace'];
    type Asked = Parameters<RosPeer['parameters']>;
    const asked = (ask: Asked[1], what?: Asked[2]) => peer.parameters('/robot1/atoll', ask, what);
    expect(await asked('list')).toMatchObject({
      result: { names: expect.arrayContaining(names) as string[] },
    });
    expect(await asked('get', { names })).toMatchObject({
      values: [
        { type: 4, string_value: 'local' },
        { type: 4, string_value: '/robot1' },
      ],
    });
    expect(await asked('types', { names })).toMatchObject({ types: Uint8Array.of(4, 4) });
    expect(await asked('describe', { names: ['site'] })).toMatchObject({
      descriptors: [{ name: 'site', description: 'Name of the Atoll site', read_only: true }],
    });
    const values = { site: 'other' };
    expect(await asked('set', { values })).toMatchObject({ results: [{ successful: false }] });
    expect(await asked('setAtomically', { values })).toMatchObject({ result: { successful: false } });
    expect(await asked('get', { names: ['site'] })).toMatchObject({ values: [{ string_value: 'local' }] });
  });

  test('takes messages as CDR, with the definition that decodes them, and keeps 64 bits', async () => {
    const machine = await rosMachine();
    const link = machine.link();
    await linkIs(link, true);
    const peer = await startRosPeer({ env: machine.env });
    const heard = heardBy(link, [entry('/numbers'), entry('/scan', { type: 'sensor_msgs/msg/LaserScan' })]);
    await peer.advertise('/numbers', 'std_msgs/msg/UInt64');
    await peer.advertise('/scan', 'sensor_msgs/msg/LaserScan', { reliability: 'best_effort' });
    await Promise.all([peer.matched('/numbers'), peer.matched('/scan')]);
    await peer.publish('/numbers', { data: 2n ** 64n - 1n });
    await heard.count(1);
    expect(heard.messages[0]).toMatchObject({ entry: 0, topic: '/numbers', type: 'std_msgs/msg/UInt64' });
    expect(Math.abs(Date.now() - heard.messages[0]!.time)).toBeLessThan(60_000);
    expect(decoded(heard.messages[0]!)).toEqual({ data: 2n ** 64n - 1n });
    const header = { stamp: { sec: 5, nanosec: 6 }, frame_id: 'laser' };
    await peer.publish('/scan', { header, ranges: [1, NaN, Infinity], range_max: 10 });
    await heard.count(2);
    expect(decoded(heard.messages[1]!)).toMatchObject({
      header,
      ranges: new Float32Array([1, NaN, Infinity]),
      range_max: 10,
    });
    expect(heard.topic('/scan')).toMatchObject({ qos: 'best effort', publishers: 1 });
  });

  test('publishes objects and bytes, calls services, and gives definitions', async () => {
    const machine = await rosMachine({ namespace: '/robot1' });
    const link = machine.link();
    await linkIs(link, true);
    const peer = await startRosPeer({ env: machine.env });
    const heard = await peer.subscribe('/robot1/cmd_vel', 'geometry_msgs/msg/Twist');
    await sees(peer, '/robot1/atoll');
    // Seen is whoever answers.
    await link.call('/peer/get_parameters', 'rcl_interfaces/srv/GetParameters', {}, { timeoutMs: 20_000 });
    // The first message, too: subscribers know a new publisher before it sends.
    await link.publish('cmd_vel', 'geometry_msgs/msg/Twist', { linear: { x: 0.5 } });
    expect(await heard.next()).toMatchObject({ linear: { x: 0.5, y: 0 }, angular: { z: 0 } });
    const definition = await link.definition('geometry_msgs/msg/Twist');
    expect(definition).toContain(`${'='.repeat(80)}\nMSG: geometry_msgs/Vector3\n`);
    const bytes = codecOf(definition, 'geometry_msgs/msg/Twist').encode({ angular: { z: -1 } });
    await link.publish('/robot1/cmd_vel', 'geometry_msgs/msg/Twist', bytes);
    expect(await heard.next()).toMatchObject({ angular: { z: -1 } });

    await peer.serve('/robot1/enable', 'std_srvs/srv/SetBool', ({ data }: { data: boolean }) => ({
      success: data,
      message: `grüße ${data}`,
    }));
    const answers = await Promise.all(
      [true, false].map((data) =>
        link.call('enable', 'std_srvs/srv/SetBool', { data }, { timeoutMs: 10_000 }),
      ),
    );
    expect(answers).toEqual([
      { success: true, message: 'grüße true' },
      { success: false, message: 'grüße false' },
    ]);
  });

  test('a call that cannot succeed says why, and does not wait longer than it may', async () => {
    const machine = await rosMachine();
    const link = machine.link();
    await linkIs(link, true);
    const peer = await startRosPeer({ env: machine.env });
    const call = (service: string, type: string, request: unknown, options: object = {}) =>
      link.call(service, type, request, { timeoutMs: 400, ...options });
    await expect(call('/nowhere', 'std_srvs/srv/Trigger', {})).rejects.toMatchObject({
      code: 'RosServiceUnavailable',
      message: 'nobody serves /nowhere (std_srvs/srv/Trigger)',
    });
    let answers = 1;
    await peer.serve('/slow', 'std_srvs/srv/Trigger', () =>
      answers-- > 0 ? {} : new Promise<object>(() => {}),
    );
    expect(await call('/slow', 'std_srvs/srv/Trigger', {}, { timeoutMs: 20_000 })).toMatchObject({
      success: false,
    });
    await expect(call('/slow', 'std_srvs/srv/Trigger', {}, { timeoutMs: 1500 })).rejects.toMatchObject({
      code: 'RosTimeout',
      message: '/slow did not answer within 1500 ms',
    });
    const controller = new AbortController();
    const aborted = call(
      '/slow',
      'std_srvs/srv/Trigger',
      {},
      { timeoutMs: 60_000, signal: controller.signal },
    );
    controller.abort(new Error('not any more'));
    await expect(aborted).rejects.toThrow('not any more');
    await expect(call('/slow', 'std_srvs/srv/SetBool', { dta: true })).rejects.toThrow(
      'std_srvs/srv/SetBool_Request has no field dta; it has data',
    );
    await expect(call('/slow', 'no_such_msgs/srv/Do', {})).rejects.toMatchObject({
      code: 'RosTypeNotFound',
      message: expect.stringContaining('apt install ros-jazzy-no-such-msgs') as string,
    });
    await expect(link.publish('/a', 'std_msgs/msg/Strin', { data: '' })).rejects.toMatchObject({
      code: 'RosTypeNotFound',
      message: expect.stringMatching(/package std_msgs in .* has Bool, Byte.*String/) as string,
    });
    await expect(link.publish('/a', 'std_msgs/msg/String', new Uint8Array(2))).rejects.toThrow('header of 4');
    await expect(
      link.publish('/a', 'std_msgs/msg/String', Buffer.alloc(16 * 1024 * 1024)),
    ).rejects.toMatchObject({
      code: 'TooLarge',
    });
  });

  test('serves, several requests at a time; a failure is told in the fields that the response has for it', async () => {
    const machine = await rosMachine();
    const link = machine.link();
    await linkIs(link, true);
    const peer = await startRosPeer({ env: machine.env });
    const requests: RosRequest[] = [];
    const both = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<RosServiceStatus>();
    link.serve({
      service: '/both',
      type: 'std_srvs/srv/SetBool',
      failure: {},
      onStatus: ready.resolve,
      onRequest(request) {
        requests.push(request);
        if (requests.length === 2) both.resolve();
      },
    });
    expect(await ready.promise).toEqual({
      ready: true,
      code: 'Ready',
      message: 'serves /both (std_srvs/srv/SetBool)',
    });
    const answers = [true, false].map((data) => peer.call('/both', 'std_srvs/srv/SetBool', { data }));
    await both.promise;
    for (const request of requests) {
      const { schema } = request;
      const { data } = decoded(request);
      if (data === true) {
        const response = codecOf(schema.response!.definition, schema.response!.type);
        expect(() => request.respond(Buffer.from([1, 2]))).toThrow();
        request.respond(response.encode({ success: true, message: 'done' }));
      } else request.fail({ code: 'TypeError', message: 'no' });
    }
    expect(await Promise.all(answers)).toEqual([
      { success: true, message: 'done' },
      { success: false, message: 'TypeError: no' },
    ]);
  });

  test('64 bits and lists of structures go through services whole, both ways', async () => {
    const machine = await rosMachine();
    const link = machine.link();
    await linkIs(link, true);
    const peer = await startRosPeer({ env: machine.env });
    const big = 2n ** 62n + 1n;
    const type = 'rcl_interfaces/srv/GetParameters';
    const ready = Promise.withResolvers<RosServiceStatus>();
    const asked: unknown[] = [];
    link.serve({
      service: '/ours',
      type,
      failure: {},
      onStatus: ready.resolve,
      onRequest(request) {
        asked.push(decoded(request));
        const { type, definition } = request.schema.response!;
        const values = [
          { type: 2, integer_value: big },
          { type: 7, integer_array_value: [1n, -big], byte_array_value: [], string_array_value: ['ü', ''] },
        ];
        request.respond(codecOf(definition, type).encode({ values }));
      },
    });
    await ready.promise;
    expect(await peer.call('/ours', type, { names: ['a', 'ü'] })).toMatchObject({
      values: [{ integer_value: big }, { integer_array_value: [1, -big], string_array_value: ['ü', ''] }],
    });
    expect(asked).toEqual([{ names: ['a', 'ü'] }]);

    await peer.serve('/theirs', type, ({ names }: { names: string[] }) => ({
      values: names.map((name) => ({ type: 2, integer_value: -big, string_value: name })),
    }));
    const answer = await link.call('/theirs', type, { names: ['ö'] }, { timeoutMs: 20_000 });
    expect(answer).toMatchObject({ values: [{ integer_value: -big, string_value: 'ö', double_value: 0 }] });
  });

  test('the newest one that serves a name gets its requests; when it leaves, the older one does', async () => {
    const machine = await rosMachine();
    const peer = await startRosPeer({ env: machine.env });
    const serve = async (message: string) => {
      const link = machine.link();
      await linkIs(link, true);
      const ready = Promise.withResolvers<RosServiceStatus>();
      link.serve({
        service: '/who',
        type: 'std_srvs/srv/Trigger',
        failure: {},
        onStatus: ready.resolve,
        onRequest: ({ schema, respond }) => {
          const { type, definition } = schema.response!;
          respond(codecOf(definition, type).encode({ success: true, message }));
        },
      });
      expect(await ready.promise).toMatchObject({ ready: true });
      return link;
    };
    const who = async () =>
      ((await peer.call('/who', 'std_srvs/srv/Trigger')) as { message: string }).message;
    await serve('old');
    expect(await who()).toBe('old');
    const newer = await serve('new');
    expect(await who()).toBe('new');
    await newer.close();
    expect(await who()).toBe('old');
    const other = Promise.withResolvers<RosServiceStatus>();
    const link = machine.link();
    await linkIs(link, true);
    link.serve({
      service: '/who',
      type: 'std_srvs/srv/SetBool',
      failure: {},
      onStatus: other.resolve,
      onRequest: () => {},
    });
    expect(await other.promise).toEqual({
      ready: false,
      code: 'RosTypeMismatch',
      message: '/who is offered as std_srvs/srv/Trigger already',
    });
  });

  test('who calls while the host is gone is answered; so is who called before it went', async () => {
    const machine = await rosMachine();
    const peer = await startRosPeer({ env: machine.env });
    const link = machine.link();
    await linkIs(link, true);
    const asked = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<RosServiceStatus>();
    link.serve({
      service: '/left',
      type: 'std_srvs/srv/Trigger',
      failure: {},
      onStatus: ready.resolve,
      onRequest: () => asked.resolve(),
    });
    await ready.promise;
    const before = peer.call('/left', 'std_srvs/srv/Trigger');
    await asked.promise;
    await link.close();
    expect(await before).toEqual({
      success: false,
      message: 'HostUnavailable: the host of the function ended before it answered',
    });
    expect(await peer.call('/left', 'std_srvs/srv/Trigger')).toEqual({
      success: false,
      message: 'HostUnavailable: no function answers this service at the moment; try again',
    });
  });

  test.each(['SIGKILL', 'SIGSEGV'] as const)(
    'after %s of the ROS process who waits gets an error, and a new one goes on with all subscriptions and services',
    async (signal) => {
      const machine = await rosMachine();
      const link = machine.link();
      await linkIs(link, true);
      const peer = await startRosPeer({ env: machine.env });
      const heard = heardBy(link, [entry('/text')]);
      link.serve({
        service: '/twice',
        type: 'std_srvs/srv/Trigger',
        failure: {},
        onStatus: () => {},
        onRequest: ({ fail }) => fail({ code: 'Here', message: 'again' }),
      });
      await peer.advertise('/text', 'std_msgs/msg/String');
      await heard.subscribed('/text');
      await peer.serve('/never', 'std_srvs/srv/Trigger', () => new Promise<object>(() => {}));
      const call = link.call('/never', 'std_srvs/srv/Trigger', {}, { timeoutMs: 60_000 });
      const publishing = link.publish('/b', 'std_msgs/msg/String', { data: 'b' });
      await publishing;
      const failed = expect(call).rejects.toMatchObject({ code: 'RosUnavailable' });
      expect(await machine.process.kill(signal)).toMatchObject({ signal });
      await failed;
      await linkIs(link, false);
      expect(link.state.reason).toBe('RosUnavailable');
      await expect(link.definition('std_msgs/msg/String')).rejects.toMatchObject({ code: 'RosUnavailable' });
      await machine.start();
      await linkIs(link, true);
      // The subscription that was killed counts as one for as long as its lease, so nobody can tell when the new one is known.
      while (heard.messages.length === 0) {
        await peer.publish('/text', { data: 'after' });
        await Promise.race([heard.count(1), pause(200)]);
      }
      expect(decoded(heard.messages[0]!)).toEqual({ data: 'after' });
      expect(await peer.call('/twice', 'std_srvs/srv/Trigger')).toEqual({
        success: false,
        message: 'Here: again',
      });
    },
  );

  test('ends without a crash when it is told to, with everything open', async () => {
    const machine = await rosMachine();
    const link = machine.link();
    await linkIs(link, true);
    const peer = await startRosPeer({ env: machine.env });
    const heard = heardBy(link, [entry('/**')]);
    await peer.advertise('/text', 'std_msgs/msg/String');
    await heard.subscribed('/text');
    await link.publish('/b', 'std_msgs/msg/String', { data: 'b' });
    expect(await machine.process.stop()).toEqual({ code: 0, signal: null });
  });

  test('without ROS, or without rclnodejs, it says what is missing, and touches nothing', async () => {
    const { env } = await rosMachine({ started: false });
    const { AMENT_PREFIX_PATH: _, ...unsourced } = env;
    const sayings: [NodeJS.ProcessEnv, RegExp][] = [
      [unsourced, /AMENT_PREFIX_PATH is not set: source a ROS 2/],
      [{ ...env, ATOLL_RCLNODEJS: '/nowhere/rclnodejs' }, /rclnodejs is not there \(\/nowhere\/rclnodejs\)/],
    ];
    for (const [wrong, says] of sayings) {
      const machine = await rosMachine({ env: wrong });
      const link = machine.link();
      await new Promise<void>((resolve) =>
        link.onState(({ reason }) => reason === 'RosNotInstalled' && resolve()),
      );
      expect(link.state.message).toMatch(says);
      await expect(link.publish('/a', 'std_msgs/msg/String', { data: '' })).rejects.toMatchObject({
        code: 'RosNotInstalled',
      });
    }
  });
});
