/** Keeps one child process alive: start, ready, restart with backoff, stop with grace, kill. */
import { once } from 'node:events';
import type { ChildProcess } from 'node:child_process';
import { AtollError } from '../errors.ts';
import { identify, type ProcessIdentity } from './identity.ts';
import { readLines, readWholeLines } from './lines.ts';
import { signalGroup, spawnBound } from './spawn.ts';

const readyTimeoutMs = 30_000;
const graceMs = 10_000;
const minBackoffMs = 250;
const maxBackoffMs = 15_000;
/** Ready for this long means the next end is a new story, not the same crash loop. */
const stableMs = 30_000;
/** Lines of stderr that go into the reason why a start failed. */
const rememberedLines = 5;

export type OutputStream = 'stdout' | 'stderr';

export interface StartingChild {
  readonly pid: number;
  /** The first output line that fits; rejects when the child ends before. */
  line(fits: (line: string, stream: OutputStream) => boolean): Promise<string>;
  /** Aborted when the child ended, the start took too long, or `stop()` was called. */
  readonly signal: AbortSignal;
}

export interface SuperviseOptions {
  /** For messages: "nats-server", "host". */
  readonly name: string;
  /** Absolute, or found in our PATH. */
  readonly command: string;
  readonly args?: readonly string[];
  readonly cwd?: string;
  /** The whole environment of the child. Default: ours. */
  readonly env?: NodeJS.ProcessEnv;
  /** Resolves when the child can be used: waits for a line, or probes. Rejecting counts as a failed start. Default: at once. */
  readonly ready?: (child: StartingChild) => Promise<unknown>;
  readonly readyTimeoutMs?: number;
  /** From the stop signal to SIGKILL for the group. */
  readonly graceMs?: number;
  /** Default SIGTERM; sent to the child alone, which may have its own way to end its children. */
  readonly stopSignal?: NodeJS.Signals;
  readonly minBackoffMs?: number;
  readonly maxBackoffMs?: number;
  /** Every line of output, cut at `maxLineBytes` (64 KiB). */
  readonly onLine?: (line: string, stream: OutputStream) => void;
  readonly maxLineBytes?: number;
  /** Instead of `onLine` for stdout: the bytes of as many whole lines as came together. No `line()` sees them. */
  readonly onOutput?: (lines: Buffer) => void;
  readonly onState?: (state: SupervisedState) => void;
}

export type SupervisedState =
  | { readonly kind: 'starting'; readonly pid?: number }
  | ({ readonly kind: 'ready' } & ProcessIdentity)
  /** It ended, or did not become ready; it is started again after `delayMs`. */
  | { readonly kind: 'waiting'; readonly delayMs: number; readonly reason: string }
  | { readonly kind: 'stopping' }
  | { readonly kind: 'stopped' };

export interface Supervised {
  readonly state: SupervisedState;
  readonly pid: number | undefined;
  /**
   * How the first start went: rejects with AtollError ProcessFailed when it did not become ready. The child
   * is started again all the same until `stop()`.
   */
  readonly started: Promise<void>;
  /** Resolves when it is ready, now or after a restart; rejects after `stop()`. */
  ready(): Promise<void>;
  /** To the child alone (SIGHUP). False while there is none. */
  signal(signal: NodeJS.Signals): boolean;
  /** Ends it and starts it no more. Resolves when nothing of its process group is left. */
  stop(): Promise<void>;
}

export function supervise(options: SuperviseOptions): Supervised {
  let state: SupervisedState = { kind: 'starting' };
  let child: ChildProcess | undefined;
  let failures = 0;
  let restart: NodeJS.Timeout | undefined;
  let stopping: Promise<void> | undefined;
  let waiters: { resolve: () => void; reject: (error: Error) => void }[] = [];
  const firstStart = Promise.withResolvers<void>();
  firstStart.promise.catch(() => {});

  const enter = (next: SupervisedState) => {
    state = next;
    options.onState?.(next);
  };

  const start = () => {
    restart = undefined;
    const begun = spawnBound(options.command, options.args ?? [], {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child = begun;
    const over = new AbortController();
    const listeners = new Set<(line: string, stream: OutputStream) => void>();
    const lastErrors: string[] = [];
    let readyAt: number | undefined;
    let whyNotReady: string | undefined;
    let ended = false;

    const { onOutput } = options;
    if (onOutput) readWholeLines(begun.stdout!, onOutput, options.maxLineBytes);
    for (const stream of onOutput ? (['stderr'] as const) : (['stdout', 'stderr'] as const)) {
      readLines(
        begun[stream]!,
        (line) => {
          if (stream === 'stderr' && lastErrors.push(line) > rememberedLines) lastErrors.shift();
          for (const listener of listeners) listener(line, stream);
          options.onLine?.(line, stream);
        },
        options.maxLineBytes,
      );
    }

    const end = (how: string) => {
      if (ended) return;
      ended = true;
      clearTimeout(tooLong);
      child = undefined;
      // What the child forked must not live on beside its successor.
      if (begun.pid !== undefined) signalGroup(begun.pid, 'SIGKILL');
      over.abort(new Error(how));
      if (stopping !== undefined) return;
      const reason = [whyNotReady ?? how, ...lastErrors].join('\n');
      failures = readyAt !== undefined && performance.now() - readyAt >= stableMs ? 1 : failures + 1;
      const floor = options.minBackoffMs ?? minBackoffMs;
      const step = Math.min(options.maxBackoffMs ?? maxBackoffMs, floor * 2 ** Math.min(20, failures - 1));
      const delayMs = Math.round(step * (0.5 + Math.random() / 2));
      firstStart.reject(new AtollError('ProcessFailed', `${options.name}: ${reason}`));
      restart = setTimeout(start, delayMs);
      enter({ kind: 'waiting', delayMs, reason });
    };
    begun.once('error', (error) => {
      if (begun.pid === undefined) end(`cannot be started: ${error.message}`);
    });
    // 'close' comes after the last line was read, so the reason can quote it. A grandchild that keeps the
    // pipes open would delay it for ever: 'exit' kills the group first.
    begun.once('exit', () => signalGroup(begun.pid!, 'SIGKILL'));
    begun.once('close', (code, signal) => {
      end(signal === null ? `ended with exit code ${code}` : `ended by ${signal}`);
    });
    const tooLong = setTimeout(() => {
      giveUp(`not ready after ${options.readyTimeoutMs ?? readyTimeoutMs} ms`);
    }, options.readyTimeoutMs ?? readyTimeoutMs);
    const giveUp = (why: string) => {
      if (ended || stopping !== undefined) return;
      whyNotReady = why;
      signalGroup(begun.pid!, 'SIGKILL');
    };

    const pid = begun.pid;
    if (pid === undefined) return; // 'error' follows
    enter({ kind: 'starting', pid });
    const starting: StartingChild = {
      pid,
      signal: over.signal,
      line: (fits) =>
        new Promise((resolve, reject) => {
          const listener = (line: string, stream: OutputStream) => {
            if (!fits(line, stream)) return;
            listeners.delete(listener);
            resolve(line);
          };
          listeners.add(listener);
          over.signal.addEventListener('abort', () => reject(over.signal.reason as Error), { once: true });
        }),
    };
    const becomeReady = options.ready?.(starting) ?? Promise.resolve();
    becomeReady.then(
      () => {
        if (ended || stopping !== undefined || whyNotReady !== undefined) return;
        clearTimeout(tooLong);
        const identity = identify(pid);
        if (identity === undefined) return; // it has just ended; 'close' follows
        readyAt = performance.now();
        enter({ kind: 'ready', ...identity });
        firstStart.resolve();
        for (const waiter of waiters.splice(0)) waiter.resolve();
      },
      (error: unknown) => giveUp(error instanceof Error ? error.message : String(error)),
    );
  };

  const end = async () => {
    clearTimeout(restart);
    const stopped = new AtollError('ProcessFailed', `${options.name}: stopped`);
    firstStart.reject(stopped);
    for (const waiter of waiters.splice(0)) waiter.reject(stopped);
    const last = child;
    if (last?.pid !== undefined) {
      const pid = last.pid;
      enter({ kind: 'stopping' });
      const closed = once(last, 'close');
      last.kill(options.stopSignal ?? 'SIGTERM');
      const kill = setTimeout(() => signalGroup(pid, 'SIGKILL'), options.graceMs ?? graceMs);
      await closed;
      clearTimeout(kill);
    }
    waiters = [];
    enter({ kind: 'stopped' });
  };

  start();
  return {
    get state() {
      return state;
    },
    get pid() {
      return child?.pid;
    },
    started: firstStart.promise,
    ready() {
      if (state.kind === 'ready') return Promise.resolve();
      if (stopping !== undefined) {
        return Promise.reject(new AtollError('ProcessFailed', `${options.name}: stopped`));
      }
      return new Promise((resolve, reject) => waiters.push({ resolve, reject }));
    },
    signal: (signal) => child?.kill(signal) ?? false,
    stop: () => (stopping ??= end()),
  };
}
