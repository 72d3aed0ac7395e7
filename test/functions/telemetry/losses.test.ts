import { expect, test } from 'vitest';
import type { RosTopicCounts } from 'atoll';
import { exposition } from '../../../functions/telemetry/counters.ts';
import { openLosses } from '../../../functions/telemetry/losses.ts';
import { parseSettings } from '../../../functions/telemetry/settings.ts';
import { openTopics } from '../../../functions/telemetry/topics.ts';

const startedMs = 1_764_000_000_000;
const tooLarge = 'it has more than 15 MiB, which is the most that a handler is handed';

function open() {
  const topics = openTopics(
    parseSettings(`
robot: robot1
topics:
  - { ros: /map, as: cdr, class: lossless }
  - { ros: /scan, as: cdr }
`),
  );
  const told: string[] = [];
  const take = openLosses({ topics, startedMs, tell: ({ name }, why) => void told.push(`${name}: ${why}`) });
  const counts = (topic: string) => [...topics.all()].find(({ name }) => name === topic)?.counter.read();
  return { topics, told, take, counts };
}

const lost = (topic: string, given: Partial<RosTopicCounts> = {}): RosTopicCounts => ({
  trigger: 'sensors',
  topic,
  type: 'example_msgs/msg/Example',
  since: startedMs + 1,
  publishers: 1,
  received: 100,
  filtered: 0,
  replaced: 0,
  tooLarge: 0,
  ...given,
});

test('what is too large for a handler is dropped of its topic, and told, also where none ever came', () => {
  const { take, counts, told, topics } = open();
  take([lost('/scan', { tooLarge: 2 }), lost('/map')]);
  expect(counts('/scan')).toMatchObject({ in: 2, out: 0, filtered: 0, dropped: 2, problem: tooLarge });
  expect(counts('/map')).toBeUndefined();
  expect(told).toEqual([`/scan: ${tooLarge}`]);
  take([lost('/scan', { tooLarge: 2 })]);
  take([lost('/scan', { tooLarge: 3 })]);
  expect(counts('/scan')).toMatchObject({ in: 3, dropped: 3, decodeErrors: 0 });
  const [scan] = topics.all();
  expect(exposition([{ topic: scan!.name, ...scan!.counter.read() }])).toContain(
    '\ntelemetry_messages_dropped_total{topic="/scan"} 3\n',
  );
});

test('what gave way to newer ones is dropped, and told where all of them are wanted', () => {
  const { take, counts, told } = open();
  take([lost('/scan', { replaced: 5 }), lost('/map', { replaced: 1 })]);
  expect(counts('/scan')).toMatchObject({ in: 5, dropped: 5 });
  expect(counts('/map')).toMatchObject({ in: 1, dropped: 1 });
  expect(told).toEqual([expect.stringMatching(/^\/map: newer ones came while it waited for the function/)]);
});

test('of a topic that nobody asked for it is filtered, as what comes of it', () => {
  const { take, counts, told } = open();
  take([lost('/camera', { tooLarge: 1, replaced: 1 })]);
  expect(counts('/camera')).toMatchObject({ in: 2, filtered: 2, dropped: 0 });
  expect(told).toEqual([]);
});

test('a subscription that is made anew counts from 0, and each trigger counts for itself', () => {
  const { take, counts } = open();
  take([lost('/scan', { tooLarge: 4 }), lost('/scan', { trigger: 'second', tooLarge: 1 })]);
  take([lost('/scan', { tooLarge: 1 }), lost('/scan', { trigger: 'second', tooLarge: 1 })]);
  expect(counts('/scan')).toMatchObject({ dropped: 6 });
});

test('what was lost before this process began, the process before it has counted', () => {
  const { take, counts } = open();
  take([lost('/scan', { since: startedMs - 60_000, tooLarge: 4 })]);
  expect(counts('/scan')).toBeUndefined();
  take([lost('/scan', { since: startedMs - 60_000, tooLarge: 5 })]);
  expect(counts('/scan')).toMatchObject({ in: 1, dropped: 1 });
});
