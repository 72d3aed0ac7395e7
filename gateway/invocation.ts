/** One invocation for a caller: at once through the host, or later through the inbox. Lambda's door and ours share it. */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import type { FunctionObject } from '../crds/function.ts';
import type { Backend } from '../controller/backends/backend.ts';
import { type Key, keyText } from '../controller/stores/store.ts';
import { AtollError, type Code } from '../runtime/errors.ts';
import type { Inbox } from '../runtime/inbox.ts';
import type { Functions } from './functions.ts';
import { type Hosts, waitMs } from './hosts.ts';

/** Reserved: the trigger every function has without declaring it. */
export const invokeTrigger = 'invoke';

export interface InvocationRequest {
  readonly key: Key;
  /** JSON, checked by `payloadProblem`. */
  readonly payload: Uint8Array;
  /** The last 4 KB of the log are wanted. */
  readonly tail?: boolean;
  /** Lambda's client context: base64 of JSON. */
  readonly clientContext?: string | undefined;
  /** X-Amzn-Trace-Id of the call: what a handler that calls hands on. */
  readonly traceId?: string | undefined;
  /** The caller went away. */
  readonly signal: AbortSignal;
}

export interface InvocationAnswer {
  readonly requestId: string;
  /** False: `body` is Lambda's error object { errorType, errorMessage, trace }. */
  readonly ok: boolean;
  readonly contentType: string;
  readonly body: Uint8Array;
  /** base64 */
  readonly logTail?: string;
}

/** All reject with AtollError; FunctionNotFound when there is none of that name. */
export interface Invocations {
  /** Rejects with FunctionNotReady, TooManyRequests, TooLarge, Recursion or ConnectionLost. */
  call(request: InvocationRequest): Promise<InvocationAnswer>;
  /**
   * The event stream of Lambda's InvokeWithResponseStream, from its first byte on; how the invocation ended is its last
   * event. Rejects as `call`.
   */
  stream(request: InvocationRequest): Promise<{ requestId: string; contentType: string; body: Readable }>;
  /** Resolves when the inbox has stored it, also while the function is down. Rejects as `Inbox.put`. */
  enqueue(request: Pick<InvocationRequest, 'key' | 'payload' | 'traceId'>): Promise<{ requestId: string }>;
  /** Resolves if the function could be called. */
  check(key: Key): Promise<void>;
}

export function openInvocations(parts: {
  functions: Functions;
  backend: Pick<Backend, 'address'>;
  hosts: Hosts;
  inbox?: Pick<Inbox, 'put'>;
}): Invocations {
  const { functions, backend, hosts, inbox } = parts;

  async function existing(key: Key): Promise<FunctionObject> {
    const object = await functions.get(key);
    if (!object) throw new AtollError('FunctionNotFound', `there is no function ${keyText(key)}`);
    return object;
  }

  async function invoke(
    { key, payload, tail, clientContext, traceId, signal }: InvocationRequest,
    requestId: string,
    stream: boolean,
  ): Promise<Dispatcher.ResponseData> {
    const { spec } = await existing(key);
    const address = backend.address(key);
    if (address === undefined) throw notReady(key);
    return await hosts.request(address, {
      method: 'POST',
      path: `/invoke/${key.namespace}/${key.name}`,
      headers: {
        'content-type': 'application/json',
        'atoll-id': requestId,
        ...(stream && { 'atoll-stream': 'true' }),
        ...(tail && { 'atoll-tail': 'true' }),
        ...(clientContext !== undefined && { 'atoll-client-context': clientContext }),
        ...(traceId !== undefined && { 'x-amzn-trace-id': traceId }),
      },
      body: payload,
      signal,
      waitMs: waitMs(spec.timeoutSeconds),
    });
  }

  return {
    async call(request) {
      const { key } = request;
      const requestId = randomUUID();
      const response = await invoke(request, requestId, false);
      const body = new Uint8Array(await response.body.arrayBuffer());
      const outcome = response.headers['atoll-outcome'];
      if (response.statusCode !== 200 || outcome === undefined)
        throw refusalOf(response.statusCode, body, key);
      const logTail = response.headers['atoll-log-tail'];
      return {
        requestId,
        ok: outcome === 'returned',
        contentType: String(response.headers['content-type'] ?? 'application/json'),
        body,
        ...(typeof logTail === 'string' && { logTail }),
      };
    },
    async stream(request) {
      const requestId = randomUUID();
      const response = await invoke(request, requestId, true);
      const { body, statusCode, headers } = response;
      if (statusCode !== 200) {
        throw refusalOf(statusCode, new Uint8Array(await body.arrayBuffer()), request.key);
      }
      return { requestId, contentType: String(headers['content-type']), body };
    },
    async enqueue({ key, payload, traceId }) {
      await existing(key);
      if (!inbox)
        throw new AtollError('InboxUnavailable', 'this site has no JetStream: the event was not accepted');
      const requestId = randomUUID();
      await inbox.put(key, {
        id: requestId,
        trigger: invokeTrigger,
        kind: 'invoke',
        subject: key.name,
        time: Date.now(),
        attempt: 1,
        headers: traceId === undefined ? {} : { 'x-amzn-trace-id': traceId },
        encoding: 'json',
        data: payload,
      });
      return { requestId };
    },
    async check(key) {
      await existing(key);
    },
  };
}

function notReady(key: Key): AtollError {
  return new AtollError(
    'FunctionNotReady',
    `function ${keyText(key)} is not running at the moment; its status says why`,
  );
}

/** The host answered for itself, not for the handler. */
function refusalOf(statusCode: number, body: Uint8Array, key: Key): AtollError {
  const code = (
    {
      404: 'FunctionNotReady',
      413: 'TooLarge',
      429: 'TooManyRequests',
      503: 'FunctionNotReady',
      508: 'Recursion',
    } as Record<number, Code>
  )[statusCode];
  // The store knows the function: a host that does not know it is about to.
  if (code === 'FunctionNotReady') return notReady(key);
  return new AtollError(code ?? 'Internal', messageIn(body) ?? `the host answered ${statusCode}`);
}

function messageIn(body: Uint8Array): string | undefined {
  try {
    const { message } = JSON.parse(Buffer.from(body).toString()) as { message?: unknown };
    return typeof message === 'string' ? message : undefined;
  } catch {
    return undefined;
  }
}

/** What is longer is none of Lambda's, and would be carried from call to call. */
const maxTraceIdLength = 1024;

/** The trace that a caller hands on, a handler by AWS's SDK among them. */
export function traceIdOf({ raw }: { raw: IncomingMessage }): string | undefined {
  const value = raw.headers['x-amzn-trace-id'];
  return typeof value === 'string' && value.length <= maxTraceIdLength ? value : undefined;
}

/** No payload is an empty object, as Lambda has it. */
export function payloadOf(body: Uint8Array): Uint8Array {
  return body.length === 0 ? Buffer.from('{}') : body;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Why these bytes are not JSON; undefined if they are. */
export function payloadProblem(payload: Uint8Array): string | undefined {
  try {
    JSON.parse(utf8.decode(payload));
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
