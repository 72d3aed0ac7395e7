/**
 * A robot's side of the link to its hub: opens it while the robot holds the claim of its id, tells the hub how the robot
 * is, and restarts a link that is up and carries nothing. What the robot does for itself never waits for any of it.
 */
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { DiscardPolicy, jetstreamManager, RetentionPolicy, StorageType } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { openNats, type NatsLink } from '../../runtime/clients/nats.ts';
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { writeAtomically } from '../stores/atomic-file.ts';
import type { SitePaths } from '../stores/site.ts';
import { holdClaim, type Claim } from './claim.ts';
import { accounts, users, type BrokerRole } from './configuration.ts';
import { keptSubjects, telemetryStream } from './crossing.ts';
import type { Broker } from './nats-server.ts';
import { presenceSubject, type Heartbeat } from './presence.ts';
import { serveLogs, type LogSource } from './robot-logs.ts';
import { withRoom } from './stream-size.ts';

type Seeds = (BrokerRole & { kind: 'robot' })['seeds'];

const heartbeatMs = 1_000;
/** Until one is answered: the hub follows a robot that is back from its first heartbeat on. */
const soonMs = 150;
const answerMs = 1_000;
/** A link that answers nothing for so long, while the hub answers over the other one, is stuck. */
const stuckMs = 6_000;
const retryMs = 1_000;
/** What the robot keeps for its hub; then the oldest goes. Half as much, or half of that, where the disk is small. */
const keptBytes = 1024 ** 3;

export interface RobotLinkOptions {
  readonly broker: Broker;
  readonly role: BrokerRole & { kind: 'robot' };
  /** The site of the hub. */
  readonly hub: string;
  readonly robot: string;
  readonly siteId: string;
  readonly paths: SitePaths;
  /** To our own server. */
  readonly link: NatsLink;
  readonly claimTtlMs?: number;
  functions(): Promise<Heartbeat['functions']>;
  /** What the hub may read of the functions' logs. */
  readonly logs: LogSource;
  /** Calls back when the robot was given other keys. Returns the way to stop. */
  watchSeeds(listener: (seeds: Seeds) => void): () => void;
  readonly log: Log;
}

export interface RobotLink {
  /** For people: up, or why not. */
  readonly state: string;
  stop(): Promise<void>;
}

export async function startRobotLink(options: RobotLinkOptions): Promise<RobotLink> {
  const { broker, role, hub, robot, siteId, paths, link, log } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const since = new Date().toISOString();
  const claimLink = await openClaimLink(options);
  let changed = Promise.withResolvers<void>();
  const wake = (): void => {
    changed.resolve();
    changed = Promise.withResolvers();
  };

  const claim: Claim = holdClaim({
    link: claimLink,
    robot,
    hub,
    siteId,
    log,
    ...(options.claimTtlMs !== undefined && { ttlMs: options.claimTtlMs }),
    onHeld: wake,
    onLost(why) {
      log.warn({ robot }, `the link to the hub is closed: ${why}`);
      wake();
    },
  });

  let { seeds } = role;
  const stopWatching = options.watchSeeds((next) => {
    seeds = next;
    log.info({ robot }, 'the robot was given new keys: its links are opened with them');
    wake();
  });
  const roleNow = (linked: boolean): BrokerRole => ({ ...role, seeds, linked });

  /** Opens and closes the link as the claim says, with the keys that are the robot's now. */
  async function followClaim(): Promise<void> {
    let applied = { seeds: role.seeds, linked: role.linked };
    while (!signal.aborted) {
      const next = changed.promise;
      if (applied.linked !== claim.held || applied.seeds !== seeds) {
        const wanted = { seeds, linked: claim.held };
        try {
          await broker.configure({ ...role, ...wanted });
          if (wanted.linked && !applied.linked) log.info({ robot }, 'the link to the hub is open');
          applied = wanted;
          opened.resolve();
          continue;
        } catch (error) {
          log.warn({ robot, error: faultOf(error).message }, 'the link to the hub could not be changed');
        }
        await pause(retryMs, undefined, { signal }).catch(() => {});
        continue;
      }
      await Promise.race([next, aborted(signal)]);
    }
  }

  let ensured: NatsConnection | undefined;
  let opened = Promise.withResolvers<void>();
  let answeredAt = performance.now();
  let rttMs: number | undefined;

  async function beat(): Promise<void> {
    const connection = link.current();
    if (connection === undefined) return;
    if (ensured !== connection) {
      await ensureTelemetry(connection, robot);
      ensured = connection;
    }
    if (!claim.held) {
      rttMs = undefined;
      return;
    }
    const manager = await jetstreamManager(connection, { checkAPI: false });
    const { state, created, config } = await manager.streams.info(telemetryStream);
    const heartbeat: Heartbeat = {
      since,
      functions: await options.functions(),
      kept: {
        firstSeq: state.first_seq,
        lastSeq: state.last_seq,
        bytes: state.bytes,
        maxBytes: config.max_bytes,
        created,
      },
      ...(rttMs !== undefined && { rttMs }),
    };
    const sentAt = performance.now();
    const answered = connection
      .request(presenceSubject(robot), JSON.stringify(heartbeat), { timeout: answerMs })
      .then(
        () => {
          answeredAt = performance.now();
          rttMs = Math.round((answeredAt - sentAt) * 100) / 100;
        },
        () => {
          // Cut off, or the hub's controller is away: the claim tells which.
          if (answeredAt < sentAt) rttMs = undefined;
        },
      );
    // Whoever listens to everything on this machine keeps the server from saying that nobody answers.
    await (rttMs === undefined ? Promise.race([answered, soon()]) : answered);
  }

  const soon = (): Promise<void> => pause(soonMs, undefined, { signal }).catch(() => {});

  async function tellHub(): Promise<void> {
    let heldSince: number | undefined;
    while (!signal.aborted) {
      await beat().catch((error: unknown) => {
        ensured = undefined;
        log.debug({ error: faultOf(error).message }, 'no heartbeat');
      });
      heldSince = claim.held ? (heldSince ?? performance.now()) : undefined;
      const silentMs = performance.now() - Math.max(answeredAt, heldSince ?? Infinity);
      if (heldSince !== undefined && silentMs > stuckMs && claim.confirmedMs < stuckMs) {
        await restart().catch((error: unknown) => {
          log.warn({ error: faultOf(error).message }, 'a stuck link could not be restarted');
        });
        answeredAt = performance.now();
      }
      if (claim.held && rttMs === undefined) {
        await soon();
        continue;
      }
      opened = Promise.withResolvers();
      await Promise.race([pause(heartbeatMs, undefined, { signal }).catch(() => {}), opened.promise]);
    }
  }

  async function restart(): Promise<void> {
    const links = (await broker.system?.links()) ?? [];
    const stuck = links.find(({ account }) => account === accounts.site);
    log.warn({ robot, address: stuck?.address }, 'the link to the hub carries nothing: it is restarted');
    // Told to end it, the server would first write what waits for it, for 10 s, and only then open another.
    await broker.configure(roleNow(false));
    await broker.configure(roleNow(claim.held));
  }

  const loops = [followClaim(), tellHub()];
  const logs = serveLogs({ link, robot, source: options.logs, log });
  return {
    get state() {
      return claim.waiting ?? 'linked';
    },
    async stop() {
      stopping.abort();
      stopWatching();
      logs.stop();
      await Promise.all(loops);
      // Before the next holder may open its own.
      await broker.configure(roleNow(false)).catch(() => {});
      await claim.release();
      await claimLink.close();
    },
  };

  async function openClaimLink({ broker }: RobotLinkOptions): Promise<NatsLink> {
    const credentialsFile = join(paths.nats, 'claim.json');
    const credentials = { user: users.claim, pass: role.passwords.claim };
    await writeAtomically(credentialsFile, `${JSON.stringify(credentials)}\n`);
    return openNats(
      { url: broker.nats.url, credentialsFile },
      { name: `atoll ${robot} claim`, site: robot, log },
    );
  }
}

async function ensureTelemetry(connection: NatsConnection, robot: string): Promise<void> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  const subjects = [keptSubjects(robot)];
  const existing = await manager.streams.info(telemetryStream).catch(() => undefined);
  if (existing === undefined) {
    const config = {
      name: telemetryStream,
      subjects,
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
      // By it a ring of telemetry keeps its last n messages, whatever else is kept.
      allow_rollup_hdrs: true,
    };
    await withRoom(keptBytes, (bytes) => manager.streams.add({ ...config, max_bytes: bytes }));
  } else if (existing.config.subjects.join() !== subjects.join() || !existing.config.allow_rollup_hdrs) {
    await manager.streams.update(telemetryStream, { subjects, allow_rollup_hdrs: true });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
