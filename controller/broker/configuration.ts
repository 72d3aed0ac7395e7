/** nats-server's configuration file. Pure: what it says is decided here, what happens with it elsewhere. */
import { claimPermissions, linkPermissions, reservedSubjects, type Permissions } from './crossing.ts';

export const loopback = '127.0.0.1';
/** CONTRACTS 4.8; the server warns above it. */
const maxPayload = '8MB';
/**
 * What may wait for one client. The default of 64 MB is what each plain trigger of a host may hold besides: a burst
 * would throw the host out as a slow consumer, with its subscriptions, and lose what no one counts.
 */
const maxPending = '256MB';
/**
 * MQTT messages on their way to one subscription. What a client did not acknowledge within `ack_wait` is sent again,
 * also over a connection that works: the last of them must have its turn by then, with a client that takes one after
 * the other, and comes back after a while. With the server's own 1,024 a host that stood still for 6 s was sent 1,639
 * of 3,000 events twice, since what was repeated made the rest late.
 */
const maxUnacknowledged = 100;
/**
 * A link whose other end is gone without a word is given up after two unanswered pings. The server's own are 2 minutes
 * apart, and TCP alone sends again ever more rarely: after a cut of 30 s it would wait as long once more.
 */
const linkPing = '3s';
/** And up to as much again, by chance. */
const linkRetry = '200ms';
const linkDialTimeout = '1s';
/** A robot may be away for days: the first failure is in the log, then one of so many, which is each one or two minutes. */
const linkReports = 300;

/** Accounts of a hub or a robot. */
export const accounts = { system: 'SYSTEM', site: 'SITE', claim: 'CLAIM' } as const;
/** Users of a hub or a robot. `programs`: everything on the machine that is not ours. */
export const users = { system: 'system', atoll: 'atoll', programs: 'programs', claim: 'claim' } as const;
export type Passwords = Readonly<Record<keyof typeof users, string>>;

export interface Ports {
  readonly nats: number;
  readonly mqtt: number;
  /** Absent: no such listener. */
  readonly websocket?: number;
  /** Of a hub: for the links of robots. */
  readonly leaf?: number;
}

/** PEM files. */
export interface ListenerTls {
  readonly certificate: string;
  readonly key: string;
}

/** A robot as its hub knows it: public keys, of which two are good while they are exchanged. */
export interface RobotUser {
  readonly robot: string;
  readonly link: string;
  readonly claim: string;
}

export interface HubAddress {
  /** For nats-server: nats-leaf://, tls://, ws:// or wss://, with its port and without credentials. */
  readonly url: string;
  /** PEM file: whose certificates count; else those that the system knows. */
  readonly ca?: string;
}

export type BrokerRole =
  /** Everybody on the machine may do everything. */
  | { readonly kind: 'alone' }
  | {
      readonly kind: 'control';
      /** Where robots come in, by both listeners. NATS and MQTT stay on loopback. */
      readonly listen: string;
      readonly tls?: ListenerTls;
      readonly robots: readonly RobotUser[];
      readonly passwords: Passwords;
    }
  | {
      readonly kind: 'robot';
      readonly hub: HubAddress;
      /** Of the hub's site, whose JetStream keeps the claims. */
      readonly seeds: { readonly link: string; readonly claim: string };
      /** Whether the link may be open: only who holds the claim of its id. */
      readonly linked: boolean;
      readonly passwords: Passwords;
    };

export interface BrokerConfig {
  readonly serverName: string;
  /** The JetStream domain, too (CONTRACTS 1). */
  readonly site: string;
  readonly store: string;
  readonly ports: Ports;
  /** How soon JetStream writes through to the disk, such as `always` or `10s`. Default: the server's own. */
  readonly syncInterval?: string;
  readonly role?: BrokerRole;
}

export function brokerConfig(config: BrokerConfig): string {
  const { serverName, site, store, ports, syncInterval, role = { kind: 'alone' } } = config;
  const linked =
    role.kind === 'alone'
      ? []
      : [`ping_interval: ${text(linkPing)}`, 'ping_max: 2', `reconnect_error_reports: ${linkReports}`];
  return [
    `server_name: ${text(serverName)}`,
    `host: ${text(loopback)}`,
    `port: ${ports.nats}`,
    `max_payload: ${maxPayload}`,
    `max_pending: ${maxPending}`,
    ...linked,
    ...block('jetstream', [
      `store_dir: ${text(store)}`,
      `domain: ${text(site)}`,
      ...(syncInterval === undefined ? [] : [`sync_interval: ${text(syncInterval)}`]),
    ]),
    ...block('mqtt', [
      `host: ${text(loopback)}`,
      `port: ${ports.mqtt}`,
      // What a client did not acknowledge before it lost its connection: 30 s by default, also when it is back at once.
      'ack_wait: "5s"',
      `max_ack_pending: ${maxUnacknowledged}`,
    ]),
    ...websocket(ports.websocket, role),
    ...accountsOf(site, role),
    ...leafNodes(ports.leaf, role),
    '',
  ].join('\n');
}

function websocket(port: number | undefined, role: BrokerRole): string[] {
  if (port === undefined) return [];
  const [host, tls] = role.kind === 'control' ? [role.listen, role.tls] : [loopback, undefined];
  return block('websocket', [
    `host: ${text(host)}`,
    `port: ${port}`,
    ...(tls ? tlsBlock(tls) : ['no_tls: true']),
    'same_origin: true',
  ]);
}

function accountsOf(site: string, role: BrokerRole): string[] {
  if (role.kind === 'alone') return [];
  const { passwords } = role;
  const user = (name: keyof typeof users, permissions: readonly string[] = []): string[] => [
    `{ user: ${text(users[name])}, password: ${text(passwords[name])}${permissions.join('')} }`,
  ];
  const robots = role.kind === 'control' ? role.robots : [];
  return [
    ...block('accounts', [
      ...block(accounts.system, list('users', user('system'))),
      ...block(accounts.site, [
        'jetstream: enabled',
        ...list('users', [
          ...user('atoll'),
          ...user('programs', [`, permissions: { publish: { deny: ${texts(reservedSubjects)} } }`]),
          ...robots.flatMap(({ robot, link, claim }) => [
            robotUser(link, linkPermissions(robot, site)),
            robotUser(claim, claimPermissions(robot, site)),
          ]),
        ]),
      ]),
      // No JetStream: nothing of it is ever kept on the robot.
      ...(role.kind === 'robot' ? block(accounts.claim, list('users', user('claim'))) : []),
    ]),
    `system_account: ${accounts.system}`,
  ];
}

function robotUser(key: string, { publish, subscribe }: Permissions): string {
  const permissions = `publish: ${texts(publish)}, subscribe: ${texts(subscribe)}`;
  return `{ nkey: ${key}, allowed_connection_types: ["LEAFNODE", "LEAFNODE_WS"], permissions: { ${permissions} } }`;
}

function leafNodes(port: number | undefined, role: BrokerRole): string[] {
  if (role.kind === 'control' && port !== undefined) {
    return block('leafnodes', [
      `host: ${text(role.listen)}`,
      `port: ${port}`,
      // Robots would learn addresses of ours by which they pass by a proxy or a tunnel.
      'no_advertise: true',
      ...(role.tls ? tlsBlock(role.tls) : []),
    ]);
  }
  if (role.kind !== 'robot') return [];
  const { hub, seeds, linked } = role;
  const remote = (account: string, seed: string): string[] => [
    '{',
    ...indented([
      `urls: [${text(hub.url)}]`,
      `account: ${account}`,
      `nkey: ${seed}`,
      'ignore_discovered_servers: true',
      `dial_timeout: ${text(linkDialTimeout)}`,
      ...(hub.ca === undefined ? [] : block('tls', [`ca_file: ${text(hub.ca)}`])),
    ]),
    '}',
  ];
  return block('leafnodes', [
    `reconnect: ${text(linkRetry)}`,
    ...list('remotes', [
      ...remote(accounts.claim, seeds.claim),
      ...(linked ? remote(accounts.site, seeds.link) : []),
    ]),
  ]);
}

const tlsBlock = ({ certificate, key }: ListenerTls): string[] =>
  block('tls', [`cert_file: ${text(certificate)}`, `key_file: ${text(key)}`]);

const text = (value: string): string => JSON.stringify(value);
const texts = (values: readonly string[]): string => `[${values.map(text).join(', ')}]`;
const indented = (lines: readonly string[]): string[] => lines.map((line) => `  ${line}`);
const block = (name: string, lines: readonly string[]): string[] => [`${name} {`, ...indented(lines), '}'];
const list = (name: string, lines: readonly string[]): string[] => [`${name}: [`, ...indented(lines), ']'];
