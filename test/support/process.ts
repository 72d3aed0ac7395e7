import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { diesWithUs } from '../../tools/command.ts';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** Rejects a wait for a process that ended, or did not do in time what was waited for; tells what it wrote. */
export class ProcessError extends Error {
  readonly output: string;

  constructor(name: string, what: string, output: string) {
    super(`${name} ${what}. It wrote:\n${output.trimEnd() || '(nothing)'}`);
    this.name = 'ProcessError';
    this.output = output;
  }
}

export interface RunningProcess {
  readonly pid: number;
  readonly running: boolean;
  /** Resolves, never rejects, when the process has ended and its output is complete. */
  readonly exited: Promise<Exit>;
  /** What it wrote so far, both outputs as they came. */
  output(): string;
  stdout(): string;
  stderr(): string;
  /** The first line that matches, also one that was written before. */
  line(pattern: RegExp, timeoutMs?: number): Promise<string>;
  /** Tries again and again until `check` gives something; a check that throws has to be tried again. */
  until<T>(what: string, check: () => Promise<T | undefined>, timeoutMs?: number): Promise<T>;
  /** To the process and all that it started. */
  signal(name: NodeJS.Signals): void;
  /** Sends SIGSTOP and resolves when it stands still, which under load can take a moment. SIGCONT wakes it. */
  pause(): Promise<void>;
  /** To its stdin, which is there with `input: true` only. What a process that ended does not read is lost. */
  write(text: string): void;
  /** Asks it to end, kills it when the grace is over. */
  stop(): Promise<Exit>;
  kill(signal?: NodeJS.Signals): Promise<Exit>;
}

export interface ProcessOptions {
  /** How messages call it; by default the command. */
  name?: string;
  env?: Readonly<Record<string, string | undefined>>;
  cwd?: string;
  graceMs?: number;
  /** Its stdin stays open until it is told to stop; otherwise it has none. */
  input?: boolean;
  /** Gets each whole line of stdout as it comes. */
  onLine?: (line: string) => void;
  closing?: Closing | undefined;
}

/** Generous: on a busy machine a server that is up in 0.2 s can take seconds. */
export const startMs = 60_000;
const defaultGraceMs = 5_000;
const pollMs = 10;
const keptOutput = 1024 * 1024;

const killedAtExit = new Set<() => void>();
process.on('exit', () => {
  for (const kill of killedAtExit) kill();
});
// A vitest worker whose main process was killed goes on with its test; nobody would end what it started.
if (process.connected) process.once('disconnect', () => process.exit(1));

/**
 * Starts a process that cannot outlive us: it is stopped with its test or file, killed when this process exits, and
 * killed by the kernel when this process is killed (where setpriv exists).
 */
export async function startProcess(
  command: string,
  args: readonly string[] = [],
  options: ProcessOptions = {},
): Promise<RunningProcess> {
  const { name = command, env = process.env, cwd, graceMs = defaultGraceMs, input = false, onLine } = options;
  const { file, args: all } = diesWithUs(command, args, env);
  // A group of its own, so that Ctrl-C in the terminal does not take a server away before its clients are closed.
  const stdio: ['pipe' | 'ignore', 'pipe', 'pipe'] = [input ? 'pipe' : 'ignore', 'pipe', 'pipe'];
  const child = spawn(file, all, { env, cwd, detached: true, stdio }) as ChildProcessByStdio<
    Writable | null,
    Readable,
    Readable
  >;
  // It may end before it has read everything; who waits for it hears of its end.
  child.stdin?.on('error', () => {});

  let [output, stdout, stderr] = ['', '', ''];
  const listeners = new Set<() => void>();
  const kept = (text: string, chunk: string): string => (text + chunk).slice(-keptOutput);
  const heard = (chunk: string): void => {
    output = kept(output, chunk);
    for (const listener of listeners) listener();
  };
  let begun = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout = kept(stdout, chunk);
    heard(chunk);
    if (onLine === undefined) return;
    const lines = (begun + chunk).split('\n');
    begun = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  });
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr = kept(stderr, chunk);
    heard(chunk);
  });

  let running = true;
  const exited = new Promise<Exit>((resolve) => {
    child.once('exit', () => (running = false));
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) =>
      reject(new ProcessError(name, `could not be started: ${error.message}`, '')),
    );
  });
  // 'spawn' was emitted, so there is a pid.
  const pid = child.pid as number;

  const signal = (which: NodeJS.Signals): void => {
    if (!running) return;
    try {
      process.kill(-pid, which);
    } catch (error) {
      // It has just ended, and we are still to hear of it.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  };
  const killWithUs = (): void => signal('SIGKILL');
  killedAtExit.add(killWithUs);
  void exited.then(() => killedAtExit.delete(killWithUs));

  const endedEarly = async (what: string): Promise<never> => {
    const { code, signal: by } = await exited;
    throw new ProcessError(name, `ended (${by ?? `exit code ${code}`}) before ${what}`, output);
  };

  const line: RunningProcess['line'] = async (pattern, timeoutMs = startMs) => {
    const what = `it wrote a line like ${pattern}`;
    const match = (): string | undefined => output.split('\n').find((text) => pattern.test(text));
    const found = Promise.withResolvers<string>();
    const listen = (): void => {
      const text = match();
      if (text !== undefined) found.resolve(text);
    };
    listeners.add(listen);
    listen();
    const timer = setTimeout(() => {
      found.reject(
        new ProcessError(name, `was still running ${timeoutMs} ms later, but not so that ${what}`, output),
      );
    }, timeoutMs);
    try {
      return await Promise.race([found.promise, endedEarly(what)]);
    } finally {
      clearTimeout(timer);
      listeners.delete(listen);
    }
  };

  const until: RunningProcess['until'] = async (what, check, timeoutMs = startMs) => {
    const deadline = Date.now() + timeoutMs;
    let failure: unknown;
    for (;;) {
      if (!running) return endedEarly(what);
      try {
        const value = await check();
        if (value !== undefined) return value;
      } catch (error) {
        failure = error;
      }
      if (Date.now() > deadline) {
        const last = failure === undefined ? '' : ` (last: ${String(failure)})`;
        throw new ProcessError(
          name,
          `was still running after ${timeoutMs} ms, but not so that ${what}${last}`,
          output,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, pollMs));
    }
  };

  const pause = async (): Promise<void> => {
    signal('SIGSTOP');
    await until('it stood still', async () => standsStill(pid) || undefined);
  };

  const kill = (which: NodeJS.Signals = 'SIGKILL'): Promise<Exit> => {
    signal(which);
    return exited;
  };

  const stop = async (): Promise<Exit> => {
    signal('SIGTERM');
    // A paused process would act on it only once it goes on.
    signal('SIGCONT');
    const timer = setTimeout(() => signal('SIGKILL'), graceMs);
    const exit = await exited;
    clearTimeout(timer);
    return exit;
  };
  closeLater(async () => void (await stop()), options.closing);

  return {
    pid,
    get running() {
      return running;
    },
    exited,
    output: () => output,
    stdout: () => stdout,
    stderr: () => stderr,
    line,
    until,
    signal,
    pause,
    write: (text) => void child.stdin?.write(text),
    stop,
    kill,
  };
}

function standsStill(pid: number): boolean {
  if (process.platform !== 'linux') return true;
  // Each thread stops by itself; a stat line is `pid (name) state …`, and the name may hold brackets.
  return readdirSync(`/proc/${pid}/task`).every((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    return stat[stat.lastIndexOf(')') + 2] === 'T';
  });
}
