/**
 * `globalThis.awslambda.InvokeStore`: what @aws/lambda-invoke-store, and through it Powertools and the AWS
 * SDK, finds instead of making its own. One store per invocation, also with concurrency > 1.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { hopsHeader, hopsOf, nextTraceId } from '../lineage.ts';
import type { HandlerContext } from './handler-context.ts';
import type { Call } from './protocol.ts';

type Store = Record<string | symbol, unknown>;

const protectedKeys = {
  REQUEST_ID: Symbol.for('_AWS_LAMBDA_REQUEST_ID'),
  X_RAY_TRACE_ID: Symbol.for('_AWS_LAMBDA_X_RAY_TRACE_ID'),
  TENANT_ID: Symbol.for('_AWS_LAMBDA_TENANT_ID'),
  TRACEPARENT: Symbol.for('_AWS_LAMBDA_TRACEPARENT'),
  TRACESTATE: Symbol.for('_AWS_LAMBDA_TRACESTATE'),
  BAGGAGE: Symbol.for('_AWS_LAMBDA_BAGGAGE'),
} as const;

const invocations = new AsyncLocalStorage<Store>();

/** Where an event says what Lambda's runtime is told beside it: headers by the names of W3C and AWS. */
const carried = [
  ['traceparent', protectedKeys.TRACEPARENT],
  ['tracestate', protectedKeys.TRACESTATE],
  ['baggage', protectedKeys.BAGGAGE],
  ['x-amz-tenant-id', protectedKeys.TENANT_ID],
] as const;

/** The store of one invocation. Its trace is made when it is asked for: most handlers never do. */
class Invocation {
  [key: string | symbol]: unknown;
  readonly #call: Call;
  readonly #context: HandlerContext;
  #traceId: string | undefined;

  constructor(call: Call, context: HandlerContext) {
    this.#call = call;
    this.#context = context;
    this[protectedKeys.REQUEST_ID] = call.requestId;
  }

  get [protectedKeys.X_RAY_TRACE_ID](): string {
    return (this.#traceId ??= nextTraceId(headersOf(this.#call)));
  }

  /** Out of reach of who has the store. */
  static contextOf(store: Store | undefined): HandlerContext | undefined {
    return store !== undefined && #context in store ? store.#context : undefined;
  }
}

/** The events of a batch share no headers; of their chains the longest counts. */
function headersOf({ batch, events }: Call): Readonly<Record<string, string>> {
  const longest = events.reduce((most, event) =>
    hopsOf(event.headers) > hopsOf(most.headers) ? event : most,
  );
  return batch ? { [hopsHeader]: String(hopsOf(longest.headers)) } : longest.headers;
}

/** Runs `invocation` and all that it starts under the call's request id. */
export function runAs<T>(call: Call, context: HandlerContext, invocation: () => T): T {
  const store: Store = new Invocation(call, context);
  if (!call.batch) {
    const { headers } = call.events[0]!;
    for (const [header, key] of carried) {
      const value = headers[header];
      if (value !== undefined) store[key] = value;
    }
  }
  return invocations.run(store, invocation);
}

/**
 * Where one invocation runs at a time, libraries look for its trace in the environment; where several do, Lambda has it
 * in the InvokeStore alone.
 */
export function traceInEnvironment(): void {
  process.env['_X_AMZN_TRACE_ID'] = String(invokeStore.getXRayTraceId());
}

/** Empty outside of an invocation. */
export function currentRequestId(): string {
  const id = invocations.getStore()?.[protectedKeys.REQUEST_ID];
  return typeof id === 'string' ? id : '';
}

/** Undefined outside of an invocation. */
export const currentContext = (): HandlerContext | undefined => Invocation.contextOf(invocations.getStore());

export const invokeStore = {
  run: <T>(context: Store, callback: () => T): T => invocations.run(context, callback),
  getContext: () => invocations.getStore(),
  hasContext: () => invocations.getStore() !== undefined,
  get: (key: string | symbol) => invocations.getStore()?.[key],
  set(key: string | symbol, value: unknown) {
    if ((Object.values(protectedKeys) as (string | symbol)[]).includes(key)) {
      throw new Error(`the invocation's own field ${String(key)} cannot be changed`);
    }
    const store = invocations.getStore();
    if (store === undefined) throw new Error('there is no invocation here');
    store[key] = value;
  },
  getRequestId: () => currentRequestId() || '-',
  getXRayTraceId: () => invocations.getStore()?.[protectedKeys.X_RAY_TRACE_ID],
  getTenantId: () => invocations.getStore()?.[protectedKeys.TENANT_ID],
  getTraceparent: () => invocations.getStore()?.[protectedKeys.TRACEPARENT],
  getTracestate: () => invocations.getStore()?.[protectedKeys.TRACESTATE],
  getBaggage: () => invocations.getStore()?.[protectedKeys.BAGGAGE],
};
