import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive, thisProcess } from './owner.ts';
import type { Owner } from './owner.ts';

const pollMs = 200;

/**
 * Does `work` while no other process does work under the same lock file; a lock whose owner died is taken over.
 * `onWait` is called once, when another process is found to hold it.
 * It saves doubled work and protects nothing else: in the instant in which two processes both find the same dead
 * owner, both may proceed. So `work` must stay harmless when done twice at once.
 */
export async function withLock<T>(
  file: string,
  work: () => Promise<T>,
  options: { onWait: (owner: Owner) => void; signal?: AbortSignal | undefined },
): Promise<T> {
  const own = JSON.stringify(thisProcess());
  // Threads of one process share a pid, so a counter would not do for the name.
  const draft = `${file}.${crypto.randomUUID()}`;
  await mkdir(dirname(file), { recursive: true });
  await writeFile(draft, own);
  try {
    let announced = false;
    while (!(await take(draft, file))) {
      const owner = await readOwner(file);
      if (owner === 'gone') continue;
      if (owner === 'unreadable' || !isAlive(owner)) {
        await setAside(file, `${draft}.dead`);
        continue;
      }
      if (!announced) options.onWait(owner);
      announced = true;
      await sleep(pollMs, undefined, { signal: options.signal });
    }
  } finally {
    await rm(draft, { force: true });
  }
  try {
    return await work();
  } finally {
    await rm(file, { force: true });
  }
}

/** A hard link appears with its content in one step, so nobody ever reads a lock without an owner. */
async function take(draft: string, file: string): Promise<boolean> {
  try {
    await link(draft, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function readOwner(file: string): Promise<Owner | 'gone' | 'unreadable'> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Owner;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'gone' : 'unreadable';
  }
}

async function setAside(file: string, to: string): Promise<void> {
  try {
    await rename(file, to);
    await rm(to, { force: true });
  } catch (error) {
    // Another process was faster: what is there now is looked at afresh.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
