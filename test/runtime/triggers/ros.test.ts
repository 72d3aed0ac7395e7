import { describe, expect, test, vi } from 'vitest';
import type { TriggerSources } from '../../../crds/function.ts';
import type { RosLink } from '../../../runtime/clients/ros.ts';
import { codecOf } from '../../../runtime/ros/message.ts';
import { openRos } from '../../../runtime/triggers/ros.ts';
import { bytesOf, closedLater, contextOf, nextOf, testTrigger } from '../../contracts/trigger.ts';
import type { OpenedTrigger } from '../../contracts/trigger.ts';
import { missing } from '../../support/requirement.ts';
import { startRosPeer, type RosPeer } from '../../support/ros.ts';
import { linkIs, rosMachine, type RosMachine } from '../ros/ros-process.ts';

// Nodes in Python take seconds to start on a busy machine, and discovery does.
vi.setConfig({ testTimeout: 180_000 });

type Source = TriggerSources['ros'];
const bytesType = 'std_msgs/msg/UInt8MultiArray';
const withoutRos = await missing('ros');

function openOn(ros: RosLink, source: Source, given: Parameters<typeof contextOf>[0] = {}): OpenedTrigger {
  const { context, reports } = contextOf({ ros, ...given });
  return { trigger: closedLater(openRos(source, context)), reports };
}

interface Ready extends OpenedTrigger {
  readonly machine: RosMachine;
  readonly peer: RosPeer;
  next(): ReturnType<typeof nextOf>;
}

async function readyWith(source: Source, given: Parameters<typeof contextOf>[0] = {}): Promise<Ready> {
  const machine = await rosMachine();
  const peer = await startRosPeer({ env: machine.env });
  const link = machine.link();
  await linkIs(link, true);
  const opened = openOn(link, source, given);
  const iterator = opened.trigger.deliveries()[Symbol.asyncIterator]();
  return { ...opened, machine, peer, next: () => nextOf(iterator) };
}

const subscribed = (ready: Ready, topic: string) =>
  ready.reports.until(({ message }) => message.includes(`subscribed to`) && message.includes(topic));

describe.skipIf(withoutRos)('the ros trigger', () => {
  testTrigger(
    'ros',
    { kind: 'ros', broker: true, payload: (data) => codec().decode(data)['data'] as Uint8Array },
    async ({ away }) => {
      const machine = await rosMachine({ started: !away });
      const peer = await startRosPeer({ env: machine.env });
      await peer.advertise('/bytes', bytesType, { depth: 100 });
      const link = machine.link();
      let opened = 0;
      return {
        open: (options) => {
          opened += 1;
          return Promise.resolve(
            openOn(link, { topic: '/bytes', type: bytesType, raw: true }, { retry: options?.retry }),
          );
        },
        send: async (data) => {
          if (opened > 0) await peer.matched('/bytes');
          await peer.publish('/bytes', { data });
        },
        broker: {
          // Killed it would be missed only after its lease, and `matched` would count it as well.
          stop: async () => void (await machine.process.stop()),
          start: async () => void (await machine.start()),
        },
      };
    },
  );

  test('a decoded message comes with what decodes it, a raw one as it is', async () => {
    const ready = await readyWith({
      topics: [
        { match: '/plain', raw: false, keepLast: 10, qos: 'auto' },
        { match: '/raw', raw: true, keepLast: 10, qos: 'auto' },
      ],
    });
    for (const topic of ['/plain', '/raw']) {
      await ready.peer.advertise(topic, 'std_msgs/msg/String');
      await ready.peer.matched(topic);
      await ready.peer.publish(topic, { data: topic });
    }
    const [plain, raw] = [await ready.next(), await ready.next()];
    expect(plain.event).toMatchObject({
      encoding: 'cdr',
      subject: '/plain',
      schema: { type: 'std_msgs/msg/String', definition: expect.stringContaining('string data') as string },
      detail: { type: 'std_msgs/msg/String' },
    });
    expect(raw.event).toMatchObject({
      encoding: 'binary',
      subject: '/raw',
      detail: { type: 'std_msgs/msg/String' },
    });
    expect(raw.event.schema).toBeUndefined();
    expect(Buffer.from(raw.event.data).toString('latin1')).toMatch(/^\0\x01\0\0\x05\0\0\0\/raw\0/);
  });

  test('a pattern takes topics as they appear, but for those that are excluded and hidden', async () => {
    const ready = await readyWith({
      topics: [
        {
          match: '/**',
          exclude: ['/rosout', '/parameter_events', '/secret/*'],
          raw: true,
          keepLast: 10,
          qos: 'auto',
        },
      ],
    });
    const { peer } = ready;
    for (const topic of ['/a', '/b/c', '/secret/d', '/_hidden']) {
      await peer.advertise(topic, 'std_msgs/msg/String');
      await peer.publish(topic, { data: 'too early' });
    }
    await Promise.all([peer.matched('/a'), peer.matched('/b/c')]);
    for (const topic of ['/secret/d', '/_hidden', '/a', '/b/c']) await peer.publish(topic, { data: topic });
    // Where it was quick, one may have come that was thought to be too early.
    const subjects = new Set<string>();
    while (subjects.size < 2) subjects.add((await ready.next()).event.subject);
    expect([...subjects].toSorted()).toEqual(['/a', '/b/c']);
    await peer.advertise('/late', 'std_msgs/msg/Bool');
    await peer.matched('/late');
    await peer.publish('/late', { data: true });
    let { event } = await ready.next();
    while (subjects.has(event.subject)) ({ event } = await ready.next());
    expect(event).toMatchObject({
      subject: '/late',
      detail: { type: 'std_msgs/msg/Bool' },
    });
  });

  test('a topic that comes back with another type is taken with that', async () => {
    const ready = await readyWith({ topic: '/changes', raw: true });
    const { peer } = ready;
    await peer.advertise('/changes', 'std_msgs/msg/String');
    await peer.matched('/changes');
    await peer.publish('/changes', { data: 'text' });
    expect((await ready.next()).event.detail).toEqual({ type: 'std_msgs/msg/String' });
    await peer.withdraw('/changes');
    await peer.advertise('/changes', 'std_msgs/msg/Int32');
    await peer.matched('/changes');
    await peer.publish('/changes', { data: 5 });
    expect((await ready.next()).event.detail).toEqual({ type: 'std_msgs/msg/Int32' });
  });

  test('another type than the manifest says, and one that is not installed, keep the trigger from being ready', async () => {
    const ready = await readyWith({ topic: '/typed', type: 'std_msgs/msg/Int32' });
    await ready.peer.advertise('/typed', 'std_msgs/msg/String');
    const mismatch = await ready.reports.until(
      ({ reason, message }) => reason === 'RosTypeMismatch' && message.includes('by /peer'),
    );
    expect(mismatch.message).toBe(
      '/typed is published as std_msgs/msg/String by /peer, and taken as std_msgs/msg/Int32',
    );
    await ready.peer.withdraw('/typed');
    await ready.peer.advertise('/typed', 'std_msgs/msg/Int32');
    await ready.reports.until(({ ready }) => ready);
    const unknown = openOn(ready.machine.link(), { topic: '/x', type: 'autoware_msgs/msg/Lane' });
    const state = await unknown.reports.until(({ reason }) => reason === 'RosTypeNotFound');
    expect(state).toMatchObject({
      ready: false,
      message: expect.stringContaining('apt install ros-jazzy-autoware-msgs') as string,
    });
  });

  test('qos auto asks for what publishers offer: a late subscriber gets what was published before', async () => {
    const ready = await readyWith({ topic: '/map_name' });
    const { peer } = ready;
    await peer.advertise('/map_name', 'std_msgs/msg/String', { durability: 'transient_local' });
    await peer.publish('/map_name', { data: 'hall 3' });
    const { event } = await ready.next();
    expect(codecOf(event.schema!.definition, event.schema!.type).decode(event.data)).toEqual({
      data: 'hall 3',
    });
    expect(ready.reports.last!.message).toBe(
      'subscribed to /map_name (std_msgs/msg/String, reliable transient local)',
    );
    // Another publisher offers less, and is heard as well.
    const other = await startRosPeer({ env: ready.machine.env, name: 'other' });
    await other.advertise('/map_name', 'std_msgs/msg/String', { reliability: 'best_effort' });
    await ready.reports.until(({ message }) => message.includes('best effort'));
    await other.matched('/map_name');
    await other.publish('/map_name', { data: 'hall 4' });
    const second = await ready.next();
    expect(
      codecOf(second.event.schema!.definition, second.event.schema!.type).decode(second.event.data),
    ).toEqual({
      data: 'hall 4',
    });
  });

  test('keepLast: a function that is busy finds the newest messages, not the oldest', async () => {
    const ready = await readyWith({
      topic: '/numbers',
      raw: true,
      keepLast: 2,
      qos: 'reliable',
      type: 'std_msgs/msg/Int32',
    });
    const { peer } = ready;
    await peer.advertise('/numbers', 'std_msgs/msg/Int32', { depth: 100 });
    await peer.matched('/numbers');
    const numberOf = (data: Uint8Array): number => Buffer.from(data).readInt32LE(4);
    await peer.publish('/numbers', { data: 0 });
    expect(numberOf((await ready.next()).event.data)).toBe(0);
    await peer.burst('/numbers', { count: 49, hz: 200, field: 'data', first: 1 });
    let taken = 1;
    const next = async (): Promise<number> => {
      const { event } = await ready.next();
      taken += 1;
      return numberOf(event.data);
    };
    await expect.poll(next, { timeout: 60_000 }).toBe(49);
    expect(taken).toBeLessThan(50);
    // Told a few times a second.
    const allAreCounted = (): boolean => {
      const [counts] = ready.trigger.topics!();
      return counts!.replaced > 0 && counts!.replaced === counts!.received - taken;
    };
    await expect.poll(allAreCounted, { timeout: 60_000 }).toBe(true);
  });

  test('maxHz leaves out what comes faster, of each topic by itself', async () => {
    const ready = await readyWith({ topic: '/fast*', raw: true, maxHz: 10, keepLast: 1000 });
    const { peer } = ready;
    for (const topic of ['/fast_a', '/fast_b']) {
      await peer.advertise(topic, 'std_msgs/msg/Int32', { depth: 1000 });
      await peer.matched(topic);
    }
    const counts = { '/fast_a': 0, '/fast_b': 0 };
    void (async () => {
      for await (const { event } of ready.trigger.deliveries()) counts[event.subject as '/fast_a'] += 1;
    })();
    const begun = performance.now();
    await Promise.all(
      ['/fast_a', '/fast_b'].map((topic) => peer.burst(topic, { count: 200, hz: 100, field: 'data' })),
    );
    await expect.poll(() => Math.min(...Object.values(counts))).toBeGreaterThan(10);
    // Two seconds, on a machine that keeps up.
    const seconds = (performance.now() - begun) / 1000;
    for (const count of Object.values(counts)) expect(count).toBeLessThan(10 * seconds + 15);
  });

  test('a message of 20 MB is counted and left out, and the next one comes', async () => {
    const ready = await readyWith({ topic: '/big', type: bytesType, raw: true });
    const { peer } = ready;
    await peer.advertise('/big', bytesType);
    await peer.matched('/big');
    await peer.publish('/big', { data: new Uint8Array(20 * 1024 * 1024) });
    await peer.publish('/big', { data: new Uint8Array([1]) });
    expect((await ready.next()).event.data.length).toBeLessThan(100);
    await expect.poll(() => ready.reports.dropped, { timeout: 60_000 }).toEqual(['/big']);
    // What ros.topics() tells the handler.
    const counts = { publishers: 1, received: 2, filtered: 0, replaced: 0, tooLarge: 1 };
    await expect
      .poll(() => ready.trigger.topics!(), { timeout: 60_000 })
      .toEqual([
        { trigger: 'main', topic: '/big', type: bytesType, since: expect.any(Number) as number, ...counts },
      ]);
  });

  test('a service: the request is the event, the result the response, as many at once as there are slots', async () => {
    const ready = await readyWith({ service: '/enable', type: 'std_srvs/srv/SetBool' });
    await ready.reports.until(({ ready }) => ready);
    const answers = [true, false].map((data) => ready.peer.call('/enable', 'std_srvs/srv/SetBool', { data }));
    const deliveries = [await ready.next(), await ready.next()];
    for (const { event, replies, settle } of deliveries) {
      expect(event).toMatchObject({ kind: 'ros', subject: '/enable', encoding: 'cdr' });
      expect(replies).toBe(true);
      const { data } = codecOf(event.schema!.definition, event.schema!.type).decode(event.data) as {
        data: boolean;
      };
      const { response } = event.schema!;
      const result = codecOf(response!.definition, response!.type).encode({
        success: true,
        message: `was ${data}`,
      });
      await settle({ kind: 'done', result: { encoding: 'binary', data: result } });
    }
    expect(await Promise.all(answers)).toEqual([
      { success: true, message: 'was true' },
      { success: true, message: 'was false' },
    ]);
  });

  test('a service answers when the function fails, is drained, answers nonsense, or nobody takes the request', async () => {
    const ready = await readyWith({ service: '/do', type: 'std_srvs/srv/Trigger' }, { timeoutSeconds: 3 });
    await ready.reports.until(({ ready }) => ready);
    const call = () => ready.peer.call('/do', 'std_srvs/srv/Trigger');
    let answer = call();
    const fault = { code: 'TypeError', message: 'no such map' };
    await (
      await ready.next()
    ).settle({ kind: 'failed', fault, reason: 'RetriesExhausted', outcome: 'threw' });
    expect(await answer).toEqual({ success: false, message: 'TypeError: no such map' });
    answer = call();
    await (await ready.next()).settle({ kind: 'retry', delayMs: 0, failed: false });
    expect(await answer).toMatchObject({
      success: false,
      message: expect.stringContaining('Runtime.Drained') as string,
    });
    answer = call();
    await (await ready.next()).settle({ kind: 'done', result: { encoding: 'json', data: bytesOf('{}') } });
    expect(await answer).toMatchObject({
      success: false,
      message: expect.stringContaining('InvalidResponse') as string,
    });
    expect(await call()).toEqual({
      success: false,
      message: 'TooManyRequests: all slots are busy; try again later',
    });
  });

  test('a failure is told as the manifest says', async () => {
    const ready = await readyWith({
      service: '/do',
      type: 'std_srvs/srv/Trigger',
      failure: { success: 'true', message: 'failed with {code}' },
    });
    await ready.reports.until(({ ready }) => ready);
    const answer = ready.peer.call('/do', 'std_srvs/srv/Trigger');
    const fault = { code: 'TypeError', message: 'no' };
    await (await ready.next()).settle({ kind: 'failed', fault, reason: 'RetriesExhausted' });
    expect(await answer).toEqual({ success: true, message: 'failed with TypeError' });
    const wrong = openOn(ready.machine.link(), {
      service: '/other',
      type: 'std_srvs/srv/Trigger',
      failure: { status: '1' },
    });
    const state = await wrong.reports.until(({ reason }) => reason === 'RosTypeMismatch');
    expect(state.message).toBe(
      'failure: the response has no field "status" that could be filled; it has success, message',
    );
  });

  test('200 topics by one pattern', { timeout: 120_000 }, async () => {
    const ready = await readyWith({ topic: '/many/*', raw: true, maxHz: 1 });
    const { peer } = ready;
    const topics = Array.from({ length: 200 }, (_, index) => `/many/t${index}`);
    for (const topic of topics) await peer.advertise(topic, 'std_msgs/msg/Int32');
    await subscribed(ready, 'and 195 more');
    for (const topic of topics) await peer.matched(topic);
    for (const [index, topic] of topics.entries()) await peer.publish(topic, { data: index });
    const seen = new Set<string>();
    while (seen.size < topics.length) seen.add((await ready.next()).event.subject);
  });
});

test('without ROS on the host the condition says what it takes', async () => {
  const { context, reports } = contextOf({});
  closedLater(openRos({ topic: '/scan' }, context));
  const state = await reports.until(() => true);
  expect(state).toMatchObject({ ready: false, reason: 'RosNotInstalled' });
  expect(state.message).toContain('where ROS 2 is installed and sourced');
});

const codec = () =>
  codecOf(
    'MultiArrayLayout layout\nuint8[] data\n================================================================================\nMSG: std_msgs/MultiArrayLayout\nMultiArrayDimension[] dim\nuint32 data_offset\n================================================================================\nMSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n',
    bytesType,
  );
