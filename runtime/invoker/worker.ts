/** The host's side of one handler process: start, frames in and out, its end and the reason for it. */
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { EventSchema, Result } from '../event.ts';
import type { Fault } from '../errors.ts';
import type { CallAnswer, HandlerCall } from '../handler-calls.ts';
import { compileCacheFolder } from '../process/compile-cache.ts';
import { readLines } from '../process/lines.ts';
import { hostMark } from '../process/orphans.ts';
import { signalGroup, spawnBound } from '../process/spawn.ts';
import { monotonicMs } from './clock.ts';
import { heapFlags, residentBytes } from './memory.ts';
import { parseNodeOptions } from './node-options.ts';
import {
  bytesOfCall,
  callWindow,
  FrameDecoder,
  FrameReader,
  FrameWriter,
  frameType,
  ProtocolError,
  readCall,
  readChunk,
  readFault,
  readLog,
  readResult,
  writeCallResult,
  writeInvoke,
  writeJson,
  type Call,
  type Init,
  type LogFrame,
} from './protocol.ts';

/** From the start of the process to its hello; ours, so generous: a busy robot is slow. */
const helloTimeoutMs = 30_000;
/** After SIGTERM a handler may tidy up this long, as in Lambda. */
const terminateMs = 500;
/** A process that closed its socket without ending is ended. */
const closedSocketMs = 100;
/** Output that a process left behind is read this long after its exit; a stray descendant may hold the pipe. */
const lastOutputMs = 200;
/** A process that even SIGKILL does not end (stuck in a driver) is counted as ended after this. */
const unkillableMs = 2_000;
const rememberedErrorLines = 40;
/** Answers of calls that a process does not read are not piled up beyond this. */
const maxUnreadBytes = 64 * 1024 * 1024;
/** A .js file may be either kind of module, as in Lambda; Node's advice about that is not for the function's log. */
const quietFlags = ['--disable-warning=MODULE_TYPELESS_PACKAGE_JSON'];

/**
 * Read by Node once, as it starts, so setting them later would be without effect. All others reach the
 * process only in `init`: what /proc shows of a process's start has no secret in it.
 */
const startVariables = [
  'NODE_PATH',
  'NODE_EXTRA_CA_CERTS',
  'NODE_DEBUG',
  'NODE_ICU_DATA',
  'NODE_PENDING_DEPRECATION',
  'NODE_NO_WARNINGS',
  'OPENSSL_CONF',
  'SSL_CERT_DIR',
  'SSL_CERT_FILE',
  'UV_THREADPOOL_SIZE',
  'LD_LIBRARY_PATH',
  'PATH',
  'HOME',
  'LANG',
  'TZ',
];

export interface WorkerOptions {
  readonly nodeBinary: string;
  readonly init: Init;
  readonly memoryBytes: number;
  readonly initTimeoutMs: number;
}

/** How an invocation ended in the handler process. */
export type RunEnd =
  | { readonly kind: 'returned'; readonly result: Result }
  | { readonly kind: 'threw'; readonly fault: Fault; readonly retryable: boolean };

/** What a worker tells its pool. `Run` is whatever the pool keeps for an invocation. */
export interface WorkerEvents<Run> {
  ready(worker: Worker<Run>): void;
  ended(worker: Worker<Run>, run: Run, end: RunEnd): void;
  /** It took up the cancel frame of that id: its event loop turns. */
  answered(worker: Worker<Run>, id: number): void;
  /** Part of a streamed response, the invocation's to keep. `worker.taken` says that it was read. */
  chunk(worker: Worker<Run>, run: Run, data: Uint8Array, contentType: string): void;
  /** Never rejects. */
  call(worker: Worker<Run>, run: Run, call: HandlerCall): Promise<CallAnswer>;
  log(worker: Worker<Run>, frame: LogFrame): void;
  line(worker: Worker<Run>, line: string, stream: 'stdout' | 'stderr'): void;
  /** Last: nothing of the process is left. `runs` of the worker are those that were in flight. */
  exited(worker: Worker<Run>, fault: Fault): void;
}

type WorkerState = 'starting' | 'ready' | 'exited';

export class Worker<Run> {
  state: WorkerState = 'starting';
  readonly runs = new Map<number, Run>();
  /** From start to ready. */
  initDurationMs = 0;
  memoryBytes = 0;
  maxMemoryBytes = 0;
  /** When memoryBytes was looked at. */
  measuredMs = 0;
  /** What `exited` will say, when we end it. */
  #reason: Fault | undefined;
  readonly #options: WorkerOptions;
  readonly #events: WorkerEvents<Run>;
  readonly #child: ChildProcess;
  readonly #socket: Socket;
  readonly #writer = new FrameWriter();
  readonly #schemas = new Map<EventSchema, number>();
  readonly #startedMs = monotonicMs();
  readonly #stderr: string[] = [];
  #flushing = false;
  #open = true;
  #lastId = 0;
  /** Of its calls, those without an answer yet. */
  #calls = 0;
  #callBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #killTimer: NodeJS.Timeout | undefined;
  #exit: { code: number | null; signal: NodeJS.Signals | null } | undefined;

  /** Never throws; a process that cannot be started is told by `exited`. */
  constructor(options: WorkerOptions, events: WorkerEvents<Run>) {
    this.#options = options;
    this.#events = events;
    const own = import.meta.url;
    const child = fileURLToPath(new URL(`./child${own.slice(own.lastIndexOf('.'))}`, own));
    const env = hostMark();
    for (const name of startVariables) {
      const value = options.init.env[name];
      if (value !== undefined) env[name] = value;
    }
    const { atStart } = parseNodeOptions(options.init.env['NODE_OPTIONS'] ?? '');
    if (atStart !== '') env['NODE_OPTIONS'] = atStart;
    const cache = compileCacheFolder();
    if (cache !== undefined) env['NODE_COMPILE_CACHE'] = cache;
    this.#child = spawnBound(
      options.nodeBinary,
      [...heapFlags(options.memoryBytes), ...quietFlags, '--enable-source-maps', child],
      { cwd: options.init.root, env, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] },
    );
    this.#socket = this.#child.stdio[3] as Socket;
    this.#child.once('error', (error) => {
      if (this.#child.pid !== undefined) return;
      // spawn blames the program when it is the working folder that is missing.
      this.#reason = existsSync(options.init.root)
        ? { code: 'Runtime.StartError', message: `the handler process: ${error.message}` }
        : {
            code: 'Runtime.ImportModuleError',
            message: `the package has no file for handler ${options.init.handler}: its folder ${options.init.root} does not exist`,
          };
      this.#finish();
    });
    this.#child.once('exit', (code, signal) => this.#onExit(code, signal));
    if (this.#child.pid === undefined) return;
    for (const stream of ['stdout', 'stderr'] as const) {
      readLines(this.#child[stream] as Readable, (line) => {
        if (stream === 'stderr' && this.#stderr.push(line) > rememberedErrorLines) this.#stderr.shift();
        events.line(this, line, stream);
      });
    }
    const decoder = new FrameDecoder((type, id, payload) => this.#onFrame(type, id, payload));
    this.#socket.on('data', (chunk: Buffer) => {
      if (this.state === 'exited') return;
      try {
        decoder.push(chunk);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.#socket.removeAllListeners('data').resume();
        this.kill({
          code: 'Runtime.ExitError',
          message: `the handler process wrote to descriptor 3, which is Atoll's: ${error.message}`,
        });
      }
    });
    // A broken socket ends with the process, or is the reason to end it.
    this.#socket.on('error', () => {});
    this.#socket.once('close', () => {
      clearTimeout(this.#timer);
      if (this.state === 'exited' || this.#exit !== undefined) return;
      this.#open = false;
      this.#timer = setTimeout(() => {
        if (this.#exit !== undefined) return;
        this.kill({
          code: 'Runtime.ExitError',
          message: "the handler process closed descriptor 3, which is Atoll's",
        });
      }, closedSocketMs);
    });
    this.#timer = setTimeout(() => {
      this.kill({
        code: 'Runtime.StartError',
        message: `the handler process gave no sign of life within ${helloTimeoutMs} ms`,
      });
    }, helloTimeoutMs);
  }

  /** Ready, and not about to end. */
  get accepting(): boolean {
    return this.state === 'ready' && this.#open && this.#reason === undefined;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Hands an invocation over; returns the id that `cancel` takes. */
  start(run: Run, call: Call): number {
    const id = (this.#lastId = (this.#lastId + 1) >>> 0 || 1);
    this.runs.set(id, run);
    writeInvoke(this.#writer, id, call, this.#schemas);
    this.#schedule();
    return id;
  }

  /** The handler's `context.signal` aborts. */
  cancel(id: number, reason: string): void {
    if (this.state !== 'ready') return;
    this.#writer.begin(frameType.cancel, id).rawText(reason).end();
    this.#schedule();
  }

  /** So many bytes of an invocation's streamed response were read: as many more may come. */
  taken(id: number, bytes: number): void {
    if (this.state !== 'ready' || !this.runs.has(id)) return;
    this.#writer.begin(frameType.chunk, id).u32(bytes).end();
    this.#schedule();
  }

  /** The process is to go, and nothing runs in it: it may tidy up for a moment. */
  terminate(): void {
    if (this.state === 'exited' || this.#killTimer !== undefined) return;
    this.#reason ??= { code: 'Runtime.Drained', message: 'the handler process was stopped' };
    const pid = this.pid;
    if (pid === undefined) return;
    signalGroup(pid, 'SIGTERM');
    this.#killTimer = setTimeout(() => this.kill(), terminateMs);
  }

  /** Ends the process and all it started. `reason` is what becomes of its invocations. */
  kill(reason?: Fault): void {
    if (this.state === 'exited') return;
    this.#reason ??= reason ?? { code: 'Runtime.Drained', message: 'the handler process was stopped' };
    const pid = this.pid;
    if (pid === undefined) return;
    signalGroup(pid, 'SIGKILL');
    clearTimeout(this.#killTimer);
    this.#killTimer = setTimeout(() => this.#finish(), unkillableMs);
  }

  /** Looks at the process's memory; returns what it found. */
  measure(): number {
    const bytes = this.pid === undefined ? undefined : residentBytes(this.pid);
    this.measuredMs = monotonicMs();
    if (bytes !== undefined) {
      this.memoryBytes = bytes;
      this.maxMemoryBytes = Math.max(this.maxMemoryBytes, bytes);
    }
    return this.memoryBytes;
  }

  #onFrame(type: number, id: number, payload: FrameReader): void {
    if (type === frameType.result) {
      this.#end(id, { kind: 'returned', result: readResult(payload) });
    } else if (type === frameType.fault) {
      const { retryable, ...fault } = readFault(payload);
      if (id === 0) this.#fail(fault);
      else this.#end(id, { kind: 'threw', fault, retryable });
    } else if (type === frameType.chunk) {
      const run = this.runs.get(id);
      const { data, contentType } = readChunk(payload);
      if (run !== undefined) this.#events.chunk(this, run, data, contentType);
    } else if (type === frameType.call) {
      this.#call(id, payload);
    } else if (type === frameType.log) {
      this.#events.log(this, readLog(payload));
    } else if (type === frameType.stats) {
      this.#events.answered(this, id);
    } else if (type === frameType.hello && this.state === 'starting') {
      clearTimeout(this.#timer);
      const { initTimeoutMs, init } = this.#options;
      this.#timer = setTimeout(() => {
        this.kill({
          code: 'Runtime.InitTimeout',
          message: `importing the module of handler ${init.handler} took longer than ${initTimeoutMs} ms`,
        });
      }, initTimeoutMs);
      writeJson(this.#writer, frameType.init, 0, init);
      this.#schedule();
    } else if (type === frameType.ready && this.state === 'starting') {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.state = 'ready';
      this.initDurationMs = monotonicMs() - this.#startedMs;
      this.measure();
      this.#events.ready(this);
    } else {
      throw new ProtocolError(`unexpected frame of type ${type}`);
    }
  }

  #call(id: number, payload: FrameReader): void {
    const { number, call } = readCall(payload);
    const bytes = bytesOfCall(call);
    if (this.#calls > 0 && (this.#calls >= callWindow.calls || this.#callBytes + bytes > callWindow.bytes)) {
      throw new ProtocolError('more calls came than may be made at a time');
    }
    const run = this.runs.get(id);
    this.#calls += 1;
    this.#callBytes += bytes;
    const answered = run === undefined ? refused(call) : this.#events.call(this, run, call);
    void answered.then((answer) => {
      this.#calls -= 1;
      this.#callBytes -= bytes;
      if (this.state !== 'ready') return;
      const unread = this.#socket.writableLength;
      writeCallResult(this.#writer, id, number, unread > maxUnreadBytes ? unreadAnswer(call) : answer);
      this.#schedule();
    });
  }

  /** An id that is not in flight is the late end of an invocation that timed out. */
  #end(id: number, end: RunEnd): void {
    const run = this.runs.get(id);
    if (run === undefined) return;
    this.runs.delete(id);
    this.#events.ended(this, run, end);
  }

  /** The process told why it ends. An exit handler of the user that hangs must not keep it from doing so. */
  #fail(fault: Fault): void {
    this.#reason ??= fault;
    this.#killTimer ??= setTimeout(() => this.kill(), terminateMs);
  }

  #schedule(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    process.nextTick(() => {
      this.#flushing = false;
      const parts = this.#writer.take();
      if (this.#socket.destroyed || !this.#socket.writable) return;
      if (parts.length === 1) {
        this.#socket.write(parts[0]!);
      } else {
        this.#socket.cork();
        for (const part of parts) this.#socket.write(part);
        this.#socket.uncork();
      }
      if (this.#socket.writableLength === 0) this.#writer.reuse();
    });
  }

  #onExit(code: number | null, signal: NodeJS.Signals | null): void {
    this.#exit = { code, signal };
    // What it forked must not outlive it.
    signalGroup(this.#child.pid!, 'SIGKILL');
    const finish = () => {
      clearTimeout(wait);
      this.#finish();
    };
    const wait = setTimeout(finish, lastOutputMs);
    this.#child.once('close', finish);
  }

  #finish(): void {
    if (this.state === 'exited') return;
    const whenStarting = this.state === 'starting';
    this.state = 'exited';
    clearTimeout(this.#timer);
    clearTimeout(this.#killTimer);
    for (const stream of this.#child.stdio) stream?.destroy();
    this.#child.unref();
    this.#events.exited(this, this.#reasonOfEnd(whenStarting));
  }

  #reasonOfEnd(whenStarting: boolean): Fault {
    const { code = null, signal = null } = this.#exit ?? {};
    const { init, memoryBytes } = this.#options;
    // V8 says so on stderr, then aborts; also when the process had begun to tell of something else.
    if (this.#stderr.some((line) => /heap out of memory|FATAL ERROR:.*[Aa]llocation failed/.test(line))) {
      return {
        code: 'Runtime.OutOfMemory',
        message: `the handler's heap grew beyond its share of spec.memory (${memoryBytes / 1024 / 1024} MiB)`,
      };
    }
    if (this.#reason !== undefined) return this.#reason;
    const how =
      signal === null
        ? `ended with exit code ${code}`
        : `was ended by ${signal}${signal === 'SIGKILL' ? ' (by the kernel when memory is short, or by somebody)' : ''}`;
    const when = whenStarting ? ` while the module of handler ${init.handler} was loaded` : '';
    // setpriv's own way to say that it could not start what it was given.
    const cause = whenStarting && code === 127 ? `: ${this.#stderr.join(' ')}` : '';
    return {
      code: cause === '' ? 'Runtime.ExitError' : 'Runtime.StartError',
      message: `the handler process ${how}${when}${cause}`,
    };
  }
}

/** Its invocation timed out while the call was on its way, or user code made the frame up. */
async function refused({ kind, target }: HandlerCall): Promise<CallAnswer> {
  const message = `${kind} ${target}: its invocation has ended`;
  return { ok: false, code: 'OutsideInvocation', message, retryable: false };
}

function unreadAnswer({ kind, target }: HandlerCall): CallAnswer {
  const message = `${kind} ${target}: the handler does not read the answers that it has already`;
  return { ok: false, code: 'TooManyRequests', message, retryable: true };
}
