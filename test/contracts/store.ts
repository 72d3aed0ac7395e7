/** What every store keeps; `testStore` is called by each store's own test file. */
import { describe, expect, test } from 'vitest';
import type { FunctionStatus } from '../../crds/function.ts';
import { InvalidObjectError, keyText, type Key, type Store } from '../../controller/stores/store.ts';

export interface StoreUnderTest {
  /** A new, empty store. */
  open(): Promise<Store>;
}

export function manifest(name: string, spec: Record<string, unknown> = {}, metadata = {}): unknown {
  return {
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name, ...metadata },
    spec: { package: { inline: 'exports.handler = () => 1' }, ...spec },
  };
}

/** Resolves when the store has told the key since the call. */
export function told(store: Store, key: Key): Promise<void> {
  return new Promise((resolve) => {
    const stop = store.watch((one) => {
      if (keyText(one) !== keyText(key)) return;
      // Not within the call of watch(), which has not returned `stop` yet.
      queueMicrotask(() => stop());
      resolve();
    });
  });
}

const hello = { namespace: 'default', name: 'hello' };
const status: FunctionStatus = { observedGeneration: 1, replicas: 1, readyReplicas: 1 };

export function testStore({ open }: StoreUnderTest): void {
  describe('as every store', () => {
    test('what was never put is not there', async () => {
      const store = await open();
      expect(await store.get(hello)).toBeUndefined();
      expect(await store.list()).toEqual([]);
      expect(await store.remove(hello)).toBe(false);
    });

    test('put gives uid, generation, resourceVersion and creation time, and fills the defaults in', async () => {
      const store = await open();
      const stored = await store.put(manifest('hello'));
      expect(stored.metadata).toMatchObject({ ...hello, generation: 1 });
      expect(stored.metadata.uid).toMatch(/^[0-9a-f-]{36}$/);
      expect(Date.parse(stored.metadata.creationTimestamp ?? '')).toBeGreaterThan(0);
      expect(stored.metadata.resourceVersion).toBeTruthy();
      expect(stored.spec).toMatchObject({ timeoutSeconds: 30, retry: { maxAttempts: 3 } });
      expect(await store.get(hello)).toEqual(stored);
    });

    test('putting the same again changes nothing', async () => {
      const store = await open();
      const first = await store.put(manifest('hello'));
      expect(await store.put(manifest('hello'))).toEqual(first);
    });

    test('the generation grows with the spec and not with labels; the resourceVersion with both', async () => {
      const store = await open();
      const first = await store.put(manifest('hello'));
      const labelled = await store.put(manifest('hello', {}, { labels: { team: 'arm' } }));
      const changed = await store.put(manifest('hello', { timeoutSeconds: 5 }));
      expect([first, labelled, changed].map(({ metadata }) => metadata.generation)).toEqual([1, 1, 2]);
      const versions = [first, labelled, changed].map(({ metadata }) => metadata.resourceVersion);
      expect(new Set(versions).size).toBe(3);
      expect(changed.metadata.uid).toBe(first.metadata.uid);
    });

    test('a change of what was read meanwhile by somebody else is refused as a conflict', async () => {
      const store = await open();
      const read = await store.put(manifest('hello'));
      await store.put(manifest('hello', { timeoutSeconds: 5 }));
      const stale = manifest(
        'hello',
        { timeoutSeconds: 9 },
        {
          resourceVersion: read.metadata.resourceVersion,
        },
      );
      await expect(store.put(stale)).rejects.toMatchObject({ code: 'Conflict' });
      expect((await store.get(hello))?.spec.timeoutSeconds).toBe(5);
    });

    test('of changes made at once each is one generation', async () => {
      const store = await open();
      await Promise.all(
        [1, 2, 3, 4, 5].map((timeoutSeconds) => store.put(manifest('hello', { timeoutSeconds }))),
      );
      expect((await store.get(hello))?.metadata.generation).toBe(5);
    });

    test('what is not valid is refused with every problem, and nothing is stored', async () => {
      const store = await open();
      const wrong = manifest('hello', { timeoutSeconds: 0, memory: 'much' });
      const error = await store.put(wrong).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(InvalidObjectError);
      const problems = (error as InvalidObjectError).problems.join('\n');
      expect(problems).toMatch(/timeoutSeconds/);
      expect(problems).toMatch(/memory/);
      expect(await store.list()).toEqual([]);
    });

    test('a dry run says what would be stored and stores nothing', async () => {
      const store = await open();
      const dry = await store.put(manifest('hello'), { dryRun: true });
      expect(dry.spec.timeoutSeconds).toBe(30);
      expect(await store.get(hello)).toBeUndefined();
    });

    test('the status is written apart from the spec and bumps no generation', async () => {
      const store = await open();
      const { metadata, spec } = await store.put(manifest('hello'));
      await store.writeStatus(hello, status);
      const object = await store.get(hello);
      expect(object?.status).toEqual(status);
      expect(object?.spec).toEqual(spec);
      // In a cluster the resourceVersion is that of the object with its status.
      const { resourceVersion: _, ...others } = metadata;
      expect(object?.metadata).toMatchObject(others);
    });

    test('a change of the spec keeps the status', async () => {
      const store = await open();
      await store.put(manifest('hello'));
      await store.writeStatus(hello, status);
      expect((await store.put(manifest('hello', { timeoutSeconds: 5 }))).status).toEqual(status);
    });

    test('writing the status of what is gone does nothing', async () => {
      const store = await open();
      await store.writeStatus(hello, status);
      expect(await store.get(hello)).toBeUndefined();
    });

    test('what was deleted and made anew is another Function, without the old status', async () => {
      const store = await open();
      const first = await store.put(manifest('hello'));
      await store.writeStatus(hello, status);
      expect(await store.remove(hello)).toBe(true);
      expect(await store.get(hello)).toBeUndefined();
      const second = await store.put(manifest('hello'));
      expect(second.metadata.uid).not.toBe(first.metadata.uid);
      expect(second.status).toBeUndefined();
    });

    test('lists one namespace, or all', async () => {
      const store = await open();
      await store.put(manifest('hello'));
      await store.put(manifest('hello', {}, { namespace: 'lab' }));
      const keys = async (namespace?: string): Promise<string[]> =>
        (await store.list(namespace)).map(({ metadata }) => keyText(metadata));
      expect(await keys()).toEqual(['default/hello', 'lab/hello']);
      expect(await keys('lab')).toEqual(['lab/hello']);
      expect((await store.keys()).map(keyText)).toEqual(['default/hello', 'lab/hello']);
      expect((await store.keys('lab')).map(keyText)).toEqual(['lab/hello']);
    });

    test('a watcher is told every key there is, then each that is made, changed or removed', async () => {
      const store = await open();
      await store.put(manifest('hello'));
      await told(store, hello);
      const other = { namespace: 'default', name: 'other' };
      const made = told(store, other);
      await store.put(manifest('other'));
      await made;
      const seen: string[] = [];
      let heard = (): void => {};
      const stop = store.watch((key) => {
        seen.push(keyText(key));
        heard();
      });
      const next = async (): Promise<void> => {
        seen.length = 0;
        await new Promise<void>((resolve) => (heard = resolve));
      };
      while (!seen.includes('default/other')) await new Promise<void>((resolve) => (heard = resolve));
      const changed = next();
      await store.put(manifest('hello', { timeoutSeconds: 5 }));
      await changed;
      expect(seen).toEqual(['default/hello']);
      const removed = next();
      await store.remove(other);
      await removed;
      expect(seen).toEqual(['default/other']);
      stop();
    });

    test.each(['../hello', 'Hello', 'a/b', '', '.'])(
      'a name like "%s" is nothing that could be there',
      async (name) => {
        const store = await open();
        expect(await store.get({ namespace: 'default', name })).toBeUndefined();
        expect(await store.get({ namespace: name, name: 'hello' })).toBeUndefined();
        expect(await store.remove({ namespace: 'default', name })).toBe(false);
      },
    );
  });
}
