/**
 * Processes that outlive the host that started them: where the kernel does not end them with it, one that spins never
 * sees that its socket was closed. Each carries its host's identity in the environment it was started with.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { identify, killIfSame, type ProcessIdentity } from './identity.ts';

const variable = 'ATOLL_HOST';

/** For the environment of what this process starts. Empty where there is no /proc to look it up in. */
export function hostMark(): Record<string, string> {
  const own = identify(process.pid);
  return own === undefined ? {} : { [variable]: markOf(own) };
}

/** Kills the groups of all that this host left; it must be dead. Returns how many there were. */
export function endOrphans(host: ProcessIdentity): number {
  const entry = `${variable}=${markOf(host)}`;
  let ended = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const identity = identify(Number(name));
    if (identity === undefined || !startedWith(identity.pid, entry)) continue;
    if (killIfSame(identity, 'SIGKILL', { group: true }) || killIfSame(identity, 'SIGKILL')) ended += 1;
  }
  return ended;
}

function markOf({ pid, startTime }: ProcessIdentity): string {
  return `${pid}-${startTime}`;
}

function startedWith(pid: number, entry: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(entry);
  } catch {
    // Gone, or another user's.
    return false;
  }
}
