/** Starts a process so that it can be ended for certain: in a group of its own, and killed when we die. */
import { spawn, spawnSync, type ChildProcess, type SpawnOptions } from 'node:child_process';

let setprivKnown: boolean | undefined;

/** BusyBox has a setpriv without this option, so it is tried once instead of looked for. */
function setprivWorks(): boolean {
  setprivKnown ??=
    spawnSync('setpriv', ['--pdeathsig', 'KILL', '--', 'true'], { stdio: 'ignore' }).status === 0;
  return setprivKnown;
}

/**
 * As `child_process.spawn`; the child leads a process group (`kill(-pid)` reaches what it forks), and the
 * kernel kills it when this process, or the thread that called, ends in whatever way. `file` must be an
 * absolute path or be found in this process's PATH: `options.env` need not have one.
 */
export function spawnBound(file: string, args: readonly string[], options: SpawnOptions): ChildProcess {
  const [command, argv] = setprivWorks()
    ? ['setpriv', ['--pdeathsig', 'KILL', '--', file, ...args]]
    : [file, [...args]];
  return spawn(command, argv, { ...options, detached: true });
}

/** Signals the whole group of a process started by `spawnBound`; false when nothing of it is left. */
export function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-pid, signal);
    return true;
  } catch {
    return false;
  }
}
