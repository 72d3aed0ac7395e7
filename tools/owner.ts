import { execFileSync } from 'node:child_process';
import { readFileSync, readlinkSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** A process, known by its start time too: a pid alone may by now belong to another one. */
export interface Owner {
  readonly pid: number;
  readonly startTime: string;
  /** Containers that share a folder number their processes each for itself: nobody can tell who of another's lives. */
  readonly namespace: string;
}

export function thisProcess(): Owner {
  return { pid: process.pid, startTime: startTimeOf(process.pid) ?? '', namespace: ownNamespace() };
}

export function isAlive(owner: Owner): boolean {
  return owner.namespace === ownNamespace() && startTimeOf(owner.pid) === owner.startTime;
}

/**
 * A new folder whose name begins with `prefix`, a path, and tells its owner. Those of the same prefix whose owner
 * died before it could remove them are removed first.
 */
export async function ownedFolder(prefix: string): Promise<string> {
  const [parent, begin] = [dirname(prefix), basename(prefix)];
  await mkdir(parent, { recursive: true });
  for (const name of await readdir(parent)) {
    if (!name.startsWith(begin) || !isAbandoned(name.slice(begin.length))) continue;
    await rm(join(parent, name), { recursive: true, force: true, maxRetries: 3 });
  }
  return mkdtemp(`${prefix}${ownedName()}.`);
}

/** One word for what this process makes and might not live to remove. */
export function ownedName(): string {
  const { namespace, pid, startTime } = thisProcess();
  return `${namespace}.${pid}.${startTime}`;
}

/** Whether the name begins with an `ownedName()` of a process that is gone. Names of other kinds: false. */
export function isAbandoned(name: string): boolean {
  const [namespace, pid, startTime] = name.split('.');
  if (namespace !== ownNamespace() || pid === undefined || startTime === undefined) return false;
  return !isAlive({ pid: Number(pid), startTime, namespace });
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

function ownNamespace(): string {
  if (process.platform !== 'linux') return '0';
  return readlinkSync('/proc/self/ns/pid').replaceAll(/\D/g, '');
}
