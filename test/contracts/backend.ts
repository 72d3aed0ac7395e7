/** What every backend keeps; `testBackend` is called by each backend's own test file. */
import { describe, expect, test } from 'vitest';
import type { Backend, Observation, Workload } from '../../controller/backends/backend.ts';
import { keyText, type Key } from '../../controller/stores/store.ts';
import { validate } from '../../crds/function.ts';
import type { LogRecord } from '../../runtime/log.ts';

export interface BackendUnderTest {
  /** Nothing runs in it yet. It is closed when the test is over. */
  open(): Promise<Backend>;
  /** Sends an event through the function's own invoke door and gives the answer's body. */
  invoke(backend: Backend, key: Key, payload?: unknown): Promise<{ outcome: string; body: unknown }>;
}

export const hello: Key = { namespace: 'default', name: 'hello' };

export function workload(
  options: { key?: Key; generation?: number; uid?: string; code?: string; spec?: object } = {},
): Workload {
  const { key = hello, generation = 1, code = 'exports.handler = (event) => ({ hello: event })' } = options;
  const verdict = validate({
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name: key.name },
    spec: { package: { inline: code }, ...options.spec },
  });
  if (!verdict.ok) throw new Error(JSON.stringify(verdict.problems));
  return { key, uid: options.uid ?? `uid-${key.name}`, generation, spec: verdict.object.spec };
}

/** The first observation that fits; asked again whenever the backend says that something changed. */
export async function untilObserved(
  backend: Backend,
  key: Key,
  fits: (observation: Observation | undefined) => boolean,
): Promise<Observation | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<Observation | undefined>();
  let last: Observation | undefined;
  const look = async (): Promise<void> => {
    last = await backend.observe(key);
    if (fits(last)) resolve(last);
  };
  const stop = backend.watch((one) => {
    if (keyText(one) === keyText(key)) look().catch(reject);
  });
  look().catch(reject);
  const tooLong = setTimeout(
    () => reject(new Error(`not observed; the last was ${JSON.stringify(last)}`)),
    25_000,
  );
  try {
    return await promise;
  } finally {
    clearTimeout(tooLong);
    stop();
  }
}

export const isReady =
  (generation = 1) =>
  (observation: Observation | undefined): boolean =>
    (observation?.hosts.some((host) => host.generation === generation && host.handler.ready) ?? false) &&
    isRolledOut(observation);

function isRolledOut(observation: Observation | undefined): boolean {
  const { updated, wanted, old } = observation?.rollout ?? { updated: 0, wanted: 0, old: 0 };
  return updated >= wanted && old === 0;
}

export function testBackend({ open, invoke }: BackendUnderTest): void {
  describe('as every backend', () => {
    test('what was never asked for is not there, and removing it is fine', async () => {
      const backend = await open();
      expect(await backend.observe(hello)).toBeUndefined();
      expect(backend.address(hello)).toBeUndefined();
      await backend.remove(hello);
    });

    test('a workload comes to run, answers, and is told of at its changes', async () => {
      const backend = await open();
      await backend.ensure(workload());
      const observation = await untilObserved(backend, hello, isReady());
      expect(observation).toMatchObject({ replicas: 1, readyReplicas: 1 });
      expect(observation?.problem).toBeUndefined();
      expect(observation?.hosts[0]?.packageSha256).toMatch(/^[0-9a-f]{64}$/);
      expect(await invoke(backend, hello, 1)).toEqual({ outcome: 'returned', body: { hello: 1 } });
    });

    test('ensuring the same again changes nothing', async () => {
      const backend = await open();
      const code = 'const born = process.pid; exports.handler = () => born';
      await backend.ensure(workload({ code }));
      await untilObserved(backend, hello, isReady());
      const first = await invoke(backend, hello);
      await backend.ensure(workload({ code }));
      await backend.ensure(workload({ code }));
      // Something else passes through the backend after it, so that it would have been acted on by now.
      const other = { namespace: 'default', name: 'other' };
      await backend.ensure(workload({ key: other }));
      await untilObserved(backend, other, isReady());
      expect(await invoke(backend, hello)).toEqual(first);
    });

    test('a new generation takes the place of the old one', async () => {
      const backend = await open();
      await backend.ensure(workload({ code: 'exports.handler = () => 1' }));
      await untilObserved(backend, hello, isReady());
      await backend.ensure(workload({ code: 'exports.handler = () => 2', generation: 2 }));
      await untilObserved(backend, hello, isReady(2));
      expect(await invoke(backend, hello)).toEqual({ outcome: 'returned', body: 2 });
    });

    test('a new generation that cannot be loaded says why, and the old one goes on answering', async () => {
      const backend = await open();
      await backend.ensure(workload({ code: 'exports.handler = () => 1' }));
      await untilObserved(backend, hello, isReady());
      await backend.ensure(workload({ code: 'require("nowhere")', generation: 2 }));
      const observation = await untilObserved(
        backend,
        hello,
        (one) => one?.hosts[0]?.handler.reason === 'Runtime.ImportModuleError',
      );
      expect(observation?.hosts[0]).toMatchObject({
        generation: 2,
        handler: { ready: false, message: expect.stringContaining('nowhere') as string },
      });
      expect(await invoke(backend, hello)).toEqual({ outcome: 'returned', body: 1 });
    });

    test('what is removed runs no more, and others are not touched', async () => {
      const backend = await open();
      const other = { namespace: 'lab', name: 'other' };
      await backend.ensure(workload());
      await backend.ensure(workload({ key: other }));
      await untilObserved(backend, hello, isReady());
      await untilObserved(backend, other, isReady());
      await backend.remove(hello);
      await untilObserved(backend, hello, (one) => one === undefined);
      expect(await invoke(backend, other, 2)).toEqual({ outcome: 'returned', body: { hello: 2 } });
      expect(backend.address(hello)).toBeUndefined();
    });

    test('a watcher is told at once what is there already', async () => {
      const backend = await open();
      await backend.ensure(workload());
      await untilObserved(backend, hello, isReady());
      const told = await new Promise<Key>((resolve) => {
        const stop = backend.watch((key) => {
          queueMicrotask(() => stop());
          resolve(key);
        });
      });
      expect(told).toEqual(hello);
    });

    test('what a handler prints is in the log of its function, to be read and to be followed', async () => {
      const backend = await open();
      await backend.ensure(workload({ code: 'exports.handler = (event) => console.log("got", event)' }));
      await untilObserved(backend, hello, isReady());
      const ending = new AbortController();
      const followed = backend.logs(hello, { follow: true, signal: ending.signal })[Symbol.asyncIterator]();
      const next = async (message: string): Promise<LogRecord> => {
        for (;;) {
          const { value, done } = await followed.next();
          if (done) throw new Error('the log ended');
          if (value.message === message) return value;
        }
      };
      for (const event of [1, 2, 3]) await invoke(backend, hello, event);
      const record = await next('got 3');
      expect(record).toMatchObject({
        function: 'hello',
        namespace: 'default',
        level: 'INFO',
        source: 'handler',
      });
      const read = async (query: Parameters<Backend['logs']>[1]): Promise<string[]> => {
        const messages: string[] = [];
        for await (const one of backend.logs(hello, query)) {
          if (one.source === 'handler') messages.push(one.message);
        }
        return messages;
      };
      expect(await read({})).toEqual(['got 1', 'got 2', 'got 3']);
      expect(await read({ requestId: record.requestId as string })).toEqual(['got 3']);
      expect(await read({ since: Date.parse(record.time) + 60_000 })).toEqual([]);
      await invoke(backend, hello, 4);
      await next('got 4');
      ending.abort();
      for (;;) if ((await followed.next()).done) break;
    });
  });
}
