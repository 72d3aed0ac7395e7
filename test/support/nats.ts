import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connect } from '@nats-io/transport-node';
import type { NatsConnection, NodeConnectionOptions } from '@nats-io/transport-node';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import type { Place } from './place.ts';
import { freePort } from './ports.ts';
import type { RunningProcess } from './process.ts';
import { requireTool } from './requirement.ts';
import { startServer, withFacts } from './server.ts';
import type { Server } from './server.ts';

export interface NatsOptions {
  /** On by default. */
  jetstream?: boolean;
  /** The JetStream domain; a hub and each of its leaves need one of their own. */
  domain?: string;
  mqtt?: boolean;
  websocket?: boolean;
  /** Listens for leaves; does not tell them its address, since they would bypass a proxy between. */
  hub?: boolean;
  /** The leafUrl of a hub. */
  leafOf?: string;
  /** Bytes; 8 MB by default, as our own servers run. */
  maxPayload?: number;
  /** Of the clients; a free one by default. */
  port?: number;
  /** Kept at the end; by default a temporary folder. */
  storeDir?: string;
  serverName?: string;
  /** Further lines for the configuration file, in nats-server's own syntax. */
  config?: string;
  /** Loopback by default. */
  place?: Place;
  closing?: Closing;
}

export interface NatsServer extends Server {
  readonly url: string;
  readonly port: number;
  readonly monitorUrl: string;
  /** These four throw when the server was started without what they lead to. */
  readonly mqttUrl: string;
  readonly mqttPort: number;
  readonly websocketUrl: string;
  readonly leafUrl: string;
  readonly serverName: string;
  readonly storeDir: string;
  /** A client that is closed before the server is stopped. */
  connect(options?: NodeConnectionOptions): Promise<NatsConnection>;
}

interface Ports {
  client: number;
  monitor: number;
  mqtt: number | undefined;
  websocket: number | undefined;
  leaf: number | undefined;
}

export async function startNats(options: NatsOptions = {}): Promise<NatsServer> {
  const { jetstream = true, domain, mqtt = false, websocket = false, hub = false, place, closing } = options;
  const host = place?.host ?? '127.0.0.1';
  const listen = place === undefined ? host : '0.0.0.0';
  if (mqtt && !jetstream) throw new Error('startNats: mqtt needs JetStream, and jetstream is false');
  const command = await requireTool('nats-server');
  const folder = await temporaryFolder({ closing });
  const storeDir = options.storeDir ?? join(folder, 'store');
  const serverName = options.serverName ?? `test-${crypto.randomUUID()}`;
  const configFile = join(folder, 'nats-server.conf');

  const server = await startServer<Ports>(
    {
      name: 'nats-server',
      choosePorts: async () => ({
        client: options.port ?? (await freePort()),
        monitor: await freePort(),
        mqtt: mqtt ? await freePort() : undefined,
        websocket: websocket ? await freePort() : undefined,
        leaf: hub ? await freePort() : undefined,
      }),
      prepare: async (ports) => {
        const leaf = [
          ports.leaf === undefined ? '' : `listen: "${listen}:${ports.leaf}", no_advertise: true`,
          options.leafOf === undefined ? '' : `remotes: [{ url: "${options.leafOf}" }]`,
        ].filter((part) => part !== '');
        const lines = [
          `server_name: "${serverName}"`,
          `listen: "${listen}:${ports.client}"`,
          `http: "${listen}:${ports.monitor}"`,
          `max_payload: ${options.maxPayload ?? 8 * 1024 * 1024}`,
          jetstream
            ? `jetstream { store_dir: ${JSON.stringify(storeDir)}${domain ? `, domain: "${domain}"` : ''} }`
            : '',
          ports.mqtt === undefined ? '' : `mqtt { listen: "${listen}:${ports.mqtt}" }`,
          ports.websocket === undefined
            ? ''
            : `websocket { listen: "${listen}:${ports.websocket}", no_tls: true }`,
          leaf.length === 0 ? '' : `leafnodes { ${leaf.join(', ')} }`,
          options.config ?? '',
        ];
        await writeFile(configFile, lines.filter((line) => line !== '').join('\n') + '\n', { mode: 0o600 });
        const launch = { command, args: ['--config', configFile] };
        return place?.enter(launch) ?? launch;
      },
      ready: (process, ports) => untilHealthy(process, `http://${host}:${ports.monitor}`, serverName),
    },
    { closing },
  );

  const { ports } = server;
  const asked = (port: number | undefined, option: string): number => {
    if (port === undefined) throw new Error(`this nats-server was started without { ${option}: true }`);
    return port;
  };
  const url = `nats://${host}:${ports.client}`;
  return withFacts(server, {
    url,
    port: ports.client,
    monitorUrl: `http://${host}:${ports.monitor}`,
    get mqttPort() {
      return asked(ports.mqtt, 'mqtt');
    },
    get mqttUrl() {
      return `mqtt://${host}:${asked(ports.mqtt, 'mqtt')}`;
    },
    get websocketUrl() {
      return `ws://${host}:${asked(ports.websocket, 'websocket')}`;
    },
    get leafUrl() {
      return `nats-leaf://${host}:${asked(ports.leaf, 'hub')}`;
    },
    serverName,
    storeDir,
    connect: async (clientOptions: NodeConnectionOptions = {}) => {
      const connection = await connect({ servers: url, ...clientOptions });
      closeLater(() => connection.close(), closing);
      return connection;
    },
  });
}

/** Healthy means: all listeners are bound and JetStream has recovered what it stores. */
async function untilHealthy(process: RunningProcess, monitorUrl: string, serverName: string): Promise<void> {
  await process.line(/Server is ready/);
  await process.until('it called itself healthy', async () => {
    const health = await fetch(`${monitorUrl}/healthz`, { headers: { connection: 'close' } });
    return health.ok || undefined;
  });
  // On a port that somebody else took, somebody else's server may be the one that answers.
  const answer = await fetch(`${monitorUrl}/varz`, { headers: { connection: 'close' } });
  const { server_name: name } = (await answer.json()) as { server_name: string };
  if (name !== serverName)
    throw new Error(`${monitorUrl} is answered by the server "${name}", not "${serverName}"`);
}
