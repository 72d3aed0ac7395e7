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
import {
  brokerConfig,
  loopback,
  users,
  type BrokerRole,
  type Passwords,
  type Ports,
} from './configuration.ts';
import { choosePorts } from './ports.ts';
import { openSystemAccount, type SystemAccount } from './system-account.ts';

/** Where a client that was told nothing looks. */
export const usualPorts = { nats: 4222, mqtt: 1883, websocket: 9222, leaf: 7422 } as const;
const probeMs = 25;
const probeTimeoutMs = 2_000;
/** Recovering a large store takes a while after a power cut. */
const readyTimeoutMs = 120_000;
/** It tells the log alone, and as news. */
const slowConsumer = /Slow Consumer Detected/;
/**
 * A stream that could not be written once takes nothing more until nats-server is started again (2.15.2, tried),
 * though there is space by then. Its plain NATS goes on meanwhile.
 */
const writeFailed = /critical write error|JetStream .*will be DISABLED/i;
const spaceBytes = 1024 * 1024;
const spaceMs = 1_000;
export interface BrokerOptions {
  readonly paths: SitePaths;
  /** The JetStream domain, too (CONTRACTS 1). */
  readonly site: string;
  readonly log: Log;
  /** Also listens for browsers; off by default (CONTRACTS 7). */
  readonly websocket?: boolean;
  /** Which ports to take when no earlier start remembers others and they are free. */
  readonly ports?: Partial<Ports>;
  /** Default: alone. */
  readonly role?: BrokerRole;
  /** How soon JetStream writes through to the disk, such as `always` or `10s`. Default: the server's own. */
  readonly syncInterval?: string;
  /** The program. Default: the one on PATH or in the tool cache. */
  readonly command?: string;
}

export interface Broker {
  readonly nats: { readonly url: string };
  readonly mqtt: { readonly url: string };
  readonly websocket?: { readonly url: string };
  /** Of a hub: where its robots come in. */
  readonly leaf?: { readonly url: string };
  readonly serverName: string;
  readonly pid: number | undefined;
  /** Resolves when it answers, now or after a restart. */
  ready(): Promise<void>;
  /** Of a hub or a robot: asks and commands the server itself. */
  readonly system?: SystemAccount;
  /**
   * Of a hub or a robot: another role of the same kind, taken over without a restart. Rejects when the server did not
   * confirm it; then it is in force from its next start on.
   */
  configure(role: BrokerRole): Promise<void>;
  stop(): Promise<void>;
}

/** Resolves when it answers; rejects with AtollError ProcessFailed when it cannot be started. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { paths, site, log, role = { kind: 'alone' } } = options;
  const command = options.command ?? (await toolPath('nats-server', { log: (line) => log.info(line) }));
  await mkdir(paths.nats, { recursive: true, mode: folderMode });
  const configFile = join(paths.nats, 'nats-server.conf');
  const serverName = `${site}-${randomBytes(4).toString('hex')}`;

  // Between looking and binding somebody else may take a port: then others are chosen, but only at the start,
  // since later the clients know these.
  for (let attempt = 1; ; attempt += 1) {
    const ports = await portsOf(options);
    const config = { ...options, serverName, store: paths.nats, ports };
    const write = (next: BrokerRole): Promise<void> =>
      writeAtomically(configFile, brokerConfig({ ...config, role: next }));
    await write(role);
    const running = startServer({
      command,
      configFile,
      serverName,
      ports,
      listen: listenOf(role),
      paths,
      log,
    });
    try {
      await running.server.started;
    } catch (error) {
      await running.stop();
      if (attempt >= 3 || !/address already in use/.test(String(error))) throw error;
      log.warn({ ports }, 'a port was taken in the last moment; choosing others');
      continue;
    }
    const system =
      role.kind === 'alone' ? undefined : await systemOf(role.passwords, { paths, site, ports, log });
    return brokerOf(running, { ports, serverName, role, system, write });
  }
}

/** What robots come in by is where they were told to look: nothing else is chosen for it. */
async function portsOf({ paths, role, websocket = false, ports: given }: BrokerOptions): Promise<Ports> {
  const { leaf, websocket: web, ...own } = { ...usualPorts, ...given };
  const file = join(paths.nats, 'ports.json');
  if (role?.kind === 'control') {
    return { ...(await choosePorts(file, own)), leaf, ...(websocket && { websocket: web }) };
  }
  return await choosePorts<keyof typeof own | 'websocket'>(
    file,
    (websocket ? { ...own, websocket: web } : own) as Record<keyof typeof own | 'websocket', number>,
  );
}

const listenOf = (role: BrokerRole): string => (role.kind === 'control' ? role.listen : loopback);

function brokerOf(
  running: RunningServer,
  made: {
    ports: Ports;
    serverName: string;
    role: BrokerRole;
    system: SystemAccount | undefined;
    write(role: BrokerRole): Promise<void>;
  },
): Broker {
  const { server, stop } = running;
  const { ports, serverName, role, system, write } = made;
  const outside = listenOf(role);
  const tls = role.kind === 'control' && role.tls !== undefined;
  return {
    nats: { url: `nats://${loopback}:${ports.nats}` },
    mqtt: { url: `mqtt://${loopback}:${ports.mqtt}` },
    ...(ports.websocket !== undefined && {
      websocket: { url: `${tls ? 'wss' : 'ws'}://${outside}:${ports.websocket}` },
    }),
    ...(ports.leaf !== undefined && {
      leaf: { url: `${tls ? 'tls' : 'nats-leaf'}://${outside}:${ports.leaf}` },
    }),
    serverName,
    get pid() {
      return server.pid;
    },
    ready: () => server.ready(),
    ...(system && { system }),
    async configure(next) {
      await write(next);
      await system?.reload();
    },
    async stop() {
      await system?.close();
      await stop();
    },
  };
}

async function systemOf(
  passwords: Passwords,
  at: { paths: SitePaths; site: string; ports: Ports; log: Log },
): Promise<SystemAccount> {
  const credentialsFile = join(at.paths.nats, 'system.json');
  const credentials = { user: users.system, pass: passwords.system };
  await writeAtomically(credentialsFile, `${JSON.stringify(credentials)}\n`);
  return openSystemAccount({
    settings: { url: `nats://${loopback}:${at.ports.nats}`, credentialsFile },
    site: at.site,
    log: at.log,
  });
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
  listen: string;
  paths: SitePaths;
  log: Log;
}): RunningServer {
  const { command, configFile, serverName, ports, listen, paths, log } = options;
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
    ready: (child) => untilItAnswers(child, { serverName, ports, listen }),
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
async function untilItAnswers(
  child: StartingChild,
  { serverName, ports, listen }: { serverName: string; ports: Ports; listen: string },
): Promise<void> {
  for (;;) {
    try {
      const greeting = await firstLine(ports.nats, child.signal);
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
  const outside = listen === '0.0.0.0' ? loopback : listen === '::' ? '::1' : listen;
  const listeners = [
    [loopback, ports.mqtt],
    [outside, ports.websocket],
    [outside, ports.leaf],
  ] as const;
  for (const [host, port] of listeners) {
    while (port !== undefined && !(await accepts(host, port))) {
      await pause(probeMs, undefined, { signal: child.signal });
    }
  }
}

function firstLine(port: number, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: loopback, port, signal, timeout: probeTimeoutMs });
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

function accepts(host: string, port: number): Promise<boolean> {
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
