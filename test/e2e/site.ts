/** A site as its users have it: the real `faas up` and the real command, each a process of its own. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { connect } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/transport-node';
import type { FunctionStatus } from '../../crds/function.ts';
import { readSite, type SiteInfo } from '../../controller/stores/site.ts';
import { identify, isSameProcess, type ProcessIdentity } from '../../runtime/process/identity.ts';
import { closeLater, type Closing } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startProcess, type Exit, type RunningProcess } from '../support/process.ts';

const faasFile = join(import.meta.dirname, '..', '..', 'cli', 'faas.js');
/** Running functions may end first. */
const stopGraceMs = 30_000;
/** The first looks come soon after one another, the later ones less so. */
const pollMs = { first: 25, last: 250 };

export interface SiteOptions {
  /** Of `faas up`, such as `--nats`. */
  readonly args?: readonly string[];
  /** On top of ours. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Holds the site's own. Default: a temporary one. */
  readonly folder?: string;
  readonly closing?: Closing;
}

export interface FunctionSource {
  readonly name: string;
  /** `spec`, without the package. */
  readonly spec?: Readonly<Record<string, unknown>>;
  /** index.ts. */
  readonly code: string;
  /** Beside it. */
  readonly files?: Readonly<Record<string, string>>;
}

export interface Answer {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
}

export interface Site {
  /** Kept until the test is over, so that the site can be started again. */
  readonly dir: string;
  /** Beside it, for what the test writes. */
  readonly work: string;
  /** Of the present run. */
  readonly info: SiteInfo;
  /** What the present run printed. */
  output(): string;
  /** The command; throws when its exit code is not 0. */
  faas(...args: string[]): Promise<Answer>;
  /** The command, however it ends. */
  run(args: readonly string[], options?: RunOptions): Promise<Answer>;
  /** Writes the sources (again) and gives their folder. */
  write(source: FunctionSource): Promise<string>;
  /** Writes the sources and deploys them; throws when the deploy fails. */
  deploy(source: FunctionSource, ...args: string[]): Promise<Answer>;
  invoke(name: string, event?: unknown): Promise<unknown>;
  status(name: string): Promise<FunctionStatus>;
  ready(name: string): Promise<void>;
  /** A client of the present run's NATS, which reconnects for ever. */
  nats(): Promise<NatsConnection>;
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** `faas up` and all below it. */
  processes(): LivingProcess[];
  stop(): Promise<Exit>;
  /** SIGKILL to `faas up` alone. */
  kill(): Promise<void>;
  /** The same folder; other options replace those it had. */
  start(options?: Omit<SiteOptions, 'closing'>): Promise<void>;
}

export async function startSite(options: SiteOptions = {}): Promise<Site> {
  const folder = options.folder ?? (await temporaryFolder({ closing: options.closing }));
  const site = siteIn(folder, options);
  await site.start();
  return site;
}

/** Nothing runs in it yet. */
export async function emptySite(options: SiteOptions = {}): Promise<Site> {
  return siteIn(await temporaryFolder({ closing: options.closing }), options);
}

function siteIn(folder: string, options: SiteOptions): Site {
  const { closing } = options;
  const dir = join(folder, 'site');
  const work = join(folder, 'work');
  let settings: Omit<SiteOptions, 'closing'> = options;
  let up: RunningProcess | undefined;
  let info: SiteInfo | undefined;

  closeLater(async () => void (await up?.stop()), closing);

  const running = (): SiteInfo => {
    if (info === undefined) throw new Error('the site was not started');
    return info;
  };

  async function run(args: readonly string[], { env, cwd }: RunOptions = {}): Promise<Answer> {
    const child = await startProcess(process.execPath, [faasFile, ...args], {
      name: `faas ${args[0] ?? ''}`,
      env: { ...process.env, FAAS_SITE: dir, ...env },
      cwd: cwd ?? folder,
      closing: () => {},
    });
    const { code } = await child.exited;
    return { code, stdout: child.stdout(), stderr: child.stderr() };
  }

  async function faas(...args: string[]): Promise<Answer> {
    const answer = await run(args);
    if (answer.code !== 0) {
      throw new Error(`faas ${args.join(' ')}: exit code ${answer.code}\n${answer.stderr}${answer.stdout}`);
    }
    return answer;
  }

  async function write({ name, spec = {}, code, files = {} }: FunctionSource): Promise<string> {
    const target = join(work, name);
    await rm(target, { recursive: true, force: true });
    const manifest = {
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name },
      spec: { handler: 'index.handler', ...spec },
    };
    const all = { 'function.yaml': JSON.stringify(manifest, undefined, 2), 'index.ts': code, ...files };
    for (const [path, text] of Object.entries(all)) {
      await mkdir(dirname(join(target, path)), { recursive: true });
      await writeFile(join(target, path), text);
    }
    return target;
  }

  async function status(name: string): Promise<FunctionStatus> {
    const { stdout } = await faas('get', name, '-o', 'json');
    return (JSON.parse(stdout) as { status?: FunctionStatus }).status ?? {};
  }

  async function ready(name: string): Promise<void> {
    await until(`${name} is ready`, async () => {
      const now = await liveStatus(running().url, name);
      return now.conditions?.find(({ type }) => type === 'Ready')?.status === 'True' || undefined;
    });
  }

  return {
    dir,
    work,
    get info() {
      return running();
    },
    output: () => up?.output() ?? '',
    faas,
    run,
    write,
    deploy: async (source, ...args) => await faas('deploy', await write(source), ...args),
    async invoke(name, event = {}) {
      const { stdout } = await faas('invoke', name, '-d', JSON.stringify(event));
      return JSON.parse(stdout) as unknown;
    },
    status,
    ready,
    async nats() {
      const connection = await connect({
        servers: running().nats.url,
        maxReconnectAttempts: -1,
        reconnectTimeWait: 100,
      });
      closeLater(() => connection.close(), closing);
      return connection;
    },
    fetch: (path, init) => fetch(`${running().url}${path}`, init),
    processes: () => (up === undefined ? [] : familyOf(up.pid)),
    async stop() {
      if (up === undefined) throw new Error('the site was not started');
      return await up.stop();
    },
    async kill() {
      await up?.kill('SIGKILL');
    },
    async start(next) {
      settings = next ?? settings;
      info = undefined;
      up = await startProcess(process.execPath, [faasFile, 'up', '--dir', dir, ...(settings.args ?? [])], {
        name: 'faas up',
        env: { ...process.env, ...settings.env },
        cwd: folder,
        graceMs: stopGraceMs,
        // Registered above, for whichever run is the last.
        closing: () => {},
      });
      await up.line(/Ctrl-C stops it/, 60_000);
      info = await readSite(dir);
    },
  };
}

export async function liveStatus(url: string, name: string): Promise<FunctionStatus> {
  const answer = await fetch(`${url}/atoll/v1/namespaces/default/functions/${name}/status`);
  if (!answer.ok) throw new Error(`status of ${name}: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as FunctionStatus;
}

/** What `faas describe` prints, once it fits. */
export async function describes(site: Site, name: string, pattern: RegExp): Promise<string> {
  return await until(`describe ${name} says ${pattern}`, async () => {
    const { stdout } = await site.faas('describe', name);
    if (pattern.test(stdout)) return stdout;
    throw new Error(stdout);
  });
}

/** Why it is not ready, as soon as it is not. */
export async function unready(site: Site, name: string): Promise<{ reason: string; message: string }> {
  return await until(`${name} is not ready`, async () => {
    const { conditions = [] } = await liveStatus(site.info.url, name);
    const ready = conditions.find(({ type }) => type === 'Ready');
    return ready?.status === 'False' ? ready : undefined;
  });
}

export interface LivingProcess extends ProcessIdentity {
  readonly commandLine: string;
  readonly parent: number;
}

/** The process and all its descendants, as /proc has them now. */
export function familyOf(root: number): LivingProcess[] {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const found = processOf(Number(name));
      return found ? [found] : [];
    });
  const family = all.filter(({ pid }) => pid === root);
  // A loop over a list that grows while it is walked: children of children.
  for (const { pid } of family) family.push(...all.filter(({ parent }) => parent === pid));
  return family;
}

export const living = (processes: readonly LivingProcess[]): string[] =>
  processes
    .filter(({ pid, startTime }) => isSameProcess(pid, startTime))
    .map(({ pid, commandLine }) => `${pid} ${commandLine}`);

/** That of the site's host, or of its nats-server. */
export function processNamed(
  site: Site,
  part: 'nats-server' | 'runtime/main' | 'runtime/ros/main' | 'invoker/child',
): LivingProcess {
  const found = site.processes().filter(({ commandLine }) => commandLine.includes(part));
  const last = found.at(-1);
  if (last === undefined) throw new Error(`no ${part} among ${JSON.stringify(site.processes(), null, 2)}`);
  return last;
}

function processOf(pid: number): LivingProcess | undefined {
  const identity = identify(pid);
  if (identity === undefined) return undefined;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    return { ...identity, parent, commandLine };
  } catch {
    return undefined;
  }
}

/** Asks until there is something; a question that throws is asked again. */
export async function until<T>(
  what: string,
  ask: () => T | undefined | Promise<T | undefined>,
  timeoutMs = 60_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let waitMs = pollMs.first;
  for (let failure: unknown; ;) {
    try {
      const found = await ask();
      if (found !== undefined && found !== false) return found;
      failure = undefined;
    } catch (error) {
      failure = error;
    }
    if (Date.now() > deadline) {
      const last = failure === undefined ? '' : `; the last try: ${String(failure)}`;
      throw new Error(`not within ${timeoutMs / 1000} s: ${what}${last}`);
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    waitMs = Math.min(pollMs.last, waitMs * 1.2);
  }
}
