import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { openConflicts } from '../../../controller/function/conflicts.ts';
import { openDirectoryStore } from '../../../controller/stores/directory.ts';
import { openLog } from '../../../runtime/log.ts';
import { manifest } from '../../contracts/store.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const serving = (name: string, path: string, methods?: string[]): object => {
  const { spec, ...rest } = manifest(name) as { spec: object };
  const http = { path, ...(methods && { methods }) };
  return { ...rest, spec: { ...spec, triggers: [{ name: 'web', http }] } };
};

test('who loses or gets a path is told, nobody else, and the answer is that of all Functions together', async () => {
  const store = await openDirectoryStore({ dir: await temporaryFolder() });
  await store.put(serving('older', '/x'));
  await store.put(serving('elsewhere', '/y'));
  const conflicts = openConflicts(store, log);
  closeLater(() => Promise.resolve(conflicts.close()));
  const told: string[] = [];
  conflicts.watch(({ name }) => told.push(name));
  const lost = async (name: string): Promise<string[]> => {
    const object = await store.get({ namespace: 'default', name });
    return object ? (await conflicts.of(object)).map(({ path, message }) => `${path}: ${message}`) : ['gone'];
  };
  expect(await lost('older')).toEqual([]);

  await store.put(serving('younger', '/x'));
  await expect.poll(() => told).toEqual(['younger']);
  expect(await lost('younger')).toEqual([
    expect.stringContaining('served by the older function default/older') as string,
  ]);
  expect(await lost('older')).toEqual([]);

  // They share the path and no method.
  await store.put(serving('older', '/x', ['GET']));
  await store.put(serving('younger', '/x', ['POST']));
  await expect.poll(() => told).toEqual(['younger', 'younger']);
  expect(await lost('younger')).toEqual([]);

  await store.put(serving('younger', '/x', ['GET', 'POST']));
  await expect.poll(() => told).toEqual(['younger', 'younger', 'younger']);
  await store.remove({ namespace: 'default', name: 'older' });
  await expect.poll(() => told).toEqual(['younger', 'younger', 'younger', 'younger']);
  expect(await lost('younger')).toEqual([]);
});
