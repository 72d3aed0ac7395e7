/**
 * What every kind of trigger is held to (runtime/triggers/trigger.ts). Each kind's test file hands in a harness on a
 * real broker and adds only what is special to it.
 */
import { expect, test } from 'vitest';
import type { RetryPolicy } from '../../crds/function.ts';
import type { Delivery, SourceKind } from '../../runtime/event.ts';
import { openLog } from '../../runtime/log.ts';
import type { Trigger, TriggerContext, TriggerState } from '../../runtime/triggers/trigger.ts';
import { closeLater } from '../support/closing.ts';

export interface TriggerHarness {
  /** Opens the trigger, also while the broker is away. Closed at the end of the test at the latest. */
  open(options?: { retry?: Partial<RetryPolicy> }): Promise<OpenedTrigger>;
  /** Resolves when the source took it. */
  send(data: Uint8Array): Promise<void>;
  /** Absent where there is none. `start` brings the same broker back on the same address. */
  readonly broker?: { stop(): Promise<void>; start(): Promise<void> };
}

export interface OpenedTrigger {
  readonly trigger: Trigger;
  readonly reports: Reports;
}

export interface TriggerTraits {
  readonly kind: SourceKind;
  /** False: there is no broker that could be away. */
  readonly broker: boolean;
  /** What was sent, of an event's bytes, where the source has a frame of its own around it. Default: all of them. */
  readonly payload?: (data: Uint8Array) => Uint8Array;
}

/** The suite. `setup` starts the broker; with `away` it prepares all and leaves it stopped. */
export function testTrigger(
  name: string,
  traits: TriggerTraits,
  setup: (options: { away: boolean }) => Promise<TriggerHarness>,
): void {
  const payload = traits.payload ?? ((data: Uint8Array) => data);
  const textOf = (delivery: Delivery): string => new TextDecoder().decode(payload(delivery.event.data));
  const started = async (): Promise<
    TriggerHarness & { opened: OpenedTrigger; next: () => Promise<Delivery> }
  > => {
    const harness = await setup({ away: false });
    const opened = await harness.open();
    await opened.reports.until(({ ready }) => ready);
    const iterator = opened.trigger.deliveries()[Symbol.asyncIterator]();
    return { ...harness, opened, next: () => nextOf(iterator) };
  };

  test(`${name}: yields what was sent, its bytes intact, with id, kind and trigger`, async () => {
    const { send, next } = await started();
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const ids = new Set<string>();
    for (const sent of [bytes, new Uint8Array(), new TextEncoder().encode('"ü"')]) {
      await send(sent);
      const delivery = await next();
      expect(Buffer.from(payload(delivery.event.data))).toEqual(Buffer.from(sent));
      expect(delivery.event).toMatchObject({ kind: traits.kind, attempt: 1 });
      expect(delivery.event.trigger).not.toBe('');
      expect(Math.abs(Date.now() - delivery.event.time)).toBeLessThan(60_000);
      ids.add(delivery.event.id);
      await delivery.settle({ kind: 'done' });
    }
    expect(ids.size).toBe(3);
  });

  test(`${name}: one event for each that is asked for, each once`, async () => {
    const { send, next } = await started();
    for (const text of ['1', '2', '3']) await send(bytesOf(text));
    const seen: string[] = [];
    for (let i = 0; i < 3; i++) {
      const delivery = await next();
      seen.push(textOf(delivery));
      await delivery.settle({ kind: 'done' });
    }
    expect(seen.toSorted()).toEqual(['1', '2', '3']);
    const fourth = next();
    await send(bytesOf('4'));
    expect(textOf(await fourth)).toBe('4');
  });

  test(`${name}: several may be asked for at once and are open at the same time`, async () => {
    const { send, next } = await started();
    const asked = [next(), next(), next()];
    for (const text of ['1', '2', '3']) await send(bytesOf(text));
    const deliveries = await Promise.all(asked);
    expect(deliveries.map(textOf).toSorted()).toEqual(['1', '2', '3']);
    await Promise.all(deliveries.map((delivery) => delivery.settle({ kind: 'done' })));
  });

  test(`${name}: close() ends a wait for the next event`, async () => {
    const harness = await setup({ away: false });
    const { trigger, reports } = await harness.open();
    await reports.until(({ ready }) => ready);
    const iterator = trigger.deliveries()[Symbol.asyncIterator]();
    const waiting = iterator.next();
    await trigger.close();
    expect((await waiting).done).toBe(true);
    expect((await iterator.next()).done).toBe(true);
  });

  test(`${name}: what was yielded may be settled after close(), and is then over`, async () => {
    const { send, next, opened, open } = await started();
    await send(bytesOf('open at the close'));
    const delivery = await next();
    await opened.trigger.close();
    await delivery.settle({ kind: 'done' });
    const again = await open();
    await again.reports.until(({ ready }) => ready);
    const iterator = again.trigger.deliveries()[Symbol.asyncIterator]();
    await send(bytesOf('next'));
    const after = await nextOf(iterator);
    expect(textOf(after)).toBe('next');
    await after.settle({ kind: 'done' });
  });

  test(`${name}: a failed event comes back as the same event with the next attempt`, async () => {
    const { send, next } = await started();
    await send(bytesOf('again'));
    const first = await next();
    await first.settle({ kind: 'retry', delayMs: 20, failed: true });
    const second = await next();
    expect(second.event).toMatchObject({ id: first.event.id, attempt: 2 });
    expect(textOf(second)).toBe('again');
    await second.settle({ kind: 'retry', delayMs: 20, failed: true });
    const third = await next();
    expect(third.event).toMatchObject({ id: first.event.id, attempt: 3, subject: first.event.subject });
    await third.settle({ kind: 'done' });
  });

  test(`${name}: handing an event back uses up no attempt`, async () => {
    const { send, next } = await started();
    await send(bytesOf('handed back'));
    const first = await next();
    await first.settle({ kind: 'retry', delayMs: 0, failed: false });
    const second = await next();
    expect(second.event).toMatchObject({ id: first.event.id, attempt: 1 });
    await second.settle({ kind: 'retry', delayMs: 0, failed: true });
    const third = await next();
    await third.settle({ kind: 'retry', delayMs: 0, failed: false });
    expect((await next()).event).toMatchObject({ id: first.event.id, attempt: 2 });
  });

  test(`${name}: an event that failed finally does not come back`, async () => {
    const { send, next } = await started();
    await send(bytesOf('hopeless'));
    const delivery = await next();
    const fault = { code: 'Error', message: 'no' };
    await delivery.settle({ kind: 'failed', fault, reason: 'RetriesExhausted' });
    await send(bytesOf('next'));
    expect(textOf(await next())).toBe('next');
  });

  test(`${name}: only the first settle() of a delivery counts`, async () => {
    const { send, next } = await started();
    await send(bytesOf('once'));
    const delivery = await next();
    await delivery.settle({ kind: 'done' });
    await delivery.settle({ kind: 'retry', delayMs: 0, failed: true });
    await send(bytesOf('next'));
    expect(textOf(await next())).toBe('next');
  });

  if (!traits.broker) return;

  test(`${name}: opens while the broker is away, says so, and works when it appears`, async () => {
    const harness = await setup({ away: true });
    const { trigger, reports } = await harness.open();
    const first = await reports.until(({ ready }) => !ready);
    expect(first.reason).toMatch(/^[A-Z][A-Za-z]+$/);
    const waiting = nextOf(trigger.deliveries()[Symbol.asyncIterator]());
    await harness.broker?.start();
    await reports.until(({ ready }) => ready);
    await harness.send(bytesOf('hello'));
    expect(textOf(await waiting)).toBe('hello');
  });

  test(`${name}: a restart of the broker is said, waited for and survived`, async () => {
    const { send, next, opened, broker } = await started();
    await send(bytesOf('before'));
    const before = await next();
    const waiting = next();
    await broker?.stop();
    const lost = await opened.reports.until(({ ready }) => !ready);
    expect(lost.reason).toMatch(/Unavailable$|^Connecting$/);
    // The event is settled while nobody can be told: it is over nevertheless.
    await before.settle({ kind: 'done' });
    await broker?.start();
    await opened.reports.until(({ ready }) => ready);
    await send(bytesOf('after'));
    expect(textOf(await waiting)).toBe('after');
  });
}

/** What a trigger reported, in order. */
export class Reports {
  readonly all: TriggerState[] = [];
  readonly dropped: string[] = [];
  #waiting: (() => void)[] = [];

  get last(): TriggerState | undefined {
    return this.all.at(-1);
  }

  add(state: TriggerState): void {
    this.all.push(state);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** The present state as soon as it is as asked for. */
  async until(condition: (state: TriggerState) => boolean, timeoutMs = 60_000): Promise<TriggerState> {
    const deadline = Date.now() + timeoutMs;
    while (!this.last || !condition(this.last)) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.push(resolve);
      const timer = setTimeout(resolve, deadline - Date.now());
      await promise;
      clearTimeout(timer);
      if (Date.now() >= deadline) throw new Error(`no such state; reported: ${JSON.stringify(this.all)}`);
    }
    return this.last;
  }
}

/** A context as the host makes it, for one trigger of one function. */
export function contextOf(
  given: Omit<Partial<TriggerContext>, 'retry'> & { retry?: Partial<RetryPolicy> | undefined },
): { context: TriggerContext; reports: Reports } {
  const reports = new Reports();
  const context: TriggerContext = {
    site: 'local',
    name: 'main',
    encoding: 'json',
    timeoutSeconds: 30,
    capacity: 4,
    function: { namespace: 'default', name: 'fn', uid: 'uid-1' },
    log: openLog({ level: process.env['ATOLL_TEST_LOG'] ?? 'silent' }),
    server: {
      mount: () => () => {},
      listen: () => Promise.reject(new Error('this test serves nothing')),
      close: () => Promise.resolve(),
    },
    report: (state) => reports.add(state),
    dropped: (subject) => void reports.dropped.push(subject),
    ...given,
    retry: { maxAttempts: 5, minBackoffMs: 10, maxBackoffMs: 100, maxAgeSeconds: 21_600, ...given.retry },
  };
  return { context, reports };
}

/** Closed with the test, whatever becomes of it. */
export function closedLater(trigger: Trigger): Trigger {
  closeLater(() => trigger.close());
  return trigger;
}

export async function nextOf(iterator: AsyncIterator<Delivery>): Promise<Delivery> {
  const next = await iterator.next();
  if (next.done) throw new Error('the trigger ended');
  return next.value;
}

export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function textOf(delivery: Delivery): string {
  return new TextDecoder().decode(delivery.event.data);
}
