/** The site's own nats-server: NATS, JetStream and MQTT on loopback, supervised. */
import { randomBytes } from 'node:crypto';
import { mkdir, statfs } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Log } from '../../runtime/log.ts';
import { supervise, type StartingChild, type SupervisedState } from '../../runtime/process/supervise.ts';
import { toolPath } from '../../tools/install.ts';
import { folderMode, writeAtomically } from '../stores/atomic-file.ts';
import { markProcess } from '../stores/process-marks.ts';
import type { SitePaths } from '../stores/site.ts';
import { choosePorts } from './ports.ts';

const host = '127.0.0.1';
/** Where a client that was told nothing looks. */
const usualPorts = { nats: 4222, mqtt: 1883, websocket: 9222 } as const;
/** CONTRACTS 4.8; the server warns above it. */
const maxPayload = '8MB';
const probeMs = 25;
const probeTimeoutMs = 2_000;
/** Recovering a large store takes a while after a power cut. */
const readyTimeoutMs = 120_000;
/**
 * A stream that could not be written once takes nothing more until nats-server is started again (2.15.2, tried),
 * though there is space by then. Its plain NATS goes on meanwhile.
 */
/** It tells the log alone, and as news. */
const slowConsumer = /Slow Consumer Detected/;
const writeFailed = /critical write error|JetStream .*will be DISABLED/i;
const spaceBytes = 1024 * 1024;
const spaceMs = 1_000;
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

type Listener = keyof typeof usualPorts;
type Ports = Partial<Record<Listener, number>>;

export interface BrokerOptions {
  readonly paths: SitePaths;
  /** The JetStream domain, too (CONTRACTS 1). */
  readonly site: string;
  readonly log: Log;
  /** Also listens for browsers; off by default (CONTRACTS 7). */
  readonly websocket?: boolean;
  /** Which ports to take when no earlier start remembers others and they are free. */
  readonly ports?: Ports;
  /** How soon JetStream writes through to the disk, such as `always` or `10s`. Default: the server's own. */
  readonly syncInterval?: string;
  /** The program. Default: the one on PATH or in the tool cache. */
  readonly command?: string;
}

export interface Broker {
  readonly nats: { readonly url: string };
  readonly mqtt: { readonly url: string };
  readonly websocket?: { readonly url: string };
  readonly serverName: string;
  readonly pid: number | undefined;
  /** Resolves when it answers, now or after a restart. */
  ready(): Promise<void>;
  stop(): Promise<void>;
}

/** Resolves when it answers; rejects with AtollError ProcessFailed when it cannot be started. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { paths, site, log, websocket = false } = options;
  const command = options.command ?? (await toolPath('nats-server', { log: (line) => log.info(line) }));
  await mkdir(paths.nats, { recursive: true, mode: folderMode });
  const configFile = join(paths.nats, 'nats-server.conf');
  const serverName = `${site}-${randomBytes(4).toString('hex')}`;
  const wanted = { ...usualPorts, ...options.ports };
  const { nats, mqtt } = wanted;
  const preferred = websocket ? wanted : { nats, mqtt };

  // Between looking and binding somebody else may take a port: then others are chosen, but only at the start,
  // since later the clients know these.
  for (let attempt = 1; ; attempt += 1) {
    const ports: Ports = await choosePorts<Listener>(
      join(paths.nats, 'ports.json'),
      preferred as Record<Listener, number>,
    );
    const config = brokerConfig({ ...options, serverName, store: paths.nats, ports });
    await writeAtomically(configFile, config);
    const running = startServer({ command, configFile, serverName, ports, paths, log });
    try {
      await running.server.started;
      return brokerOf(running, ports, serverName);
    } catch (error) {
      await running.stop();
      if (attempt >= 3 || !/address already in use/.test(String(error))) throw error;
      log.warn({ ports }, 'a port was taken in the last moment; choosing others');
    }
  }
}

function brokerOf(running: RunningServer, ports: Ports, serverName: string): Broker {
  const { server, stop } = running;
  return {
    nats: { url: `nats://${host}:${ports.nats}` },
    mqtt: { url: `mqtt://${host}:${ports.mqtt}` },
    ...(ports.websocket !== undefined && { websocket: { url: `ws://${host}:${ports.websocket}` } }),
    serverName,
    get pid() {
      return server.pid;
    },
    ready: () => server.ready(),
    stop,
  };
}

/** nats-server's configuration file. Pure. */
export function brokerConfig(options: {
  readonly serverName: string;
  readonly site: string;
  readonly store: string;
  readonly ports: Ports;
  readonly syncInterval?: string;
}): string {
  const { serverName, site, store, ports, syncInterval } = options;
  const text = (value: string): string => JSON.stringify(value);
  return [
    `server_name: ${text(serverName)}`,
    `host: ${text(host)}`,
    `port: ${ports.nats}`,
    `max_payload: ${maxPayload}`,
    `max_pending: ${maxPending}`,
    'jetstream {',
    `  store_dir: ${text(store)}`,
    `  domain: ${text(site)}`,
    ...(syncInterval === undefined ? [] : [`  sync_interval: ${text(syncInterval)}`]),
    '}',
    'mqtt {',
    `  host: ${text(host)}`,
    `  port: ${ports.mqtt}`,
    // What a client did not acknowledge before it lost its connection: 30 s by default, also when it is back at once.
    '  ack_wait: "5s"',
    `  max_ack_pending: ${maxUnacknowledged}`,
    '}',
    ...(ports.websocket === undefined
      ? []
      : [
          'websocket {',
          `  host: ${text(host)}`,
          `  port: ${ports.websocket}`,
          '  no_tls: true',
          '  same_origin: true',
          '}',
        ]),
    '',
  ].join('\n');
}

interface RunningServer {
  readonly server: ReturnType<typeof supervise>;
  stop(): Promise<void>;
}

function startServer(options: {
  command: string;
  configFile: string;
  serverName: string;
  ports: Ports;
  paths: SitePaths;
  log: Log;
}): RunningServer {
  const { command, configFile, serverName, ports, paths, log } = options;
  const marks = markProcess(paths.run, { name: 'nats-server' }, log);
  let broken: AbortController | undefined;

  async function startAgainWithSpace(signal: AbortSignal): Promise<void> {
    log.error(
      { folder: paths.nats },
      'nats-server cannot write: JetStream takes nothing until there is space',
    );
    try {
      while ((await freeBytes(paths.nats)) < spaceBytes) await pause(spaceMs, undefined, { signal });
    } catch (error) {
      if (!signal.aborted) log.error({ err: error }, 'the free space of the disk cannot be read');
    }
    if (!signal.aborted) server.signal('SIGTERM');
  }

  const server = supervise({
    name: 'nats-server',
    command,
    args: ['--config', configFile],
    readyTimeoutMs,
    ready: (child) => untilItAnswers(child, serverName, ports),
    onState(state: SupervisedState) {
      marks.onState(state);
      if (state.kind !== 'ready') broken?.abort();
      if (state.kind === 'starting') broken = undefined;
      if (state.kind === 'waiting') {
        log.error({ reason: state.reason, delayMs: state.delayMs }, 'nats-server ended; it is started again');
      }
    },
    onLine(line) {
      // Its own format: `[pid] date time [INF] text`.
      const [, level, message] = /\[(INF|WRN|ERR|FTL|DBG|TRC)\] (.*)$/.exec(line) ?? [];
      if (!broken && message !== undefined && writeFailed.test(message)) {
        broken = new AbortController();
        void startAgainWithSpace(broken.signal);
      }
      if (level === 'WRN' || (message !== undefined && slowConsumer.test(message)))
        log.warn({ server: 'nats-server' }, message);
      else if (level === 'ERR' || level === 'FTL') log.error({ server: 'nats-server' }, message);
      else log.debug({ server: 'nats-server' }, message ?? line);
    },
  });
  return {
    server,
    async stop() {
      await server.stop();
      await marks.written();
    },
  };
}

async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/**
 * Every listener takes connections, and the one for clients greets with our server's name: on a port that
 * somebody else took, somebody else would answer.
 */
async function untilItAnswers(child: StartingChild, serverName: string, ports: Ports): Promise<void> {
  for (;;) {
    try {
      const greeting = await firstLine(ports.nats as number, child.signal);
      const info = JSON.parse(greeting.replace(/^INFO /, '')) as { server_name?: string };
      if (info.server_name !== serverName) {
        throw new Error(`port ${ports.nats} is answered by "${info.server_name}": address already in use`);
      }
      break;
    } catch (error) {
      child.signal.throwIfAborted();
      if (/address already in use/.test(String(error))) throw error;
      await pause(probeMs, undefined, { signal: child.signal });
    }
  }
  for (const port of [ports.mqtt, ports.websocket]) {
    while (port !== undefined && !(await accepts(port))) {
      await pause(probeMs, undefined, { signal: child.signal });
    }
  }
}

function firstLine(port: number, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal, timeout: probeTimeoutMs });
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\r\n');
      if (end < 0) return;
      socket.destroy();
      resolve(text.slice(0, end));
    });
    socket.once('error', reject);
    socket.once('timeout', () => socket.destroy(new Error('no greeting')));
    socket.once('close', () => reject(new Error('no greeting')));
  });
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: probeTimeoutMs });
    socket.once('connect', () => {
      resolve(true);
      socket.destroy();
    });
    socket.once('error', () => resolve(false));
    socket.once('timeout', () => {
      resolve(false);
      socket.destroy();
    });
  });
}
