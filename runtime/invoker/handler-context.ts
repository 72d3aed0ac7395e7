/** The handler's second argument: Lambda's context, `signal` and `trigger`. */
import type { ClientContext, Context, TriggerInfo } from '../handler.ts';
import type { TriggerEvent } from '../event.ts';
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

/** `abort` is the cancel frame's end of `context.signal`. */
export function openContext(
  facts: FunctionFacts,
  call: Call,
): { context: Context; abort(reason: Error): void } {
  let controller: AbortController | undefined;
  let aborted: Error | undefined;
  let trigger: TriggerInfo | undefined;
  const event = call.events[0]!;
  const context: Context = {
    ...facts,
    awsRequestId: call.requestId,
    identity: undefined,
    clientContext: clientContextOf(event),
    callbackWaitsForEmptyEventLoop: true,
    getRemainingTimeInMillis: () => Math.max(0, Math.floor(call.deadlineMs - monotonicMs())),
    // Made when asked for: most handlers never look, and an AbortController per event is not free.
    get signal() {
      controller ??= new AbortController();
      if (aborted !== undefined && !controller.signal.aborted) controller.abort(aborted);
      return controller.signal;
    },
    get trigger() {
      return (trigger ??= triggerInfo(event));
    },
  };
  return {
    context,
    abort(reason) {
      aborted ??= reason;
      controller?.abort(aborted);
    },
  };
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
  if (event.kind !== 'invoke') return undefined;
  const sent = event.detail?.['clientContext'];
  if (typeof sent !== 'string') return undefined;
  try {
    const value: unknown = JSON.parse(Buffer.from(sent, 'base64').toString('utf8'));
    return typeof value === 'object' && value !== null ? (value as ClientContext) : undefined;
  } catch {
    return undefined;
  }
}
