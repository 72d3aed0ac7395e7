import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Kvm } from '@nats-io/kv';
import type { TriggerSources } from '../../../crds/function.ts';
import { AtollError } from '../../../runtime/errors.ts';
import type { Delivery } from '../../../runtime/event.ts';
import type { Inbox } from '../../../runtime/inbox.ts';
import { stateBucket } from '../../../runtime/streams.ts';
import { nextTick, openSchedule, systemClock } from '../../../runtime/triggers/schedule.ts';
import type { Clock } from '../../../runtime/triggers/schedule.ts';
import type { Trigger } from '../../../runtime/triggers/trigger.ts';
import { closeLater } from '../../support/closing.ts';
import { startNats } from '../../support/nats.ts';
import type { NatsServer } from '../../support/nats.ts';
import { inboxEvents, inboxSize, openHost, until } from './context.ts';
import type { TestHost, TestHostOptions } from './context.ts';

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;
const noon = Date.parse('2026-01-15T12:00:00Z');

/** Stands still until it is moved. */
class ManualClock implements Clock {
  #now: number;
  #heard = (): void => {};
  #timers = new Set<{ atMs: number; call: () => void }>();
  /** Every delay that was asked for. */
  readonly delays: number[] = [];

  constructor(now: number) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  after(delayMs: number, call: () => void): () => void {
    this.delays.push(delayMs);
    const timer = { atMs: this.#now + delayMs, call };
    this.#timers.add(timer);
    this.#heard();
    return () => this.#timers.delete(timer);
  }

  /** Waits until all who look at this clock wait for it, then lets time pass in steps as timers would. */
  async advance(ms: number, watchers = 1): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await this.watched(watchers);
      const next = Math.min(...[...this.#timers].map(({ atMs }) => atMs));
      if (next > end) break;
      this.#now = Math.max(this.#now, next);
      this.#run();
    }
    this.#now = end;
  }

  /** As a machine that slept, or whose clock was set: everything at once. */
  async jump(ms: number, watchers = 1): Promise<void> {
    await this.watched(watchers);
    this.#now += ms;
    if (ms > 0) this.#run();
    else for (const timer of this.#timers) timer.atMs += ms;
  }

  async watched(watchers = 1): Promise<void> {
    while (this.#timers.size < watchers) await new Promise<void>((resolve) => (this.#heard = resolve));
  }

  #run(): void {
    for (const timer of [...this.#timers].filter(({ atMs }) => atMs <= this.#now)) {
      this.#timers.delete(timer);
      timer.call();
    }
  }
}

interface Opened extends TestHost {
  readonly trigger: Trigger;
  close(): Promise<void>;
}

const sourceOf = (source: Partial<TriggerSources['schedule']>): TriggerSources['schedule'] => ({
  catchUp: false,
  delivery: 'AtLeastOnce',
  ...source,
});

async function openTrigger(
  source: Partial<TriggerSources['schedule']>,
  clock: Clock,
  options: TestHostOptions & { inbox?: (inbox: Inbox) => Inbox },
): Promise<Opened> {
  const host = await openHost({ trigger: 'tick', ...options });
  const { inbox } = host.context;
  const changed = options.inbox && inbox ? { inbox: options.inbox(inbox) } : {};
  const trigger = openSchedule(sourceOf(source), { ...host.context, ...changed }, clock);
  const close = closeLater(() => trigger.close());
  return { ...host, trigger, close };
}

/** The ticks in the inbox, as the event ids name them, once there are so many. */
async function ticksInInbox(server: NatsServer, wanted: number): Promise<string[]> {
  await until(10_000, async () => expect(await inboxSize(server)).toBeGreaterThanOrEqual(wanted));
  return (await inboxEvents(server)).map(({ id }) => id.replace(/^tick:/, ''));
}

const iso = (timeMs: number): string => new Date(timeMs).toISOString();

describe('nextTick', () => {
  const next = (source: Partial<TriggerSources['schedule']>, after: string, count = 1): string[] => {
    const found: string[] = [];
    for (let at = Date.parse(after); found.length < count; found.push(iso(at))) at = nextTick(source, at);
    return found;
  };

  test('every: multiples since the epoch, whenever one asks', () => {
    expect(next({ every: '15m' }, '2026-01-15T12:07:31.250Z', 2)).toEqual([
      '2026-01-15T12:15:00.000Z',
      '2026-01-15T12:30:00.000Z',
    ]);
    expect(next({ every: '1d' }, '2026-01-15T00:00:00Z')).toEqual(['2026-01-16T00:00:00.000Z']);
    expect(next({ every: '250ms' }, '2026-01-15T00:00:00.001Z')).toEqual(['2026-01-15T00:00:00.250Z']);
  });

  test('a tick is later than the time asked for, and the next one for every time before it', () => {
    const sources = [
      { every: '7s' },
      { every: '90m' },
      { cron: '*/7 * * * *' },
      { cron: '30 2 * * *', timeZone: 'Europe/Berlin' },
    ];
    fc.assert(
      fc.property(
        fc.constantFrom(...sources),
        fc.integer({ min: 0, max: 2 ** 42 }),
        fc.nat(),
        (source, after, back) => {
          const tick = nextTick(source, after);
          expect(tick).toBeGreaterThan(after);
          const between = Math.min(after + back, tick - 1);
          expect(nextTick(source, between)).toBe(tick);
        },
      ),
    );
  });

  test('cron reads the wall clock of its zone, UTC by default', () => {
    expect(next({ cron: '0 8 * * MON-FRI' }, '2026-01-16T09:00:00Z')).toEqual(['2026-01-19T08:00:00.000Z']);
    expect(next({ cron: '0 8 * * *', timeZone: 'Asia/Tokyo' }, '2026-01-16T09:00:00Z')).toEqual([
      '2026-01-16T23:00:00.000Z',
    ]);
    expect(next({ cron: '*/10 * * * * *' }, '2026-01-16T09:00:00.001Z')).toEqual([
      '2026-01-16T09:00:10.000Z',
    ]);
  });

  test('the hour that is left out in spring and the one that comes twice in autumn: a daily tick comes once a day', () => {
    const daily = { cron: '30 2 * * *', timeZone: 'Europe/Berlin' };
    expect(next(daily, '2026-03-28T00:00:00Z', 3)).toEqual([
      '2026-03-28T01:30:00.000Z',
      // 02:30 does not exist on the 29th: the first moment after the gap.
      '2026-03-29T01:00:00.000Z',
      '2026-03-30T00:30:00.000Z',
    ]);
    expect(next(daily, '2026-10-24T00:45:00Z', 2)).toEqual([
      '2026-10-25T00:30:00.000Z',
      '2026-10-26T01:30:00.000Z',
    ]);
    const half = { cron: '*/30 * * * *', timeZone: 'Europe/Berlin' };
    expect(next(half, '2026-10-24T23:59:00Z', 5)).toEqual(
      [0, 30, 60, 90, 120].map((minutes) => iso(Date.parse('2026-10-25T00:00:00Z') + minutes * minute)),
    );
  });

  test('a cron that never comes has no next tick; one that cannot be read is refused with its text', () => {
    expect(nextTick({ cron: '0 0 30 2 *' }, noon)).toBe(Infinity);
    expect(() => nextTick({ cron: '61 * * * *' }, noon)).toThrow(/cron "61 \* \* \* \*"/);
    expect(() => nextTick({ cron: '* * * * *', timeZone: 'Mars/Olympus' }, noon)).toThrow(/"Mars\/Olympus"/);
    expect(() => nextTick({ every: 'soon' }, noon)).toThrow(AtollError);
  });
});

describe('delivery AtLeastOnce', () => {
  test('each tick reaches the inbox as an EventBridge scheduled event, with the tick in its id', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon + 7 * second)];
    const { untilState } = await openTrigger({ every: '1m' }, clock, { nats });
    await untilState({ ready: true, message: 'every 1m' });
    await clock.advance(2 * minute);
    expect(await ticksInInbox(nats, 2)).toEqual([iso(noon + minute), iso(noon + 2 * minute)]);
    const [event] = await inboxEvents(nats);
    expect(event).toMatchObject({
      id: 'tick:2026-01-15T12:01:00.000Z',
      kind: 'schedule',
      trigger: 'tick',
      subject: 'tick',
      encoding: 'json',
      time: noon + minute,
    });
    expect(JSON.parse(Buffer.from(event?.data ?? []).toString())).toEqual({
      version: '0',
      id: expect.stringMatching(
        /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
      ) as string,
      'detail-type': 'Scheduled Event',
      source: 'aws.events',
      account: '000000000000',
      time: '2026-01-15T12:01:00Z',
      region: 'us-east-1',
      resources: ['arn:aws:events:us-east-1:000000000000:rule/echo-tick'],
      detail: {},
    });
  });

  test('two replicas, their clocks apart, fire each tick once', async () => {
    const nats = await startNats();
    const clock = new ManualClock(noon + 5 * second);
    const late: Clock = { now: () => clock.now() - 700, after: (ms, call) => clock.after(ms, call) };
    const first = await openTrigger({ every: '10s' }, clock, { nats });
    const second_ = await openTrigger({ every: '10s' }, late, { nats });
    await Promise.all([first.untilState({ ready: true }), second_.untilState({ ready: true })]);
    await clock.advance(96 * second, 2);
    const ticks = await ticksInInbox(nats, 10);
    expect(ticks).toEqual(Array.from({ length: 10 }, (_, n) => iso(noon + (n + 1) * 10 * second)));
    // The key and not only the message id keeps them apart.
    expect(await keyOf(nats)).toEqual({ uid: 'uid-1', tick: noon + 100 * second });
  });

  test('two functions whose triggers have one name both get the tick', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const first = await openTrigger({ every: '1m' }, clock, { nats, functionName: 'first' });
    const other = await openTrigger({ every: '1m' }, clock, { nats, functionName: 'other' });
    await Promise.all([first.untilState({ ready: true }), other.untilState({ ready: true })]);
    await clock.advance(minute, 2);
    expect(await ticksInInbox(nats, 2)).toEqual([iso(noon + minute), iso(noon + minute)]);
  });

  test('ticks missed while no host was there are skipped, and the log says which', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const before = await openTrigger({ every: '1m' }, clock, { nats });
    await before.untilState({ ready: true });
    await clock.advance(minute);
    await ticksInInbox(nats, 1);
    await before.close();
    const later = new ManualClock(noon + 10 * minute + second);
    const after = await openTrigger({ every: '1m' }, later, { nats });
    await after.untilState({ ready: true });
    expect(after.logs).toContainEqual(
      expect.objectContaining({
        message: 'missed ticks skipped',
        count: 9,
        from: iso(noon + 2 * minute),
        to: iso(noon + 10 * minute),
      }),
    );
    await later.advance(minute);
    expect(await ticksInInbox(nats, 2)).toEqual([iso(noon + minute), iso(noon + 11 * minute)]);
  });

  test('with catchUp the missed period is run once, with its last tick', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const before = await openTrigger({ every: '1h', catchUp: true }, clock, { nats });
    await before.untilState({ ready: true });
    await before.close();
    const later = new ManualClock(noon + 5 * hour + second);
    const after = await openTrigger({ every: '1h', catchUp: true }, later, { nats });
    await after.untilState({ ready: true });
    await later.advance(hour);
    expect(await ticksInInbox(nats, 2)).toEqual([iso(noon + 5 * hour), iso(noon + 6 * hour)]);
    expect(after.logs).toContainEqual(
      expect.objectContaining({ message: 'missed ticks run once', count: 4 }),
    );
  });

  test('the first start ever owes nothing, also with catchUp, and neither does a new function of an old name', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon + second)];
    const before = await openTrigger({ every: '1h', catchUp: true }, clock, { nats, uid: 'uid-1' });
    await before.untilState({ ready: true });
    expect(await keyOf(nats)).toEqual({ uid: 'uid-1', tick: noon + second });
    await before.close();
    const later = new ManualClock(noon + day + second);
    const after = await openTrigger({ every: '1h', catchUp: true }, later, { nats, uid: 'uid-2' });
    await after.untilState({ ready: true });
    await later.advance(hour);
    expect(await ticksInInbox(nats, 1)).toEqual([iso(noon + day + hour)]);
  });

  test('a replica that starts just after a tick does not take it from the one that is firing it', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const storing = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const first = await openTrigger({ every: '1m' }, clock, {
      nats,
      inbox: (inbox) => ({
        ...inbox,
        ready: true,
        async put(target, event) {
          storing.resolve();
          await gate.promise;
          return inbox.put(target, event);
        },
      }),
    });
    await first.untilState({ ready: true });
    await clock.jump(minute);
    await storing.promise;
    const second_ = await openTrigger({ every: '1m' }, new ManualClock(noon + minute + 10), { nats });
    await second_.untilState({ ready: true });
    gate.resolve();
    expect(await ticksInInbox(nats, 1)).toEqual([iso(noon + minute)]);
  });

  test('a clock set forward, or a machine that slept, costs one skip or one catch-up', async () => {
    for (const catchUp of [false, true]) {
      const [nats, clock] = [await startNats(), new ManualClock(noon)];
      const { untilState, logs } = await openTrigger({ cron: '0 3 * * *', catchUp }, clock, { nats });
      await untilState({ ready: true });
      await clock.jump(10 * day);
      await clock.jump(15 * hour - second);
      await clock.advance(second);
      const third = Date.parse('2026-01-26T03:00:00Z');
      const caughtUp = catchUp ? [iso(third - day)] : [];
      expect(await ticksInInbox(nats, catchUp ? 2 : 1)).toEqual([...caughtUp, iso(third)]);
      const skips = logs.filter(({ message }) => String(message).startsWith('missed ticks'));
      expect(skips).toHaveLength(1);
      expect(skips[0]).toMatchObject({ count: catchUp ? 9 : 10 });
    }
  });

  test('a clock set back fires no tick twice, and the state says what is waited for', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const { untilState } = await openTrigger({ every: '1m' }, clock, { nats });
    await untilState({ ready: true });
    await clock.advance(3 * minute);
    await ticksInInbox(nats, 3);
    await clock.jump(-2 * minute);
    await clock.advance(minute);
    expect((await untilState({ ready: true })).message).toBe(
      `the clock was set back; ticks were fired up to ${iso(noon + 3 * minute)}`,
    );
    await clock.advance(2 * minute);
    expect(await ticksInInbox(nats, 4)).toEqual([1, 2, 3, 4].map((n) => iso(noon + n * minute)));
  });

  test('a tick that comes while the inbox is away is fired when it is back', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const { untilState, logs } = await openTrigger({ every: '1m' }, clock, { nats });
    await untilState({ ready: true });
    await nats.stop();
    await untilState({ ready: false, reason: 'JetStreamUnavailable' });
    await clock.jump(minute);
    const { message } = await untilState({ ready: false, reason: 'NatsUnavailable' });
    expect(message).toContain('"delivery: AtMostOnce" works without JetStream');
    await clock.jump(minute);
    await clock.jump(second);
    await nats.restart();
    await untilState({ ready: true });
    // The last one; the one before it was overtaken.
    expect(await ticksInInbox(nats, 1)).toEqual([iso(noon + 2 * minute)]);
    expect(logs).toContainEqual(expect.objectContaining({ message: 'missed ticks skipped', count: 1 }));
  });

  test('a host that dies between inbox and key repeats the tick, and the inbox stores it once', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    let stored = 0;
    const dying = await openTrigger({ every: '1m', catchUp: true }, clock, {
      nats,
      inbox: (inbox) => ({
        ...inbox,
        ready: true,
        async put(target, event) {
          await inbox.put(target, event);
          stored += 1;
          throw new AtollError('InboxUnavailable', 'stored, but nobody will know');
        },
      }),
    });
    await dying.untilState({ ready: true });
    await clock.jump(minute);
    await until(5_000, () => expect(stored).toBe(1));
    await dying.close();
    expect(await keyOf(nats)).toMatchObject({ tick: noon });
    const again = await openTrigger({ every: '1m', catchUp: true }, new ManualClock(noon + minute + second), {
      nats,
    });
    await again.untilState({ ready: true });
    expect(await keyOf(nats)).toMatchObject({ tick: noon + minute });
    expect(await ticksInInbox(nats, 1)).toEqual([iso(noon + minute)]);
  });

  test('the clock is looked at every half minute, however far the next tick is', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const { untilState } = await openTrigger({ every: '300d' }, clock, { nats });
    await untilState({ ready: true });
    await clock.advance(2 * minute);
    expect(Math.max(...clock.delays)).toBe(30 * second);
  });

  test('without NATS, or without JetStream, it is not ready and says what would work', async () => {
    const clock = new ManualClock(noon);
    const without = await openTrigger({ every: '1m' }, clock, {});
    const { message } = await without.untilState({ ready: false, reason: 'JetStreamUnavailable' });
    expect(message).toContain('"delivery: AtMostOnce" works without');
    const nats = await startNats({ jetstream: false });
    const host = await openTrigger({ every: '1m' }, clock, { nats });
    const state = await host.untilState({ ready: false, reason: 'JetStreamUnavailable' });
    expect(state.message).toContain('"delivery: AtMostOnce" works without');
  });

  test('a cron that cannot be read is told in the state', async () => {
    const { untilState } = await openTrigger({ cron: '61 * * * *' }, new ManualClock(noon), {});
    expect((await untilState({ ready: false, reason: 'InvalidRequest' })).message).toContain('61 * * * *');
  });

  test('close() ends what waits for events', async () => {
    const nats = await startNats();
    const { trigger, close } = await openTrigger({ every: '1m' }, new ManualClock(noon), { nats });
    const waiting = trigger.deliveries()[Symbol.asyncIterator]().next();
    await close();
    expect(await waiting).toEqual({ done: true, value: undefined });
  });
});

describe('delivery AtMostOnce', () => {
  test('it runs on the real clock too', async () => {
    const { trigger, untilState } = await openTrigger(
      { every: '100ms', delivery: 'AtMostOnce' },
      systemClock,
      {},
    );
    await untilState({ ready: true });
    const deliveries = trigger.deliveries()[Symbol.asyncIterator]();
    for (let n = 0; n < 3; n++) {
      const { value } = (await deliveries.next()) as { value: Delivery };
      const tick = Date.parse(value.event.id.replace(/^tick:/, ''));
      expect(tick % 100).toBe(0);
      expect(value.event.time).toBeGreaterThanOrEqual(tick);
      await value.settle({ kind: 'done' });
    }
  });

  test('without NATS its ticks wait in the host, and a failed one comes again', async () => {
    const clock = new ManualClock(noon);
    const { trigger, untilState } = await openTrigger({ every: '1m', delivery: 'AtMostOnce' }, clock, {});
    await untilState({ ready: true });
    await clock.advance(minute);
    const deliveries = trigger.deliveries()[Symbol.asyncIterator]();
    const first = (await deliveries.next()) as { value: Delivery };
    expect(first.value.event).toMatchObject({
      id: `tick:${iso(noon + minute)}`,
      kind: 'schedule',
      attempt: 1,
    });
    await first.value.settle({ kind: 'retry', delayMs: 1, failed: true });
    const again = (await deliveries.next()) as { value: Delivery };
    expect(again.value.event).toMatchObject({ id: first.value.event.id, attempt: 2 });
    await again.value.settle({ kind: 'done' });
  });

  test('with NATS only one of two replicas fires a tick; when NATS is away each one goes on', async () => {
    const [nats, clock] = [await startNats(), new ManualClock(noon)];
    const open = () => openTrigger({ every: '1m', delivery: 'AtMostOnce' }, clock, { nats });
    const hosts = [await open(), await open()];
    for (const { untilState } of hosts) await untilState({ ready: true });
    const waiting = async (): Promise<number> => {
      let sum = 0;
      for (const { trigger } of hosts) sum += (await trigger.lag?.()) ?? 0;
      return sum;
    };
    await clock.advance(5 * minute, 2);
    await clock.watched(2);
    expect(await waiting()).toBe(5);
    await nats.stop();
    await until(5_000, () =>
      expect(hosts.map(({ link }) => link?.current())).toEqual([undefined, undefined]),
    );
    await clock.advance(minute, 2);
    await clock.watched(2);
    expect(await waiting()).toBe(7);
  });
});

async function keyOf(server: NatsServer): Promise<unknown> {
  const connection = await server.connect();
  const kv = await new Kvm(connection).open(stateBucket);
  return (await kv.get('schedule.default.echo.tick'))?.json();
}
