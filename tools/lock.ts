import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A process, known by its start time too: a pid alone may by now belong to another one. */
export interface Owner {
  readonly pid: number;
  readonly startTime: string;
}

const pollMs = 200;

export function thisProcess(): Owner {
  return { pid: process.pid, startTime: startTimeOf(process.pid) ?? '' };
}

export function isAlive(owner: Owner): boolean {
  return startTimeOf(owner.pid) === owner.startTime;
}

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

/** One word. Undefined when there is no such process, or only its remains that nobody has collected yet. */
export function startTimeOf(pid: number): string | undefined {
  try {
    if (process.platform !== 'linux') {
      const started = execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' });
      return started.trim().replaceAll(/\W+/g, '_') || undefined;
    }
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The program's name stands in brackets and may itself hold spaces and brackets: count from the last one.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
