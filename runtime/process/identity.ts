/** Which process a pid means: a pid is reused, a pid together with its start time is not. */
import { readFileSync } from 'node:fs';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot, as /proc/<pid>/stat has it; compared, never calculated with. */
  readonly startTime: string;
}

/** Undefined when there is no such process (or no /proc to ask). A zombie counts as gone. */
export function identify(pid: number): ProcessIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const startTime = fields[19];
  if (startTime === undefined || fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return { pid, startTime };
}

export function isSameProcess(pid: number, startTime: string): boolean {
  return identify(pid)?.startTime === startTime;
}

/**
 * Whether a process of that number is there and /proc does not show it, as one of another user where it is mounted with
 * `hidepid` (proc(5)), which ProtectProc of systemd does: which process it is cannot be told.
 */
export function isHidden(pid: number): boolean {
  try {
    readFileSync(`/proc/${pid}/stat`);
    return false;
  } catch {
    // Not shown, or just gone: what may not be seen still has a number (kill(2)).
  }
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Undefined where the system does not tell. A process of another boot is gone, whatever has its number now. */
export function bootId(): string | undefined {
  try {
    // random(4): a UUID, made anew at each start of the machine.
    return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim() || undefined;
  } catch {
    return undefined;
  }
}

/** Signals the process, or its whole group, only if it is still the one that was meant. Says whether it was. */
export function killIfSame(
  identity: ProcessIdentity,
  signal: NodeJS.Signals,
  options: { group?: boolean } = {},
): boolean {
  if (!isSameProcess(identity.pid, identity.startTime)) return false;
  try {
    process.kill(options.group ? -identity.pid : identity.pid, signal);
    return true;
  } catch {
    return false;
  }
}
