/** Whether a site is a hub or a robot of one, as `faas up` was told, and what that makes of its nats-server. */
import { join, resolve } from 'node:path';
import { memoryBytes } from '../crds/values.ts';
import {
  brokerConfig,
  loopback,
  type BrokerRole,
  type ListenerTls,
} from '../controller/broker/configuration.ts';
import { usualPorts } from '../controller/broker/nats-server.ts';
import { readPasswords } from '../controller/broker/passwords.ts';
import { hubUrl, readRobotFile, type RobotFile } from '../controller/broker/robot-file.ts';
import { hubSite, openRobots, robotUsers } from '../controller/broker/robots.ts';
import { leastStreamBytes } from '../controller/broker/stream-size.ts';
import { hubTelemetryBytes } from '../controller/broker/telemetry-room.ts';
import { writeAtomically } from '../controller/stores/atomic-file.ts';
import type { SitePaths } from '../controller/stores/site.ts';
import { usageError } from './failure.ts';

export type SiteRole =
  | {
      readonly kind: 'control';
      /** Where robots come in. */
      readonly listen: string;
      readonly ports: { readonly leaf: number; readonly websocket: number };
      readonly tls?: ListenerTls;
      /** What all robots together may have kept at the hub. */
      readonly telemetryBytes: number;
    }
  | {
      readonly kind: 'robot';
      readonly file: RobotFile;
      /** Where it lies: replaced there, its keys are taken over. */
      readonly path: string;
      readonly hubUrl: string;
    };

export interface RoleOptions {
  readonly control: boolean;
  readonly robot?: string | undefined;
  readonly hub?: string | undefined;
  readonly robotFile?: string | undefined;
  readonly host: string;
  readonly leafPort: number;
  readonly websocketPort: number;
  readonly tlsCert?: string | undefined;
  readonly tlsKey?: string | undefined;
  /** A quantity, such as 10Gi. */
  readonly telemetrySize?: string | undefined;
  readonly insecure: boolean;
}

/** Undefined: neither. */
export async function roleOf(options: RoleOptions): Promise<SiteRole | undefined> {
  const { control, robot, hub, robotFile } = options;
  if (control && robot !== undefined) throw usageError('--control and --robot name two roles', 'Give one.');
  if (control) return controlRole(options);
  if (options.telemetrySize !== undefined) throw usageError('--telemetry-size goes with --control');
  if (robot === undefined) {
    const stray = Object.entries({ hub, 'robot-file': robotFile }).find(([, value]) => value !== undefined);
    if (stray !== undefined) throw usageError(`--${stray[0]} goes with --robot`);
    return undefined;
  }
  if (hub === undefined || robotFile === undefined) {
    throw usageError(
      '--robot needs --hub URL and --robot-file FILE',
      `"faas robot add ${robot}" on the hub writes the file.`,
    );
  }
  const path = resolve(robotFile);
  const file = await readRobotFile(path);
  if (file.robot !== robot) {
    throw usageError(`--robot is "${robot}", and the keys in ${robotFile} are those of "${file.robot}"`);
  }
  const url = hubUrl(hub, file.ports);
  if (isPlain(url) && !isLoopback(new URL(url).hostname) && !options.insecure) {
    throw usageError(
      `--hub is ${hub}: what the link carries could be read on its way`,
      'Give tls:// or wss://, or --insecure where nobody else is in the network.',
    );
  }
  return { kind: 'robot', file, path, hubUrl: url };
}

function controlRole(options: RoleOptions): SiteRole {
  const { host, leafPort, websocketPort, tlsCert, tlsKey, insecure } = options;
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    const [has, lacks] = tlsCert === undefined ? ['key', 'cert'] : ['cert', 'key'];
    throw usageError(`--tls-${has} needs --tls-${lacks}`);
  }
  if (tlsCert === undefined && !isLoopback(host) && !insecure) {
    throw usageError(
      `--control on ${host} without a certificate: what robots tell could be read on its way`,
      'Give --tls-cert and --tls-key, or --insecure where nobody else is in the network.',
    );
  }
  return {
    kind: 'control',
    listen: host,
    ports: { leaf: leafPort, websocket: websocketPort },
    telemetryBytes: telemetryBytesOf(options.telemetrySize),
    ...(tlsCert !== undefined &&
      tlsKey !== undefined && { tls: { certificate: resolve(tlsCert), key: resolve(tlsKey) } }),
  };
}

function telemetryBytesOf(size: string | undefined): number {
  if (size === undefined) return hubTelemetryBytes;
  const bytes = /^[0-9]{1,12}([.][0-9]{1,9})?(k|M|G|Ki|Mi|Gi)?$/.test(size) ? memoryBytes(size) : 0;
  if (bytes >= leastStreamBytes) return bytes;
  throw usageError(`--telemetry-size must be a size of at least 4Mi, such as 500Mi or 10Gi, not "${size}"`);
}

export const siteOf = (role: SiteRole): string => (role.kind === 'control' ? hubSite : role.file.robot);

/** Makes what the nats-server of that role needs in the folder of the site. */
export async function brokerRoleOf(
  role: SiteRole,
  paths: SitePaths,
): Promise<Exclude<BrokerRole, { kind: 'alone' }>> {
  const passwords = await readPasswords(paths);
  if (role.kind === 'control') {
    const { listen, tls } = role;
    const robots = robotUsers(await openRobots(paths.dir).list(), Date.now());
    return { kind: 'control', listen, robots, passwords, ...(tls && { tls }) };
  }
  const { link, claim, ca } = role.file;
  const caFile = join(paths.nats, 'hub-ca.pem');
  if (ca !== undefined) await writeAtomically(caFile, ca);
  return {
    kind: 'robot',
    hub: { url: role.hubUrl, ...(ca !== undefined && { ca: caFile }) },
    seeds: { link, claim },
    linked: false,
    passwords,
  };
}

/** For a nats-server that runs elsewhere: with the usual ports, and with the link open. */
export async function printedConfig(role: SiteRole, paths: SitePaths, websocket: boolean): Promise<string> {
  const site = siteOf(role);
  const made = await brokerRoleOf(role, paths);
  const { nats, mqtt } = usualPorts;
  const outside = role.kind === 'control' ? role.ports : { leaf: undefined, websocket: usualPorts.websocket };
  return brokerConfig({
    serverName: `${site}-external`,
    site,
    store: paths.nats,
    ports: {
      nats,
      mqtt,
      ...(outside.leaf !== undefined && { leaf: outside.leaf }),
      ...(websocket && { websocket: outside.websocket }),
    },
    ...(role.kind === 'robot' && { syncInterval: 'always' }),
    role: made.kind === 'robot' ? { ...made, linked: true } : made,
  });
}

const isLoopback = (host: string): boolean => host === loopback || host === 'localhost' || host === '::1';
const isPlain = (url: string): boolean => url.startsWith('nats-leaf://') || url.startsWith('ws://');
