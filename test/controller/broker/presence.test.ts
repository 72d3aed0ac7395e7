import { expect, test } from 'vitest';
import {
  heartbeatOf,
  openPresence,
  type Heartbeat,
  type Sourced,
} from '../../../controller/broker/presence.ts';

const beat = (
  lastSeq: number,
  firstSeq = 1,
  created = '2026-11-01T00:00:00Z',
  { bytes = 1_000, maxBytes = 1_000 } = {},
): Heartbeat => ({
  since: '2026-11-28T12:00:00.000Z',
  functions: { ready: 1, total: 2 },
  kept: { firstSeq, lastSeq, bytes, maxBytes, created },
});
const newest = (seq: number, stream = 'first'): Sourced => ({
  seq,
  stream,
  time: '2026-11-28T12:00:07.000Z',
});

function watched() {
  let ms = 0;
  let started = Date.parse('2026-11-28T12:00:00Z');
  // The epoch in whole milliseconds, as a computer tells it.
  const presence = openPresence({ nowMs: () => ms, now: () => Math.floor(started + ms) });
  return {
    presence,
    pass: (span: number) => void (ms += span),
    setClock: (span: number) => void (started += span),
  };
}

test('a robot is online while it is heard, and since when is told by the clock of the hub', () => {
  const { presence, pass } = watched();
  expect(presence.of('r')).toEqual({ robot: 'r', online: false, dropped: 0 });
  presence.heard('r', beat(0));
  pass(3_000);
  presence.heard('r', beat(0));
  expect(presence.of('r')).toMatchObject({ online: true, since: '2026-11-28T12:00:00.000Z' });
  pass(6_000);
  expect(presence.of('r')).toMatchObject({ online: false, since: '2026-11-28T12:00:03.000Z' });
  expect(presence.heard('r', beat(0)).returned).toBe(true);
  expect(presence.of('r')).toMatchObject({ online: true, since: '2026-11-28T12:00:09.000Z' });
});

test('how long a robot has been silent is told by the clock that nobody sets', () => {
  const { presence, pass, setClock } = watched();
  expect(presence.silentMs('r')).toBe(Infinity);
  presence.heard('r', beat(0));
  pass(1_500);
  setClock(-3_600_000);
  expect(presence.silentMs('r')).toBe(1_500);
  presence.heard('r', beat(0));
  expect(presence.silentMs('r')).toBe(0);
  presence.forget('r');
  expect(presence.silentMs('r')).toBe(Infinity);
});

test('since when a robot is online or away is the same however often it is asked, until somebody sets the clock', () => {
  const { presence, pass, setClock } = watched();
  pass(0.4);
  presence.heard('r', beat(0));
  const told = new Set<string | undefined>();
  for (let asked = 0; asked < 50; asked += 1) {
    pass(0.09);
    told.add(presence.of('r').since);
  }
  expect([...told]).toEqual(['2026-11-28T12:00:00.000Z']);
  pass(6_000);
  const away = presence.of('r');
  pass(0.7);
  expect(presence.of('r')).toMatchObject({ online: false, since: away.since });
  setClock(-3_600_000);
  expect(presence.of('r').since).toBe('2026-11-28T11:00:00.000Z');
});

test('lag is what was kept and not got, and for how long there has been any', () => {
  const { presence, pass } = watched();
  presence.heard('r', beat(10));
  presence.got('r', newest(10));
  expect(presence.of('r').lag).toEqual({ messages: 0, seconds: 0 });
  pass(1_000);
  presence.heard('r', beat(15));
  pass(1_000);
  presence.heard('r', beat(20));
  expect(presence.of('r').lag).toEqual({ messages: 10, seconds: 2 });
  presence.got('r', newest(20));
  expect(presence.of('r').lag).toEqual({ messages: 0, seconds: 0 });
});

test('what a robot had to drop before the hub got it is counted once', () => {
  const { presence } = watched();
  presence.heard('r', beat(10));
  presence.got('r', newest(10));
  presence.heard('r', beat(40, 21));
  expect(presence.of('r').dropped).toBe(10);
  presence.heard('r', beat(50, 26));
  expect(presence.of('r').dropped).toBe(15);
  presence.got('r', newest(50));
  presence.heard('r', beat(60, 31));
  expect(presence.of('r').dropped).toBe(15);
});

test('what newer messages of a ring replaced while the robot was away is not dropped, unless its share of the disk was used up', () => {
  const { presence } = watched();
  presence.heard('r', beat(10));
  presence.got('r', newest(10));
  const full = { bytes: 990, maxBytes: 1_000 };
  const roomy = { bytes: 30, maxBytes: 1_000 };
  const created = beat(1).kept.created!;
  presence.heard('r', beat(400, 301, created, roomy));
  expect(presence.of('r')).toMatchObject({ dropped: 0, lag: { messages: 100 } });
  presence.got('r', newest(400));
  presence.heard('r', beat(700, 601, created, full));
  expect(presence.of('r').dropped).toBe(200);
});

test('a hub that was started again counts what was dropped meanwhile, and not what it had before', () => {
  const { presence } = watched();
  presence.heard('r', beat(500, 401));
  expect(presence.of('r').dropped).toBe(0);
  presence.got('r', newest(450));
  expect(presence.of('r').dropped).toBe(0);
  presence.heard('late', beat(500, 401));
  presence.got('late', newest(380));
  expect(presence.of('late')).toMatchObject({ dropped: 20, lag: { messages: 100 } });
  // Of one of which it has nothing it cannot tell.
  presence.heard('unknown', beat(500, 401));
  presence.got('unknown', undefined);
  expect(presence.of('unknown')).toMatchObject({ dropped: 0, lag: { messages: 100 } });
  presence.heard('unknown', beat(600, 411));
  expect(presence.of('unknown').dropped).toBe(10);
});

test('a robot that begins its stream anew is behind by what is in the new one, and what was lost with the other is counted', () => {
  const { presence } = watched();
  presence.heard('r', beat(100));
  presence.got('r', newest(90));
  expect(presence.heard('r', beat(3, 1, '2026-11-28T12:00:00Z'))).toMatchObject({ replaced: { lost: 10 } });
  expect(presence.of('r')).toMatchObject({ dropped: 10, lag: { messages: 3 } });
  // The hub's newest message is still one of the stream before.
  presence.got('r', newest(90));
  expect(presence.of('r').lag?.messages).toBe(3);
  presence.got('r', newest(2, 'second'));
  expect(presence.of('r')).toMatchObject({ dropped: 10, lag: { messages: 1 } });
  expect(presence.heard('r', beat(3, 1, '2026-11-28T12:00:00Z')).replaced).toBeUndefined();
});

test('when the hub stored the newest of a robot is known while that is away, too', () => {
  const { presence, pass } = watched();
  presence.heard('r', beat(1));
  expect(presence.of('r').lastTelemetry).toBeUndefined();
  presence.got('r', newest(1));
  pass(60_000);
  expect(presence.of('r')).toMatchObject({ online: false, lastTelemetry: '2026-11-28T12:00:07.000Z' });
});

test('what is no heartbeat is none', () => {
  expect(heartbeatOf(beat(1))).toEqual(beat(1));
  const wrongStream = { ...beat(1), kept: { ...beat(1).kept, created: 1 } };
  for (const value of [
    null,
    1,
    {},
    { ...beat(1), kept: { firstSeq: 'x' } },
    { ...beat(1), rttMs: 'x' },
    { ...beat(1), kept: { ...beat(1).kept, maxBytes: '1' } },
    wrongStream,
  ]) {
    expect(heartbeatOf(value)).toBeUndefined();
  }
});
