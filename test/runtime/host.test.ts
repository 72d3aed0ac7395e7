/** The event flow by itself: deliveries from a list, outcomes as scripted, so that every ending can be shown. */
import { expect, test } from 'vitest';
import type { FunctionSpec } from '../../crds/function.ts';
import { validate } from '../../crds/function.ts';
import type { DeadLetterReason, Delivery, Outcome, Settlement, TriggerEvent } from '../../runtime/event.ts';
import { batchItemFailures, maxHops, openFlow } from '../../runtime/host.ts';
import type { Invocation, Invoker } from '../../runtime/invoker/invoker.ts';
import { openLog } from '../../runtime/log.ts';
import { openMetrics } from '../../runtime/metrics.ts';
import type { Trigger } from '../../runtime/triggers/trigger.ts';

const report = { requestId: 'r', durationMs: 5, maxMemoryMiB: 30, coldStart: false };
const fault = { code: 'Error', message: 'broken' };
const returned = (value: unknown = null): Outcome => ({
  kind: 'returned',
  result: { encoding: 'json', data: Buffer.from(JSON.stringify(value)) },
  report,
});
const threw: Outcome = { kind: 'threw', fault, retryable: true, report };

function specOf(overrides: object = {}): FunctionSpec {
  const metadata = { name: 'f' };
  const validated = validate({
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata,
    spec: overrides,
  });
  if (!validated.ok) throw new Error(JSON.stringify(validated.problems));
  return validated.object.spec;
}

interface Told {
  settlement?: Settlement;
  settled: number;
}

function deliveryOf(
  id: string,
  given: Partial<Delivery> = {},
  event: Partial<TriggerEvent> = {},
): Delivery & Told {
  const delivery: Delivery & Told = {
    event: {
      id,
      trigger: 't',
      kind: 'jetstream',
      subject: 's',
      time: Date.now(),
      attempt: 1,
      headers: {},
      encoding: 'json',
      data: Buffer.from('1'),
      ...event,
    },
    replies: false,
    redeliverable: true,
    ...given,
    settled: 0,
    async settle(settlement) {
      delivery.settlement = settlement;
      delivery.settled += 1;
    },
  };
  return delivery;
}

/** Yields what is in the list; `asked` is the greatest demand seen. */
function listTrigger(list: Delivery[]): Trigger & { asked: number } {
  let outstanding = 0;
  const trigger = {
    asked: 0,
    deliveries: () => ({
      [Symbol.asyncIterator]: () => ({
        async next(): Promise<IteratorResult<Delivery>> {
          outstanding += 1;
          trigger.asked = Math.max(trigger.asked, outstanding);
          await new Promise(setImmediate);
          outstanding -= 1;
          const value = list.shift();
          return value ? { done: false, value } : { done: true, value: undefined };
        },
      }),
    }),
    close: async () => undefined,
  };
  return trigger;
}

function scripted(answer: (invocation: Invocation) => Outcome | Promise<Outcome>, capacity = 1): Invoker {
  return {
    start: async () => undefined,
    invoke: async (invocation) => answer(invocation),
    capacity,
    state: { ready: true, reason: 'Ready', message: '' },
    onState: () => undefined,
    drain: async () => undefined,
  };
}

interface Stored {
  id: string;
  reason: DeadLetterReason;
  attempts: number | undefined;
}

async function flow(options: {
  deliveries: Delivery[];
  invoker: Invoker;
  spec?: object;
  store?: (stored: Stored) => Promise<void>;
  batch?: { size: number; windowMs: number };
}) {
  const stored: Stored[] = [];
  const told: [string, string | undefined][] = [];
  const metrics = openMetrics();
  const opened = openFlow({
    function: { namespace: 'default', name: 'f', uid: 'u' },
    metrics: metrics.of('default', 'f'),
    log: openLog({ level: 'silent' }),
    destinations: {},
    deadLetters: {
      put: async (
        _ref: unknown,
        event: TriggerEvent,
        _fault: unknown,
        reason: DeadLetterReason,
        meta: { attempts?: number } = {},
      ) => {
        const letter = { id: event.id, reason, attempts: meta.attempts };
        await options.store?.(letter);
        stored.push(letter);
      },
    } as never,
    unstored: (trigger, why) => void told.push([trigger, why]),
  });
  const trigger = listTrigger([...options.deliveries]);
  opened.use(options.invoker, specOf(options.spec), 'v1');
  await opened.pump('t', trigger, options.batch);
  return { stored, told, trigger, text: await metrics.registry.metrics() };
}

test('a handled event is settled as done, once', async () => {
  const delivery = deliveryOf('a');
  const { stored, text } = await flow({ deliveries: [delivery], invoker: scripted(() => returned(7)) });
  expect(delivery).toMatchObject({ settled: 1, settlement: { kind: 'done' } });
  expect(stored).toEqual([]);
  expect(text).toContain(
    'atoll_invocations_total{namespace="default",function="f",trigger="t",outcome="returned"} 1',
  );
});

test('the dead letter is stored before the event is acknowledged', async () => {
  const order: string[] = [];
  const delivery = deliveryOf('a', {}, { attempt: 3 });
  const settle = delivery.settle.bind(delivery);
  delivery.settle = async (settlement) => {
    order.push(`settled ${settlement.kind}`);
    await settle(settlement);
  };
  await flow({
    deliveries: [delivery],
    invoker: scripted(() => threw),
    store: async () => void order.push('stored'),
  });
  expect(order).toEqual(['stored', 'settled failed']);
});

test('an event whose dead letter cannot be stored goes back to its source, without using an attempt up', async () => {
  const delivery = deliveryOf('a', {}, { attempt: 3 });
  const full = () => Promise.reject(new Error('stream full'));
  const { text, told } = await flow({ deliveries: [delivery], invoker: scripted(() => threw), store: full });
  const givenUp = { reason: 'RetriesExhausted', fault, attempts: 3 };
  expect(delivery.settlement).toEqual({ kind: 'retry', failed: false, delayMs: 1_000, givenUp });
  expect(told).toEqual([['t', expect.stringContaining('stream full')]]);
  expect(text).not.toContain('atoll_dead_letters_total{');
  expect(text).toContain('atoll_dead_letters_unstored_total{namespace="default",function="f",trigger="t"} 1');
});

test('that dead letters cannot be stored is told when it begins and when it ends', async () => {
  const fail = (id: string): Delivery => deliveryOf(id, {}, { attempt: 3 });
  const { told, stored } = await flow({
    deliveries: ['a', 'b', 'c', 'd'].map(fail),
    invoker: scripted(() => threw),
    store: ({ id }) => (id < 'c' ? Promise.reject(new Error('stream full')) : Promise.resolve()),
  });
  expect(told).toEqual([
    ['t', expect.stringContaining('stream full')],
    ['t', undefined],
  ]);
  expect(stored.map(({ id }) => id)).toEqual(['c', 'd']);
});

test('who waits is answered with the fault, and nothing is dead-lettered', async () => {
  const delivery = deliveryOf('a', { replies: true, redeliverable: false });
  const { stored } = await flow({ deliveries: [delivery], invoker: scripted(() => threw) });
  expect(delivery.settlement).toMatchObject({ kind: 'failed', fault });
  expect(stored).toEqual([]);
});

test.each([
  { kind: 'crashed', fault, suspects: 3, report },
  { kind: 'timedOut', fault, suspects: 3, report },
  { kind: 'returnedUnrun', fault, suspects: 3, began: true, report },
] satisfies Outcome[])(
  'an event that $kind with others runs again alone before it is judged',
  async (first) => {
    const alone: boolean[] = [];
    const invoker = scripted((invocation) => {
      alone.push(invocation.alone === true);
      return invocation.alone ? returned() : first;
    });
    const delivery = deliveryOf('a');
    await flow({ deliveries: [delivery], invoker });
    expect(alone).toEqual([false, true]);
    expect(delivery.settlement?.kind).toBe('done');
  },
);

test('with maxAttempts 1 an event is never run a second time, not even as a suspect', async () => {
  let runs = 0;
  const invoker = scripted(() => {
    runs += 1;
    return { kind: 'crashed', fault, suspects: 3, report };
  });
  await flow({ deliveries: [deliveryOf('a')], invoker, spec: { retry: { maxAttempts: 1 } } });
  expect(runs).toBe(1);
});

test('an event the source refuses never reaches the handler', async () => {
  let runs = 0;
  const invoker = scripted(() => {
    runs += 1;
    return returned();
  });
  const poison = deliveryOf('a', { refuse: { reason: 'Poison', fault, attempts: 2 } });
  const { stored } = await flow({ deliveries: [poison], invoker });
  expect(runs).toBe(0);
  expect(stored).toEqual([{ id: 'a', reason: 'Poison', attempts: 2 }]);
});

test('a chain that came back 16 times is stopped, unless the function allows recursion', async () => {
  const looped = () => deliveryOf('a', {}, { headers: { 'Atoll-Hops': String(maxHops) } });
  const stopped = await flow({ deliveries: [looped()], invoker: scripted(() => returned()) });
  expect(stopped.stored).toEqual([{ id: 'a', reason: 'Recursion', attempts: 0 }]);
  const allowed = await flow({
    deliveries: [looped()],
    invoker: scripted(() => returned()),
    spec: { recursion: 'Allow' },
  });
  expect(allowed.stored).toEqual([]);
});

test('no more is asked for than there are free slots, and no more runs at once', async () => {
  let running = 0;
  let most = 0;
  const invoker = scripted(async () => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 2));
    running -= 1;
    return returned();
  }, 3);
  const deliveries = Array.from({ length: 20 }, (_, index) => deliveryOf(String(index)));
  const { trigger } = await flow({ deliveries, invoker });
  expect(most).toBe(3);
  expect(trigger.asked).toBe(3);
  expect(deliveries.every(({ settled }) => settled === 1)).toBe(true);
});

/** An invoker whose processes cannot start until `recover` is called. */
function broken() {
  const listeners: (() => void)[] = [];
  let up = false;
  const invoked: string[] = [];
  const invoker: Invoker = {
    ...scripted((invocation) => {
      invoked.push(...invocation.events.map(({ id }) => id));
      return returned();
    }, 2),
    get state() {
      return { ready: up, reason: up ? 'Ready' : 'Runtime.ExitError', message: '' };
    },
    onState: (listener) => void listeners.push(() => listener(invoker.state)),
  };
  const recover = (): void => {
    up = true;
    for (const listener of listeners) listener();
  };
  return { invoker, invoked, recover };
}

function openBroken(deliveries: Delivery[]) {
  const made = broken();
  const opened = openFlow({
    function: { namespace: 'default', name: 'f', uid: 'u' },
    metrics: openMetrics().of('default', 'f'),
    log: openLog({ level: 'silent' }),
    destinations: {},
  });
  const trigger = listTrigger(deliveries);
  opened.use(made.invoker, specOf(), 'v1');
  return { ...made, opened, trigger, pumped: opened.pump('t', trigger) };
}

test('while no handler process can run, one event waits with us, the others at their source, and all run in the end', async () => {
  const deliveries = ['1', '2', '3'].map((id) => deliveryOf(id));
  const { invoked, recover, trigger, pumped } = openBroken([...deliveries]);
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  expect(trigger.asked).toBe(1);
  expect(invoked).toEqual([]);
  recover();
  await pumped;
  expect(invoked).toEqual(['1', '2', '3']);
  expect(deliveries.map(({ settled }) => settled)).toEqual([1, 1, 1]);
});

test('while no handler process can run, who waits is told at once to come later', async () => {
  const callers = ['1', '2'].map((id) => deliveryOf(id, { replies: true, redeliverable: false }));
  const { invoked, pumped } = openBroken([...callers]);
  await pumped;
  expect(callers.map(({ settlement }) => settlement?.kind)).toEqual(['retry', 'retry']);
  expect(invoked).toEqual([]);
});

test('what waits for a handler that cannot run goes back when the function stops', async () => {
  const delivery = deliveryOf('1');
  const { opened, pumped } = openBroken([delivery]);
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  opened.stop();
  await pumped;
  expect(delivery.settlement).toMatchObject({ kind: 'retry', delayMs: 0, failed: false });
});

test('when the function stops, what waits for a slot goes back to a source that keeps it, and else still runs', async () => {
  const running = deliveryOf('running');
  const kept = deliveryOf('kept', { extend: () => undefined });
  const lost = deliveryOf('lost');
  const invoked: string[] = [];
  const first = Promise.withResolvers<void>();
  const invoker = scripted(async ({ events }) => {
    const id = events[0]?.id ?? '';
    invoked.push(id);
    if (id === 'running') await first.promise;
    return returned();
  });
  const opened = openFlow({
    function: { namespace: 'default', name: 'f', uid: 'u' },
    metrics: openMetrics().of('default', 'f'),
    log: openLog({ level: 'silent' }),
    destinations: {},
  });
  opened.use(invoker, specOf(), 'v1');
  const pumped = [running, kept, lost].map((delivery) => opened.pump('t', listTrigger([delivery])));
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  opened.stop();
  first.resolve();
  await Promise.all(pumped);
  expect(invoked).toEqual(['running', 'lost']);
  expect(kept.settlement).toMatchObject({ kind: 'retry', delayMs: 0, failed: false });
  expect(lost.settlement).toMatchObject({ kind: 'done' });
});

test('a batch is one invocation; each of its events is settled by itself', async () => {
  const sizes: number[] = [];
  const invoker = scripted((invocation) => {
    sizes.push(invocation.events.length);
    expect(invocation.batch).toBe(true);
    return returned({ batchItemFailures: [{ itemIdentifier: '2' }] });
  });
  const deliveries = ['1', '2', '3'].map((id) => deliveryOf(id));
  await flow({ deliveries, invoker, batch: { size: 3, windowMs: 1000 } });
  expect(sizes).toEqual([3]);
  expect(deliveries.map(({ settlement }) => settlement?.kind)).toEqual(['done', 'retry', 'done']);
});

test('a batch that does not fill goes out when its window is over', async () => {
  const sizes: number[] = [];
  const invoker = scripted((invocation) => {
    sizes.push(invocation.events.length);
    return returned();
  });
  const deliveries = ['1', '2', '3'].map((id) => deliveryOf(id));
  await flow({ deliveries, invoker, batch: { size: 2, windowMs: 5 } });
  expect(sizes).toEqual([2, 1]);
});

test.each([
  ['an empty list', { batchItemFailures: [] }, []],
  ['no list', { ok: true }, []],
  ['null', null, []],
  ['one of them', { batchItemFailures: [{ itemIdentifier: 'b' }] }, ['b']],
  ['an unknown id', { batchItemFailures: [{ itemIdentifier: 'x' }] }, ['a', 'b']],
  ['an entry without id', { batchItemFailures: [{}] }, ['a', 'b']],
  ['a null entry', { batchItemFailures: [null] }, ['a', 'b']],
  ['an empty id', { batchItemFailures: [{ itemIdentifier: '' }] }, ['a', 'b']],
  ['something else than a list', { batchItemFailures: 'a' }, ['a', 'b']],
])('batchItemFailures: %s fails %j', (_name, value, failed) => {
  const outcome = returned(value) as Extract<Outcome, { kind: 'returned' }>;
  expect([...batchItemFailures(outcome, [deliveryOf('a'), deliveryOf('b')]).keys()]).toEqual(failed);
});
