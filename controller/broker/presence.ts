/** What a robot tells its hub every second, and what the hub knows by it. */

/** A request, so that the robot learns of a link that carries nothing. */
export const presenceSubject = (robot: string): string => `robots.${robot}.stats.presence`;

export interface Heartbeat {
  /** ISO 8601, by the robot's clock: when its site was started. */
  readonly since: string;
  readonly functions: { readonly ready: number; readonly total: number };
  /** The robot's own stream: what it keeps for the hub. */
  readonly kept: {
    readonly firstSeq: number;
    readonly lastSeq: number;
    readonly bytes: number;
    /** At which it drops the oldest. */
    readonly maxBytes?: number;
    /** When it was made, by the robot's server: another one is another stream, as on a disk that was replaced. */
    readonly created?: string;
  };
  /** Of the heartbeat before; absent: it was not answered. */
  readonly rttMs?: number;
}

export interface RobotPresence {
  readonly robot: string;
  readonly online: boolean;
  /** ISO 8601, by the hub's clock: since when it has been online, or offline if it ever was online since the hub's start. */
  readonly since?: string;
  /** As the hub sees it. */
  readonly address?: string;
  readonly rttMs?: number;
  /** What the robot has kept and the hub has not got: as far as the robot told, and since when there is anything. */
  readonly lag?: { readonly messages: number; readonly seconds: number };
  /**
   * Dropped on the robot, whose disk share was used up, before the hub had them; of a robot that was heard since the
   * hub's start. Messages of a ring that newer ones replaced count only where the share is used up: there nothing tells
   * one from the other.
   */
  readonly dropped: number;
  readonly functions?: Heartbeat['functions'];
  /** ISO 8601, by the hub's clock: when it stored the newest message that the robot kept. */
  readonly lastTelemetry?: string;
  /** How many pairs of keys open its link now: two while they are exchanged, 0: none is in force yet. */
  readonly keys: number;
}

const offlineMs = 5_000;
/** Two clocks that differ by more than before: one of them was set. */
const clockSetMs = 500;

/** The newest message of a robot that the hub has. */
export interface Sourced {
  /** In the robot's stream. */
  readonly seq: number;
  /** Of that stream, in nats-server's own words; '' when the server tells none. */
  readonly stream: string;
  /** ISO 8601, by the hub's clock. */
  readonly time: string;
}

export interface Heard {
  readonly returned: boolean;
  /** The robot's stream is another one than before. What was in that and not at the hub is lost. */
  readonly replaced?: { readonly lost: number };
}

export interface Presence {
  heard(robot: string, heartbeat: Heartbeat): Heard;
  /** How far the hub has the robot's stream; undefined: it has nothing of it. */
  got(robot: string, newest: Sourced | undefined): void;
  of(robot: string): Omit<RobotPresence, 'keys' | 'address'>;
  /** ms since it was heard last; Infinity: never. */
  silentMs(robot: string): number;
  forget(robot: string): void;
}

interface Known {
  heartbeat: Heartbeat;
  heardMs: number;
  onlineSince: number;
  gotSeq: number;
  /** Until what the hub has was looked at, nothing is known to be lost. */
  isCompared: boolean;
  newest: Sourced | undefined;
  /** What the hub has of it says nothing of how far it has the robot's present one. */
  formerStream: string | undefined;
  levelMs: number;
  lostUpTo: number;
  dropped: number;
}

/** `nowMs`: monotonic. `now`: ms since the epoch, only to be shown. */
export function openPresence(
  clock: { nowMs(): number; now(): number } = { nowMs: () => performance.now(), now: Date.now },
): Presence {
  const robots = new Map<string, Known>();
  let epochMs = clock.now() - clock.nowMs();

  /** The same for the same moment, as long as nobody sets the clock: the two are never read at quite the same time. */
  function shown(ms: number): string {
    const nowEpochMs = clock.now() - clock.nowMs();
    if (Math.abs(nowEpochMs - epochMs) > clockSetMs) epochMs = nowEpochMs;
    return new Date(Math.round(epochMs + ms)).toISOString();
  }

  function weigh(known: Known): void {
    const { firstSeq, lastSeq, bytes, maxBytes } = known.heartbeat.kept;
    if (behind(known) === 0) known.levelMs = clock.nowMs();
    const gone = firstSeq - 1;
    const accounted = Math.max(known.gotSeq, known.lostUpTo);
    if (!known.isCompared || lastSeq === 0 || gone <= accounted) return;
    known.lostUpTo = gone;
    // A stream that was full once stays so. Any other loses its oldest only to newer ones of the same ring.
    if (maxBytes === undefined || bytes > maxBytes / 2) known.dropped += gone - accounted;
  }

  /** What was dropped on the robot will not come, and is counted by itself. */
  const behind = ({ heartbeat: { kept }, gotSeq }: Known): number =>
    Math.max(0, kept.lastSeq - Math.max(gotSeq, kept.firstSeq - 1));

  function replace(known: Known, { kept }: Heartbeat): { lost: number } | undefined {
    const before = known.heartbeat.kept;
    if (kept.created === undefined || before.created === undefined || kept.created === before.created) {
      return undefined;
    }
    const lost = behind(known);
    known.dropped += lost;
    known.formerStream = known.newest?.stream || undefined;
    known.gotSeq = 0;
    known.lostUpTo = kept.firstSeq - 1;
    return { lost };
  }

  return {
    heard(robot, heartbeat) {
      const now = clock.nowMs();
      const before = robots.get(robot);
      const returned = before === undefined || now - before.heardMs > offlineMs / 2;
      const known: Known = before ?? {
        heartbeat,
        heardMs: now,
        onlineSince: now,
        gotSeq: 0,
        isCompared: false,
        newest: undefined,
        formerStream: undefined,
        levelMs: now,
        lostUpTo: 0,
        dropped: 0,
      };
      if (before !== undefined && now - before.heardMs > offlineMs) known.onlineSince = now;
      const replaced = before && replace(known, heartbeat);
      known.heartbeat = heartbeat;
      known.heardMs = now;
      robots.set(robot, known);
      weigh(known);
      return { returned, ...(replaced && { replaced }) };
    },
    got(robot, newest) {
      const known = robots.get(robot);
      if (known === undefined) return;
      // Of a robot of which nothing is left here it is not known what was.
      if (!known.isCompared && newest === undefined) known.lostUpTo = known.heartbeat.kept.firstSeq - 1;
      known.isCompared = true;
      known.newest = newest;
      if (newest !== undefined && newest.stream !== known.formerStream && newest.seq > known.gotSeq) {
        known.gotSeq = newest.seq;
      }
      weigh(known);
    },
    of(robot) {
      const known = robots.get(robot);
      if (known === undefined) return { robot, online: false, dropped: 0 };
      const { heartbeat, heardMs, onlineSince, newest, levelMs, dropped } = known;
      const now = clock.nowMs();
      const online = now - heardMs <= offlineMs;
      const messages = behind(known);
      return {
        robot,
        online,
        since: shown(online ? onlineSince : heardMs),
        ...(online && heartbeat.rttMs !== undefined && { rttMs: heartbeat.rttMs }),
        lag: {
          messages,
          seconds:
            messages === 0 && online ? 0 : Math.round((now - (messages ? levelMs : heardMs)) / 100) / 10,
        },
        dropped,
        functions: heartbeat.functions,
        ...(newest && { lastTelemetry: newest.time }),
      };
    },
    silentMs: (robot) => clock.nowMs() - (robots.get(robot)?.heardMs ?? -Infinity),
    forget: (robot) => void robots.delete(robot),
  };
}

/** Undefined: it is none. */
export function heartbeatOf(value: unknown): Heartbeat | undefined {
  const { since, functions, kept, rttMs } = (value ?? {}) as Partial<Heartbeat>;
  const counts = [functions?.ready, functions?.total, kept?.firstSeq, kept?.lastSeq, kept?.bytes];
  if (kept?.maxBytes !== undefined) counts.push(kept.maxBytes);
  if (typeof since !== 'string' || !counts.every((count) => Number.isSafeInteger(count))) return undefined;
  if (rttMs !== undefined && typeof rttMs !== 'number') return undefined;
  if (kept?.created !== undefined && typeof kept.created !== 'string') return undefined;
  return value as Heartbeat;
}
