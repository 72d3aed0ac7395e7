/**
 * The handler process: `node child.ts`, a socket to the host on fd 3. The only place where user code runs.
 * Start-up: 1 connect, 2 hello, 3 init (environment), 4 surroundings of the handler, 5 import, 6 ready.
 */
import { writeSync } from 'node:fs';
import { flushCompileCache, registerHooks } from 'node:module';
import { Socket } from 'node:net';
import type { EventSchema } from '../event.ts';
import { provideAwsLambda } from './aws-lambda.ts';
import { openCallWindow, provideCalls } from './call-window.ts';
import { callWithCallback, takesCallbacks } from './callback.ts';
import { captureConsole } from './console.ts';
import { abort, factsOf, HandlerContext, schemaOf, type FunctionFacts } from './handler-context.ts';
import { batchEvent, handlerEvent } from './handler-event.ts';
import { encodeResult, InvalidResponse } from './handler-result.ts';
import { currentRequestId, runAs, traceInEnvironment } from './invoke-store.ts';
import { logControls } from './log-controls.ts';
import {
  FrameDecoder,
  FrameReader,
  FrameWriter,
  frameType,
  jsonObject,
  protocolVersion,
  readCallResult,
  readInvoke,
  writeCall,
  writeChunk,
  writeJson,
  writeLog,
  writeResult,
  type Call,
  type Init,
  type ThrownFault,
} from './protocol.ts';
import { isStreaming, openResponseStream, runStreaming, type ResponseStream } from './response-stream.ts';
import { thrownFault } from './thrown.ts';
import { LoadError, loadUserFunction, preload, type UserFunction } from './user-function.ts';

const socketFd = 3;
/** How long output waits for a host that does not read, before it is queued instead. */
const blockedWriteMs = 2_000;
/** So many frames go out while the handlers of a tick still run: the host works on them meanwhile, instead of after. */
const framesAtOnce = 16;

const writer = new FrameWriter();
const running = new Map<number, HandlerContext>();
const schemas = new Map<number, EventSchema>();
const streams = new Map<number, ResponseStream>();
const calls = openCallWindow({
  send(id, number, call) {
    writeCall(writer, id, number, call);
    schedule();
  },
  runs: (id) => running.has(id),
});
const untilEmpty = new Set<() => void>();
let userFunction: UserFunction;
let facts: FunctionFacts;
let region: string;
let oneAtATime: boolean;
const callbacks = takesCallbacks(Number.parseInt(process.versions.node, 10));
let scheduled = false;
let unsent = 0;

// 1. Connect
const decoder = new FrameDecoder(onFrame);
const socket = new Socket({
  fd: socketFd,
  readable: true,
  writable: true,
  // One buffer for everything that is read: events are decoded before the next read fills it again.
  onread: {
    buffer: Buffer.allocUnsafeSlow(64 * 1024),
    callback(length, buffer) {
      decoder.push(buffer as Buffer, length);
      return true;
    },
  },
});
// Without the host there is nobody to work for.
socket.on('end', () => process.exit(0));
socket.on('error', () => process.exit(0));
socket.resume();
process.on('exit', () => flush(true));
process.on('beforeExit', () => {
  socket.ref();
  // It is busy with them, and only the socket knows of their answers.
  if (calls.pending) return;
  const waiting = [...untilEmpty];
  untilEmpty.clear();
  for (const then of waiting) then();
});
process.on('uncaughtException', (error, origin) => {
  const fault = thrownFault(error);
  if (origin === 'unhandledRejection') {
    endWith({
      ...fault,
      code: 'Runtime.UnhandledPromiseRejection',
      message: `${fault.code}: ${fault.message}`,
    });
  } else {
    endWith(fault);
  }
});

// 2. Hello
writeJson(writer, frameType.hello, 0, { protocolVersion, node: process.versions.node });
flush(true);

function onFrame(type: number, id: number, payload: FrameReader): void {
  if (type === frameType.invoke) invoke(id, readInvoke(payload, schemas));
  else if (type === frameType.cancel) cancel(id, payload.restText());
  else if (type === frameType.chunk) streams.get(id)?.taken(payload.u32());
  else if (type === frameType.callResult) {
    const { number, answer } = readCallResult(payload);
    calls.answered(number, answer);
    if (untilEmpty.size > 0 && !calls.pending) socket.unref();
  } else if (type === frameType.init) void init(jsonObject(payload.restText()) as unknown as Init);
}

async function init(init: Init): Promise<void> {
  // 3. The environment, before any user code: whole, so that nothing of the host's is left in it.
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, init.env);
  region = init.env['AWS_REGION']!;
  facts = factsOf(init, region);
  oneAtATime = init.concurrency === 1;

  // 4. What the handler finds around it
  captureConsole(currentRequestId, logControls(init.env).level, (frame) => {
    writeLog(writer, frame);
    // At once: a handler that spins, exits or crashes next has said where.
    flush(true);
  });
  provideAwsLambda();
  provideCalls();
  const own = import.meta.url;
  const exported = (name: string): string =>
    new URL(`../${name}${own.slice(own.lastIndexOf('.'))}`, own).href;
  const atoll: Readonly<Record<string, string>> = {
    atoll: exported('handler'),
    'atoll/telemetry': exported('telemetry'),
  };
  registerHooks({
    resolve: (specifier, context, next) => {
      const url = Object.hasOwn(atoll, specifier) ? atoll[specifier] : undefined;
      return url === undefined ? next(specifier, context) : { url, shortCircuit: true };
    },
  });

  // 5. Import
  try {
    await preload(init.root, init.env['NODE_OPTIONS']);
    userFunction = await loadUserFunction(init.root, init.handler, { callbacks });
  } catch (error) {
    return endWith(error instanceof LoadError ? { ...error.fault, retryable: false } : thrownFault(error));
  }

  // 6. Ready
  writer.begin(frameType.ready, 0).end();
  flush(true);
  // By itself Node writes it at a regular exit, and a handler process seldom has one.
  flushCompileCache();
}

function invoke(id: number, call: Call): void {
  let event: unknown;
  try {
    event = call.batch ? batchEvent(call.events, region) : handlerEvent(call.events[0]!);
  } catch (error) {
    return sendFault(id, { ...thrownFault(error), stack: [], retryable: false });
  }
  const context = new HandlerContext(facts, call, id, calls);
  running.set(id, context);
  if (isStreaming(userFunction)) return invokeStreaming(id, call, event, context);
  try {
    const returned = runAs(call, context, () => {
      if (oneAtATime) traceInEnvironment();
      return callbacks
        ? callWithCallback(userFunction, event, context, onEmptyLoop)
        : userFunction(event, context);
    });
    if (typeof (returned as PromiseLike<unknown> | undefined | null)?.then !== 'function') {
      return sendResult(id, returned);
    }
    (returned as PromiseLike<unknown>).then(
      (value) => sendResult(id, value),
      (error: unknown) => sendFault(id, thrownFault(error)),
    );
  } catch (error) {
    sendFault(id, thrownFault(error));
  }
}

/** Nothing holds the process but the host's socket: Node would end it. */
function onEmptyLoop(then: () => void): () => void {
  untilEmpty.add(then);
  socket.unref();
  return () => {
    if (untilEmpty.delete(then) && untilEmpty.size === 0) socket.ref();
  };
}

function invokeStreaming(id: number, call: Call, event: unknown, context: HandlerContext): void {
  const { stream, result } = openResponseStream(
    userFunction,
    call.stream
      ? (chunk, contentType) => {
          writeChunk(writer, id, chunk, contentType);
          schedule();
        }
      : undefined,
  );
  streams.set(id, stream);
  void runAs(call, context, () => {
    if (oneAtATime) traceInEnvironment();
    return runStreaming(userFunction, event, stream, context);
  })
    .then(
      () => {
        if (!endRunning(id)) return;
        writeResult(writer, id, { encoding: 'binary', ...result() });
        schedule();
      },
      (error: unknown) => {
        const fault = thrownFault(error);
        sendFault(id, { ...fault, retryable: fault.retryable && !(error instanceof InvalidResponse) });
      },
    )
    .finally(() => streams.delete(id));
}

function cancel(id: number, reason: string): void {
  // First: the handler's listener may do anything.
  writer.begin(frameType.stats, id).end();
  flush(false);
  const context = running.get(id);
  if (context === undefined) return;
  const error = new Error(reason);
  abort(context, error);
  streams.get(id)?.destroy(error);
}

function sendResult(id: number, value: unknown): void {
  let result: ReturnType<typeof encodeResult>;
  try {
    const context = running.get(id);
    result = encodeResult(value, context && schemaOf(context));
  } catch (error) {
    return sendFault(id, {
      ...thrownFault(error),
      stack: [],
      retryable: !(error instanceof InvalidResponse),
    });
  }
  // A second settlement of a strange thenable, and what comes after a fault, has no one to go to.
  if (!endRunning(id)) return;
  // A copy: the handler may write into its buffer again before it is sent.
  const data = typeof result.data === 'string' ? result.data : Buffer.from(result.data);
  writeResult(writer, id, { encoding: result.encoding, data });
  schedule();
}

/** False: it had ended already. */
function endRunning(id: number): boolean {
  calls.ended(id);
  return running.delete(id);
}

function sendFault(id: number, fault: ThrownFault): void {
  endRunning(id);
  writeJson(writer, frameType.fault, id, fault);
  schedule();
}

/** The process cannot go on; the host replaces it. */
function endWith(fault: ThrownFault): void {
  writeJson(writer, frameType.fault, 0, fault);
  flush(true);
  process.exit(fault.code === 'Runtime.UnhandledPromiseRejection' ? 128 : 129);
}

/** The frames of a tick together: nextTick runs when the microtasks of all that finished are through. */
function schedule(): void {
  unsent += 1;
  if (unsent >= framesAtOnce) flush(false);
  if (scheduled) return;
  scheduled = true;
  process.nextTick(flushScheduled);
}

function flushScheduled(): void {
  scheduled = false;
  flush(false);
}

/**
 * Writes straight to the descriptor, which costs less than a stream's write and is out when this returns.
 * When the socket is full: `wait` blocks for a while, as writing to a pipe would; else the stream takes over.
 */
function flush(wait: boolean): void {
  unsent = 0;
  if (writer.empty) return;
  const parts = writer.take();
  for (const [index, part] of parts.entries()) {
    let sent = socket.writableLength > 0 ? 0 : writeNow(part, wait);
    if (sent === part.length) continue;
    socket.cork();
    for (const rest of parts.slice(index)) {
      socket.write(sent > 0 ? rest.subarray(sent) : rest);
      sent = 0;
    }
    socket.uncork();
    return;
  }
  writer.reuse();
}

/** Returns how much went out. */
function writeNow(bytes: Uint8Array, wait: boolean): number {
  let sent = 0;
  for (let blockedMs = 0; sent < bytes.length;) {
    try {
      sent += writeSync(socketFd, bytes, sent);
    } catch (error) {
      // The host, or the descriptor, is gone.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') process.kill(process.pid, 'SIGKILL');
      if (!wait || blockedMs >= blockedWriteMs) return sent;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      blockedMs += 1;
    }
  }
  return sent;
}
