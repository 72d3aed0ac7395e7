/** A lock between processes on one machine that a killed holder cannot keep. */
import { createHash, randomBytes } from 'node:crypto';
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import {
  bootId,
  identify,
  isHidden,
  isSameProcess,
  type ProcessIdentity,
} from '../../runtime/process/identity.ts';
import { fileMode, makeFolder } from './atomic-file.ts';

/** Random within this, so that two that met do not meet again. */
const retryMs = 20;

export interface Lock {
  release(): Promise<void>;
}

/** Somebody else still held it when the wait was over. */
export class LockedError extends Error {
  readonly holder: Holder;

  constructor(name: string, holder: Holder) {
    const { pid, hidden } = holder;
    super(
      hidden === undefined
        ? `the lock "${name}" is held by process ${pid}`
        : `the lock "${name}" is held by process ${pid}, which this user may not look at: if it is none of Atoll's, remove ${hidden}`,
    );
    this.name = 'LockedError';
    this.holder = holder;
  }
}

interface Holder extends ProcessIdentity {
  /** There is a process of that number, which cannot be looked at: the file that says it is the holder. */
  readonly hidden?: string;
}

/**
 * Each contender puts down a file of its own, `<name>.<pid>-<starttime>.<boot><random>`, and holds the lock if there is
 * no other of a living process; else it takes its file back and tries again. Of two that come at once at least
 * the later one sees the other. A file of a dead process is removed by whoever finds it: since its name is never
 * used again, that can never remove a living one's, which a single lock file cannot promise.
 */
export async function takeLock(folder: string, name: string, options: { waitMs: number }): Promise<Lock> {
  const own = identify(process.pid);
  if (!own) throw new Error('this process cannot be identified: /proc is missing');
  await makeFolder(folder);
  const deadline = Date.now() + options.waitMs;
  for (;;) {
    const file = `${name}.${own.pid}-${own.startTime}.${thisBoot}${randomBytes(6).toString('hex')}`;
    const path = join(folder, file);
    await writeFile(path, '', { flag: 'wx', mode: fileMode });
    const other = await livingOther(folder, name, file).catch(async (error: unknown) => {
      await rm(path, { force: true });
      throw error;
    });
    if (!other) return { release: () => rm(path, { force: true }) };
    await rm(path, { force: true });
    if (Date.now() >= deadline) throw new LockedError(name, other);
    await pause(1 + Math.random() * retryMs);
  }
}

async function livingOther(folder: string, name: string, own: string): Promise<Holder | undefined> {
  for (const entry of await readdir(folder)) {
    if (entry === own || !entry.startsWith(`${name}.`)) continue;
    const [, digits, startTime, mark] = /^\.(\d+)-(\d+)\.([0-9a-f]+)$/.exec(entry.slice(name.length)) ?? [];
    if (digits === undefined || startTime === undefined || mark === undefined) continue;
    const pid = Number(digits);
    if (isSameProcess(pid, startTime)) return { pid, startTime };
    const path = join(folder, entry);
    // Of another boot, or of an Atoll that did not note it: then what has the number now is another process.
    if (thisBoot !== '' && mark.startsWith(thisBoot) && isHidden(pid)) {
      return { pid, startTime, hidden: path };
    }
    await rm(path, { force: true });
  }
  return undefined;
}

/** 64 bits of it, in hexadecimal; empty where the system does not tell. */
const thisBoot = bootOf(bootId());

function bootOf(id: string | undefined): string {
  return id === undefined ? '' : createHash('sha256').update(id).digest('hex').slice(0, 16);
}
