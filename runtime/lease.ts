/** One holder at a time among all hosts of a site, by compare-and-set in ATOLL_STATE (CONTRACTS 4.10). */
import type { NatsLink } from './clients/nats.ts';
import { AtollError } from './errors.ts';
import { openSharedState } from './state.ts';

/** What a lease costs when its holder dies without a word: nobody works for that long. */
export const leaseTtlMs = 15_000;

export interface LeaseOptions {
  readonly ttlMs?: number;
  /** Unique among all that may ever ask for the key. */
  readonly holder: string;
  onHeld(): void;
  /**
   * A third of the ttl before another can have it: what only the holder may do has to end by then. Never called
   * by release().
   */
  onLost(why: string): void;
  /** While it is not held: who holds it, or why nobody can tell. Called at each change. */
  onWaiting?(waiting: { readonly holder: string } | { readonly fault: AtollError }): void;
}

export interface Lease {
  readonly held: boolean;
  /** The next one gets it at once. Call it when the work is over. Never rejects. */
  release(): Promise<void>;
}

interface Entry {
  holder: string;
  ttlMs: number;
}

/** Asks for the lease until release(), and again whenever it was lost. */
export function holdLease(link: NatsLink, key: string, options: LeaseOptions): Lease {
  const { holder, ttlMs = leaseTtlMs } = options;
  const renewMs = ttlMs / 3;
  const state = openSharedState(link, { timeoutMs: Math.max(200, Math.min(5_000, renewMs)) });

  /** Revision of our own entry while we hold the lease. */
  let held: number | undefined;
  let giveUp: NodeJS.Timeout | undefined;
  /**
   * Another's entry, and since when it has not changed *as seen from here*: clocks of two machines differ, so a
   * time written into the entry would prove nothing.
   */
  let seen: { revision: number; sinceMs: number } | undefined;
  let told = '';
  let released = false;
  let woken = false;
  let endPause = (): void => {};

  function tell(waiting: { holder: string } | { fault: AtollError }): void {
    const text = 'holder' in waiting ? waiting.holder : `${waiting.fault.code} ${waiting.fault.message}`;
    if (released || text === told) return;
    told = text;
    options.onWaiting?.(waiting);
  }

  /** `sinceMs`: taken before the write was sent, so earlier than any other can have seen it. */
  function hold(revision: number, sinceMs: number): void {
    const fresh = held === undefined;
    held = revision;
    seen = undefined;
    told = '';
    clearTimeout(giveUp);
    const leftMs = sinceMs + 2 * renewMs - performance.now();
    giveUp = setTimeout(() => lose(`it could not be renewed for ${Math.round(2 * renewMs)} ms`), leftMs);
    if (fresh && !released) options.onHeld();
  }

  function lose(why: string): void {
    if (held === undefined) return;
    held = undefined;
    clearTimeout(giveUp);
    if (!released) options.onLost(why);
  }

  async function renew(revision: number): Promise<number> {
    const sinceMs = performance.now();
    const next = await state.write(key, { holder, ttlMs } satisfies Entry, revision);
    if (held !== revision) return 0;
    if (next !== undefined) {
      hold(next, sinceMs);
      return renewMs;
    }
    // Overtaken, or an earlier write of ours that arrived although its answer did not.
    const entry = await state.read(key);
    if (entry !== undefined && ownerOf(entry.value)?.holder === holder) held = entry.revision;
    else lose('another holder took it');
    return 0;
  }

  /** One try to get it. How long to wait before the next. */
  async function contend(): Promise<number> {
    const sinceMs = performance.now();
    const entry = await state.read(key);
    const owner = ownerOf(entry?.value);
    if (entry !== undefined && owner !== undefined && owner.holder !== holder) {
      const now = performance.now();
      if (seen?.revision !== entry.revision) seen = { revision: entry.revision, sinceMs: now };
      tell({ holder: owner.holder });
      const leftMs = seen.sinceMs + owner.ttlMs - now;
      if (leftMs > 0) return Math.min(leftMs, renewMs);
    }
    const revision = await state.write(key, { holder, ttlMs } satisfies Entry, entry?.revision ?? 0);
    if (revision !== undefined) hold(revision, sinceMs);
    return revision === undefined ? 0 : renewMs;
  }

  async function run(): Promise<void> {
    while (!released) {
      let waitMs: number;
      woken = false;
      try {
        waitMs = await (held === undefined ? contend() : renew(held));
      } catch (error) {
        // While held, the timer set by the last success decides; until then it is tried again.
        const fault =
          error instanceof AtollError ? error : new AtollError('JetStreamUnavailable', String(error));
        if (held === undefined) tell({ fault });
        waitMs = renewMs / 4;
      }
      if (!woken) await pause(waitMs);
    }
  }

  function wake(): void {
    woken = true;
    endPause();
  }

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  const stopListening = [
    state.onRemoved(key, () => {
      if (held === undefined) wake();
    }),
    link.onState(() => wake()),
  ];
  const running = run();

  return {
    get held() {
      return held !== undefined;
    },
    async release() {
      released = true;
      for (const stop of stopListening) stop();
      wake();
      await running;
      clearTimeout(giveUp);
      if (held === undefined) return;
      const revision = held;
      held = undefined;
      // If the server cannot be told, the next holder waits for the ttl.
      await state.remove(key, revision).catch(() => {});
    },
  };
}

function ownerOf(value: unknown): Entry | undefined {
  const entry = value as Partial<Entry> | null | undefined;
  if (typeof entry?.holder !== 'string' || typeof entry.ttlMs !== 'number') return undefined;
  return { holder: entry.holder, ttlMs: entry.ttlMs };
}
