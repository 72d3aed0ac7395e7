/** One machine: a single supervised host process for all functions of the site. */
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, extname, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { FunctionSpec } from '../../crds/function.ts';
import {
  stopMs,
  type FunctionConfig,
  type HostFunctionStatus,
  type HostStatusLine,
  type MqttSettings,
  type NatsSettings,
  type RuntimeConfig,
  type S3Settings,
} from '../../runtime/config.ts';
import type { Log } from '../../runtime/log.ts';
import { compileCacheFolder } from '../../runtime/process/compile-cache.ts';
import { supervise, type SupervisedState } from '../../runtime/process/supervise.ts';
import { folderMode, writeAtomically } from '../stores/atomic-file.ts';
import { markProcess, temporaryPrefix } from '../stores/process-marks.ts';
import type { SitePaths } from '../stores/site.ts';
import { isKey, keyText, type Key } from '../stores/store.ts';
import type { Backend, Observation, Workload } from './backend.ts';
import { environmentOf, readsFiles, type Problem } from './environment.ts';
import { followHostStatus } from './host-status.ts';
import { openLogFiles } from './log-files.ts';
import { openLogSorter, rawLine } from './log-sorter.ts';
import { openRosProcess, type RosOptions } from './ros-process.ts';

/** The kernel takes 107 bytes; some are left for those who count differently. */
const maxSocketPathBytes = 100;
const probeMs = 50;
/** Secrets are looked at this often; a changed one is taken up when it was the same twice: who writes it may not be done. */
const secretsMs = 1_000;
const logSweepMs = 60 * 60_000;
/** Logs of a deleted function stay this long after their last line. */
const keptLogMs = 7 * 24 * 60 * 60_000;
/** On top of what a host may take to stop: beyond it, it hangs. */
const stopGraceMs = 5_000;

/** A record holds a line of 64 KiB, which JSON's escapes may make six times as long, and a stack. */
const maxRecordBytes = 1024 * 1024;

/** What a host needs of our environment; the rest may hold secrets, which are not for it. */
const passedOn =
  /^(PATH|HOME|USER|LANG|LC_[A-Z]+|TZ|TMPDIR|XDG_CACHE_HOME|ATOLL_[A-Z]+|NODE_EXTRA_CA_CERTS|SSL_CERT_(FILE|DIR))$/;

export interface LocalBackendOptions {
  readonly paths: SitePaths;
  readonly site: string;
  readonly nats?: NatsSettings;
  readonly mqtt?: MqttSettings;
  readonly s3?: S3Settings;
  /** See RuntimeConfig. */
  readonly permissions?: 'required';
  /** ROS itself comes from our environment. */
  readonly ros?: RosOptions;
  /** The Node that runs the host. Default: the one that runs us. */
  readonly node?: string;
  readonly log: Log;
}

export interface LocalBackend extends Backend {
  /** The host's own door, `unix:/path`, for what belongs to no function (/metrics); undefined while it is not up. */
  hostAddress(): string | undefined;
}

export async function openLocalBackend(options: LocalBackendOptions): Promise<LocalBackend> {
  const { paths, site, log } = options;
  for (const folder of [paths.run, paths.packages, paths.cache, paths.secrets, paths.logs]) {
    await mkdir(folder, { recursive: true, mode: folderMode });
  }
  const socket = await socketPath(paths);
  const configFile = join(paths.run, 'host.json');
  const hostLog = join(paths.logs, 'host.jsonl');
  const logFiles = openLogFiles(log);
  const node = options.node ?? process.execPath;
  const ros = openRosProcess({
    paths,
    site,
    socket: join(dirname(socket.path), 'ros.sock'),
    node,
    logFiles,
    options: options.ros ?? {},
    log,
  });
  const listeners = new Set<(key: Key) => void>();
  const workloads = new Map<string, Workload>();
  /** What the host is told of each: the last form of it whose environment could be made. */
  const accepted = new Map<string, FunctionConfig>();
  const problems = new Map<string, Problem>();
  /** Environments that were seen once, beside functions that run with another one. */
  const fresh = new Map<string, string>();
  const statuses = new Map<string, HostFunctionStatus>();
  const closing = new AbortController();

  function emit(key: Key): void {
    for (const listener of listeners) listener(key);
  }

  // The config: made anew at most once per tick, however many functions change in it.

  let dirty = false;
  let applying: Promise<void> | undefined;
  let looksAgain: NodeJS.Timeout | undefined;
  /** What the file holds, and what the running host has read or was told to read. */
  let written = '';
  let told = '';

  function changed(): void {
    dirty = true;
    applying ??= new Promise<void>((resolve) => setImmediate(resolve)).then(applyAll).finally(() => {
      applying = undefined;
    });
  }

  async function applyAll(): Promise<void> {
    while (dirty && !closing.signal.aborted) {
      dirty = false;
      try {
        await apply();
      } catch (error) {
        log.error({ err: error }, "the host's configuration cannot be written");
        await pause(secretsMs, undefined, { signal: closing.signal }).catch(() => {});
        dirty = true;
      }
    }
  }

  async function apply(): Promise<void> {
    for (const [text, workload] of workloads) {
      const found = await environmentOf(workload, paths);
      const before = problems.get(text)?.message;
      if (workloads.get(text) !== workload) continue;
      if ('problem' in found) {
        problems.set(text, found.problem);
        // What runs goes on running, as with a package that fails.
        if (accepted.get(text)?.uid !== workload.uid) accepted.delete(text);
      } else {
        problems.delete(text);
        if (isSettled(text, workload, found.env)) accepted.set(text, configOf(workload, found.env));
      }
      if (workload.spec.replicas === 0) accepted.delete(text);
      if (before !== problems.get(text)?.message) emit(workload.key);
    }
    for (const text of accepted.keys()) if (!workloads.has(text)) accepted.delete(text);
    ros.need([...accepted.values()].some(({ spec }) => usesRos(spec)));
    clearTimeout(looksAgain);
    if ([...workloads.values()].some(readsFiles)) looksAgain = setTimeout(changed, secretsMs).unref();
    const text = configText();
    if (text === written) return;
    await writeAtomically(configFile, text);
    written = text;
    tellHost();
  }

  function isSettled(text: string, { key, uid, generation }: Workload, env: FunctionConfig['env']): boolean {
    const running = accepted.get(text);
    const [now, before] = [JSON.stringify(env), fresh.get(text)];
    fresh.delete(text);
    if (running?.uid !== uid || running.generation !== generation) return true;
    if (now === JSON.stringify(running.env)) return true;
    if (now !== before) {
      fresh.set(text, now);
      return false;
    }
    const names = env.flatMap((one, index) =>
      JSON.stringify(one) === JSON.stringify(running.env[index]) ? [] : [one.name],
    );
    log.info({ ...key, variables: names }, 'secrets changed: new processes take them up');
    return true;
  }

  function configText(): string {
    const config: RuntimeConfig = {
      site,
      listen: { path: socket.path },
      ...(options.nats && { nats: options.nats }),
      ...(options.mqtt && { mqtt: options.mqtt }),
      ...(options.s3 && { s3: options.s3 }),
      ...(options.permissions && { permissions: options.permissions }),
      ros: ros.settings,
      packages: { cache: paths.cache },
      packageFolder: paths.packages,
      functions: [...accepted].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, config]) => config),
    };
    return JSON.stringify(config);
  }

  // The host process and what it tells.

  let connected = false;
  /** Why the host ended last; until it is connected again. */
  let failure: string | undefined;
  /** Aborted when the host that runs now has ended. */
  let alive = new AbortController();

  /** Before the host listens to signals a SIGHUP would end it; once it is connected it does. */
  function tellHost(): void {
    if (!connected || told === written) return;
    told = written;
    host.signal('SIGHUP');
  }

  async function connect(signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        await followHostStatus(`unix:${socket.path}`, { onLine: hear, onEnd: lost }, signal);
        break;
      } catch (error) {
        if (signal.aborted) throw error;
        await pause(probeMs, undefined, { signal });
      }
    }
    connected = true;
    failure = undefined;
    queueMicrotask(tellHost);
    for (const { key } of workloads.values()) emit(key);
  }

  function lost(): void {
    connected = false;
    statuses.clear();
    for (const { key } of workloads.values()) emit(key);
    // Its end is the supervisor's matter. A stream that broke while the process lives is opened again.
    if (host.state.kind === 'ready') connect(alive.signal).catch(() => {});
  }

  function hear(line: HostStatusLine): void {
    if ('removed' in line) {
      statuses.delete(keyText(line.removed));
      return emit(line.removed);
    }
    statuses.set(keyText(line.function), line.function);
    emit({ namespace: line.function.namespace, name: line.function.name });
  }

  const sort = openLogSorter({
    files: logFiles,
    fileOf: (key) => (isKey(key) ? paths.logFile(key) : hostLog),
  });

  const mark = { name: 'host', ...(socket.temporary && { temporaryFolder: socket.temporary }) };
  const marks = markProcess(paths.run, mark, log);

  function onState(state: SupervisedState): void {
    marks.onState(state);
    if (state.kind === 'starting') {
      alive = new AbortController();
      told = written;
    }
    if (state.kind === 'waiting') {
      alive.abort();
      failure = state.reason;
      log.error({ reason: state.reason, delayMs: state.delayMs }, 'the host ended; it is started again');
      for (const { key } of workloads.values()) emit(key);
    }
  }

  written = configText();
  await writeAtomically(configFile, written);
  const host = supervise({
    name: 'host',
    command: node,
    args: [mainFile(), configFile],
    env: hostEnvironment(),
    ready: (child) => connect(child.signal),
    get graceMs() {
      const timeouts = [...workloads.values()].map(({ spec }) => spec.timeoutSeconds);
      return stopMs(Math.max(0, ...timeouts)) + stopGraceMs;
    },
    maxLineBytes: maxRecordBytes,
    onOutput: sort,
    onLine: (line, stream) => logFiles.append(hostLog, rawLine(line, stream)),
    onState,
  });

  const sweepLogs = (): void =>
    void logFiles.sweep(paths.logs, {
      isKept: (key) => existsSync(paths.functionFile(key)),
      olderThan: Date.now() - keptLogMs,
    });
  const logSweep = setInterval(sweepLogs, logSweepMs).unref();
  sweepLogs();

  function why(text: string): Problem | undefined {
    const problem = problems.get(text);
    if (problem || connected) return problem;
    if (failure === undefined) return undefined;
    return { reason: 'HostUnavailable', message: `the host process is not running: ${failure}` };
  }

  return {
    async ensure(workload) {
      const text = keyText(workload.key);
      if (JSON.stringify(workloads.get(text)) === JSON.stringify(workload)) return;
      workloads.set(text, workload);
      changed();
    },
    async remove(key) {
      const text = keyText(key);
      problems.delete(text);
      fresh.delete(text);
      if (workloads.delete(text)) changed();
    },
    async observe(key) {
      const text = keyText(key);
      const workload = workloads.get(text);
      if (!workload) return undefined;
      const status = statuses.get(text);
      const hosts = status?.uid === workload.uid ? [status] : [];
      const problem = why(text);
      const ignored = ignoredParts(workload.spec);
      return {
        replicas: workload.spec.replicas === 0 ? 0 : 1,
        readyReplicas: hosts.filter((host) => host.handler.ready).length,
        hosts,
        ...(problem && { problem }),
        ...(ignored.length > 0 && { ignored }),
      } satisfies Observation;
    },
    address: (key) => (connected && accepted.has(keyText(key)) ? `unix:${socket.path}` : undefined),
    hostAddress: () => (connected ? `unix:${socket.path}` : undefined),
    async *logs(key, query) {
      if (isKey(key)) yield* logFiles.read(paths.logFile(key), query);
    },
    watch(listener) {
      listeners.add(listener);
      for (const { key } of workloads.values())
        queueMicrotask(() => listeners.has(listener) && listener(key));
      return () => void listeners.delete(listener);
    },
    async close() {
      closing.abort();
      clearTimeout(looksAgain);
      clearInterval(logSweep);
      await applying;
      await host.stop();
      await marks.written();
      await ros.close();
      await logFiles.close();
      await rm(socket.path, { force: true });
      if (socket.temporary) await rm(socket.temporary, { recursive: true, force: true });
    },
  };
}

function configOf({ key, uid, generation, spec }: Workload, env: FunctionConfig['env']): FunctionConfig {
  return { ...key, uid, generation, spec, env };
}

/** A ros trigger, or a permission to call or publish there. */
function usesRos({ triggers, permissions }: FunctionSpec): boolean {
  const permitted = [...(permissions?.publish ?? []), ...(permissions?.call ?? [])];
  return triggers.some(({ ros }) => ros !== undefined) || permitted.some((entry) => entry.startsWith('ros:'));
}

/** What has no meaning on one machine; the status says so. */
function ignoredParts(spec: FunctionSpec): string[] {
  const ignored: string[] = [];
  if (spec.replicas > 1) ignored.push(`replicas above 1 (${spec.replicas} asked for)`);
  for (const part of ['scaling', 'placement', 'pod'] as const) if (spec[part]) ignored.push(part);
  return ignored;
}

/** In the site's folder, or where that is too deep for a socket in a short folder that only we can enter. */
async function socketPath(paths: SitePaths): Promise<{ path: string; temporary?: string }> {
  const path = join(paths.run, 'host.sock');
  if (Buffer.byteLength(path) <= maxSocketPathBytes) return { path };
  const temporary = await mkdtemp(join(tmpdir(), temporaryPrefix));
  await chmod(temporary, folderMode);
  return { path: join(temporary, 'host.sock'), temporary };
}

function hostEnvironment(): NodeJS.ProcessEnv {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => passedOn.test(name)));
  const cache = compileCacheFolder();
  return cache === undefined ? env : { ...env, NODE_COMPILE_CACHE: cache };
}

/** Beside us in the same form: sources as sources, built as built. */
function mainFile(): string {
  return fileURLToPath(new URL(`../../runtime/main${extname(import.meta.url)}`, import.meta.url));
}
