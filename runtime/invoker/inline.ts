/**
 * The Invoker without a process: the handler runs here. For the debugger and for this interface's own suite;
 * it cannot end what spins, and what the handler does to its process it does to ours.
 */
import { randomUUID } from 'node:crypto';
import { registerHooks } from 'node:module';
import type { Outcome } from '../event.ts';
import { noCalls, type Caller } from '../calls/calls.ts';
import { AtollError, errorCodes, type Code, type Fault } from '../errors.ts';
import { provideAwsLambda } from './aws-lambda.ts';
import { openCallWindow, provideCalls } from './call-window.ts';
import { monotonicMs } from './clock.ts';
import { callWithCallback, takesCallbacks } from './callback.ts';
import { captureConsole } from './console.ts';
import { handlerEnvironment } from './environment.ts';
import { abort, factsOf, HandlerContext, type FunctionFacts } from './handler-context.ts';
import { batchEvent, handlerEvent } from './handler-event.ts';
import { encodeResult } from './handler-result.ts';
import { currentRequestId, runAs } from './invoke-store.ts';
import type { Invocation, Invoker, InvokerState } from './invoker.ts';
import { isBelow, logControls } from './log-controls.ts';
import { readLogLine } from './log-line.ts';
import { callerOf, type PoolOptions } from './pool.ts';
import type { Call } from './protocol.ts';
import { isStreaming, openResponseStream, runStreaming } from './response-stream.ts';
import { Tail } from './tail.ts';
import { thrownFault } from './thrown.ts';
import { LoadError, loadUserFunction, preload, type UserFunction } from './user-function.ts';

const mebibyte = 1024 * 1024;

export function openInline(options: PoolOptions): Invoker {
  const { namespace, name } = options.function;
  const functionVersion = options.version.slice(0, 12);
  const memoryMiB = Math.floor(options.memoryBytes / mebibyte);
  const capacity = options.processes * options.concurrency;
  const callbacks = takesCallbacks(Number.parseInt(options.runtime.slice('nodejs'.length), 10));
  const listeners: ((state: InvokerState) => void)[] = [];
  const tails = new Map<string, Tail>();
  const queue: (() => void)[] = [];
  const running = new Set<{ giveBack(): void; done: Promise<unknown> }>();
  const callers = new Map<number, Caller>();
  const host = options.calls ?? noCalls;
  const calls = openCallWindow({
    send(id, number, call) {
      void host.make(call, callers.get(id)!).then((answer) => calls.answered(number, answer));
    },
    runs: (id) => callers.has(id),
  });
  let lastId = 0;
  const undo: (() => void)[] = [];
  let state: InvokerState = { ready: false, reason: 'Starting', message: 'importing the handler' };
  let userFunction: UserFunction;
  let facts: FunctionFacts;
  let region = '';
  let initDurationMs = 0;
  let used = false;
  let draining = false;

  const enter = (next: InvokerState) => {
    state = next;
    for (const listener of listeners) listener(next);
  };

  async function start(): Promise<void> {
    const begun = monotonicMs();
    const { handler, root, concurrency, runtime, env } = options;
    const common = { namespace, name, functionVersion, handler, root, memoryMiB, concurrency };
    const logStream = `inline/${process.pid}`;
    const environment = handlerEnvironment({ ...common, logStream, runtime, env }, process.env);
    const controls = logControls(env);
    const before = { ...process.env };
    Object.assign(process.env, environment);
    undo.push(() => {
      for (const key of Object.keys(environment)) delete process.env[key];
      Object.assign(process.env, before);
    });
    region = environment['AWS_REGION']!;
    facts = factsOf({ ...common, packageSha256: options.version, logStream, env: environment }, region);
    undo.push(
      captureConsole(currentRequestId, controls.level, (frame) => {
        const { requestId, timeMs } = frame;
        tails.get(requestId)?.line(timeMs, frame.level, frame.message);
        const known = { namespace, function: name, ...(requestId !== '' && { requestId }) };
        const line =
          controls.format === 'JSON' && !frame.fields ? readLogLine(frame.message, known) : undefined;
        const { message, fields } = line ?? frame;
        const level = line?.level ?? frame.level;
        if (line && isBelow(level, controls.level)) return;
        const time = new Date(timeMs).toISOString();
        options.log({ ...fields, time, level, message, ...known, source: 'handler' });
      }),
    );
    provideAwsLambda();
    undo.push(provideCalls());
    const own = import.meta.url;
    const atoll = new URL(`../handler${own.slice(own.lastIndexOf('.'))}`, own).href;
    const hooks = registerHooks({
      resolve: (specifier, context, next) =>
        specifier === 'atoll' ? { url: atoll, shortCircuit: true } : next(specifier, context),
    });
    undo.push(() => hooks.deregister());
    try {
      await preload(root, environment['NODE_OPTIONS']);
      userFunction = await loadUserFunction(root, handler, { callbacks });
    } catch (error) {
      const fault: Fault = error instanceof LoadError ? error.fault : thrownFault(error);
      enter({ ready: false, reason: fault.code, message: fault.message });
      const code = Object.hasOwn(errorCodes, fault.code) ? (fault.code as Code) : 'Runtime.InitError';
      throw new AtollError(code, fault.message, { cause: fault });
    }
    initDurationMs = monotonicMs() - begun;
    enter({ ready: true, reason: 'Ready', message: '' });
  }

  async function invoke(invocation: Invocation): Promise<Outcome> {
    if (draining) return ended(undefined, 0, false, { kind: 'returnedUnrun', fault: drained, began: false });
    if (running.size >= capacity) await new Promise<void>((free) => queue.push(free));
    if (draining) return ended(undefined, 0, false, { kind: 'returnedUnrun', fault: drained, began: false });
    const first = invocation.events[0]!;
    const requestId = invocation.events.length === 1 ? first.id : randomUUID();
    const batch = invocation.batch === true || invocation.events.length > 1;
    const deadlineMs = monotonicMs() + invocation.deadline - Date.now();
    const { onChunk } = invocation;
    const stream = onChunk !== undefined;
    const call: Call = { requestId, deadlineMs, batch, stream, events: invocation.events };
    const tail = invocation.tail ? new Tail(requestId, functionVersion) : undefined;
    if (tail) tails.set(requestId, tail);
    const cold = !used;
    used = true;
    const begun = monotonicMs();
    const id = (lastId += 1);
    const away = new AbortController();
    callers.set(id, callerOf(invocation, deadlineMs, away.signal));
    const context = new HandlerContext(facts, call, id, calls);
    const response = isStreaming(userFunction)
      ? openResponseStream(
          userFunction,
          onChunk &&
            ((chunk, contentType) => {
              // Ours to give away; the handler's to write over.
              onChunk(Buffer.from(chunk), contentType).then(
                () => response?.stream.taken(chunk.length),
                (error: unknown) => cancel((error as Error).message),
              );
            }),
        )
      : undefined;
    const cancel = (reason: string) => {
      const error = new Error(reason);
      abort(context, error);
      away.abort(error);
      response?.stream.destroy(error);
    };
    const onAbort = () => cancel('the caller went away');
    invocation.signal?.addEventListener('abort', onAbort, { once: true });
    if (invocation.signal?.aborted) onAbort();

    const over = Promise.withResolvers<Ending>();
    const timer = setTimeout(
      () => {
        const reason = `the invocation took longer than ${options.timeoutMs} ms`;
        cancel(reason);
        const seconds = (options.timeoutMs / 1000).toFixed(2);
        const message = `RequestId: ${requestId} Error: Task timed out after ${seconds} seconds`;
        over.resolve({ kind: 'timedOut', fault: { code: 'Sandbox.Timedout', message } });
      },
      Math.ceil(deadlineMs - begun) + 1,
    );
    void runAs(call, context, async (): Promise<Ending> => {
      try {
        const event = batch ? batchEvent(call.events, region) : handlerEvent(first);
        if (response) {
          await runStreaming(userFunction, event, response.stream, context);
          return { kind: 'returned', result: { encoding: 'binary', ...response.result() } };
        }
        const { encoding, data } = encodeResult(
          await (callbacks
            ? callWithCallback(userFunction, event, context, undefined)
            : userFunction(event, context)),
          first.schema,
        );
        return { kind: 'returned', result: { encoding, data: Buffer.from(data as string) } };
      } catch (error) {
        const { retryable, ...fault } = thrownFault(error);
        const ours = fault.code === 'Runtime.InvalidEvent' || fault.code === 'Runtime.InvalidResponse';
        return { kind: 'threw', fault, retryable: retryable && !ours };
      }
    }).then(over.resolve);
    const entry = {
      giveBack: () => over.resolve({ kind: 'returnedUnrun', fault: drained, began: true }),
      done: over.promise,
    };
    running.add(entry);
    const ending = await over.promise;
    calls.ended(id);
    callers.delete(id);
    clearTimeout(timer);
    invocation.signal?.removeEventListener('abort', onAbort);
    running.delete(entry);
    tails.delete(requestId);
    queue.shift()?.();
    return ended(requestId, monotonicMs() - begun, cold, ending, tail);
  }

  function ended(
    requestId: string | undefined,
    durationMs: number,
    coldStart: boolean,
    ending: Ending,
    tail?: Tail,
  ): Outcome {
    const report = {
      requestId: requestId ?? '',
      durationMs,
      maxMemoryMiB: Math.ceil(process.memoryUsage.rss() / mebibyte),
      coldStart,
      ...(coldStart && { initDurationMs }),
    };
    return { ...ending, report, ...(tail && { tail: tail.end(report, memoryMiB) }) };
  }

  return {
    start,
    invoke,
    capacity,
    get state() {
      return state;
    },
    onState: (listener) => void listeners.push(listener),
    async drain(deadline) {
      draining = true;
      for (const free of queue.splice(0)) free();
      const giveBack = setTimeout(
        () => {
          for (const run of running) run.giveBack();
        },
        Math.max(0, deadline - Date.now()),
      );
      await Promise.all([...running].map(({ done }) => done));
      clearTimeout(giveBack);
      for (const back of undo.splice(0).reverse()) back();
      enter({ ready: false, reason: 'Runtime.Drained', message: drained.message });
    },
  };
}

type Ending = Outcome extends infer O ? (O extends Outcome ? Omit<O, 'report' | 'tail'> : never) : never;

const drained: Fault = {
  code: 'Runtime.Drained',
  message: 'the function was stopped, so the event was handed back',
};
