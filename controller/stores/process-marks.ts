/** Which children a `faas up` started, so that the next one can end what a killed one left. */
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Log } from '../../runtime/log.ts';
import { identify, isSameProcess, killIfSame, type ProcessIdentity } from '../../runtime/process/identity.ts';
import { endOrphans } from '../../runtime/process/orphans.ts';
import type { SupervisedState } from '../../runtime/process/supervise.ts';
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

export interface Marks {
  /** To be called with each state of the supervised process. */
  onState(state: SupervisedState): void;
  /** Resolves when what was heard is on disk. */
  written(): Promise<void>;
}

/** Keeps `run/<pid>-<starttime>` there for as long as the process is. */
export function markProcess(run: string, mark: Mark, log: Log): Marks {
  let marked: { identity: ProcessIdentity; path: string } | undefined;
  let writing = Promise.resolve();
  const then = (work: () => Promise<void>): void => {
    writing = writing.then(work).catch((error: unknown) => {
      log.error({ err: error, process: mark.name }, 'the mark of a child process cannot be kept');
    });
  };
  const unmark = (): void => {
    const last = marked;
    marked = undefined;
    if (last === undefined) return;
    then(async () => {
      tellOrphans(endOrphans(last.identity), mark.name, log);
      await rm(last.path, { force: true });
    });
  };
  return {
    onState(state) {
      if (state.kind === 'waiting' || state.kind === 'stopped') return unmark();
      if (state.kind !== 'starting' || state.pid === undefined) return;
      unmark();
      const identity = identify(state.pid);
      if (!identity) return;
      const path = join(run, `${identity.pid}-${identity.startTime}`);
      marked = { identity, path };
      then(async () => {
        await mkdir(run, { recursive: true, mode: folderMode });
        await writeFile(path, JSON.stringify(mark), { mode: fileMode });
      });
    },
    written: () => writing,
  };
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
    tellOrphans(endOrphans(identity), mark.name, log);
    if (mark.temporaryFolder?.startsWith(join(tmpdir(), temporaryPrefix))) {
      await rm(mark.temporaryFolder, { recursive: true, force: true });
    }
    await rm(path, { force: true });
  }
}

function tellOrphans(ended: number, name: string, log: Log): void {
  if (ended > 0) log.warn({ process: name, ended }, 'ended what a process that died had left');
}

async function readMark(path: string): Promise<Mark> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Mark;
  } catch {
    // Killed while it was being written.
    return { name: 'unknown' };
  }
}
