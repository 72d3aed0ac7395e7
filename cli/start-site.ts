/** A site in this process: composes the real parts in order, and stops them in the reverse one. */
import { mkdir, rm, symlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { openLocalBackend } from '../controller/backends/local.ts';
import type { RosOptions } from '../controller/backends/ros-process.ts';
import { users, type BrokerRole } from '../controller/broker/configuration.ts';
import { startHub } from '../controller/broker/hub.ts';
import { startBroker, type Broker } from '../controller/broker/nats-server.ts';
import { watchRobotFile } from '../controller/broker/robot-file.ts';
import { startRobotLink } from '../controller/broker/robot-link.ts';
import { openRobotMetrics } from '../controller/broker/robot-metrics.ts';
import { openRobots } from '../controller/broker/robots.ts';
import { startSweep } from '../controller/broker/sweep.ts';
import { hubTelemetryBytes } from '../controller/broker/telemetry-room.ts';
import { startController } from '../controller/start.ts';
import { openDirectoryStore } from '../controller/stores/directory.ts';
import { endMarkedProcesses } from '../controller/stores/process-marks.ts';
import { keepSiteName } from '../controller/stores/site-name.ts';
import { claimSite, type SiteInfo, type SitePaths } from '../controller/stores/site.ts';
import type { Store } from '../controller/stores/store.ts';
import { drainDeadline, startGateway } from '../gateway/start.ts';
import { openNats, type NatsLink } from '../runtime/clients/nats.ts';
import type { MqttSettings, NatsSettings, S3Settings } from '../runtime/config.ts';
import { openDeadLetters } from '../runtime/dead-letters.ts';
import { AtollError } from '../runtime/errors.ts';
import { openInbox } from '../runtime/inbox.ts';
import type { Log } from '../runtime/log.ts';
import { claimState, type Owner } from '../runtime/triggers/forget.ts';
import { identify } from '../runtime/process/identity.ts';
import { mqttSettings, natsSettings, s3Settings, type GivenFiles } from './site-credentials.ts';
import { brokerRoleOf, siteOf, type SiteRole } from './site-role.ts';
import { version } from './version.ts';

/** CONTRACTS 1: also the JetStream domain. */
const aloneName = 'local';
export const defaultPort = 8700;
/** How long a start waits for a NATS server that is not ours. */
const natsWaitMs = 3_000;

export interface SiteOptions {
  readonly dir: string;
  /** Absent: an own nats-server is started. May hold credentials, as the next two. */
  readonly nats?: string | undefined;
  readonly mqtt?: string | undefined;
  readonly s3?: string | undefined;
  readonly natsFiles?: GivenFiles | undefined;
  readonly mqttFiles?: GivenFiles | undefined;
  readonly host: string;
  readonly port: number;
  readonly keys?: string | undefined;
  /** A WebSocket listener of the own nats-server. */
  readonly websocket: boolean;
  readonly ros?: RosOptions | undefined;
  /** With an own nats-server only. Absent: a site that is neither. */
  readonly role?: SiteRole | undefined;
  readonly log: Log;
  /** Told before each part that may take a while. */
  onStep(text: string): void;
}

export interface RunningSite {
  readonly info: SiteInfo;
  readonly paths: SitePaths;
  readonly store: Store;
  /** Takes nothing new, lets what runs end, then stops what was started. */
  stop(): Promise<void>;
  /** While `stop` takes too long: kills what was started. */
  hurry(): Promise<void>;
}

/** Rejects with AtollError SiteInUse when another process runs the folder; everything started until then is stopped. */
export async function startSite(options: SiteOptions): Promise<RunningSite> {
  const { log, onStep } = options;
  const site = await claimSite(options.dir, { log });
  const { paths } = site;
  const siteName = options.role === undefined ? aloneName : siteOf(options.role);
  const stops: (() => Promise<void>)[] = [() => site.release()];
  const stopAll = async (): Promise<void> => {
    for (let stop = stops.pop(); stop !== undefined; stop = stops.pop()) await stop();
  };
  try {
    await keepSiteName(paths, siteName);
    await mkdir(paths.packages, { recursive: true, mode: 0o700 });
    const s3 = options.s3 === undefined ? undefined : await s3Settings(options.s3, paths, process.env);
    const role = options.role && (await brokerRoleOf(options.role, paths));
    const broker =
      options.nats === undefined ? await ownBroker(options, { paths, siteName, role }) : undefined;
    if (broker !== undefined) stops.push(() => broker.stop());
    const login = role && { user: users.atoll, password: role.passwords.atoll };
    const nats = await natsSettings(
      options.nats ?? withLogin(broker!.nats.url, login),
      paths,
      options.natsFiles,
    );
    const mqtt = await mqttOf(options, broker && withLogin(broker.mqtt.url, login), paths);
    const link = openNats(nats, { name: `atoll ${siteName} gateway`, site: siteName, log });
    stops.push(() => link.close());
    const owner = { id: site.id, place: `${hostname()}:${paths.dir}` };
    if (options.nats !== undefined) await refuseForeignState(link, siteName, owner);
    const inbox = openInbox(link, { site: siteName, log });
    const deadLetters = openDeadLetters(link, { site: siteName, log });
    const store = await openDirectoryStore({ dir: paths.dir, log });

    onStep('starting the functions');
    const backend = await openLocalBackend({
      paths,
      site: siteName,
      nats,
      ...(mqtt && { mqtt }),
      ...(s3 && { s3 }),
      // A robot that somebody got hold of shall not speak for what its functions have no business with.
      ...(role?.kind === 'robot' && { permissions: 'required' as const }),
      ...(options.ros && { ros: options.ros }),
      log,
    });
    stops.push(() => backend.close());
    const controller = await startController({ store, backend, log });
    stops.push(() => controller.stop());
    const sweep = startSweep({
      store,
      link,
      deadLetters,
      site: siteName,
      owner,
      ...(mqtt && { mqtt }),
      log,
    });
    stops.push(() => sweep.stop());
    const hub =
      role?.kind === 'control'
        ? startHub({
            broker: broker!,
            role,
            robots: openRobots(paths.dir),
            telemetryBytes:
              options.role?.kind === 'control' ? options.role.telemetryBytes : hubTelemetryBytes,
            link,
            log,
          })
        : undefined;
    if (hub !== undefined) stops.push(() => hub.stop());
    const keysFile = await keysFileOf(options, paths);
    const gateway = await startGateway({
      host: options.host,
      port: options.port,
      ...(keysFile !== undefined && { keysFile }),
      site: siteName,
      siteInfo: () => info,
      store,
      backend,
      inbox,
      deadLetters,
      ...(hub && { robots: hub, metrics: () => openRobotMetrics(hub).text() }),
      log,
    });
    const info = infoOf({ siteName, url: gateway.url, nats, mqtt, s3, broker });
    stops.push(async () => {
      await gateway.stop(await drainDeadline(store));
    });
    if (role?.kind === 'robot' && options.role?.kind === 'robot') {
      onStep('looking for the hub');
      const { path } = options.role;
      const robotLink = await startRobotLink({
        broker: broker!,
        role,
        hub: options.role.file.hub,
        robot: siteName,
        siteId: site.id,
        paths,
        link,
        functions: () => readiness(store),
        logs: {
          functions: async () => (await store.list()).map(({ metadata }) => metadata),
          logs: (key, query) => backend.logs(key, query),
        },
        watchSeeds: (listener) => watchRobotFile(path, siteName, listener, log),
        log,
      });
      stops.push(() => robotLink.stop());
    }
    await site.publish(info);
    return { info, paths, store, stop: stopAll, hurry: () => endMarkedProcesses(paths.run, log) };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

/** A NATS that is away is no reason not to start; the sweep looks again when it is there. */
async function refuseForeignState(link: NatsLink, siteName: string, owner: Owner): Promise<void> {
  await Promise.race([link.connection(), pause(natsWaitMs, undefined, { ref: false })]);
  await claimState(link, siteName, owner).catch((error: unknown) => {
    if (error instanceof AtollError && error.code === 'SiteInUse') throw error;
  });
}

async function ownBroker(
  options: SiteOptions,
  made: { paths: SitePaths; siteName: string; role: BrokerRole | undefined },
): Promise<Broker> {
  options.onStep('starting nats-server');
  const { role } = options;
  return await startBroker({
    paths: made.paths,
    site: made.siteName,
    log: options.log,
    websocket: options.websocket,
    ...(made.role && { role: made.role }),
    ...(role?.kind === 'control' && { ports: role.ports }),
    // A robot is switched off, not shut down.
    ...(role?.kind === 'robot' && { syncInterval: 'always' }),
  });
}

/** An address with credentials in it, which end in a file for us alone. */
function withLogin(url: string, login: { user: string; password: string } | undefined): string {
  return login === undefined ? url : url.replace('://', `://${login.user}:${login.password}@`);
}

async function readiness(store: Store): Promise<{ ready: number; total: number }> {
  const functions = await store.list();
  const ready = functions.filter(({ status }) =>
    status?.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True'),
  );
  return { ready: ready.length, total: functions.length };
}

async function mqttOf(
  options: SiteOptions,
  brokerUrl: string | undefined,
  paths: SitePaths,
): Promise<MqttSettings | undefined> {
  const url = options.mqtt ?? brokerUrl;
  return url === undefined ? undefined : await mqttSettings(url, paths, options.mqttFiles);
}

/** `--keys` is also where the commands on this machine find theirs: a link in the folder leads to it. */
async function keysFileOf(options: SiteOptions, paths: SitePaths): Promise<string | undefined> {
  if (options.keys === undefined) return undefined;
  const file = resolve(options.keys);
  if (file !== paths.keys) {
    await rm(paths.keys, { force: true });
    await symlink(file, paths.keys);
  }
  return file;
}

function infoOf(parts: {
  siteName: string;
  url: string;
  nats: NatsSettings;
  mqtt: MqttSettings | undefined;
  s3: S3Settings | undefined;
  broker: Broker | undefined;
}): SiteInfo {
  const { siteName, url, nats, mqtt, s3, broker } = parts;
  const self = identify(process.pid);
  return {
    version: version(),
    site: siteName,
    pid: process.pid,
    startTime: self?.startTime ?? '',
    url,
    nats: { url: nats.url },
    ...(mqtt && { mqtt: { url: mqtt.url } }),
    ...(s3 && { s3: { endpoint: s3.endpoint, region: s3.region, bucket: s3.bucket } }),
    ...(broker?.websocket && { websocket: broker.websocket }),
    ...(broker?.leaf && { leaf: broker.leaf }),
  };
}

export const packagesText = (info: SiteInfo, paths: SitePaths): string =>
  info.s3 === undefined ? paths.packages : `${info.s3.endpoint}/${info.s3.bucket}`;

export const hostLogFile = (paths: SitePaths): string => join(paths.logs, 'host.jsonl');
