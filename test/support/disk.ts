/** A small file system of its own that can be filled up. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readdirSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isAlive, thisProcess, type Owner } from '../../tools/owner.ts';
import { closeLater, type Closing } from './closing.ts';

export interface Disk {
  readonly path: string;
  /** Not a byte more fits. */
  fill(): void;
  /** Gives back what `fill` took. */
  free(): void;
}

const prefix = 'atoll-disk-';

/** Why there can be none here, or undefined when there can. In CI this throws instead. */
export function missingDisk(): string | undefined {
  if (process.platform === 'linux' && process.getuid?.() === 0) return undefined;
  const reason = 'a file system of its own needs Linux and root';
  if (process.env['CI'] === 'true') throw new Error(reason);
  process.stderr.write(`Skipped: ${reason}\n`);
  return reason;
}

export async function startDisk(options: {
  megabytes: number;
  closing?: Closing | undefined;
}): Promise<Disk> {
  removeLeftOver();
  const { namespace, pid, startTime } = thisProcess();
  const path = await mkdtemp(join(tmpdir(), `${prefix}${namespace}.${pid}.${startTime}.`));
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${options.megabytes}m,mode=0700`, 'atoll-test', path]);
  closeLater(async () => remove(path), options.closing);
  const ballast = join(path, 'ballast');
  return {
    path,
    fill() {
      const file = openSync(ballast, 'a');
      try {
        for (let bytes = 1024 * 1024; bytes >= 1;) {
          try {
            writeSync(file, Buffer.alloc(bytes));
          } catch (error) {
            if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
            bytes = Math.floor(bytes / 16);
          }
        }
      } finally {
        closeSync(file);
      }
    },
    free: () => rmSync(ballast, { force: true }),
  };
}

/** Of runs that were killed. */
function removeLeftOver(): void {
  for (const name of readdirSync(tmpdir())) {
    if (!name.startsWith(prefix)) continue;
    const [namespace = '', pid, startTime = ''] = name.slice(prefix.length).split('.');
    const owner: Owner = { namespace, pid: Number(pid), startTime };
    if (namespace === thisProcess().namespace && !isAlive(owner)) remove(join(tmpdir(), name));
  }
}

function remove(path: string): void {
  try {
    // Also while a process that was just killed still has a file open in it.
    execFileSync('umount', ['--lazy', path], { stdio: 'ignore' });
  } catch {
    // Nothing is mounted there.
  }
  rmdirSync(path);
}
