/** Keys that wait to be reconciled: each once, never twice at the same time, after a failure later and later. */
import { keyText, type Key } from '../stores/store.ts';

const minBackoffMs = 100;
const maxBackoffMs = 60_000;

export interface Queue {
  /** Keys that could be handed out now, or once the one that runs is done. */
  readonly depth: number;
  /** Now. While the key runs: once more when it is done. A wait of the key (backoff, `addAfter`) is over with it. */
  add(key: Key): void;
  /** Later, unless something asks for the key earlier. */
  addAfter(key: Key, delayMs: number): void;
  /** After a backoff that doubles with each failure since `forget`. Returns it in ms. */
  retry(key: Key): number;
  /** The key succeeded: its next failure is a first one. */
  forget(key: Key): void;
  /** The next key, which then runs until `done`; undefined once the queue is closed. */
  next(): Promise<Key | undefined>;
  done(key: Key): void;
  /** Nothing more is handed out. */
  close(): void;
}

export interface QueueOptions {
  /** In [0, 1): jitter, so that keys which failed together do not come back together. */
  readonly random?: () => number;
  readonly onAdded?: () => void;
  /** How long the key had been waiting to be handed out. */
  readonly onTaken?: (waitedMs: number) => void;
}

export function openQueue(options: QueueOptions = {}): Queue {
  const random = options.random ?? Math.random;
  /** A Map keeps the order of arrival and knows each key once. */
  const queued = new Map<string, { key: Key; sinceMs: number }>();
  const running = new Set<string>();
  const againWhenDone = new Map<string, Key>();
  const later = new Map<string, { timer: NodeJS.Timeout; at: number }>();
  const failures = new Map<string, number>();
  const waiting: ((key: Key | undefined) => void)[] = [];
  let closed = false;

  function handOut(): Key | undefined {
    for (const [text, { key, sinceMs }] of queued) {
      queued.delete(text);
      running.add(text);
      options.onTaken?.(performance.now() - sinceMs);
      return key;
    }
    return undefined;
  }

  function add(key: Key): void {
    if (closed) return;
    const text = keyText(key);
    clearTimeout(later.get(text)?.timer);
    later.delete(text);
    if (running.has(text)) return void againWhenDone.set(text, key);
    if (queued.has(text)) return;
    queued.set(text, { key, sinceMs: performance.now() });
    options.onAdded?.();
    const taker = waiting.shift();
    if (taker) taker(handOut());
  }

  function addAfter(key: Key, delayMs: number): void {
    if (closed) return;
    const text = keyText(key);
    // Not the wall clock: one that is set back would hold every later wish up.
    const at = performance.now() + delayMs;
    const earlier = later.get(text);
    if (queued.has(text) || againWhenDone.has(text) || (earlier && earlier.at <= at)) return;
    clearTimeout(earlier?.timer);
    later.set(text, { timer: setTimeout(() => add(key), delayMs), at });
  }

  return {
    get depth() {
      return queued.size + againWhenDone.size;
    },
    add,
    addAfter,
    retry(key) {
      const count = (failures.get(keyText(key)) ?? 0) + 1;
      failures.set(keyText(key), count);
      const step = Math.min(maxBackoffMs, minBackoffMs * 2 ** Math.min(30, count - 1));
      const delayMs = Math.round(step * (0.5 + random() / 2));
      addAfter(key, delayMs);
      return delayMs;
    },
    forget(key) {
      failures.delete(keyText(key));
    },
    next() {
      if (closed) return Promise.resolve(undefined);
      const key = handOut();
      return key ? Promise.resolve(key) : new Promise((resolve) => waiting.push(resolve));
    },
    done(key) {
      const text = keyText(key);
      running.delete(text);
      const again = againWhenDone.get(text);
      againWhenDone.delete(text);
      if (again) add(again);
    },
    close() {
      closed = true;
      for (const { timer } of later.values()) clearTimeout(timer);
      later.clear();
      queued.clear();
      againWhenDone.clear();
      for (const taker of waiting.splice(0)) taker(undefined);
    },
  };
}
