/** The handler's second argument: Lambda's context, `signal` and `trigger`. */
import type { ClientContext, Context, TriggerInfo } from '../handler.ts';
import type { EventSchema, TriggerEvent } from '../event.ts';
import type { CallWindow } from './call-window.ts';
import { monotonicMs } from './clock.ts';
import type { Call, Init } from './protocol.ts';

/** What all invocations of a process have in common. */
export interface FunctionFacts {
  readonly functionName: string;
  readonly functionVersion: string;
  readonly packageSha256: string;
  readonly invokedFunctionArn: string;
  readonly memoryLimitInMB: string;
  readonly logGroupName: string;
  readonly logStreamName: string;
}

export function factsOf(init: Init, region: string): FunctionFacts {
  return {
    functionName: init.name,
    functionVersion: init.functionVersion,
    packageSha256: init.packageSha256,
    invokedFunctionArn: `arn:aws:lambda:${region}:000000000000:function:${init.name}`,
    memoryLimitInMB: String(init.memoryMiB),
    logGroupName: logGroupOf(init),
    logStreamName: init.logStream,
  };
}

export function logGroupOf({ namespace, name }: { namespace: string; name: string }): string {
  return `/aws/lambda/${namespace}/${name}`;
}

// A key, not a private field: a library may hand the handler a Proxy of the context.
const invocation = Symbol('invocation');

/**
 * A class because one is made for every event: an object literal with getters and a spread cost 1.2 µs, this
 * costs a twentieth of that. What Lambda has are own properties, so that spreading a context keeps them.
 */
export class HandlerContext implements Context {
  readonly functionName: string;
  readonly functionVersion: string;
  readonly packageSha256: string;
  readonly invokedFunctionArn: string;
  readonly memoryLimitInMB: string;
  readonly logGroupName: string;
  readonly logStreamName: string;
  readonly awsRequestId: string;
  readonly identity = undefined;
  readonly clientContext: ClientContext | undefined;
  callbackWaitsForEmptyEventLoop = true;
  readonly getRemainingTimeInMillis: () => number;
  readonly [invocation]: {
    readonly event: TriggerEvent;
    readonly id: number;
    readonly calls: CallWindow;
    controller: AbortController | undefined;
    aborted: Error | undefined;
    trigger: TriggerInfo | undefined;
  };

  /** `id` is the invocation's, in `calls`, which take what the handler asks of its host. */
  constructor(facts: FunctionFacts, call: Call, id: number, calls: CallWindow) {
    const event = call.events[0]!;
    const { deadlineMs } = call;
    this.functionName = facts.functionName;
    this.functionVersion = facts.functionVersion;
    this.packageSha256 = facts.packageSha256;
    this.invokedFunctionArn = facts.invokedFunctionArn;
    this.memoryLimitInMB = facts.memoryLimitInMB;
    this.logGroupName = facts.logGroupName;
    this.logStreamName = facts.logStreamName;
    this.awsRequestId = call.requestId;
    this.clientContext = event.kind === 'invoke' ? clientContextOf(event) : undefined;
    this.getRemainingTimeInMillis = () => Math.max(0, Math.floor(deadlineMs - monotonicMs()));
    this[invocation] = { event, id, calls, controller: undefined, aborted: undefined, trigger: undefined };
  }

  /** Made when asked for: most handlers never look. */
  get signal(): AbortSignal {
    const state = this[invocation];
    state.controller ??= new AbortController();
    if (state.aborted !== undefined && !state.controller.signal.aborted)
      state.controller.abort(state.aborted);
    return state.controller.signal;
  }

  get trigger(): TriggerInfo {
    const state = this[invocation];
    return (state.trigger ??= triggerInfo(state.event));
  }
}

/** What a cancel frame does. */
export function abort(context: HandlerContext, reason: Error): void {
  const state = context[invocation];
  state.aborted ??= reason;
  state.controller?.abort(state.aborted);
  state.calls.abort(state.id, state.aborted);
}

/** The invocation's number, where its calls go, and why it was aborted. */
export function callsOf(context: HandlerContext): { id: number; calls: CallWindow; aborted?: Error } {
  return context[invocation] as { id: number; calls: CallWindow; aborted?: Error };
}

/** Of the event that is handled. */
export function schemaOf(context: HandlerContext): EventSchema | undefined {
  return context[invocation].event.schema;
}

function triggerInfo(event: TriggerEvent): TriggerInfo {
  // An http event's detail is the event itself, and invoke's is the client context: both are elsewhere.
  const detail = event.kind === 'http' || event.kind === 'invoke' ? undefined : event.detail;
  return {
    ...detail,
    kind: event.kind,
    name: event.trigger,
    subject: event.subject,
    id: event.id,
    time: event.time,
    attempt: event.attempt,
    headers: event.headers,
  };
}

/** Base64 JSON, as X-Amz-Client-Context carries it. What cannot be read is as if it had not been sent. */
function clientContextOf(event: TriggerEvent): ClientContext | undefined {
  const sent = event.detail?.['clientContext'];
  if (typeof sent !== 'string') return undefined;
  try {
    const value: unknown = JSON.parse(Buffer.from(sent, 'base64').toString('utf8'));
    return typeof value === 'object' && value !== null ? (value as ClientContext) : undefined;
  } catch {
    return undefined;
  }
}
