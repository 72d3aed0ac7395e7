import { execFile, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { LockedError, takeLock } from '../../../controller/stores/lock.ts';
import { identify } from '../../../runtime/process/identity.ts';
import { closeLater } from '../../support/closing.ts';
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

const nobody = 65534;
const root = resolve(import.meta.dirname, '../../..');

/** As a service of systemd with ProtectProc=invisible sees the machine: processes of other users are not there. */
async function tryAsService(folder: string): Promise<string> {
  const place = join(folder, 'place');
  const script = [
    'mkdir -p "$0" && mount --bind "$1" "$0"',
    'mount -t proc -o hidepid=invisible proc /proc',
    'cd "$0" && shift',
    `exec setpriv --reuid=${nobody} --regid=${nobody} --clear-groups "$@"`,
  ].join(' && ');
  const program = ['node_modules/.bin/node', 'test/controller/stores/try-lock.ts', folder];
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', script, place, root, ...program];
  return (await promisify(execFile)('unshare', args)).stdout.trim();
}

const noService = ((): string | undefined => {
  if (process.getuid?.() !== 0) return 'only root has processes that others may not see';
  const hides = 'mount -t proc -o hidepid=invisible proc /proc';
  const { status } = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', hides]);
  return status === 0 ? undefined : 'this kernel hides no processes (Linux 5.8 and "unshare" do)';
})();
if (noService !== undefined) process.stderr.write(`Skipped: ${noService}\n`);

test.skipIf(noService)(
  'the lock of a process that cannot be seen is not taken over while there is one of that number, and is after a boot',
  async () => {
    const folder = await temporaryFolder();
    await chmod(folder, 0o700);
    await chown(folder, nobody, nobody);
    const hold = async () => {
      const child = fork(join(import.meta.dirname, 'hold-lock.ts'), [folder]);
      closeLater(async () => void child.kill('SIGKILL'));
      await once(child, 'message');
      return child;
    };
    const holder = await hold();
    const [file = ''] = (await readdir(folder)).filter((entry) => entry.startsWith('x.'));
    expect(await tryAsService(folder)).toBe(
      `the lock "x" is held by process ${holder.pid}, which this user may not look at: if it is none of Atoll's, remove ${join(folder, file)}`,
    );
    expect(await readdir(folder)).toContain(file);

    // As it would lie there if the machine had been started since, and another had got that number.
    const [before, mark = ''] = [
      file.slice(0, file.lastIndexOf('.') + 1),
      file.slice(file.lastIndexOf('.') + 1),
    ];
    const ofAnotherBoot = `${before}${mark.replaceAll(/./g, (digit) => (digit === '0' ? '1' : '0'))}`;
    await rename(join(folder, file), join(folder, ofAnotherBoot));
    expect(await tryAsService(folder)).toBe('taken');
    expect(await readdir(folder)).not.toContain(ofAnotherBoot);

    const next = await hold();
    expect(await tryAsService(folder)).toContain(`held by process ${next.pid},`);
    next.kill('SIGKILL');
    await once(next, 'exit');
    expect(await tryAsService(folder)).toBe('taken');
  },
);
