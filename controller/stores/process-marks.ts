/** Which children a `faas up` started, so that the next one can end what a killed one left. */
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { isSameProcess, killIfSame, type ProcessIdentity } from '../../runtime/process/identity.ts';
import type { Log } from '../../runtime/log.ts';
import { fileMode, folderMode } from './atomic-file.ts';

/** A killed process is gone within milliseconds, unless the disk it writes to hangs. */
const goneWaitMs = 10_000;
const pollMs = 20;
/** Of folders outside the site's; nothing else outside it is ever removed. */
export const temporaryPrefix = 'atoll-run-';

interface Mark {
  readonly name: string;
  /** A folder outside the site's that goes with the process (a socket with a short path). */
  readonly temporaryFolder?: string;
}

/** Writes `run/<pid>-<starttime>`. Returns the way to take it back once the process has ended. */
export async function markProcess(
  run: string,
  identity: ProcessIdentity,
  mark: Mark,
): Promise<() => Promise<void>> {
  const path = join(run, `${identity.pid}-${identity.startTime}`);
  await mkdir(run, { recursive: true, mode: folderMode });
  await writeFile(path, JSON.stringify(mark), { mode: fileMode });
  return () => rm(path, { force: true });
}

/**
 * Kills the group of every marked process that still is the one that was marked, and waits until they are gone.
 * Only for whoever holds the site: else they are another's children.
 */
export async function endMarkedProcesses(run: string, log: Log): Promise<void> {
  await mkdir(run, { recursive: true, mode: folderMode });
  for (const entry of await readdir(run)) {
    const [, pid, startTime] = /^(\d+)-(\d+)$/.exec(entry) ?? [];
    if (pid === undefined || startTime === undefined) continue;
    const path = join(run, entry);
    const identity = { pid: Number(pid), startTime };
    const mark = await readMark(path);
    if (killIfSame(identity, 'SIGKILL', { group: true })) {
      log.warn({ process: mark.name, pid: identity.pid }, 'ended a process that a killed "faas up" had left');
      const deadline = Date.now() + goneWaitMs;
      while (isSameProcess(identity.pid, startTime)) {
        if (Date.now() > deadline) {
          throw new Error(
            `process ${pid} (${mark.name}) of an earlier "faas up" does not end: kill it by hand`,
          );
        }
        await pause(pollMs);
      }
    }
    if (mark.temporaryFolder?.startsWith(join(tmpdir(), temporaryPrefix))) {
      await rm(mark.temporaryFolder, { recursive: true, force: true });
    }
    await rm(path, { force: true });
  }
}

async function readMark(path: string): Promise<Mark> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Mark;
  } catch {
    // Killed while it was being written.
    return { name: 'unknown' };
  }
}
