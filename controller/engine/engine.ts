/** The loop around a reconcile: watches, queues keys, runs them, decides when they run again. */
import { setImmediate as turn } from 'node:timers/promises';
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { keyText, type Key, type Watchable } from '../stores/store.ts';
import type { EngineMetrics } from './metrics.ts';
import { openQueue } from './queue.ts';

/**
 * Makes what is declared for the key be so, from whatever is there now; called again it changes nothing.
 * Throwing means again after a backoff, `TerminalError` means not before something changes, `afterMs` means
 * again after that time also without a change. One key never runs twice at once. `signal` aborts when the
 * engine stops.
 */
export type Reconcile = (key: Key, signal: AbortSignal) => Promise<{ afterMs?: number } | void>;

/** Trying again cannot help: only a change can. */
export class TerminalError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'TerminalError';
  }
}

/** Changes that no source told of (a lost watch, an edit while we were down) are found after this long. */
const defaultResyncMs = 10 * 60_000;
const defaultConcurrency = 4;

export interface EngineOptions {
  readonly sources: readonly Watchable[];
  readonly reconcile: Reconcile;
  readonly log: Log;
  readonly concurrency?: number;
  readonly resyncMs?: number;
  readonly random?: () => number;
  readonly metrics?: EngineMetrics | undefined;
}

export interface Engine {
  /** Takes no new key, aborts the signal of those that run, resolves when they have ended. */
  stop(): Promise<void>;
}

export function startEngine(options: EngineOptions): Engine {
  const { reconcile, log, metrics } = options;
  const queue = openQueue({
    ...(options.random && { random: options.random }),
    onAdded: () => metrics?.added(),
    onTaken: (waitedMs) => metrics?.taken(waitedMs / 1000),
  });
  const unmeasured = metrics?.measureDepth(() => queue.depth);
  const stopping = new AbortController();
  const known = new Map<string, Key>();

  const hear = (key: Key): void => {
    known.set(keyText(key), key);
    queue.add(key);
  };
  const stopWatching = options.sources.map((source) => source.watch(hear));
  const resync = setInterval(() => {
    for (const key of known.values()) queue.add(key);
  }, options.resyncMs ?? defaultResyncMs);

  async function runOne(key: Key): Promise<void> {
    const at = { namespace: key.namespace, function: key.name };
    const beganMs = performance.now();
    const ended = (outcome: 'done' | 'failed' | 'waiting'): void =>
      metrics?.reconciled(outcome, (performance.now() - beganMs) / 1000);
    try {
      const result = await reconcile(key, stopping.signal);
      ended('done');
      queue.forget(key);
      if (result?.afterMs !== undefined) queue.addAfter(key, result.afterMs);
    } catch (error) {
      if (stopping.signal.aborted) return;
      const { code, message } = faultOf(error);
      if (error instanceof TerminalError) {
        ended('waiting');
        queue.forget(key);
        log.warn({ ...at, error: message }, 'reconcile waits for a change');
      } else {
        ended('failed');
        metrics?.retried();
        log.error({ ...at, error: message, code, afterMs: queue.retry(key) }, 'reconcile failed');
      }
    } finally {
      queue.done(key);
    }
  }

  const workers = Array.from({ length: options.concurrency ?? defaultConcurrency }, async () => {
    for (let key = await queue.next(); key; key = await queue.next()) {
      await runOne(key);
      // One that finds everything in place waits for nothing: thousands of them in a row would leave timers and sockets
      // no turn, the renewal of a lease among them.
      await turn();
    }
  });

  return {
    async stop() {
      for (const stop of stopWatching) stop();
      clearInterval(resync);
      queue.close();
      unmeasured?.();
      stopping.abort();
      await Promise.all(workers);
    },
  };
}
