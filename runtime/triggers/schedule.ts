/**
 * Ticks of a clock (CONTRACTS 4.12). They lie on the clock, not on the start of the host: every replica knows the
 * same ones, and the key `schedule.<ns>.<fn>.<trigger>` in ATOLL_STATE says up to which they have been fired.
 */
import { createHash } from 'node:crypto';
import { Cron } from 'croner';
import type { TriggerSources } from '../../crds/function.ts';
import { everyMs } from '../../crds/values.ts';
import { AtollError } from '../errors.ts';
import type { TriggerEvent } from '../event.ts';
import type { Inbox } from '../inbox.ts';
import { openSharedState, type State } from '../state.ts';
import { openBuffer } from './buffer.ts';
import { openSilent } from './silent.ts';
import type { Trigger, TriggerContext, TriggerState } from './trigger.ts';

type ScheduleSource = TriggerSources['schedule'];
type Times = Pick<ScheduleSource, 'cron' | 'timeZone' | 'every'>;

/** Time, handed in. */
export interface Clock {
  /** ms since the epoch. */
  now(): number;
  /** Returns the way to call it off. */
  after(delayMs: number, call: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  after(delayMs, call) {
    const timer = setTimeout(call, delayMs);
    return () => clearTimeout(timer);
  },
};

/**
 * Timers drift, stand still while a machine sleeps, and cannot wait longer than 2^31 ms: the clock is looked at
 * this often. A tick that is noticed later than this was slept through.
 */
const lookMs = 30_000;
/** How long to wait before a tick is tried again that could not be stored. */
const retryMs = 1_000;
/** Ticks are counted for the log no further than this: a year of seconds would stop the host. */
const countLimit = 1_000;
/** An interval of milliseconds skips all the time when the machine is slow: one line for all of them. */
const skipLogMs = 10_000;
/** How long a tick that may be lost waits for the other replicas' word. */
const lossyStateTimeoutMs = 1_000;

/**
 * The first tick after `afterMs` (ms since the epoch), Infinity if there is none any more. `every`: multiples
 * since the epoch; cron: wall clock of `timeZone`, UTC by default. Throws AtollError InvalidRequest.
 */
export function nextTick(source: Times, afterMs: number): number {
  return ticksOf(source)(afterMs);
}

/** The first tick after a time. */
type Ticks = (afterMs: number) => number;

function ticksOf({ every, cron: pattern = '', timeZone = 'UTC' }: Times): Ticks {
  try {
    if (every !== undefined) {
      const periodMs = everyMs(every);
      return (afterMs) => (Math.floor(afterMs / periodMs) + 1) * periodMs;
    }
    const cron = new Cron(pattern, { timezone: timeZone, mode: '5-or-6-parts', paused: true });
    // A wrong time zone shows only when it is used.
    cron.nextRun();
    return (afterMs) => cron.nextRun(new Date(afterMs))?.getTime() ?? Infinity;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const what = every === undefined ? `cron "${pattern}" in time zone "${timeZone}"` : `every "${every}"`;
    throw new AtollError('InvalidRequest', `${what}: ${why}`, { cause: error });
  }
}

/** The last tick in (fromMs, toMs], undefined if there is none. Halves the span, since ticks can only be asked forwards. */
function lastTick(ticks: Ticks, fromMs: number, toMs: number): number | undefined {
  let last = ticks(fromMs);
  if (last > toMs) return undefined;
  for (let endMs = toMs; ;) {
    const next = ticks(last);
    if (next > toMs) return last;
    const middleMs = Math.floor((last + endMs) / 2);
    const tick = ticks(middleMs);
    if (tick > toMs) {
      endMs = middleMs;
      last = next;
    } else last = tick;
  }
}

export function openSchedule(
  source: ScheduleSource,
  context: TriggerContext,
  clock: Clock = systemClock,
): Trigger {
  let ticks: Ticks;
  try {
    ticks = ticksOf(source);
  } catch (error) {
    context.report({ ready: false, reason: 'InvalidRequest', message: (error as AtollError).message });
    return openSilent();
  }
  if (source.delivery === 'AtMostOnce') return openLossy(source, ticks, context, clock);
  const { nats, inbox } = context;
  if (nats === undefined || inbox === undefined) {
    const message = `a schedule needs the inbox, and this site has no NATS; ${withoutJetStream}`;
    context.report({ ready: false, reason: 'JetStreamUnavailable', message });
    return openSilent();
  }
  return openDurable(source, ticks, context, clock, openSharedState(nats), inbox);
}

const withoutJetStream = '"delivery: AtMostOnce" works without JetStream';

/** Stored first, then the key is moved: a crash between repeats the tick, and its message id makes one of the two. */
function openDurable(
  source: ScheduleSource,
  ticks: Ticks,
  context: TriggerContext,
  clock: Clock,
  state: State,
  inbox: Inbox,
): Trigger {
  const record = openRecord(state, context);
  const follower = followClock(source, ticks, context, clock, {
    firedUntil: (startMs) => record.read(startMs),
    async fire(tick) {
      await inbox.put(context.function, eventOf(tick, context, clock.now()));
      await record.move(tick);
    },
    obstacle() {
      if (inbox.ready) return undefined;
      const message = `the inbox cannot be reached; ${withoutJetStream}`;
      return { ready: false, reason: 'JetStreamUnavailable', message };
    },
  });
  const stopListening = inbox.onReady(() => follower.look());
  return openSilent(async () => {
    stopListening();
    await follower.close();
  });
}

/** The key is moved first: at most once, by one replica. Where nobody can be asked, by each. */
function openLossy(source: ScheduleSource, ticks: Ticks, context: TriggerContext, clock: Clock): Trigger {
  const buffer = openBuffer();
  const record =
    context.nats && openRecord(openSharedState(context.nats, { timeoutMs: lossyStateTimeoutMs }), context);
  let asked = false;
  const follower = followClock(source, ticks, context, clock, {
    async firedUntil(startMs) {
      const tick = await record?.read(startMs).catch(() => undefined);
      asked = tick !== undefined;
      return tick;
    },
    async fire(tick) {
      const ours = !asked || (await record?.move(tick).catch(() => true));
      if (ours && !buffer.push(eventOf(tick, context, clock.now()))) context.dropped(context.name);
    },
    obstacle: () => undefined,
  });
  return {
    deliveries: () => buffer.deliveries(),
    async close() {
      await follower.close();
      buffer.close();
    },
    lag: () => Promise.resolve(buffer.size),
  };
}

interface Rules {
  /** The last tick that any replica fired, `startMs` at the first start ever; undefined: nobody can be asked. */
  firedUntil(startMs: number): Promise<number | undefined>;
  /** Rejects when the tick is to be tried again. */
  fire(tick: number): Promise<void>;
  /** What keeps the next tick from being fired. */
  obstacle(): TriggerState | undefined;
}

/**
 * Looks at the clock and fires the last tick that is due. Earlier ones, and those that came while this host was not
 * there to see them, are missed: skipped with a log line, or with `catchUp` run once for all.
 */
function followClock(
  source: ScheduleSource,
  ticks: Ticks,
  context: TriggerContext,
  clock: Clock,
  rules: Rules,
): { look(): void; close(): Promise<void> } {
  const startMs = clock.now();
  /** No tick up to here is due any more, as far as this host knows. */
  let doneUntil: number | undefined;
  /** Ticks up to here came while nobody looked. */
  let missedUntil = startMs;
  let lookedAt = startMs;
  let closed = false;
  let woken = false;
  let endPause = (): void => {};
  let reported = '';
  const skips = openSkipLog(ticks, context, clock);
  const times =
    source.every !== undefined
      ? `every ${source.every}`
      : `cron "${source.cron}" in ${source.timeZone ?? 'UTC'}`;

  /** How long until the next look. */
  async function look(): Promise<number> {
    const now = clock.now();
    const due = lastTick(ticks, lookedAt, now);
    if (due !== undefined && now - due > lookMs) missedUntil = Math.max(missedUntil, due);
    lookedAt = now;
    if (doneUntil === undefined || lastTick(ticks, doneUntil, now) !== undefined) await settle(now);
    return Math.min(lookMs, ticks(now) - clock.now());
  }

  async function settle(now: number): Promise<void> {
    const firedUntil = await rules.firedUntil(startMs);
    const base = Math.max(firedUntil ?? startMs, doneUntil ?? -Infinity);
    doneUntil = base;
    const tick = lastTick(ticks, base, now);
    if (tick === undefined) return;
    const missed = tick <= missedUntil;
    if (missed && !source.catchUp) {
      // The key stays: another replica may have seen the tick in time and be firing it at this moment.
      skips.add(base, tick + 1);
    } else {
      await rules.fire(tick);
      if (!source.catchUp) skips.add(base, tick);
      else if (ticks(base) < tick) context.log.info(missedTicks(ticks, base, tick), 'missed ticks run once');
    }
    doneUntil = tick;
  }

  function stateNow(): TriggerState {
    const obstacle = rules.obstacle();
    if (obstacle !== undefined) return obstacle;
    const ahead = doneUntil !== undefined && doneUntil > clock.now() + lookMs;
    const message = ahead
      ? `the clock was set back; ticks were fired up to ${iso(doneUntil as number)}`
      : times;
    return { ready: true, reason: 'Ready', message };
  }

  async function run(): Promise<void> {
    while (!closed) {
      woken = false;
      let delayMs: number;
      try {
        delayMs = await look();
        tell(stateNow());
      } catch (error) {
        const { code, message } = asAtollError(error);
        tell({ ready: false, reason: code, message: `${message}; ${withoutJetStream}` });
        delayMs = retryMs;
      }
      if (!woken && !closed) await pause(Math.max(1, delayMs));
    }
  }

  function tell(next: TriggerState): void {
    const text = JSON.stringify(next);
    if (closed || text === reported) return;
    reported = text;
    context.report(next);
  }

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const callOff = clock.after(ms, resolve);
      endPause = () => {
        callOff();
        resolve();
      };
    });

  function wake(): void {
    woken = true;
    endPause();
  }

  tell({ ready: false, reason: 'Connecting', message: 'asking which ticks were fired already' });
  const running = run();

  return {
    look: wake,
    async close() {
      closed = true;
      wake();
      await running;
      skips.flush();
    },
  };
}

/** The key of CONTRACTS 4.12. */
function openRecord(state: State, context: TriggerContext) {
  const { namespace, name, uid } = context.function;
  const key = `schedule.${namespace}.${name}.${context.name}`;
  let revision = 0;
  return {
    async read(startMs: number): Promise<number> {
      const entry = await state.read(key);
      const value = entry?.value as Partial<{ uid: string; tick: number }> | undefined;
      revision = entry?.revision ?? 0;
      if (value?.uid === uid && typeof value.tick === 'number') return value.tick;
      // The first start ever, or that of another function of the same name.
      const written = await state.write(key, { uid, tick: startMs }, revision);
      if (written === undefined) return this.read(startMs);
      revision = written;
      return startMs;
    },
    /** False: another replica was faster. */
    async move(tick: number): Promise<boolean> {
      const written = await state.write(key, { uid, tick }, revision);
      revision = written ?? 0;
      return written !== undefined;
    },
  };
}

function openSkipLog(ticks: Ticks, context: TriggerContext, clock: Clock) {
  let skipped: { fromMs: number; toMs: number } | undefined;
  let lastMs = -Infinity;
  function flush(): void {
    if (skipped === undefined) return;
    context.log.warn(missedTicks(ticks, skipped.fromMs, skipped.toMs), 'missed ticks skipped');
    skipped = undefined;
    lastMs = clock.now();
  }
  return {
    /** The ticks in (fromMs, toMs), if any. */
    add(fromMs: number, toMs: number): void {
      if (ticks(fromMs) >= toMs) return;
      skipped = { fromMs: skipped?.fromMs ?? fromMs, toMs };
      if (Math.abs(clock.now() - lastMs) >= skipLogMs) flush();
    },
    flush,
  };
}

/** The ticks in (fromMs, toMs), for the log. */
function missedTicks(
  ticks: Ticks,
  fromMs: number,
  toMs: number,
): { count: number; from: string; to: string } {
  const first = ticks(fromMs);
  let count = 0;
  for (let tick = first; tick < toMs && count < countLimit; tick = ticks(tick)) count += 1;
  return { count, from: iso(first), to: iso(lastTick(ticks, fromMs, toMs - 1) ?? first) };
}

/** EventBridge's scheduled event. https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html */
function eventOf(tick: number, context: TriggerContext, now: number): TriggerEvent {
  const { namespace, name } = context.function;
  const region = process.env['AWS_REGION'] ?? 'us-east-1';
  const scheduled = {
    version: '0',
    id: uuidOf(`${context.site}/${namespace}/${name}/${context.name}/${tick}`),
    'detail-type': 'Scheduled Event',
    source: 'aws.events',
    account: accountId,
    time: iso(tick).replace(/\.\d+Z$/, 'Z'),
    region,
    resources: [`arn:aws:events:${region}:${accountId}:rule/${name}-${context.name}`],
    detail: {},
  };
  return {
    id: `${context.name}:${iso(tick)}`,
    trigger: context.name,
    kind: 'schedule',
    subject: context.name,
    time: now,
    attempt: 1,
    headers: {},
    encoding: context.encoding,
    data: Buffer.from(JSON.stringify(scheduled)),
  };
}

const accountId = '000000000000';

/** The same tick has the same id, whichever replica fires it (RFC 9562 5.8, from a hash). */
function uuidOf(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  const variant = ((parseInt(hex[16] as string, 16) & 0x3) | 0x8).toString(16);
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `${variant}${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ].join('-');
}

function iso(timeMs: number): string {
  return new Date(timeMs).toISOString();
}

function asAtollError(error: unknown): AtollError {
  return error instanceof AtollError ? error : new AtollError('JetStreamUnavailable', String(error));
}
