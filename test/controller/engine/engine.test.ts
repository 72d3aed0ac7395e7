import { Writable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  startEngine,
  TerminalError,
  type Engine,
  type Reconcile,
} from '../../../controller/engine/engine.ts';
import { keyText, type Key, type Watchable } from '../../../controller/stores/store.ts';
import { openLog } from '../../../runtime/log.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const key = (name: string): Key => ({ namespace: 'default', name });
let engine: Engine | undefined;

beforeEach(() => void vi.useFakeTimers());
afterEach(async () => {
  await engine?.stop();
  vi.useRealTimers();
});

/** A source whose changes the test makes; random at its top, so that backoffs are whole steps. */
function startWith(
  reconcile: Reconcile,
  options: { concurrency?: number; resyncMs?: number } = {},
): { change(name: string): void; watching(): boolean } {
  const listeners = new Set<(key: Key) => void>();
  const source: Watchable = {
    watch(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
  engine = startEngine({ sources: [source], reconcile, log, random: () => 1, ...options });
  return {
    change(name) {
      for (const listener of listeners) listener(key(name));
    },
    watching: () => listeners.size > 0,
  };
}

function start(...options: Parameters<typeof startWith>): {
  change(name: string): Promise<void>;
  watching(): boolean;
} {
  const { change, watching } = startWith(...options);
  return {
    async change(name) {
      change(name);
      await vi.advanceTimersByTimeAsync(0);
    },
    watching,
  };
}

test('a key that changes is reconciled', async () => {
  const seen: string[] = [];
  const { change } = start(async (one) => void seen.push(keyText(one)));
  await change('a');
  await change('b');
  expect(seen).toEqual(['default/a', 'default/b']);
});

test('changes of a key that still waits are one reconcile', async () => {
  const gate = Promise.withResolvers<void>();
  const seen: string[] = [];
  const { change } = start(
    async ({ name }) => {
      seen.push(name);
      if (name === 'first') await gate.promise;
    },
    { concurrency: 1 },
  );
  await change('first');
  for (let times = 0; times < 5; times += 1) await change('a');
  gate.resolve();
  await turn();
  await turn();
  expect(seen).toEqual(['first', 'a']);
});

test('one key never runs twice at once, and a change while it runs makes it run once more', async () => {
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let runs = 0;
  let atOnce = 0;
  let most = 0;
  const { change } = start(async () => {
    most = Math.max(most, (atOnce += 1));
    await gates[runs++]?.promise;
    atOnce -= 1;
  });
  await change('a');
  await change('a');
  await change('a');
  expect(runs).toBe(1);
  gates[0]?.resolve();
  await vi.advanceTimersByTimeAsync(0);
  expect(runs).toBe(2);
  gates[1]?.resolve();
  await vi.advanceTimersByTimeAsync(60_000);
  expect([runs, most]).toEqual([2, 1]);
});

test('different keys run side by side, as many as allowed', async () => {
  const gate = Promise.withResolvers<void>();
  const running: string[] = [];
  const { change } = start(
    async ({ name }) => {
      running.push(name);
      await gate.promise;
    },
    { concurrency: 2 },
  );
  for (const name of ['a', 'b', 'c']) await change(name);
  expect(running).toEqual(['a', 'b']);
  gate.resolve();
  await turn();
  await turn();
  expect(running).toEqual(['a', 'b', 'c']);
});

test('a failure is tried again after a wait that doubles up to a minute', async () => {
  const times: number[] = [];
  const began = Date.now();
  const { change } = start(async () => {
    times.push(Date.now() - began);
    throw new Error('no');
  });
  await change('a');
  await vi.advanceTimersByTimeAsync(300_000);
  const waits = times.slice(1).map((time, index) => time - (times[index] as number));
  expect(waits.slice(0, 4)).toEqual([100, 200, 400, 800]);
  expect(waits.slice(-2)).toEqual([60_000, 60_000]);
});

test('a success makes the next failure a first one', async () => {
  let fails = 3;
  const times: number[] = [];
  const { change } = start(async () => {
    times.push(Date.now());
    if (fails-- > 0) throw new Error('no');
  });
  await change('a');
  await vi.advanceTimersByTimeAsync(10_000);
  expect(times).toHaveLength(4);
  fails = 1;
  await change('a');
  await vi.advanceTimersByTimeAsync(100);
  expect(times).toHaveLength(6);
});

test('a change ends the wait of a key that failed', async () => {
  let runs = 0;
  const { change } = start(async () => {
    runs += 1;
    if (runs < 8) throw new Error('no');
  });
  await change('a');
  await vi.advanceTimersByTimeAsync(100 + 200 + 400 + 800 + 1_600 + 3_200);
  expect(runs).toBe(7);
  await change('a');
  expect(runs).toBe(8);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(runs).toBe(8);
});

test('a TerminalError waits for a change, however long', async () => {
  let runs = 0;
  const { change } = start(
    async () => {
      runs += 1;
      throw new TerminalError('the file is broken');
    },
    { resyncMs: 2 ** 30 },
  );
  await change('a');
  await vi.advanceTimersByTimeAsync(3_600_000);
  expect(runs).toBe(1);
  await change('a');
  expect(runs).toBe(2);
});

test('afterMs runs the key again, and of two waits the earlier counts', async () => {
  const times: number[] = [];
  const began = Date.now();
  const { change } = start(async () => {
    times.push(Date.now() - began);
    if (times.length < 3) return { afterMs: 1_000 };
    return undefined;
  });
  await change('a');
  await vi.advanceTimersByTimeAsync(10_000);
  expect(times).toEqual([0, 1_000, 2_000]);
});

test('every known key is looked at again now and then, without a change', async () => {
  const seen: string[] = [];
  const { change } = start(async ({ name }) => void seen.push(name), { resyncMs: 60_000 });
  await change('a');
  await change('b');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(seen).toEqual(['a', 'b', 'a', 'b']);
});

test('stop waits for what runs, aborts its signal, and runs nothing more', async () => {
  const gate = Promise.withResolvers<void>();
  let signal: AbortSignal | undefined;
  let runs = 0;
  const { change, watching } = start(async (_key, given) => {
    runs += 1;
    signal = given;
    await gate.promise;
    throw new Error('aborted');
  });
  await change('a');
  await change('a');
  let stopped = false;
  const stopping = engine?.stop().then(() => (stopped = true));
  await vi.advanceTimersByTimeAsync(0);
  expect([signal?.aborted, stopped, watching()]).toEqual([true, false, false]);
  gate.resolve();
  await stopping;
  await vi.advanceTimersByTimeAsync(600_000);
  expect(runs).toBe(1);
});

test('while thousands are reconciled that wait for nothing, timers and sockets have their turns', async () => {
  vi.useRealTimers();
  const many = 2_000;
  let reconciled = 0;
  const { promise: all, resolve: onAll } = Promise.withResolvers<void>();
  const { change } = startWith(async () => {
    reconciled += 1;
    if (reconciled === many) onAll();
  });
  for (let number = 0; number < many; number += 1) change(`f-${number}`);
  await turn();
  expect(reconciled).toBeLessThan(20);
  await all;
});
