import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { LockedError, takeLock } from '../../../controller/stores/lock.ts';
import { identify } from '../../../runtime/process/identity.ts';
import { temporaryFolder } from '../../support/folder.ts';

const self = identify(process.pid) as { pid: number; startTime: string };

test('a held lock is refused with the pid of its holder, and free again when released', async () => {
  const folder = await temporaryFolder();
  const lock = await takeLock(folder, 'x', { waitMs: 0 });
  const refused = takeLock(folder, 'x', { waitMs: 30 });
  await expect(refused).rejects.toBeInstanceOf(LockedError);
  await expect(refused).rejects.toMatchObject({ holder: { pid: process.pid } });
  await takeLock(folder, 'y', { waitMs: 0 });
  await lock.release();
  await takeLock(folder, 'x', { waitMs: 0 });
});

test('the lock of a process that is gone is taken over and cleared away', async () => {
  const folder = await temporaryFolder();
  const child = fork(join(import.meta.dirname, 'hold-lock.ts'), [folder]);
  await once(child, 'message');
  await expect(takeLock(folder, 'x', { waitMs: 0 })).rejects.toMatchObject({ holder: { pid: child.pid } });
  child.kill('SIGKILL');
  await once(child, 'exit');
  await takeLock(folder, 'x', { waitMs: 0 });
  expect(await readdir(folder)).toHaveLength(1);
});

test('a living process that got the pid of a dead holder does not keep the lock', async () => {
  const folder = await temporaryFolder();
  await writeFile(join(folder, `x.${self.pid}-${Number(self.startTime) - 1}.abcdef`), '');
  await takeLock(folder, 'x', { waitMs: 0 });
  expect(await readdir(folder)).toHaveLength(1);
});

test('of many processes only one at a time holds the lock, dead holders among them', async () => {
  const folder = await temporaryFolder();
  const counter = join(folder, 'counter');
  await writeFile(counter, '0');
  for (let dead = 0; dead < 5; dead += 1) await writeFile(join(folder, `x.${999_990 + dead}-1.abcdef`), '');
  const children = [1, 2, 3].map(() => fork(join(import.meta.dirname, 'hold-lock.ts'), [folder, counter]));
  await Promise.all(children.map((child) => once(child, 'exit')));
  expect(await readFile(counter, 'utf8')).toBe('75');
});
