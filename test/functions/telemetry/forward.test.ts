import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { CallError, PermanentError, type Context, type TriggerInfo } from 'atoll';
import { fakeCalls, testContext, type FakeCalls, type MadeCall } from 'atoll/testing';
import { openDefinitions } from '../../../functions/telemetry/definitions.ts';
import { openForward } from '../../../functions/telemetry/forward.ts';
import { parseSettings } from '../../../functions/telemetry/settings.ts';
import { openTopics } from '../../../functions/telemetry/topics.ts';
import {
  decode,
  encode,
  openAssembly,
  readSchema,
  schemaHash,
  telemetryOf,
  type RosMessage,
} from '../../../runtime/telemetry.ts';
import { definitions, type KnownType } from '../../runtime/telemetry/types.ts';

let calls: FakeCalls;

beforeEach(() => {
  calls = fakeCalls();
  for (const [type, text] of Object.entries(definitions)) calls.answer(type, text);
});
afterEach(() => calls.remove());

/** The function with these topics, and what it told of. */
function open(entries: string, { now }: { now?: () => number } = {}) {
  const settings = parseSettings(
    `robot: robot1\nframes: { chunkBytes: 1024, bytesPerSecond: 100kB }\ntopics:\n  - ${entries}\n`,
  );
  const topics = openTopics(settings);
  const problems: string[] = [];
  const known = openDefinitions('robot1', now);
  const forward = openForward({
    settings,
    topics,
    definitions: known,
    run: 'run1',
    tell: ({ name }, problem) => void problems.push(`${name}: ${problem}`),
  });
  const counts = (topic: string) => [...topics.all()].find(({ name }) => name === topic)!.counter.read();
  return { forward, problems, counts, definitions: known };
}

let events = 0;

function context(
  topic: string,
  type: string,
  given: Partial<TriggerInfo> = {},
  more: Partial<Context> = {},
): Context {
  events += 1;
  const trigger = {
    kind: 'ros',
    name: 'sensors',
    subject: topic,
    type,
    id: `event-${events}`,
    time: Date.now(),
    attempt: 1,
    headers: {},
  };
  return testContext({ trigger: { ...trigger, ...given } as TriggerInfo, ...more });
}

const cdr = (type: KnownType, message: RosMessage): Uint8Array =>
  encode(message, 'cdr', readSchema(type, definitions[type]));
const published = (prefix: string): MadeCall[] =>
  calls.of('nats.publish').filter(({ target }) => target.startsWith(prefix));
const received = ({ data, options }: MadeCall) => ({
  data,
  headers: options['headers'] as Record<string, string>,
});
const lookUp = {
  definitions: (hash: string) => Object.values(definitions).find((text) => schemaHash(text) === hash),
};

const battery = (percentage: number): RosMessage => ({
  header: { stamp: { sec: 7, nanosec: 5 }, frame_id: 'base' },
  percentage: Math.fround(percentage),
  location: 'slot 1',
});
const type = 'sensor_msgs/msg/BatteryState';

describe('a message', () => {
  test.each(['yaml', 'json', 'cbor', 'cdr'] as const)(
    'as %s is what it was, and says what it is',
    async (as) => {
      const { forward, counts } = open(`{ ros: /battery_state, as: ${as} }`);
      const data = cdr(type, battery(0.5));
      const at = context('/battery_state', type, { time: 1_764_000_000_123 });
      await forward(data, at);
      const [call] = published('robots.robot1.live.battery_state');
      expect(await decode(received(call!), lookUp)).toMatchObject({
        encoding: as,
        robot: 'robot1',
        topic: '/battery_state',
        type,
        schema: schemaHash(definitions[type]),
        stamp: { sec: 7, nanosec: 5 },
        received: 1_764_000_000_123,
        run: 'run1',
        sequence: 1,
        message: battery(0.5),
      });
      if (as === 'cdr') expect(call!.data).toEqual(new Uint8Array(data));
      expect(counts('/battery_state')).toMatchObject({
        in: 1,
        out: 1,
        filtered: 0,
        dropped: 0,
        bytes: call!.data.length,
      });
    },
  );

  test('its definition is kept before it, once', async () => {
    const { forward } = open('{ ros: /battery_state, as: cdr, class: lossless }');
    for (let time = 0; time < 3; time += 1)
      await forward(cdr(type, battery(time)), context('/battery_state', type));
    const hash = schemaHash(definitions[type]);
    expect(calls.of('nats.publish').map(({ target }) => target)).toEqual([
      `robots.robot1.kept.ros-schemas.${hash}`,
      ...Array.from({ length: 3 }, () => 'robots.robot1.kept.battery_state'),
    ]);
    const [schema] = published('robots.robot1.kept.ros-schemas');
    expect(schema!.string()).toBe(definitions[type]);
    expect(calls.of('ros.definition').length).toBe(1);
  });

  test('only the fields that are asked for', async () => {
    const { forward } = open('{ ros: /battery_state, as: json, fields: [header.stamp, percentage] }');
    await forward(cdr(type, battery(0.5)), context('/battery_state', type));
    const decoded = await decode(received(published('robots.robot1.live')[0]!), lookUp);
    expect(decoded.message).toEqual({ header: { stamp: { sec: 7, nanosec: 5 } }, percentage: 0.5 });
    expect(decoded.fields).toEqual(['header.stamp', 'percentage']);
  });

  test('that no filter lets through is counted, and takes no number', async () => {
    const { forward, counts } = open('{ ros: /battery_state, as: json, onChange: { percentage: 0.1 } }');
    for (const percentage of [0.5, 0.52, 0.7]) {
      await forward(cdr(type, battery(percentage)), context('/battery_state', type));
    }
    expect(published('robots.robot1.live').map((call) => telemetryOf(received(call)).sequence)).toEqual([
      1, 2,
    ]);
    expect(counts('/battery_state')).toMatchObject({ in: 3, out: 2, filtered: 1 });
  });

  test('of a topic that nobody asked for goes nowhere', async () => {
    const { forward, counts } = open('{ ros: /scan }');
    await forward(cdr(type, battery(1)), context('/battery_state', type));
    expect(calls.made).toEqual([]);
    expect(counts('/battery_state')).toMatchObject({ in: 1, filtered: 1 });
  });

  test('in CDR goes also where ROS has no definition, and is not looked into', async () => {
    const { forward, problems } = open('{ ros: /odd, as: cdr }');
    const bytes = Uint8Array.of(0, 1, 0, 0, 9);
    await forward(bytes, context('/odd', 'odd_msgs/msg/Odd'));
    const [call] = published('robots.robot1.live.odd');
    expect(call!.data).toEqual(bytes);
    expect(telemetryOf(received(call!)).schema).toBeUndefined();
    expect(problems).toEqual([expect.stringMatching(/^\/odd: it goes without a definition: /)]);
  });
});

describe('what cannot be sent', () => {
  test.each([
    [
      'bytes that are not of the type',
      Uint8Array.of(0, 1, 0, 0, 1),
      type,
      '{ ros: /a, as: json }',
      /it is no sensor_msgs/,
      1,
    ],
    [
      'another type than the settings have',
      cdr(type, battery(1)),
      type,
      '{ ros: /a, type: std_msgs/msg/String }',
      /its publisher has sensor_msgs\/msg\/BatteryState, and TELEMETRY has std_msgs\/msg\/String for it/,
      0,
    ],
    [
      'a field that the type does not have',
      cdr(type, battery(1)),
      type,
      '{ ros: /a, as: json, fields: [percent] }',
      /fields: sensor_msgs\/msg\/BatteryState has no percent: sensor_msgs\/msg\/BatteryState has header, voltage/,
      0,
    ],
    [
      'a type that ROS does not know',
      cdr(type, battery(1)),
      'odd_msgs/msg/Odd',
      '{ ros: /a, as: json }',
      /no answer was given/,
      0,
    ],
  ])('%s: counted, told, and no further harm', async (_, data, of, entry, why, decodeErrors) => {
    const { forward, problems, counts } = open(entry);
    await forward(data, context('/a', of));
    expect(problems).toEqual([expect.stringMatching(why)]);
    expect(counts('/a')).toMatchObject({ in: 1, out: 0, dropped: 1, decodeErrors });
    expect(published('robots.robot1.live')).toEqual([]);
  });

  test('wide text, which has no agreed form: in CDR it goes as it is, else it is told', async () => {
    const wide = 'example_msgs/msg/Wide';
    // Four bytes a letter, as Jazzy has it.
    const data = Uint8Array.of(0, 1, 0, 0, 1, 0, 0, 0, 0xfc, 0, 0, 0);
    calls.answer(wide, 'wstring text\n');
    const untouched = open('{ ros: /a, as: cdr }');
    await untouched.forward(data, context('/a', wide));
    expect(published('robots.robot1.live').map((call) => call.data)).toEqual([data]);
    const { forward, problems, counts } = open('{ ros: /b, as: json }');
    await forward(data, context('/b', wide));
    expect(problems).toEqual([expect.stringMatching(/^\/b: it is no example_msgs\/msg\/Wide: .*wstring/)]);
    expect(counts('/b')).toMatchObject({ in: 1, dropped: 1, decodeErrors: 1 });
  });

  test('of class lossless is a dead letter, at once', async () => {
    const { forward, counts } = open('{ ros: /a, as: json, class: lossless }');
    await expect(forward(Uint8Array.of(0, 1, 0, 0, 1), context('/a', type))).rejects.toThrow(PermanentError);
    expect(counts('/a')).toMatchObject({ in: 1, dropped: 1, decodeErrors: 1 });
  });

  test('too big: a dead letter of class lossless, else dropped', async () => {
    const tooLarge = new CallError('TooLarge', 'the message has 9 MB', false);
    for (const kind of ['lossless', 'ring', 'latest']) {
      const { forward, counts } = open(`{ ros: /a, class: ${kind} }`);
      for (const target of ['robots.robot1.kept.a', 'robots.robot1.kept.a.1', 'robots.robot1.live.a']) {
        calls.answer(target, tooLarge);
      }
      const outcome = await forward(cdr(type, battery(1)), context('/a', type)).catch(
        (error: unknown) => error,
      );
      expect(outcome instanceof PermanentError, kind).toBe(kind === 'lossless');
      expect(counts('/a')).toMatchObject({
        in: 1,
        out: 0,
        dropped: 1,
        problem: expect.stringMatching(/9 MB/) as string,
      });
    }
  });

  test('a topic that comes back with another type goes on', async () => {
    const { forward } = open('{ ros: /a, as: json, onChange: { data: true } }');
    await forward(cdr('std_msgs/msg/String', { data: 'x' }), context('/a', 'std_msgs/msg/String'));
    const counters = cdr('example_msgs/msg/Counters', {});
    const { forward: any } = open('{ ros: /a, as: json }');
    await any(counters, context('/a', 'example_msgs/msg/Counters'));
    await any(cdr('std_msgs/msg/String', { data: 'x' }), context('/a', 'std_msgs/msg/String'));
    expect(published('robots.robot1.live.a').map((call) => telemetryOf(received(call)).type)).toEqual([
      'std_msgs/msg/String',
      'example_msgs/msg/Counters',
      'std_msgs/msg/String',
    ]);
  });
});

describe('kept messages', () => {
  const away = new CallError('NatsUnavailable', 'nats is away', true);

  test('are published with an id that is the same when the event comes again', async () => {
    const { forward, counts } = open('{ ros: /a, class: lossless }');
    calls.answer('robots.robot1.kept.a', away);
    const at = context('/a', type, { id: 'same' }, { getRemainingTimeInMillis: () => 0 });
    await expect(forward(cdr(type, battery(1)), at)).rejects.toThrow(/away/);
    calls.answer('robots.robot1.kept.a', undefined);
    await forward(cdr(type, battery(1)), context('/a', type, { id: 'same', attempt: 2 }));
    await forward(cdr(type, battery(2)), context('/a', type));
    const sent = published('robots.robot1.kept.a');
    expect(sent.map(({ options }) => options['msgId'])).toEqual([
      'robot1/a/same',
      'robot1/a/same',
      expect.stringMatching(/^robot1\/a\/event-/),
    ]);
    expect(sent.map((call) => telemetryOf(received(call)).sequence)).toEqual([1, 1, 2]);
    expect(counts('/a')).toMatchObject({ in: 2, out: 2, dropped: 0 });
  });

  test('are several on their way, and go again in order when JetStream was away for a little', async () => {
    const { forward } = open('{ ros: /a, class: lossless }');
    await forward(cdr(type, battery(0)), context('/a', type));
    let asked = 0;
    const stored: number[] = [];
    calls.answer('robots.robot1.kept.a', (call: MadeCall) => {
      asked += 1;
      if (asked <= 4) return away;
      stored.push(telemetryOf(received(call)).sequence);
      return undefined;
    });
    await Promise.all([1, 2, 3].map((value) => forward(cdr(type, battery(value)), context('/a', type))));
    expect(stored).toEqual([2, 3, 4]);
  });

  test('of a ring have a place in it, of which the stream keeps the last', async () => {
    const { forward } = open('{ ros: /a, class: ring, last: 3 }');
    for (let time = 0; time < 5; time += 1) await forward(cdr(type, battery(time)), context('/a', type));
    const sent = published('robots.robot1.kept.a');
    expect(sent.map(({ target }) => target.split('.').at(-1))).toEqual(['1', '2', '0', '1', '2']);
    expect(sent.every((call) => received(call).headers['Nats-Rollup'] === 'sub')).toBe(true);
  });

  test('leave others room when JetStream is away for longer than a restart takes', async () => {
    const { forward } = open('{ ros: /a, class: lossless }\n  - { ros: /b }');
    calls.answer('robots.robot1.kept.a', away);
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      const waiting = [1, 2].map((value) =>
        forward(cdr(type, battery(value)), context('/a', type)).catch((error: unknown) => String(error)),
      );
      await vi.waitFor(() => expect(published('robots.robot1.kept.a')).not.toEqual([]));
      vi.advanceTimersByTime(6_000);
      // One slot is for what waits; who has no place in it steps back, so that others can go on.
      expect(await waiting[0]).toMatch(/away/);
      await expect(forward(cdr(type, battery(3)), context('/a', type))).rejects.toThrow(
        '/a: 1 messages wait for JetStream already; this one comes again',
      );
      await forward(cdr(type, battery(3)), context('/b', type));
      expect(published('robots.robot1.live.b').length).toBe(1);
      calls.answer('robots.robot1.kept.a', undefined);
      expect(await waiting[1]).toBeUndefined();
      await forward(cdr(type, battery(3)), context('/a', type));
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('frames', () => {
  const image = 'sensor_msgs/msg/CompressedImage';
  const frame = (bytes: number, value: number): Uint8Array =>
    cdr(image, { format: 'jpeg', data: new Uint8Array(bytes).fill(value) });

  test('go in pieces, no faster than their share, and come together again', async () => {
    const { forward } = open('{ ros: /camera, class: frames, enabled: true }');
    const data = frame(10_000, 7);
    const begun = performance.now();
    await forward(data, context('/camera', image));
    // 10 pieces at 100 kB/s: the last begins after 9 × 10.24 ms.
    expect(performance.now() - begun).toBeGreaterThan(85);
    const pieces = published('robots.robot1.live.camera');
    expect(pieces.map((piece) => telemetryOf(received(piece)).chunk)).toEqual(
      Array.from({ length: 10 }, (_, index) => ({ number: index + 1, of: 10 })),
    );
    const assembly = openAssembly();
    const whole = pieces.map((piece) => assembly.add(received(piece))).at(-1);
    expect((await decode(whole!, lookUp)).message).toMatchObject({ data: new Uint8Array(10_000).fill(7) });
  });

  test('the newest wins', async () => {
    const { forward, counts } = open('{ ros: /camera, class: frames, enabled: true }');
    await Promise.all([1, 2, 3, 4].map((value) => forward(frame(5_000, value), context('/camera', image))));
    const firsts = published('robots.robot1.live.camera').filter(
      (piece) => telemetryOf(received(piece)).chunk?.number === 1,
    );
    expect(firsts.map(({ data }) => data.at(-1))).toEqual([1, 4]);
    expect(counts('/camera')).toMatchObject({ in: 4, out: 2, dropped: 2 });
  });

  test('one that the share cannot carry in time is dropped and told', async () => {
    const { forward, problems } = open('{ ros: /camera, class: frames, enabled: true }');
    await forward(
      frame(200_000, 1),
      context('/camera', image, {}, { getRemainingTimeInMillis: () => 2_000 }),
    );
    expect(problems).toEqual([
      expect.stringMatching(/^\/camera: 2000\d\d bytes take 3 s at frames\.bytesPerSecond 100000/),
    ]);
  });
});

test('a definition that could not be kept is kept by the next report, and again after an hour', async () => {
  let now = 0;
  const { forward, definitions: known } = open('{ ros: /a }', { now: () => now });
  const subject = `robots.robot1.kept.ros-schemas.${schemaHash(definitions[type])}`;
  calls.answer(subject, new CallError('StreamNotFound', 'no stream', true));
  await forward(cdr(type, battery(1)), context('/a', type));
  expect(published('robots.robot1.live.a').length).toBe(1);
  calls.answer(subject, undefined);
  for (now of [1, 2, 3_600_000, 3_600_002]) await known.keep();
  expect(published(subject).length).toBe(3);
});

test('a definition that ROS does not give is asked for again after ten seconds', async () => {
  let now = 0;
  const { forward } = open('{ ros: /a, as: json }', { now: () => now });
  calls.answer(type, new CallError('RosTypeNotFound', 'install sensor_msgs', false));
  for (now of [0, 1_000, 9_999]) await forward(cdr(type, battery(1)), context('/a', type));
  expect(calls.of('ros.definition').length).toBe(1);
  calls.answer(type, definitions[type]);
  now = 10_001;
  await forward(cdr(type, battery(1)), context('/a', type));
  expect(published('robots.robot1.live.a').length).toBe(1);
});
