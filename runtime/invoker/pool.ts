/** A function's handler processes: who runs what, deadlines, crashes and their successors. */
import { randomUUID } from 'node:crypto';
import { availableParallelism } from 'node:os';
import type { FunctionSpec } from '../../crds/function.ts';
import { noCalls, type Caller, type Calls } from '../calls/calls.ts';
import type { InvocationReport, Outcome } from '../event.ts';
import { AtollError, errorCodes, type Code, type Fault } from '../errors.ts';
import { hopsOf } from '../lineage.ts';
import type { LogRecord } from '../log.ts';
import { monotonicMs } from './clock.ts';
import { Deadlines, type Deadline } from './deadlines.ts';
import { handlerEnvironment } from './environment.ts';
import type { Invocation, Invoker, InvokerState } from './invoker.ts';
import { isBelow, logControls, type Level } from './log-controls.ts';
import { readLogLine } from './log-line.ts';
import { nodeBinary } from '../process/node.ts';
import {
  maxPayloadBytes,
  ProtocolError,
  streamWindowBytes,
  type Call,
  type Init,
  type LogFrame,
} from './protocol.ts';
import { Tail } from './tail.ts';
import { Worker, type RunEnd, type WorkerEvents } from './worker.ts';

/** Lambda's init phase: importing the handler module may take as long, and as long as an invocation may. */
export const defaultInitTimeoutMs = 10_000;
/** What neighbours of a timed-out invocation get before their process is killed. */
export const defaultGraceMs = 5_000;
const minBackoffMs = 100;
const maxBackoffMs = 30_000;
/** A process that lived this long is no part of a crash loop. */
const stableMs = 10_000;
/** Processes that die with what runs in them, one after another, are started no faster than that. */
const maxCrashBackoffMs = 1_000;
/** Every so often the memory of all processes is looked at, and when an invocation ends and the last look is this old. */
const memoryLookMs = 500;
const memoryFreshMs = 25;
/** Above spec.memory a process is replaced; above this much of it, it is killed with what runs in it. */
const killAtShare = 1.25;
/**
 * A handler process that says nothing for so long after a deadline spins, and each of its invocations may be the
 * one that does. Generous: one that only computes for a while must not lose its neighbours' work.
 */
const answerMs = 1_000;
/** Room in an invoke frame for what is not payload. */
const invokeOverheadBytes = 1024 * 1024;
const mebibyte = 1024 * 1024;

export interface PoolOptions {
  readonly function: { readonly namespace: string; readonly name: string };
  /** The package's sha256; its first 12 digits are `context.functionVersion`. */
  readonly version: string;
  readonly runtime: FunctionSpec['runtime'];
  readonly handler: string;
  /** The unpacked package. */
  readonly root: string;
  /** spec.env, resolved. */
  readonly env: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly initTimeoutMs?: number;
  readonly memoryBytes: number;
  readonly concurrency: number;
  readonly processes: number;
  readonly spareProcesses: number;
  /** How long the neighbours of a timed-out invocation may go on. */
  readonly graceMs?: number;
  /** Handler, stdout, stderr and platform records; the report of each invocation is in its Outcome. */
  log(record: LogRecord): void;
  /** What handlers reach through the host; absent: nothing. */
  readonly calls?: Calls;
  readonly metrics?: {
    /** timeout | crash | memory */
    restarted?(reason: string): void;
    /** Of the largest process, about twice a second. */
    memory?(bytes: number): void;
  };
}

/** One invocation from invoke() to its outcome. */
interface Run extends Deadline {
  deadlineMs: number;
  /** What the handler may take, from the moment it is handed the event. */
  readonly allowedMs: number;
  readonly invocation: Invocation;
  readonly call: Call & { deadlineMs: number };
  readonly tail: Tail | undefined;
  readonly settle: (outcome: Outcome) => void;
  /** 0 until it was handed to a process. */
  startedMs: number;
  /** The first of its process. */
  cold: boolean;
  worker: PoolWorker | undefined;
  id: number;
  /** Bytes of its streamed response that nobody has read yet. */
  unread: number;
  /** Made when it first calls something. */
  caller: Caller | undefined;
  /** Ends what it waits for. */
  away: AbortController | undefined;
  onAbort: (() => void) | undefined;
  /** It timed out, and whether its process still answers is not known yet. */
  expiredMs: number;
}

type PoolWorker = Worker<Run> & { place?: Place };

interface Place {
  /** `active` takes invocations, `spare` waits to, `retired` finishes what it has, `alone` runs suspects one by one. */
  role: 'active' | 'spare' | 'retired' | 'alone';
  used: boolean;
  lastRequestId: string;
  readyMs: number;
  /** Goes off when importing takes longer than Lambda's init phase. */
  slow?: NodeJS.Timeout;
  grace?: NodeJS.Timeout;
  /** Timed out, in a process that has not said since whether it still answers. */
  doubtful: Run[];
  doubt?: NodeJS.Timeout | undefined;
  /** A timed-out handler may still run in it: no SIGTERM, no waiting. */
  hung?: boolean;
}

const drained: Fault = {
  code: 'Runtime.Drained',
  message: 'the function was stopped, so the event was handed back',
};

export function openPool(options: PoolOptions): Invoker {
  const { log, metrics, concurrency, calls = noCalls } = options;
  const { namespace, name } = options.function;
  const functionVersion = options.version.slice(0, 12);
  const memoryMiB = Math.floor(options.memoryBytes / mebibyte);
  const controls = logControls(options.env);
  const graceMs = options.graceMs ?? defaultGraceMs;
  const initPhaseMs = options.initTimeoutMs ?? defaultInitTimeoutMs;
  const initTimeoutMs = Math.max(initPhaseMs, options.timeoutMs);
  const wantedProcesses = options.processes + options.spareProcesses;
  /** How many may be starting at once: starting is work for a CPU. */
  const maxStarting = Math.max(1, availableParallelism());

  const slowStart: InvokerState = {
    ready: false,
    reason: 'Starting',
    message:
      `importing the module of handler ${options.handler} takes longer than ${initPhaseMs / 1000} s; ` +
      `it may take ${initTimeoutMs / 1000} s, as an invocation may`,
  };

  const workers = new Set<PoolWorker>();
  /** Those of `workers` that take invocations; a list of its own because it is searched for every event. */
  const active: PoolWorker[] = [];
  const queue: Run[] = [];
  /** They were in flight when a process died with several; one process at a time runs them, one by one. */
  const suspects: Run[] = [];
  let loner: PoolWorker | undefined;
  const deadlines = new Deadlines<Run>(expired);
  const stateListeners: ((state: InvokerState) => void)[] = [];
  const goneListeners: (() => void)[] = [];
  let state: InvokerState = { ready: false, reason: 'Starting', message: 'starting the handler process' };
  let firstStart: PromiseWithResolvers<void> | undefined;
  let everReady = false;
  /** start() was rejected: whoever called it decides what becomes of a version that never ran. */
  let givenUp = false;
  let failures = 0;
  /** Processes that died with what ran in them, since an invocation ended well or badly. */
  let crashes = 0;
  let lastFailure: Fault | undefined;
  let backoff: NodeJS.Timeout | undefined;
  let memoryTimer: NodeJS.Timeout | undefined;
  let draining: Promise<void> | undefined;
  let drainTimer: NodeJS.Timeout | undefined;
  let drainAt = Infinity;
  let binary = '';

  function enter(next: InvokerState): void {
    if (next.ready === state.ready && next.reason === state.reason && next.message === state.message) return;
    state = next;
    for (const listener of stateListeners) listener(next);
  }

  // Invocations

  function invoke(invocation: Invocation): Promise<Outcome> {
    return new Promise((settle) => {
      const first = invocation.events[0]!;
      const batch = invocation.batch === true || invocation.events.length > 1;
      const requestId = invocation.events.length === 1 ? first.id : randomUUID();
      // Date.now() drops fractions, and some time went by since the deadline was chosen on a busy machine: a timeout
      // may come a millisecond late, never early.
      const allowedMs = Math.max(options.timeoutMs, invocation.deadline - Date.now() + 1);
      const deadlineMs = monotonicMs() + allowedMs;
      const run: Run = {
        invocation,
        call: {
          requestId,
          deadlineMs,
          batch,
          stream: invocation.onChunk !== undefined,
          events: invocation.events,
        },
        tail: invocation.tail === true ? new Tail(requestId, functionVersion) : undefined,
        deadlineMs,
        allowedMs,
        settle,
        startedMs: 0,
        cold: false,
        worker: undefined,
        id: 0,
        unread: 0,
        caller: undefined,
        away: undefined,
        onAbort: undefined,
        expiredMs: 0,
        before: undefined,
        after: undefined,
        waiting: false,
      };
      if (draining !== undefined)
        return settleRun(run, { kind: 'returnedUnrun', fault: drained, began: false });
      const bytes = payloadBytes(invocation);
      if (bytes > maxPayloadBytes - invokeOverheadBytes) {
        const fault = { code: 'TooLarge', message: `${bytes} bytes do not fit into one invocation` };
        return settleRun(run, { kind: 'threw', fault, retryable: false });
      }
      if (invocation.alone === true) {
        // Its time begins with its turn.
        suspects.push(run);
        return nextSuspect();
      }
      const worker = queue.length === 0 ? leastBusy() : undefined;
      if (worker !== undefined) return dispatch(run, worker);
      deadlines.add(run);
      queue.push(run);
    });
  }

  function leastBusy(): PoolWorker | undefined {
    let best: PoolWorker | undefined;
    let least = concurrency;
    for (const worker of active) {
      if (worker.runs.size < least && worker.accepting) {
        best = worker;
        least = worker.runs.size;
      }
    }
    return best;
  }

  function dispatch(run: Run, worker: PoolWorker): void {
    const place = worker.place!;
    run.worker = worker;
    run.startedMs = monotonicMs();
    // Anew: what it waited for a process to start was not the handler's time.
    deadlines.remove(run);
    run.call.deadlineMs = run.deadlineMs = run.startedMs + run.allowedMs;
    deadlines.add(run);
    run.cold = !place.used;
    place.used = true;
    place.lastRequestId = run.call.requestId;
    run.id = worker.start(run, run.call);
    const { signal } = run.invocation;
    if (signal !== undefined) {
      run.onAbort = () => {
        worker.cancel(run.id, 'the caller went away');
        run.away?.abort();
      };
      if (signal.aborted) run.onAbort();
      else signal.addEventListener('abort', run.onAbort, { once: true });
    }
  }

  function dispatchQueued(): void {
    while (queue.length > 0) {
      const worker = leastBusy();
      if (worker === undefined) return;
      dispatch(queue.shift()!, worker);
    }
  }

  type OutcomeCore = Outcome extends infer O
    ? O extends Outcome
      ? Omit<O, 'report' | 'tail'>
      : never
    : never;

  function settleRun(run: Run, core: OutcomeCore): void {
    deadlines.remove(run);
    if (run.onAbort !== undefined) run.invocation.signal?.removeEventListener('abort', run.onAbort);
    // What a handler sent off and did not wait for still goes out, unless it was cut off itself.
    if (run.away !== undefined && core.kind !== 'returned' && core.kind !== 'threw') run.away.abort();
    const report = reportOf(run);
    if ('fault' in core && core.kind !== 'returnedUnrun') {
      logFault(run, core.fault, 'suspects' in core && mayRunAgain(run.invocation, core.suspects ?? 0));
    }
    // Ours alone from here on, so it is not copied to be completed.
    const outcome = core as Outcome & { report: InvocationReport; tail?: string };
    outcome.report = report;
    if (run.tail !== undefined) outcome.tail = run.tail.end(report, memoryMiB);
    run.settle(outcome);
  }

  function reportOf(run: Run): InvocationReport {
    const { worker } = run;
    const now = monotonicMs();
    const durationMs = worker === undefined ? 0 : (run.expiredMs || now) - run.startedMs;
    if (worker?.state === 'ready' && now - worker.measuredMs >= memoryFreshMs) worker.measure();
    const report = {
      requestId: run.call.requestId,
      durationMs,
      maxMemoryMiB: Math.ceil((worker?.maxMemoryBytes ?? 0) / mebibyte),
      coldStart: run.cold,
    };
    return run.cold && worker !== undefined ? { ...report, initDurationMs: worker.initDurationMs } : report;
  }

  function expired(run: Run): void {
    const { worker } = run;
    if (worker === undefined) {
      remove(queue, run);
      const fault = lastFailure ?? {
        code: 'Runtime.StartError',
        message: 'no handler process was free or could be started before the deadline',
      };
      settleRun(run, { kind: 'crashed', fault, suspects: 0 });
      return;
    }
    const place = worker.place!;
    run.expiredMs = monotonicMs();
    run.away?.abort();
    worker.runs.delete(run.id);
    worker.cancel(run.id, `the invocation took longer than ${options.timeoutMs} ms`);
    place.hung = true;
    // With others in flight it may be one of them that spins, and this one had no turn.
    if (mayRunAgain(run.invocation, worker.runs.size + place.doubtful.length + 1)) {
      place.doubtful.push(run);
      place.doubt ??= startDoubt(worker);
    } else {
      settleRun(run, { kind: 'timedOut', fault: timedOut(run) });
    }
    retire(worker, 'timeout');
  }

  function startDoubt(worker: PoolWorker): NodeJS.Timeout {
    return setTimeout(() => worker.kill(neighbourKilled), answerMs);
  }

  function timedOut(run: Run): Fault {
    const seconds = (options.timeoutMs / 1000).toFixed(2);
    return {
      code: 'Sandbox.Timedout',
      message: `RequestId: ${run.call.requestId} Error: Task timed out after ${seconds} seconds`,
    };
  }

  // Processes

  const events: WorkerEvents<Run> = {
    ready(worker: PoolWorker) {
      const place = worker.place!;
      clearTimeout(place.slow);
      place.readyMs = monotonicMs();
      if (place.role === 'alone') return nextSuspect();
      if (place.role === 'retired') return worker.terminate();
      lastFailure = undefined;
      everReady = true;
      givenUp = false;
      activate();
      enter({ ready: true, reason: 'Ready', message: '' });
      firstStart?.resolve();
      ensure();
    },
    ended(worker: PoolWorker, run, end: RunEnd) {
      failures = 0;
      crashes = 0;
      settleRun(run, end);
      if (worker.memoryBytes > options.memoryBytes) judgeMemory(worker);
      if (worker === loner) nextSuspect();
      else if (worker.place!.role !== 'active') leaveIfDone(worker);
      if (queue.length > 0) dispatchQueued();
    },
    answered(worker: PoolWorker, id) {
      const place = worker.place!;
      const run = place.doubtful.find((one) => one.id === id);
      if (run === undefined) return;
      remove(place.doubtful, run);
      clearTimeout(place.doubt);
      place.doubt = place.doubtful.length > 0 ? startDoubt(worker) : undefined;
      settleRun(run, { kind: 'timedOut', fault: timedOut(run) });
      leaveIfDone(worker);
    },
    chunk(worker: PoolWorker, run, data, contentType) {
      const { onChunk } = run.invocation;
      run.unread += data.length;
      if (onChunk === undefined || run.unread > streamWindowBytes) {
        throw new ProtocolError('more of a response came than was asked for');
      }
      onChunk(data, contentType).then(
        () => {
          run.unread -= data.length;
          worker.taken(run.id, data.length);
        },
        (error: unknown) => worker.cancel(run.id, (error as Error).message),
      );
    },
    call(_worker: PoolWorker, run, call) {
      if (run.caller === undefined) {
        run.away = new AbortController();
        run.caller = callerOf(run.invocation, run.deadlineMs, run.away.signal);
      }
      return calls.make(call, run.caller);
    },
    log(worker: PoolWorker, frame) {
      write(worker, frame);
    },
    line(worker: PoolWorker, message, stream) {
      const run = concurrency === 1 ? [...worker.runs.values()][0] : undefined;
      run?.tail?.raw(message);
      const requestId = concurrency === 1 ? worker.place!.lastRequestId : '';
      const level = stream === 'stdout' ? 'INFO' : 'WARN';
      logHandler({ level, message, source: stream, timeMs: Date.now(), trigger: undefined, requestId });
    },
    exited(worker: PoolWorker, fault) {
      const place = worker.place!;
      const wasRole = place.role;
      workers.delete(worker);
      remove(active, worker);
      clearTimeout(place.slow);
      clearTimeout(place.grace);
      clearTimeout(place.doubt);
      const runs = [...worker.runs.values()];
      worker.runs.clear();
      const doubtful = place.doubtful.splice(0);
      const inFlight = runs.length + doubtful.length;
      const wasReady = place.readyMs > 0;
      for (const run of doubtful) {
        settleRun(run, { kind: 'timedOut', fault: timedOut(run), suspects: inFlight });
      }
      for (const run of runs) {
        settleRun(
          run,
          fault.code === 'Runtime.Drained'
            ? // Of one that does not answer, each may be the cause; of one that had its grace, none of these is.
              { kind: 'returnedUnrun', fault, began: true, suspects: doubtful.length > 0 ? inFlight : 0 }
            : { kind: 'crashed', fault, suspects: inFlight },
        );
      }
      if (worker === loner) {
        loner = undefined;
        if (wasReady) nextSuspect();
        else {
          for (const run of suspects.splice(0)) settleRun(run, { kind: 'crashed', fault, suspects: 0 });
        }
      }
      // One that was retired has its successor already; its end counts all the same.
      if (inFlight > 0 && wasRole !== 'alone' && fault.code !== 'Runtime.Drained') crashed();
      if (draining === undefined && (wasRole === 'active' || wasRole === 'spare')) {
        if (wasReady) metrics?.restarted?.(fault.code === 'Runtime.OutOfMemory' ? 'memory' : 'crash');
        const idle = inFlight === 0 && monotonicMs() - place.readyMs < stableMs;
        if (!wasReady || idle) failedStart(fault, wasReady);
        activate();
        ensure();
      }
      if (workers.size === 0) for (const gone of goneListeners.splice(0)) gone();
    },
  };

  function startWorker(role: Place['role']): PoolWorker {
    const logStream = `${new Date().toISOString().slice(0, 10).replaceAll('-', '/')}/[${functionVersion}]${randomUUID().replaceAll('-', '')}`;
    const facts = {
      namespace,
      name,
      functionVersion,
      handler: options.handler,
      root: options.root,
      memoryMiB,
      concurrency,
      logStream,
    };
    const init: Init = {
      ...facts,
      packageSha256: options.version,
      env: handlerEnvironment({ ...facts, runtime: options.runtime, env: options.env }, process.env),
    };
    const worker: PoolWorker = new Worker<Run>(
      {
        nodeBinary: binary,
        init,
        memoryBytes: options.memoryBytes,
        initTimeoutMs,
      },
      events,
    );
    worker.place = { role, used: false, lastRequestId: '', readyMs: 0, doubtful: [] };
    if (initTimeoutMs > initPhaseMs) {
      worker.place.slow = setTimeout(() => {
        if (worker.state === 'starting' && !state.ready && draining === undefined) enter(slowStart);
      }, initPhaseMs).unref();
    }
    workers.add(worker);
    memoryTimer ??= setInterval(lookAtMemory, memoryLookMs).unref();
    return worker;
  }

  /** The next suspect, when the one before has ended; the process goes with the last of them. */
  function nextSuspect(): void {
    if (draining !== undefined) return loner && leaveIfDone(loner);
    if (suspects.length === 0) return loner?.terminate();
    loner ??= startWorker('alone');
    // Else `ready`, `ended` or `exited` come back to here.
    if (loner.accepting && loner.runs.size === 0) dispatch(suspects.shift()!, loner);
  }

  /** Alone it is found out which of several was the cause, without the others paying for it. */
  function mayRunAgain(invocation: Invocation, inFlight: number): boolean {
    return invocation.mayRunAgain === true && inFlight > 1;
  }

  /** As many processes as wanted, unless a crash loop makes them wait. */
  function ensure(): void {
    if (draining !== undefined || backoff !== undefined || givenUp) return;
    let living = 0;
    let starting = 0;
    for (const worker of workers) {
      const { role } = worker.place!;
      if (role !== 'active' && role !== 'spare') continue;
      living += 1;
      if (worker.state === 'starting') starting += 1;
    }
    // While a start just failed one process tries for all.
    const most = failures > 0 ? 1 : maxStarting;
    for (; living < wantedProcesses && starting < most; living++, starting++) startWorker('spare');
  }

  /** Ready spares become active until there are enough. */
  function activate(): void {
    for (const worker of workers) {
      if (active.length >= options.processes) break;
      if (worker.place!.role !== 'spare' || !worker.accepting) continue;
      worker.place!.role = 'active';
      active.push(worker);
    }
    dispatchQueued();
  }

  function failedStart(fault: Fault, wasReady: boolean): void {
    lastFailure = fault;
    failures += 1;
    const delayMs = backoffOf(failures, maxBackoffMs);
    log({
      ...platform('ERROR', wasReady ? 'handler process ended while idle' : 'handler process did not start'),
      errorType: fault.code,
      errorMessage: fault.message,
      ...(fault.stack && { stackTrace: fault.stack }),
      retryInMs: delayMs,
    });
    if (active.length === 0) {
      enter({ ready: false, reason: fault.code, message: fault.message });
      // What waits has nobody to wait for; its source has the better patience.
      for (const run of queue.splice(0)) settleRun(run, { kind: 'crashed', fault, suspects: 0 });
    }
    if (!everReady) {
      givenUp = true;
      firstStart?.reject(errorOf(fault));
      return;
    }
    backOff(delayMs);
  }

  /** The first successor comes at once; where each dies with its event, starting them must not take all of a CPU. */
  function crashed(): void {
    crashes += 1;
    if (crashes < 2) return;
    const delayMs = backoffOf(crashes - 1, maxCrashBackoffMs);
    log({ ...platform('WARN', 'handler processes crash one after another'), crashes, retryInMs: delayMs });
    backOff(delayMs);
  }

  function backOff(delayMs: number): void {
    backoff ??= setTimeout(() => {
      backoff = undefined;
      ensure();
    }, delayMs).unref();
  }

  /** It gets nothing new, its successor starts at once, and it ends when its neighbours are done or the grace is over. */
  function retire(worker: PoolWorker, reason: 'timeout' | 'memory'): void {
    const place = worker.place!;
    if (place.role === 'active' || place.role === 'spare') {
      metrics?.restarted?.(reason);
      place.role = 'retired';
      remove(active, worker);
      activate();
      ensure();
    }
    // What runs in one that only grew too big has its own deadline.
    if (reason === 'timeout') place.grace ??= setTimeout(() => worker.kill(neighbourKilled), graceMs);
    leaveIfDone(worker);
  }

  function leaveIfDone(worker: PoolWorker): void {
    const { doubtful, hung } = worker.place!;
    if (worker.runs.size > 0 || doubtful.length > 0) return;
    if (hung === true) worker.kill();
    else worker.terminate();
  }

  function lookAtMemory(): void {
    let largest = 0;
    for (const worker of workers) {
      const bytes = worker.measure();
      largest = Math.max(largest, bytes);
      if (bytes > options.memoryBytes) judgeMemory(worker);
    }
    if (workers.size > 0) metrics?.memory?.(largest);
  }

  /** Of a process over its limit: replaced while there is time, killed when it leapt. Idle, it goes in any case. */
  function judgeMemory(worker: PoolWorker): void {
    if (worker.state !== 'ready') return;
    const { role, used } = worker.place!;
    const bytes = worker.memoryBytes;
    const share = `${Math.ceil(bytes / mebibyte)} MiB of ${memoryMiB} MiB`;
    if (bytes > options.memoryBytes * killAtShare && (worker.runs.size > 0 || !used)) {
      worker.kill({
        code: 'Runtime.OutOfMemory',
        message: `the handler process used ${share} and was killed`,
      });
    } else if (role === 'alone' && worker.runs.size === 0) {
      worker.terminate();
    } else if (role === 'active' && used) {
      // One that has run nothing yet would have a successor just as big, for ever.
      log({ ...platform('WARN', 'handler process is replaced: it uses more than spec.memory'), used: share });
      retire(worker, 'memory');
    }
  }

  // Logs

  function platform(level: LogRecord['level'], message: string): LogRecord {
    return { time: new Date().toISOString(), level, message, namespace, function: name, source: 'platform' };
  }

  function write(worker: PoolWorker, frame: LogFrame): void {
    const { level, timeMs, requestId, message, fields } = frame;
    let trigger: string | undefined;
    if (requestId !== '') {
      for (const run of worker.runs.values()) {
        if (run.call.requestId !== requestId) continue;
        trigger = run.call.events[0]!.trigger;
        run.tail?.line(timeMs, level, message);
        break;
      }
    }
    logHandler({ level, message, source: 'handler', timeMs, trigger, requestId, fields });
  }

  /** `requestId` empty: not known. */
  function logHandler(said: {
    level: Level;
    message: string;
    source: 'handler' | 'stdout' | 'stderr';
    timeMs: number;
    trigger: string | undefined;
    requestId: string;
    fields?: LogFrame['fields'];
  }): void {
    const { trigger, requestId } = said;
    const known = {
      namespace,
      function: name,
      ...(trigger !== undefined && { trigger }),
      ...(requestId !== '' && { requestId }),
    };
    const line =
      controls.format === 'JSON' && said.fields === undefined ? readLogLine(said.message, known) : undefined;
    const { message, fields } = line ?? said;
    const level = line?.level ?? said.level;
    // A line that says no level of its own is kept: it may be the last word of a process that crashes.
    if (line && isBelow(level, controls.level)) return;
    const time = new Date(said.timeMs).toISOString();
    log({ ...fields, time, level, message, ...known, source: said.source });
  }

  function logFault(run: Run, fault: Fault, runsAgain: boolean): void {
    run.tail?.line(Date.now(), 'ERROR', `${fault.code}: ${fault.message}`);
    log({
      ...(runsAgain
        ? platform('WARN', 'invocation was cut with others of its process: it runs again alone')
        : platform('ERROR', 'invocation failed')),
      trigger: run.call.events[0]!.trigger,
      requestId: run.call.requestId,
      errorType: fault.code,
      errorMessage: fault.message,
      ...(fault.stack && { stackTrace: fault.stack }),
    });
  }

  // The end

  function drain(deadline: number): Promise<void> {
    draining ??= finish();
    if (deadline < drainAt) {
      drainAt = deadline;
      clearTimeout(drainTimer);
      drainTimer = setTimeout(
        () => {
          for (const worker of workers) worker.kill(drained);
        },
        Math.max(0, deadline - Date.now()),
      );
      if (workers.size === 0) clearTimeout(drainTimer);
    }
    return draining;
  }

  async function finish(): Promise<void> {
    clearTimeout(backoff);
    firstStart?.reject(new AtollError('Runtime.Drained', drained.message));
    enter({ ready: false, reason: 'Runtime.Drained', message: drained.message });
    for (const run of queue.splice(0))
      settleRun(run, { kind: 'returnedUnrun', fault: drained, began: false });
    // Handed to a handler before, so with one attempt only they would not be here.
    for (const run of suspects.splice(0))
      settleRun(run, { kind: 'returnedUnrun', fault: drained, began: false });
    active.length = 0;
    for (const worker of [...workers]) {
      const place = worker.place!;
      place.role = 'retired';
      if (worker.state === 'starting') worker.kill(drained);
      else leaveIfDone(worker);
    }
    if (workers.size > 0) await new Promise<void>((gone) => goneListeners.push(gone));
    clearTimeout(drainTimer);
    clearInterval(memoryTimer);
    deadlines.close();
  }

  return {
    start() {
      if (firstStart !== undefined) return firstStart.promise;
      firstStart = Promise.withResolvers<void>();
      firstStart.promise.catch(() => {});
      try {
        binary = nodeBinary(options.runtime);
        ensure();
      } catch (error) {
        const { code, message } = error as AtollError;
        enter({ ready: false, reason: code, message });
        firstStart.reject(error as Error);
      }
      return firstStart.promise;
    },
    invoke,
    capacity: options.processes * concurrency,
    get state() {
      return state;
    },
    onState: (listener) => void stateListeners.push(listener),
    drain,
  };
}

/** Exponential with jitter; from half the step to the whole. */
function backoffOf(failures: number, maxMs: number): number {
  const step = Math.min(maxMs, minBackoffMs * 2 ** Math.min(20, failures - 1));
  return Math.round(step * (0.5 + Math.random() / 2));
}

const neighbourKilled: Fault = {
  code: 'Runtime.Drained',
  message:
    'another invocation in the same process timed out and the process was killed; the event was handed back',
};

export function callerOf({ events }: Invocation, deadlineMs: number, signal: AbortSignal): Caller {
  const hops = events.reduce((most, { headers }) => Math.max(most, hopsOf(headers)), 0);
  return { hops, deadlineMs, signal };
}

function payloadBytes(invocation: Invocation): number {
  let bytes = 0;
  for (const event of invocation.events) bytes += event.data.length;
  return bytes;
}

function errorOf(fault: Fault): AtollError {
  const known = Object.hasOwn(errorCodes, fault.code);
  return known
    ? new AtollError(fault.code as Code, fault.message, { cause: fault })
    : new AtollError('Runtime.InitError', `${fault.code}: ${fault.message}`, { cause: fault });
}

function remove<T>(list: T[], item: T): void {
  const at = list.indexOf(item);
  if (at !== -1) list.splice(at, 1);
}
