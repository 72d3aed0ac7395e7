import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { parseSettings } from '../../../functions/telemetry/settings.ts';

const environment = { ROBOT_ID: 'robot1' };
const read = (text: string) => parseSettings(text, environment);
const withTopic = (entry: string) => read(`robot: robot1\ntopics:\n  - ${entry}\n`);

test('what is not said has its default', () => {
  expect(read('robot: robot1\ntopics: [{ ros: /scan }]')).toEqual({
    robot: 'robot1',
    namespace: '',
    allow: ['/**'],
    deny: [],
    topics: [
      {
        ros: '/scan',
        type: undefined,
        as: 'cdr',
        class: 'latest',
        last: 100,
        enabled: true,
        maxHz: undefined,
        everyNth: 1,
        onChange: [],
        condition: [],
        fields: undefined,
        atLeastEveryMs: undefined,
      },
    ],
    subjects: {},
    frames: { bytesPerSecond: 500_000, chunkBytes: 65_536 },
    commands: [],
  });
});

test('everything that can be said is read', () => {
  const settings = read(`
robot: "\${ROBOT_ID}"
namespace: /robot1
allow: [/scan, /camera/**]
deny: [/rosout]
subjects: { /odd_name: camera.front }
frames: { bytesPerSecond: 4MB, chunkBytes: 32KiB }
topics:
  - { ros: /camera/*, type: sensor_msgs/msg/Image, as: cbor, class: ring, last: 5, maxHz: 0.5, everyNth: 3,
      onChange: { header.frame_id: true, "data[0]": 2 }, condition: [height > 10, 'encoding == "rgb8"'],
      fields: [header.stamp, data], atLeastEvery: 1.5s, enabled: false }
commands:
  - { name: drive, topic: /cmd_vel, type: geometry_msgs/msg/Twist, ttl: 500ms }
  - { name: dock, service: /dock, type: std_srvs/srv/Trigger, ttl: 1m, timeout: 20s }
`);
  expect(settings).toMatchObject({
    robot: 'robot1',
    namespace: '/robot1',
    frames: { bytesPerSecond: 4_000_000, chunkBytes: 32_768 },
    commands: [
      { name: 'drive', to: { topic: '/cmd_vel' }, ttlMs: 500 },
      { name: 'dock', to: { service: '/dock' }, ttlMs: 60_000, timeoutMs: 20_000 },
    ],
  });
  expect(settings.topics[0]).toMatchObject({
    last: 5,
    everyNth: 3,
    atLeastEveryMs: 1500,
    enabled: false,
    onChange: [
      { path: ['header', 'frame_id'], by: 0 },
      { path: ['data', 0], by: 2 },
    ],
    fields: [['header', 'stamp'], ['data']],
  });
  expect(settings.topics[0]!.condition.map(({ text }) => text)).toEqual([
    'height > 10',
    'encoding == "rgb8"',
  ]);
});

test('frames are off unless they are asked for', () => {
  expect(withTopic('{ ros: /camera, class: frames }').topics[0]!.enabled).toBe(false);
  expect(withTopic('{ ros: /camera, class: frames, enabled: true }').topics[0]!.enabled).toBe(true);
});

describe('a mistake is told with the value, what is allowed and where', () => {
  test.each([
    ['', /^TELEMETRY is empty: /],
    ['robot: {', /^TELEMETRY is no YAML: .* at line 1/s],
    ['- a', /^TELEMETRY: it is \["a"\]; it must be a mapping of settings/],
    ['topics: []', /^TELEMETRY: robot is missing; it must be an id: a small letter/],
    ['robot: Robot.1', /robot is "Robot\.1"; it must be an id/],
    [
      'robot: "${MISSING}"',
      /robot is "\$\{MISSING\}", and the environment has no MISSING: set it in spec\.env$/,
    ],
    [
      'robot: r\nrate: 5',
      /rate is no setting; there are robot, namespace, frames, allow, deny, topics, subjects, commands$/,
    ],
    ['robot: r\nallow: /scan', /allow is "\/scan"; it must be a list/],
    ['robot: r\ndeny: [scan]', /deny\[0\] is "scan"; it must be a topic of ROS/],
    [
      'robot: r\nframes: { bytesPerSecond: fast }',
      /frames\.bytesPerSecond is "fast"; it must be a size of at least 1000 bytes/,
    ],
    ['robot: r\nframes: { chunk: 5 }', /frames\.chunk is no setting; there are bytesPerSecond, chunkBytes$/],
    ['robot: r\nsubjects: { /a: "b.*" }', /subjects\["\/a"\] is "b\.\*"; it must be words of letters/],
    ['robot: r\nsubjects: { /a: x, /b: x }', /subjects has the subject "x" twice/],
    ['robot: r\ntopics: [{ ros: /a }, { ros: /a }]', /topics has the ros "\/a" twice/],
    [
      'robot: r\ncommands: [{ name: go, type: a/msg/B }]',
      /commands\[0\] must have exactly one of topic, service/,
    ],
    [
      'robot: r\ncommands: [{ name: go, service: /a, type: a/msg/B }]',
      /commands\[0\]\.type is "a\/msg\/B"; it must be a service type/,
    ],
    [
      'robot: r\ncommands: [{ name: a.b, topic: /a, type: a/msg/B }]',
      /commands\[0\]\.name is "a\.b"; it must be up to 64 letters/,
    ],
    [
      'robot: r\ncommands: [{ name: a, topic: /a, type: a/msg/B, timeout: 5s }]',
      /commands\[0\]\.timeout is for a service/,
    ],
  ])('%j', (text, why) => {
    expect(() => read(text)).toThrow(why);
  });

  test.each([
    ['{ as: json }', /topics\[0\]\.ros is missing; it must be a topic of ROS, such as/],
    [
      '{ ros: /a, maxhz: 5 }',
      /topics\[0\]\.maxhz is no setting; there are as, class, ros, type, last, enabled, maxHz, everyNth/,
    ],
    [
      '{ ros: /a, class: lossles }',
      /topics\[0\]\.class is "lossles"; it must be one of lossless, ring, latest, frames$/,
    ],
    ['{ ros: /a, as: xml }', /topics\[0\]\.as is "xml"; it must be one of yaml, json, cbor, cdr$/],
    ['{ ros: /a, maxHz: 0 }', /topics\[0\]\.maxHz is 0; it must be a number above 0, at most 10000$/],
    ['{ ros: /a, maxHz: fast }', /topics\[0\]\.maxHz is "fast"; it must be a number above 0/],
    ['{ ros: /a, everyNth: 1.5 }', /topics\[0\]\.everyNth is 1\.5; it must be a whole number from 1/],
    ['{ ros: /a, type: LaserScan }', /topics\[0\]\.type is "LaserScan"; it must be a message type, such as/],
    ['{ ros: /a, as: cdr, fields: [b] }', /topics\[0\]\.fields cannot be with as: cdr/],
    ['{ ros: /a, as: json, fields: [b..c] }', /topics\[0\]\.fields\[0\] is "b\.\.c"; it must be a field/],
    [
      '{ ros: /a, as: json, fields: ["b[0]"] }',
      /topics\[0\]\.fields\[0\] is "b\[0\]"; it must be a field without an index/,
    ],
    ['{ ros: /a, last: 5 }', /topics\[0\]\.last is for class: ring, and this is latest$/],
    [
      '{ ros: /a, onChange: { b: -1 } }',
      /topics\[0\]\.onChange\.b is -1; it must be by how much, from 0, or true/,
    ],
    [
      '{ ros: /a, condition: b }',
      /topics\[0\]\.condition is "b"; it must be a field, one of < <= > >= == !=/,
    ],
    [
      '{ ros: /a, atLeastEvery: 10 }',
      /topics\[0\]\.atLeastEvery is 10; it must be a duration, such as 500ms, 10s/,
    ],
    ['{ ros: /a, enabled: yes }', /topics\[0\]\.enabled is "yes"; it must be true or false/],
  ])('%s', (entry, why) => {
    expect(() => withTopic(entry)).toThrow(why);
  });

  test('all of them at once', () => {
    expect(() => read('topics: [{ ros: /a, as: xml, maxHz: 0 }]')).toThrow(
      /robot is missing.*as is "xml".*maxHz is 0/s,
    );
  });
});

test('a topic of ROS has no dots, so settings are no way out of the subjects of the robot', () => {
  for (const robot of ['a.b', 'a>', '*', 'robot1.kept', 'a b', '']) {
    expect(() => read(`robot: ${JSON.stringify(robot)}`)).toThrow(/robot is/);
  }
});

async function settingsIn(manifest: string) {
  const file = join(import.meta.dirname, '../../../functions/telemetry', manifest);
  const { spec } = parse(await readFile(file, 'utf8')) as {
    spec: { env: { name: string; value: string }[] };
  };
  return read(spec.env.find(({ name }) => name === 'TELEMETRY')!.value);
}

test('the manifests that are deployed are valid', async () => {
  const frames = await settingsIn('frames.yaml');
  expect(frames.topics).toMatchObject([{ ros: '/camera/image/compressed', class: 'frames', enabled: true }]);
  const settings = await settingsIn('function.yaml');
  expect(settings.topics.map(({ ros, class: kind, enabled }) => [ros, kind, enabled])).toEqual([
    ['/odom', 'latest', true],
    ['/scan', 'latest', true],
    ['/battery_state', 'lossless', true],
    ['/diagnostics', 'ring', true],
    ['/camera/image/compressed', 'frames', false],
  ]);
});
