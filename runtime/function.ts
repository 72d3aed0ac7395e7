/**
 * One function in the host, from its first package to its removal: fetch, start, swap, close.
 * A new version is ready before the old one is drained; one that fails leaves the old one answering.
 */
import { readFile } from 'node:fs/promises';
import type { FunctionSpec, TriggerSpec } from '../crds/function.ts';
import { memoryBytes, sourceOf } from '../crds/values.ts';
import { openCalls, type CallParts } from './calls/calls.ts';
import type { NatsLink } from './clients/nats.ts';
import type { RosLink } from './clients/ros.ts';
import { drainGraceMs, type FunctionConfig, type HostFunctionStatus, type MqttSettings } from './config.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { DestinationParts } from './destinations.ts';
import { AtollError, faultOf } from './errors.ts';
import type { SourceKind } from './event.ts';
import { openFlow, type Flow } from './host.ts';
import { openInboxTrigger, type Inbox } from './inbox.ts';
import type { Invoker } from './invoker/invoker.ts';
import { logControls } from './invoker/log-controls.ts';
import { openPool } from './invoker/pool.ts';
import type { Log, LogRecord } from './log.ts';
import { openLosses } from './losses.ts';
import type { FunctionMetrics } from './metrics.ts';
import type { Packages } from './package/fetch.ts';
import type { Server } from './server.ts';
import { triggers } from './triggers/index.ts';
import { invokeTriggerName, openInvoke } from './triggers/invoke.ts';
import type { Trigger, TriggerContext, TriggerState } from './triggers/trigger.ts';

/** Waits between attempts to fetch a package or start a process that may succeed later. */
const retryFloorMs = 500;
const retryCeilingMs = 30_000;

/** The function's end of the inbox; its events carry their own trigger's name. No manifest can use this one. */
const inboxPump = '$inbox';

export interface FunctionParts {
  readonly site: string;
  readonly packages: Packages;
  readonly nats?: NatsLink;
  readonly mqtt?: MqttSettings;
  readonly ros?: RosLink;
  readonly inbox?: Inbox;
  readonly deadLetters?: DeadLetters;
  readonly destinations: DestinationParts;
  readonly calls: CallParts;
  readonly server: Server;
  readonly metrics: FunctionMetrics;
  readonly log: Log;
  changed(status: HostFunctionStatus): void;
}

export interface RunningFunction {
  /** The function is to become this. Returns at once; the status tells how it goes. */
  update(config: FunctionConfig): void;
  /** Takes no more events, while who calls through a door is still answered. Resolves when no source has us any more. */
  leave(): Promise<void>;
  /** Takes nothing new, lets what runs end, stops everything. */
  close(): Promise<void>;
}

interface Version {
  readonly config: FunctionConfig;
  readonly sha256: string;
  readonly invoker: Invoker;
}

interface WantedTrigger {
  readonly kind: OpenKind;
  /** It is a ROS service. */
  readonly service: boolean;
  readonly made: string;
  readonly open: (context: TriggerContext) => Trigger;
  /** Absent for those that every function has. */
  readonly trigger?: TriggerSpec;
}

interface OpenTriggerEntry {
  readonly kind: OpenKind;
  readonly service: boolean;
  /** What it was opened with: a trigger is opened anew only when this changes. */
  readonly made: string;
  readonly trigger: Trigger;
  readonly done: Promise<void>;
  readonly state: TriggerState;
  readonly log: Log;
}

type OpenKind = SourceKind | 'inbox';

/** What each kind reads of the spec besides its own part: a change of the rest leaves the trigger as it is. */
const alsoReads: { [K in OpenKind]: readonly (keyof FunctionSpec)[] } = {
  nats: [],
  jetstream: ['retry'],
  mqtt: [],
  ros: ['timeoutSeconds'],
  http: ['timeoutSeconds'],
  schedule: [],
  invoke: ['timeoutSeconds'],
  inbox: ['retry'],
};

/** Somebody calls and waits there. */
const isDoor = ({ kind, service }: { kind: OpenKind; service: boolean }): boolean =>
  kind === 'http' || kind === 'invoke' || service;

function wantedOf(
  kind: OpenKind,
  spec: FunctionSpec,
  open: (context: TriggerContext) => Trigger,
  trigger?: TriggerSpec,
): WantedTrigger {
  const made = JSON.stringify([kind, trigger, ...alsoReads[kind].map((name) => spec[name])]);
  const service = trigger?.ros?.service !== undefined;
  return { kind, service, made, open, ...(trigger && { trigger }) };
}

export function openFunction(first: FunctionConfig, parts: FunctionParts): RunningFunction {
  const { namespace, name, uid } = first;
  const ref = { namespace, name, uid };
  const log = parts.log.child({ namespace, function: name });
  /** The handler's own, as it is: what it does not want is held back where it is written, and its `err` is no Error. */
  const handlerLog = parts.log.child(
    { namespace, function: name },
    { level: 'trace', serializers: { err: (value: unknown) => value } },
  );
  const flow: Flow = openFlow({
    function: ref,
    metrics: parts.metrics,
    log,
    ...(parts.deadLetters && { deadLetters: parts.deadLetters }),
    destinations: parts.destinations,
    unstored(trigger, why) {
      if (why === undefined) unstored.delete(trigger);
      else unstored.set(trigger, why);
      publish();
    },
  });
  const calls = openCalls({
    parts: parts.calls,
    permissions: () => (running?.config ?? wanted).spec.permissions,
    rosTopics: () => [...opened.values()].flatMap(({ trigger }) => trigger.topics?.() ?? []),
    counted: (kind, outcome) => parts.metrics.called(kind, outcome),
  });
  const opened = new Map<string, OpenTriggerEntry>();
  /** Triggers whose dead letters cannot be stored, and why: they go on, and say it. */
  const unstored = new Map<string, string>();
  const losses = openLosses({ log, metrics: parts.metrics, changed: () => publish() });
  const draining = new Set<Promise<void>>();
  let wanted = first;
  let running: Version | undefined;
  let packageState: TriggerState = { ready: false, reason: 'Fetching', message: 'fetching the package' };
  let handlerState: TriggerState = { ready: false, reason: 'Starting', message: 'waiting for the package' };
  let attempt = new AbortController();
  let leaving = false;
  let closing = false;
  /** Closed by leave(), with events that may still run. */
  const left: OpenTriggerEntry[] = [];
  let converging: Promise<void> | undefined;

  function publish(): void {
    if (closing) return;
    parts.changed({
      namespace,
      name,
      uid,
      generation: wanted.generation,
      ...(running && { packageSha256: running.sha256 }),
      package: packageState,
      handler: handlerState,
      triggers: wanted.spec.triggers.map(({ name: trigger }) => {
        const { ready, reason, message } = opened.get(trigger)?.state ?? {
          ready: false,
          reason: 'NotOpened',
          message: 'opened when the handler is ready',
        };
        const also = [message, unstored.get(trigger), losses.message(trigger)];
        return {
          name: trigger,
          ready,
          reason,
          message: also.filter((part) => part !== undefined).join('; '),
        };
      }),
    });
  }

  /** Works until what runs is what is wanted; started anew by update(). */
  async function converge(): Promise<void> {
    for (let failures = 0; !closing;) {
      const config = wanted;
      attempt = new AbortController();
      try {
        await become(config, attempt.signal);
        failures = 0;
        if (wanted === config) return;
      } catch (error) {
        if (closing || wanted !== config) {
          failures = 0;
          continue;
        }
        publish();
        if (error instanceof AtollError && !error.retryable) return;
        const ceiling = Math.min(retryCeilingMs, retryFloorMs * 2 ** failures++);
        await pause(ceiling * (0.5 + Math.random() / 2), attempt.signal);
      }
    }
  }

  async function become(config: FunctionConfig, signal: AbortSignal): Promise<void> {
    const { spec } = config;
    if (!spec.package) {
      packageState = {
        ready: false,
        reason: 'NoPackage',
        message: 'spec.package is not set yet: run "faas deploy"',
      };
      throw new AtollError('NoPackage', packageState.message);
    }
    packageState = { ready: false, reason: 'Fetching', message: 'fetching the package' };
    publish();
    let fetched: { root: string; sha256: string };
    try {
      fetched = await parts.packages.fetch(spec.package, spec.handler, signal);
    } catch (error) {
      const fault = faultOf(error);
      packageState = { ready: false, reason: fault.code, message: fault.message };
      throw error;
    }
    packageState = { ready: true, reason: 'Ready', message: `package ${fetched.sha256.slice(0, 12)}` };
    if (running && invokerKey(running.config, running.sha256) === invokerKey(config, fetched.sha256)) {
      running = { ...running, config };
      flow.use(running.invoker, spec, running.sha256.slice(0, 12));
    } else {
      await swap(config, fetched, signal);
    }
    await openTriggers(spec);
    // Last: until the triggers are those of this generation, nobody may take it for ready.
    handlerState = (running as Version).invoker.state;
    publish();
  }

  async function swap(
    config: FunctionConfig,
    fetched: { root: string; sha256: string },
    signal: AbortSignal,
  ): Promise<void> {
    const { spec } = config;
    handlerState = { ready: false, reason: 'Starting', message: 'starting the handler process' };
    publish();
    const invoker = await start(config, fetched, signal).catch((error: unknown) => {
      const fault = faultOf(error);
      handlerState = { ready: false, reason: fault.code, message: fault.message };
      throw error;
    });
    const old = running;
    running = { config, sha256: fetched.sha256, invoker };
    invoker.onState((state) => {
      if (running?.invoker !== invoker || converging) return;
      handlerState = state;
      publish();
    });
    flow.use(invoker, spec, fetched.sha256.slice(0, 12));
    log.info(
      { source: 'platform', packageSha256: fetched.sha256, generation: config.generation },
      'version in service',
    );
    if (old) retire(old);
  }

  async function start(
    config: FunctionConfig,
    fetched: { root: string; sha256: string },
    signal: AbortSignal,
  ): Promise<Invoker> {
    const { spec } = config;
    const env = await environment(config);
    setSystemLevel(logControls(env).systemLevel.toLowerCase());
    const invoker = openPool({
      function: { namespace, name },
      version: fetched.sha256,
      runtime: spec.runtime,
      handler: spec.handler,
      root: fetched.root,
      env,
      timeoutMs: spec.timeoutSeconds * 1000,
      memoryBytes: memoryBytes(spec.memory),
      concurrency: spec.concurrency,
      processes: spec.processes,
      spareProcesses: spec.spareProcesses,
      log: (record) => write(record.source === 'platform' ? log : handlerLog, record),
      calls,
      metrics: {
        restarted: (reason) => parts.metrics.restarted(reason),
        memory: (bytes) => parts.metrics.memory(bytes),
      },
    });
    invoker.onState((state) => {
      if (running?.invoker === invoker || state.ready || signal.aborted) return;
      handlerState = state;
      publish();
    });
    // A module that takes its time, or spins, is not waited for when it is not wanted any more.
    const abandon = (): void => void invoker.drain(0);
    signal.addEventListener('abort', abandon, { once: true });
    try {
      await invoker.start();
      signal.throwIfAborted();
      return invoker;
    } catch (error) {
      await invoker.drain(0);
      throw error;
    } finally {
      signal.removeEventListener('abort', abandon);
    }
  }

  function setSystemLevel(level: string): void {
    for (const one of [log, ...[...opened.values()].map((entry) => entry.log)]) one.level = level;
  }

  function retire(version: Version): void {
    const drained = version.invoker.drain(
      Date.now() + version.config.spec.timeoutSeconds * 1000 + drainGraceMs,
    );
    draining.add(drained);
    void drained.finally(() => draining.delete(drained));
  }

  async function openTriggers(spec: FunctionSpec): Promise<void> {
    const specs = new Map<string, WantedTrigger>();
    specs.set(invokeTriggerName, wantedOf('invoke', spec, openInvoke));
    if (parts.inbox) specs.set(inboxPump, wantedOf('inbox', spec, openInboxTrigger));
    for (const trigger of spec.triggers) {
      const open = (context: TriggerContext): Trigger => openOf(trigger, context);
      specs.set(trigger.name, wantedOf(sourceOf(trigger).kind, spec, open, trigger));
    }
    const replaced: OpenTriggerEntry[] = [];
    for (const [key, wanted] of specs) {
      const old = opened.get(key);
      if (closing || !old || old.made === wanted.made || !isDoor(old) || !isDoor(wanted)) continue;
      // In place: between closing and opening, calls would be refused.
      opened.set(key, openEntry(key, wanted, spec));
      replaced.push(old);
    }
    // The others are closed first: a session may be wanted by the one that takes its place.
    const stale = [...opened].filter(([key, { made }]) => specs.get(key)?.made !== made);
    await Promise.all([
      ...replaced.map(({ trigger }) => trigger.close()),
      ...stale.map(([key, entry]) => closeTrigger(key, entry)),
    ]);
    for (const [key, wanted] of specs) {
      if (leaving && !isDoor(wanted)) continue;
      if (!opened.has(key) && !closing) opened.set(key, openEntry(key, wanted, spec));
    }
  }

  function openEntry(
    shown: string,
    { kind, service, made, open, trigger }: WantedTrigger,
    spec: FunctionSpec,
  ): OpenTriggerEntry {
    let state: TriggerState = { ready: false, reason: 'Connecting', message: 'opening' };
    const triggerLog = log.child({ trigger: shown, source: 'platform' });
    const context: TriggerContext = {
      site: parts.site,
      function: ref,
      name: shown,
      encoding: trigger?.encoding ?? 'json',
      retry: spec.retry,
      timeoutSeconds: spec.timeoutSeconds,
      capacity: spec.processes * spec.concurrency,
      ...(parts.nats && { nats: parts.nats }),
      ...(parts.mqtt && { mqtt: parts.mqtt }),
      ...(parts.ros && { ros: parts.ros }),
      ...(parts.inbox && { inbox: parts.inbox }),
      server: parts.server,
      log: triggerLog,
      report(next) {
        state = next;
        if (!trigger) return;
        parts.metrics.connected(shown, next.ready);
        publish();
      },
      dropped: (subject) => losses.dropped(shown, subject),
      cutOff: (why) => losses.cutOff(shown, why),
      async deadLetter(event, fault, reason) {
        if (!parts.deadLetters)
          throw new AtollError('InboxUnavailable', 'without NATS there are no dead letters');
        await parts.deadLetters.put(ref, event, fault, reason, { attempts: 0 });
        parts.metrics.deadLettered(shown, reason);
      },
    };
    const handle = open(context);
    const batch = trigger?.jetstream && trigger.jetstream.batchSize > 1 ? trigger.jetstream : undefined;
    const done = flow
      .pump(shown, handle, batch && { size: batch.batchSize, windowMs: batch.batchWindowMs })
      .catch((error: unknown) => log.error({ err: error, trigger: shown }, 'trigger failed'));
    if (handle.lag) parts.metrics.lagOf(shown, () => handle.lag?.() ?? Promise.reject(new Error('closed')));
    return {
      kind,
      service,
      made,
      trigger: handle,
      done,
      log: triggerLog,
      get state() {
        return state;
      },
    };
  }

  async function closeTrigger(shown: string, entry: OpenTriggerEntry): Promise<void> {
    opened.delete(shown);
    losses.forget(shown);
    parts.metrics.forgetTrigger(shown);
    await entry.trigger
      .close()
      .catch((error: unknown) => log.error({ err: error, trigger: shown }, 'closing a trigger failed'));
  }

  function kick(): void {
    converging ??= converge().finally(() => {
      converging = undefined;
    });
  }

  kick();
  return {
    update(config) {
      if (JSON.stringify(config) === JSON.stringify(wanted)) return;
      wanted = config;
      packageState = handlerState = {
        ready: false,
        reason: 'Updating',
        message: `taking up generation ${config.generation}`,
      };
      publish();
      attempt.abort();
      if (converging) void converging.then(kick);
      else kick();
    },
    async leave() {
      leaving = true;
      const entries = [...opened].filter(([, entry]) => !isDoor(entry));
      left.push(...entries.map(([, entry]) => entry));
      flow.stop();
      await Promise.all(entries.map(([shown, entry]) => closeTrigger(shown, entry)));
    },
    async close() {
      closing = true;
      attempt.abort();
      const deadline = Date.now() + wanted.spec.timeoutSeconds * 1000 + drainGraceMs;
      const entries = [...opened];
      const all = [...left, ...entries.map(([, entry]) => entry)];
      flow.stop();
      await Promise.all(entries.map(([shown, entry]) => closeTrigger(shown, entry)));
      await Promise.race([Promise.all(all.map(({ done }) => done)), pauseUntil(deadline)]);
      await converging;
      await Promise.all([running?.invoker.drain(deadline), ...draining]);
      parts.metrics.forget();
    },
  };
}

function openOf(trigger: TriggerSpec, context: TriggerContext): Trigger {
  const { kind, source } = sourceOf(trigger);
  const open = triggers[kind] as (source: unknown, context: TriggerContext) => Trigger;
  return open(source, context);
}

/** Two configs with one key run in the same processes: only triggers, retry and the like differ. */
function invokerKey({ spec, env }: FunctionConfig, sha256: string): string {
  const { runtime, handler, timeoutSeconds, memory, concurrency, processes, spareProcesses } = spec;
  return JSON.stringify([
    sha256,
    runtime,
    handler,
    timeoutSeconds,
    memory,
    concurrency,
    processes,
    spareProcesses,
    env,
  ]);
}

async function environment({ env, spec }: FunctionConfig): Promise<Record<string, string>> {
  const entries = await Promise.all(
    env.map(async (one): Promise<readonly [string, string] | undefined> => {
      if ('value' in one) return [one.name, one.value];
      if ('variable' in one) return [one.name, process.env[one.variable] ?? ''];
      try {
        return [one.name, await readFile(one.file, 'utf8')];
      } catch (error) {
        const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
        if (missing && one.optional) return undefined;
        throw new AtollError(
          missing ? 'SecretNotFound' : 'NotAllowed',
          `env ${one.name}: ${one.file} ${missing ? 'is missing' : 'cannot be read'}${whatItHolds(spec, one.name)}`,
          { cause: error },
        );
      }
    }),
  );
  return Object.fromEntries(entries.filter((entry) => entry !== undefined));
}

/** In a cluster the file is only where a key of an object is shown: that is what its owner knows. */
function whatItHolds(spec: FunctionSpec, variable: string): string {
  const { secretKeyRef, configMapKeyRef } = spec.env.find(({ name }) => name === variable)?.valueFrom ?? {};
  const ref = secretKeyRef ?? configMapKeyRef;
  if (!ref) return '';
  return `: it holds the key "${ref.key}" of the ${secretKeyRef ? 'Secret' : 'ConfigMap'} "${ref.name}"`;
}

/** Whose record it is, the log says already. */
function write(log: Log, record: LogRecord): void {
  const { level, message, time: _time, namespace: _namespace, function: _function, ...fields } = record;
  const method = level.toLowerCase() as 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal';
  log[method](fields, message);
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}

function pauseUntil(deadline: number): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, Math.max(0, deadline - Date.now())).unref());
}
