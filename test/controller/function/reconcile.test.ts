import { expect, test } from 'vitest';
import type { Backend } from '../../../controller/backends/backend.ts';
import { reconcileFunctions } from '../../../controller/function/reconcile.ts';
import { openDirectoryStore } from '../../../controller/stores/directory.ts';
import { AtollError } from '../../../runtime/errors.ts';
import { manifest } from '../../contracts/store.ts';
import { temporaryFolder } from '../../support/folder.ts';

const hello = { namespace: 'default', name: 'hello' };

test('what cannot be made says so in its status and is tried again; what is ready stays so', async () => {
  const store = await openDirectoryStore({ dir: await temporaryFolder() });
  await store.put(manifest('hello'));
  const refusal = new AtollError('ClusterUnavailable', 'the range of addresses is full');
  // A place that takes nothing: no real one does so on demand.
  const backend: Backend = {
    ensure: () => Promise.reject(refusal),
    remove: () => Promise.resolve(),
    observe: () => Promise.resolve(undefined),
    address: () => undefined,
    async *logs() {},
    watch: () => () => {},
    close: () => Promise.resolve(),
  };
  const conflicts = { of: () => Promise.resolve([]) };
  const reconcile = reconcileFunctions({ store, backend, conflicts });
  const signal = new AbortController().signal;
  await expect(reconcile(hello, signal)).rejects.toBe(refusal);
  const { status, metadata } = (await store.get(hello))!;
  expect(status?.observedGeneration).toBe(metadata.generation);
  expect(status?.conditions).toContainEqual(
    expect.objectContaining({
      type: 'Ready',
      status: 'False',
      reason: 'ClusterUnavailable',
      message: refusal.message,
    }),
  );
  expect(status?.conditions).toContainEqual(expect.objectContaining({ type: 'Progressing', status: 'True' }));

  const conditions = status!.conditions!.map((one) =>
    one.type === 'Ready' ? { ...one, status: 'True' as const } : one,
  );
  const ready = { ...status, conditions };
  await store.writeStatus(hello, ready);
  await expect(reconcile(hello, signal)).rejects.toBe(refusal);
  expect((await store.get(hello))?.status).toEqual(ready);
});
