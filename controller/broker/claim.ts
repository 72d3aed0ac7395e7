/**
 * Who may call itself by a robot's id: an entry in the hub's KV, written by compare-and-set and renewed. The link opens
 * for its holder only, since two servers of one domain would answer for one another.
 */
import { randomUUID } from 'node:crypto';
import { hostname, networkInterfaces } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { headers, type Msg } from '@nats-io/nats-core';
import type { NatsLink } from '../../runtime/clients/nats.ts';
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { bootId, identify, isHidden, isSameProcess } from '../../runtime/process/identity.ts';
import { claimEntry, claimQuestion } from './crossing.ts';

/** What a robot that died without a word costs its successor. */
const claimTtlMs = 15_000;
const answerMs = 2_000;
/** Without a link the own server says at once that nobody answers. */
const retryMs = 200;
/** nats-server's "wrong last sequence", which is how it says that another was faster. */
const overtaken = 10071;

export interface ClaimOptions {
  /** To the account on the robot whose link to the hub is for this alone. */
  readonly link: NatsLink;
  readonly robot: string;
  readonly hub: string;
  /** Of the site's folder, so that a robot that was restarted knows its own entry. */
  readonly siteId: string;
  readonly ttlMs?: number;
  readonly log: Log;
  onHeld(): void;
  /** A third of the ttl before another can have it: the link must be closed by then. */
  onLost(why: string): void;
}

export interface Claim {
  readonly held: boolean;
  /** ms since the hub confirmed it last; Infinity: never. */
  readonly confirmedMs: number;
  /** Why it is not held, when that is so. */
  readonly waiting: string | undefined;
  /** The next one gets it at once. Never rejects. */
  release(): Promise<void>;
}

interface Entry {
  readonly holder: string;
  readonly ttlMs: number;
  /** For people: host name and addresses of the machine. */
  readonly address: string;
  readonly siteId: string;
  readonly process: { readonly boot: string; readonly pid: number; readonly startTime: string };
}

/** Asks for the claim until release(), and again whenever it was lost. */
export function holdClaim(options: ClaimOptions): Claim {
  const { link, robot, hub, log, ttlMs = claimTtlMs } = options;
  const renewMs = ttlMs / 3;
  const self: Entry = {
    holder: randomUUID(),
    ttlMs,
    address: ownAddress(),
    siteId: options.siteId,
    process: ownProcess(),
  };
  let held: number | undefined;
  let confirmedAt = -Infinity;
  let giveUp: NodeJS.Timeout | undefined;
  let waiting: string | undefined = `the hub was not reached yet`;
  /** Another's entry, and since when it has not changed as seen from here: clocks of two machines differ. */
  let seen: { revision: number; sinceMs: number } | undefined;
  const released = new AbortController();

  function tell(why: string): void {
    if (why === waiting || released.signal.aborted) return;
    waiting = why;
    log.warn({ robot }, `no link to the hub: ${why}`);
  }

  function hold(revision: number, sinceMs: number): void {
    const fresh = held === undefined;
    held = revision;
    confirmedAt = sinceMs;
    seen = undefined;
    waiting = undefined;
    clearTimeout(giveUp);
    const leftMs = sinceMs + 2 * renewMs - performance.now();
    giveUp = setTimeout(
      () => lose(`the hub did not confirm the id for ${Math.round(2 * renewMs)} ms`),
      leftMs,
    );
    if (fresh) options.onHeld();
  }

  function lose(why: string): void {
    if (held === undefined) return;
    held = undefined;
    clearTimeout(giveUp);
    if (!released.signal.aborted) options.onLost(why);
  }

  async function ask(subject: string, data: string, expected?: number, operation?: string): Promise<Msg> {
    const connection = link.current();
    if (connection === undefined) throw new Error(link.state.message);
    const sent = headers();
    if (expected !== undefined) sent.set('Nats-Expected-Last-Subject-Sequence', String(expected));
    if (operation !== undefined) sent.set('KV-Operation', operation);
    return await connection.request(subject, data, { timeout: answerMs, headers: sent });
  }

  async function read(): Promise<{ entry?: Entry; revision: number }> {
    const answer = await ask(claimQuestion(robot, hub), '');
    if (answer.headers?.code === 404) return { revision: 0 };
    if (answer.headers?.hasError) throw new Error(answer.headers.description);
    const revision = Number(answer.headers?.get('Nats-Sequence') ?? 0);
    if (answer.headers?.get('KV-Operation')) return { revision };
    const entry = entryOf(answer);
    return { ...(entry && { entry }), revision };
  }

  /** The new revision, or undefined when another was faster. */
  async function write(expected: number, operation?: string): Promise<number | undefined> {
    const data = operation === undefined ? JSON.stringify(self) : '';
    const answer = await ask(claimEntry(robot, hub), data, expected, operation);
    const { seq, error } = answer.json<{
      seq?: number;
      error?: { err_code?: number; description?: string };
    }>();
    if (error?.err_code === overtaken) return undefined;
    if (error !== undefined) throw new Error(error.description ?? 'refused');
    return seq;
  }

  async function renew(revision: number): Promise<number> {
    const sinceMs = performance.now();
    const next = await write(revision);
    if (held !== revision) return 0;
    if (next !== undefined) {
      hold(next, sinceMs);
      return renewMs;
    }
    // Overtaken, or an earlier write of ours that arrived although its answer did not.
    const stored = await read();
    if (stored.entry?.holder === self.holder) held = stored.revision;
    else lose(`${stored.entry?.address ?? 'nobody'} has the id now`);
    return 0;
  }

  async function contend(): Promise<number> {
    const sinceMs = performance.now();
    const { entry, revision } = await read();
    if (entry !== undefined && entry.holder !== self.holder && !isOwnDead(entry, self)) {
      const now = performance.now();
      if (seen?.revision !== revision) seen = { revision, sinceMs: now };
      const leftMs = seen.sinceMs + entry.ttlMs - now;
      tell(`"${robot}" is in use by ${entry.address}`);
      if (leftMs > 0) return Math.min(leftMs, renewMs / 2);
    }
    const next = await write(revision);
    if (next !== undefined) hold(next, sinceMs);
    return next === undefined ? 0 : renewMs;
  }

  async function run(): Promise<void> {
    while (!released.signal.aborted) {
      let waitMs: number;
      try {
        waitMs = await (held === undefined ? contend() : renew(held));
      } catch (error) {
        if (held === undefined)
          tell(`the hub cannot be asked who has "${robot}" (${faultOf(error).message})`);
        waitMs = retryMs;
      }
      await pause(waitMs, undefined, { signal: released.signal }).catch(() => {});
    }
  }
  const running = run();

  return {
    get held() {
      return held !== undefined;
    },
    get confirmedMs() {
      return performance.now() - confirmedAt;
    },
    get waiting() {
      return held === undefined ? waiting : undefined;
    },
    async release() {
      released.abort();
      await running;
      clearTimeout(giveUp);
      if (held === undefined) return;
      const revision = held;
      held = undefined;
      // If the hub cannot be told, the next holder waits for the ttl.
      await write(revision, 'DEL').catch(() => {});
    },
  };
}

/** Left by a process of this machine, since it was started last, that is gone. */
const isOwnDead = (entry: Entry, self: Entry): boolean =>
  entry.siteId === self.siteId &&
  entry.process.boot === self.process.boot &&
  !isSameProcess(entry.process.pid, entry.process.startTime) &&
  !isHidden(entry.process.pid);

function entryOf(message: Msg): Entry | undefined {
  try {
    const entry = message.json<Partial<Entry> | null>();
    const whole = typeof entry?.holder === 'string' && typeof entry.ttlMs === 'number' && entry.process;
    return whole ? (entry as Entry) : undefined;
  } catch {
    return undefined;
  }
}

function ownProcess(): Entry['process'] {
  const self = identify(process.pid);
  // Where the system does not tell its boot, a predecessor is waited for like anybody else.
  return { boot: bootId() ?? randomUUID(), pid: process.pid, startTime: self?.startTime ?? '' };
}

function ownAddress(): string {
  const addresses = Object.values(networkInterfaces())
    .flatMap((all) => all ?? [])
    .filter(({ internal, family }) => !internal && family === 'IPv4')
    .map(({ address }) => address);
  return addresses.length === 0 ? hostname() : `${hostname()} (${addresses.join(', ')})`;
}
