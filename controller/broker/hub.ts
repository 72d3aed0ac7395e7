/**
 * The hub's side: who may come in, one stream that sources those of all robots, and how each robot is. nats-server asks a
 * source that is away again and again and waits 30 s for each answer, also when the robot is back meanwhile: so the source
 * of a robot that is away is taken off, and put on with its first heartbeat. One that does not follow, though its robot
 * answers, is taken off and put on again.
 */
import {
  DiscardPolicy,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type JetStreamManager,
  type StreamConfig,
  type StreamSource,
  type StreamSourceInfo,
} from '@nats-io/jetstream';
import { headers, type Msg, type Subscription } from '@nats-io/nats-core';
import type { NatsConnection } from '@nats-io/transport-node';
import type { NatsLink } from '../../runtime/clients/nats.ts';
import { AtollError, faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import type { BrokerRole, RobotUser } from './configuration.ts';
import { claimBucket, claimSubject, keptSubjects, sourceDeliveries, telemetryStream } from './crossing.ts';
import type { Broker } from './nats-server.ts';
import { heartbeatOf, openPresence, presenceSubject, type RobotPresence, type Sourced } from './presence.ts';
import { readRobotLogs, type LogQuestion } from './robot-logs.ts';
import { robotUsers, type Robots } from './robots.ts';
import { keptTelemetry, limitTelemetry, type KeptTelemetry } from './telemetry-room.ts';

/**
 * nats-server begins to ask anew after 10 s of silence. Before that a link that was cut for a moment goes on as it was, and
 * its source with it.
 */
const awayMs = 8_000;
const lookMs = 1_000;
/** A source that lives shows it every second. */
const silentSourceMs = 3_500;
/** Longer than a source takes to begin. */
const kickAgainMs = 4_000;
const retryMs = 1_000;

export interface HubOptions {
  readonly broker: Broker;
  readonly role: BrokerRole & { kind: 'control' };
  readonly robots: Robots;
  /** What all robots together may have kept here; less where the disk has no room for it. */
  readonly telemetryBytes: number;
  /** To our own server. */
  readonly link: NatsLink;
  readonly log: Log;
}

export interface Hub {
  /** In the order of their ids. */
  list(): Promise<RobotPresence[]>;
  /** Undefined while there were no robots, or the own server cannot be asked. */
  kept(): Promise<KeptTelemetry | undefined>;
  /**
   * JSON lines of the log of one of its functions, several at a time. Rejects with NotFound, with RobotAway when it does
   * not answer (any more), and with what the robot refused.
   */
  logs(robot: string, question: LogQuestion, signal: AbortSignal): AsyncIterable<string>;
  stop(): Promise<void>;
}

export function startHub(options: HubOptions): Hub {
  const { broker, role, robots, link, log } = options;
  const stopping = new AbortController();
  const presence = openPresence();
  const kickedAt = new Map<string, number>();
  const startedMs = performance.now();
  /** Of those that are wanted: whose source is off until they are heard. */
  const away = new Set<string>();
  let accepted: readonly RobotUser[] = role.robots;
  let wanted: ReadonlySet<string> = new Set(role.robots.map(({ robot }) => robot));
  /** One change of the stream at a time. */
  let changing: Promise<void> = Promise.resolve();
  let applying: Promise<void> | undefined;
  let again = false;
  let toldBytes: number | undefined;
  let subscription: Subscription | undefined;
  let retry: NodeJS.Timeout | undefined;

  /** What is declared becomes so; called at each change, and again where it failed. */
  function applySoon(): void {
    if (stopping.signal.aborted) return;
    again = true;
    applying ??= (async () => {
      while (again && !stopping.signal.aborted) {
        again = false;
        await apply().catch((error: unknown) => {
          log.warn({ error: faultOf(error).message }, 'the robots could not be brought up to date');
          clearTimeout(retry);
          retry = setTimeout(applySoon, retryMs);
        });
      }
      applying = undefined;
    })();
  }

  async function apply(): Promise<void> {
    const next = robotUsers(await robots.list(), Date.now());
    const ids = new Set(next.map(({ robot }) => robot));
    const gone = [...wanted].filter((robot) => !ids.has(robot));
    if (JSON.stringify(next) !== JSON.stringify(accepted)) {
      await broker.configure({ ...role, robots: next });
      const keys = new Set(next.map(({ link: key }) => key));
      if (accepted.some(({ link: key }) => !keys.has(key))) await cutLinks();
      accepted = next;
      log.info({ robots: [...ids] }, 'the robots that may come in were changed');
    }
    wanted = ids;
    for (const robot of gone) {
      presence.forget(robot);
      away.delete(robot);
    }
    const connection = link.current();
    // With the next connection it is done again.
    if (connection === undefined) return;
    await ensureClaims(connection);
    for (const robot of gone) await freeClaim(connection, robot);
    await change(() => setSources(connection, followed()));
    await change(() => keepWithin(connection));
  }

  const followed = (): string[] => [...wanted].filter((robot) => !away.has(robot));

  function lookWhoIsAway(): void {
    const connection = link.current();
    const upMs = performance.now() - startedMs;
    const silent = followed().filter((robot) => Math.min(presence.silentMs(robot), upMs) > awayMs);
    if (connection === undefined || silent.length === 0) return;
    change(async () => {
      const sources = await sourcesOf(connection);
      // Where only what tells of itself is gone, its messages come on.
      const gone = silent.filter((robot) => sourceSilentMs(sources, robot) > silentSourceMs);
      for (const robot of gone) away.add(robot);
      await setSources(connection, followed());
    }).catch((problem: unknown) => {
      log.debug(
        { error: faultOf(problem).message },
        'the sources of robots that are away could not be taken off',
      );
    });
  }

  async function keepWithin(connection: NatsConnection): Promise<void> {
    const manager = await jetstreamManager(connection, { checkAPI: false });
    if ((await keptTelemetry(manager)) === undefined) return;
    const bytes = await limitTelemetry(manager, options.telemetryBytes);
    if (bytes >= options.telemetryBytes || bytes === toldBytes) return;
    toldBytes = bytes;
    log.warn(
      { bytes, wanted: options.telemetryBytes },
      'the disk has no room for all that may be kept of the robots: less is kept',
    );
  }

  /**
   * A reload ends no link, and by which key one came in the server does not tell: its name is what the robot says. So
   * all are cut, and who still has a good key is back within a second.
   */
  async function cutLinks(): Promise<void> {
    const links = (await broker.system?.links()) ?? [];
    for (const one of links) await broker.system?.cut(one);
  }

  function change(what: () => Promise<void>): Promise<void> {
    const done = changing.then(what);
    changing = done.catch(() => {});
    return done;
  }

  function onHeartbeat(error: Error | null, message: Msg): void {
    if (error !== null) return;
    // Whoever may publish there is the robot itself.
    const robot = message.subject.split('.')[1] ?? '';
    if (!wanted.has(robot)) return;
    let heartbeat;
    try {
      heartbeat = heartbeatOf(message.json());
    } catch {
      heartbeat = undefined;
    }
    if (heartbeat === undefined) return log.warn({ robot }, 'what a robot told of itself cannot be read');
    message.respond();
    const { returned, replaced } = presence.heard(robot, heartbeat);
    if (replaced) {
      log.warn(
        { robot, ...replaced },
        'the robot keeps its messages in another stream than before, as on a new disk: it is followed from its beginning',
      );
    }
    void follow(robot, returned).catch((problem: unknown) => {
      log.debug({ robot, error: faultOf(problem).message }, 'how far a robot was followed could not be seen');
    });
  }

  async function follow(robot: string, returned: boolean): Promise<void> {
    const connection = link.current();
    if (connection === undefined) return;
    if (away.has(robot)) {
      away.delete(robot);
      kickedAt.set(robot, performance.now());
      log.info({ robot }, 'the robot is back: its stream is followed anew');
      await change(() => setSources(connection, followed())).catch((problem: unknown) => {
        away.add(robot);
        throw problem;
      });
    }
    const manager = await jetstreamManager(connection, { checkAPI: false });
    const newest = await newestOf(manager, robot);
    presence.got(robot, newest);
    const silentMs = sourceSilentMs(await sourcesOf(connection), robot);
    const sinceKick = performance.now() - (kickedAt.get(robot) ?? -Infinity);
    if (silentMs < (returned ? silentSourceMs / 2 : silentSourceMs) || sinceKick < kickAgainMs) return;
    kickedAt.set(robot, performance.now());
    log.info(
      { robot, silentMs: Math.round(silentMs) },
      'the robot is not followed: its stream is followed anew',
    );
    await change(async () => {
      await setSources(
        connection,
        followed().filter((id) => id !== robot),
      );
      await setSources(connection, followed());
    });
  }

  /** Of a robot that was not heard since this start, too. */
  async function newestTime(robot: string): Promise<string | undefined> {
    const connection = link.current();
    if (connection === undefined) return undefined;
    const manager = await jetstreamManager(connection, { checkAPI: false });
    return (await newestOf(manager, robot).catch(() => undefined))?.time;
  }

  function listen(): void {
    const connection = link.current();
    if (connection === undefined) return;
    // It survives reconnects.
    subscription ??= connection.subscribe(presenceSubject('*'), { callback: onHeartbeat });
    applySoon();
  }

  const stopListening = link.onState(({ connected }) => {
    if (connected) listen();
  });
  const stopWatching = robots.watch(applySoon);
  const looking = setInterval(lookWhoIsAway, lookMs);
  listen();
  applySoon();

  return {
    async list() {
      const links = (await broker.system?.links().catch(() => [])) ?? [];
      const ids = new Set([
        ...(await robots.list()).map(({ id }) => id),
        ...accepted.map(({ robot }) => robot),
      ]);
      const one = async (robot: string): Promise<RobotPresence> => {
        // The instance, which no id ends with, is cut off the server's name.
        const found = links.find(({ name }) => name.replace(/-[0-9a-f]{8}$/, '') === robot);
        const seen = presence.of(robot);
        const lastTelemetry = seen.lastTelemetry ?? (await newestTime(robot));
        return {
          ...seen,
          ...(found && { address: found.address }),
          ...(lastTelemetry !== undefined && { lastTelemetry }),
          keys: accepted.filter((user) => user.robot === robot).length,
        };
      };
      return await Promise.all([...ids].sort().map(one));
    },
    async kept() {
      const connection = link.current();
      if (connection === undefined) return undefined;
      return await keptTelemetry(await jetstreamManager(connection, { checkAPI: false }));
    },
    async *logs(robot, question, signal) {
      const known = (await robots.list()).map(({ id }) => id);
      if (!known.includes(robot)) {
        throw new AtollError(
          'NotFound',
          `there is no robot "${robot}"; there are: ${known.join(', ') || 'none'}`,
        );
      }
      const { online, since } = presence.of(robot);
      if (!online) {
        const when =
          since === undefined ? 'was not heard since the hub was started' : `is away since ${since}`;
        throw new AtollError('RobotAway', `"${robot}" ${when}`);
      }
      yield* readRobotLogs(link, robot, question, signal);
    },
    async stop() {
      stopping.abort();
      clearTimeout(retry);
      clearInterval(looking);
      stopListening();
      stopWatching();
      subscription?.unsubscribe();
      await applying;
      await changing;
    },
  };
}

const apiOf = (robot: string): string => `$JS.${robot}.API`;

async function sourcesOf(connection: NatsConnection): Promise<StreamSourceInfo[]> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  return (await manager.streams.info(telemetryStream)).sources ?? [];
}

/** Infinity: nothing ever came, or it is not followed. */
function sourceSilentMs(sources: readonly StreamSourceInfo[], robot: string): number {
  // What the server tells of a source is more than the client's type has.
  const source = sources.find((one) => (one as Partial<StreamSource>).external?.api === apiOf(robot));
  // Nanoseconds; below 0: never.
  return source === undefined || source.active < 0 ? Infinity : source.active / 1e6;
}

/**
 * Whatever a robot says the subject of a message is, its first three words become the robot's own: the server of a robot
 * that is not what it should be may send anything.
 */
const sourceOf = (robot: string): StreamSource => ({
  name: telemetryStream,
  subject_transforms: [{ src: '*.*.*.>', dest: keptSubjects(robot) }],
  external: { api: apiOf(robot), deliver: sourceDeliveries(robot) },
});

/** Without robots there is no such stream, and of one that had some the messages stay. */
async function setSources(connection: NatsConnection, robots: readonly string[]): Promise<void> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  const existing = await manager.streams.info(telemetryStream).catch(() => undefined);
  const sources = robots.map(sourceOf);
  if (existing === undefined) {
    if (sources.length === 0) return;
    await manager.streams.add({
      name: telemetryStream,
      // It captures nothing itself: what comes live over a link would be stored twice.
      sources,
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
    } as StreamConfig);
    return;
  }
  const has = (existing.config.sources ?? []).map(({ external }) => external?.api ?? '').sort();
  const { subjects, duplicate_window: window = 0 } = existing.config;
  const settled = subjects === undefined && (window === 0 || robots.length === 0);
  if (settled && has.join() === robots.map(apiOf).sort().join()) return;
  // A stream without sources would be given its own name as subject: then that is taken off again.
  // Nor is it to know message ids: a robot could have those of another taken for duplicates.
  const update = { ...existing.config, subjects: [], duplicate_window: 0, sources };
  await manager.streams.update(telemetryStream, update);
}

/** Undefined: the hub has nothing of the robot's stream. */
async function newestOf(manager: JetStreamManager, robot: string): Promise<Sourced | undefined> {
  const last = await manager.streams.getMessage(telemetryStream, { last_by_subj: keptSubjects(robot) });
  if (last === null) return undefined;
  // Stream, sequence, filter, destination, subject, and since 2.15 which stream of that name it was.
  const [, seq, , , , stream = ''] = last.header.get('Nats-Stream-Source').split(' ');
  return { seq: Number(seq ?? 0), stream, time: last.time.toISOString() };
}

async function ensureClaims(connection: NatsConnection): Promise<void> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  const name = `KV_${claimBucket}`;
  if ((await manager.streams.info(name).catch(() => undefined)) !== undefined) return;
  await manager.streams.add({
    name,
    subjects: [claimSubject('>')],
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.New,
    max_msgs_per_subject: 1,
    allow_direct: true,
    allow_rollup_hdrs: true,
    deny_delete: true,
  });
}

/** A robot of the same id that is added later has nobody to wait for. */
async function freeClaim(connection: NatsConnection, robot: string): Promise<void> {
  const sent = headers();
  sent.set('KV-Operation', 'DEL');
  await connection.request(claimSubject(robot), '', { timeout: 2_000, headers: sent });
}
