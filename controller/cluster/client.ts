/** Requests to a Kubernetes API server: credentials of every kind, waits that end, errors with what the server said. */
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { DecoratorHandler, errors, Pool, ProxyAgent, type Dispatcher } from 'undici';
import { AtollError, type Code } from '../../runtime/errors.ts';
import { openCredentials, type Credentials, type TlsOptions } from './credentials.ts';
import { readAccess, type AccessOptions } from './kubeconfig.ts';

export interface ClusterOptions extends AccessOptions {
  /** How the server's audit log calls us. */
  readonly userAgent?: string;
  /** ms until an answer begins, and between two parts of it. */
  readonly answerMs?: number;
}

export interface RequestOptions {
  /** What is undefined is left out. */
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  readonly body?: unknown;
  /** Default: `application/json`; a patch needs its own. */
  readonly contentType?: string;
  readonly signal?: AbortSignal;
  /** ms for the whole exchange. */
  readonly timeoutMs?: number;
}

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface Cluster {
  /** The API server's address. */
  readonly server: string;
  /** Of the kubeconfig's context, or the Pod's own; else `default`. */
  readonly namespace: string;
  /** The answer's JSON. Rejects with ClusterError. */
  request<T = unknown>(method: Method, path: string, options?: RequestOptions): Promise<T>;
  /**
   * Lines of an answer that goes on (a watch, a log that is followed), until it ends or `signal` aborts. Rejects with
   * ClusterError, also when nothing came for `silentMs`: nothing else shows a connection that is open at one end only.
   */
  lines(path: string, options: LinesOptions): AsyncIterable<string>;
  /**
   * One request whose answer comes as it is, whatever its status: for a program behind the API server's proxy. No time
   * limit. Rejects with ClusterError when there is no answer.
   */
  exchange(method: string, path: string, options: ExchangeOptions): Promise<Exchanged>;
  /** The token that the API server is shown; undefined: it is shown a certificate. */
  bearer(): Promise<string | undefined>;
  /**
   * The same server and connections. `mayWrite` is asked at the moment a request other than GET would go out on its
   * connection; when it throws, the request is not sent and rejects with that.
   */
  guarded(mayWrite: () => void): Cluster;
  /** Cuts what is open. */
  close(): Promise<void>;
}

export interface ExchangeOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Exchanged {
  readonly statusCode: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Readable;
}

export interface LinesOptions extends Pick<RequestOptions, 'query' | 'signal'> {
  readonly silentMs: number;
}

/** One reason of a refusal, as the API server's Status gives it. */
export interface Cause {
  /** `spec.timeoutSeconds` */
  readonly field?: string;
  readonly reason?: string;
  readonly message?: string;
}

/** What the API server refused, or why it could not be asked. */
export class ClusterError extends AtollError {
  /** HTTP's; undefined: no answer came. */
  readonly status: number | undefined;
  /** Kubernetes' word for it, such as `AlreadyExists`; undefined also when what answered was no Kubernetes API. */
  readonly reason: string | undefined;
  readonly causes: readonly Cause[];
  /** When the server says so: not before. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: Code,
    message: string,
    facts: {
      status?: number;
      reason?: string | undefined;
      causes?: readonly Cause[];
      retryAfterMs?: number | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(code, message, facts.cause === undefined ? {} : { cause: facts.cause });
    this.status = facts.status;
    this.reason = facts.reason;
    this.causes = facts.causes ?? [];
    this.retryAfterMs = facts.retryAfterMs;
  }
}

export interface Resource {
  /** '' is the core group. */
  readonly group: string;
  readonly version: string;
  /** `functions` */
  readonly plural: string;
}

/** `/apis/atoll.dev/v1alpha1/namespaces/lab/functions/hello/status`; without a namespace: of all namespaces. */
export function resourcePath(
  { group, version, plural }: Resource,
  at: { namespace?: string | undefined; name?: string; subresource?: string } = {},
): string {
  const parts = [
    ...(group === '' ? ['api', version] : ['apis', group, version]),
    ...(at.namespace === undefined ? [] : ['namespaces', at.namespace]),
    plural,
    ...(at.name === undefined ? [] : [at.name]),
    ...(at.subresource === undefined ? [] : [at.subresource]),
  ];
  return `/${parts.map(encodeURIComponent).join('/')}`;
}

const defaultAnswerMs = 30_000;
const connectMs = 10_000;
/** The API server closes a connection that was idle for 90 s. */
const idleMs = 60_000;
/** Finds a dead connection below HTTP: a cable that was pulled, a NAT that forgot. */
const tcpKeepAliveMs = 15_000;
/** Files of tokens and certificates change while we run; kubelet renews a token long before it ends. */
const credentialsMs = 60_000;
/** A server that is starting or busy says 429 and when to come back. */
const busyAttempts = 4;
const busyWaitMs = { least: 200, most: 5_000 };

/** Rejects with AtollError ClusterUnavailable when there is no usable configuration. */
export async function openCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const answerMs = options.answerMs ?? defaultAnswerMs;
  let access = readAccess(options);
  let readCredentials = openCredentials(access);
  const { server } = access.cluster;
  const origin = new URL(server);
  const prefix = origin.pathname.replace(/\/+$/, '');

  let connecting: Promise<Connection> | undefined;
  let current: Connection | undefined;
  let validUntilMs = 0;
  let closed = false;
  const pools = new Set<Dispatcher>();

  /** The credentials of now. Only one reading at a time: a plug-in may take seconds and ask a person. */
  function connect(): Connection | Promise<Connection> {
    if (current && performance.now() < validUntilMs) return current;
    connecting ??= reconnect().finally(() => (connecting = undefined));
    return connecting;
  }

  async function reconnect(): Promise<Connection> {
    const { headers, tls } = await readCredentials();
    const proxy = access.cluster['proxy-url'] || undefined;
    validUntilMs = performance.now() + credentialsMs;
    const before = current;
    if (before && sameTls(before.tls, tls) && before.proxy === proxy) {
      return (current = { ...before, headers });
    }
    const pool = openPool(origin, tls, proxy, answerMs);
    pools.add(pool);
    // What is under way on the old one ends by itself.
    if (before) void before.pool.close().finally(() => pools.delete(before.pool));
    return (current = { headers, tls, proxy, pool });
  }

  /** After a 401: whatever was read so far is old, the kubeconfig itself included. */
  function forgetCredentials(used: Connection): void {
    if (current !== used) return;
    validUntilMs = 0;
    try {
      access = readAccess(options);
      readCredentials = openCredentials(access);
    } catch {
      // It is being written; the next 401 tries again.
    }
  }

  async function send(
    method: Method,
    path: string,
    { query, body, contentType = 'application/json', signal, timeoutMs }: RequestOptions,
    how: { silentMs?: number; mayWrite?: (() => void) | undefined },
  ): Promise<Dispatcher.ResponseData> {
    const what = `${method} ${path}`;
    const ends = [signal, timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs)];
    const either = AbortSignal.any(ends.filter((one) => one !== undefined));
    const text = body === undefined ? null : JSON.stringify(body);
    for (let attempt = 1, renewed = false; ; attempt++) {
      if (closed) throw new ClusterError('ClusterUnavailable', `${what}: the connection was closed`);
      let used: Connection | undefined;
      let response: Dispatcher.ResponseData;
      try {
        either.throwIfAborted();
        used = await connect();
        const pool = how.mayWrite && method !== 'GET' ? asking(used.pool, how.mayWrite) : used.pool;
        response = await unlessAborted(
          either,
          pool.request({
            origin: origin.origin,
            method,
            path: `${prefix}${path}${queryText(query)}`,
            headers: {
              ...used.headers,
              // A log is plain text.
              accept: 'application/json, */*',
              'user-agent': options.userAgent ?? 'atoll',
              ...(text !== null && { 'content-type': contentType }),
            },
            body: text,
            signal: either,
            headersTimeout: answerMs,
            bodyTimeout: how.silentMs ?? answerMs,
          }),
        );
      } catch (error) {
        // The server closed a connection that lay idle just as it was used again.
        if (method === 'GET' && error instanceof errors.SocketError && attempt === 1) continue;
        throw unreachable(what, server, error);
      }
      if (response.statusCode < 300) return response;
      const refusal = await refusalOf(what, response);
      if (refusal.status === 401 && !renewed) {
        renewed = true;
        forgetCredentials(used);
        continue;
      }
      if (refusal.status === 429 && attempt < busyAttempts && how.silentMs === undefined) {
        const waitMs = Math.max(refusal.retryAfterMs ?? 0, busyWaitMs.least);
        if (waitMs <= busyWaitMs.most) {
          await pause(waitMs * (1 + Math.random() / 2), undefined, { signal: either }).catch(() => {});
          continue;
        }
      }
      throw refusal;
    }
  }

  const withGuard = (mayWrite?: () => void): Cluster => ({
    server,
    namespace: access.namespace,
    async request<T>(method: Method, path: string, request: RequestOptions = {}): Promise<T> {
      const { body } = await send(method, path, request, { mayWrite });
      try {
        return (await body.json()) as T;
      } catch (error) {
        throw unreachable(`${method} ${path}`, server, error);
      }
    },
    async *lines(path, { silentMs, ...request }) {
      const { body } = await send('GET', path, request, { silentMs });
      const decoder = new TextDecoder();
      let rest = '';
      try {
        for await (const chunk of body as AsyncIterable<Uint8Array>) {
          rest += decoder.decode(chunk, { stream: true });
          const lines = rest.split('\n');
          rest = lines.pop() ?? '';
          yield* lines;
        }
      } catch (error) {
        throw unreachable(`GET ${path}`, server, error);
      }
      if (rest !== '') yield rest;
    },
    async exchange(method, path, { headers, body, signal }) {
      try {
        const used = await connect();
        const pool = mayWrite && method !== 'GET' ? asking(used.pool, mayWrite) : used.pool;
        return await pool.request({
          origin: origin.origin,
          method: method as Dispatcher.HttpMethod,
          path: `${prefix}${path}`,
          headers: { ...headers, ...used.headers, 'user-agent': options.userAgent ?? 'atoll' },
          body: body ?? null,
          ...(signal && { signal }),
          headersTimeout: 0,
          bodyTimeout: 0,
        });
      } catch (error) {
        throw unreachable(`${method} ${path}`, server, error);
      }
    },
    async bearer() {
      const { headers } = await connect();
      return /^bearer (.+)$/i.exec(String(headers['authorization'] ?? ''))?.[1];
    },
    guarded: (next) => withGuard(next),
    async close() {
      closed = true;
      await Promise.all([...pools].map((pool) => pool.destroy()));
    },
  });
  return withGuard();
}

interface Connection extends Credentials {
  readonly proxy: string | undefined;
  readonly pool: Dispatcher;
}

const sameTls = (one: TlsOptions, other: TlsOptions): boolean => {
  const text = ({ ca, cert, key, servername, rejectUnauthorized }: TlsOptions): string =>
    [ca, cert, key, servername, rejectUnauthorized].map(String).join('\n');
  return text(one) === text(other);
};

function openPool(origin: URL, tls: TlsOptions, proxy: string | undefined, answerMs: number): Dispatcher {
  const connect = {
    ...tls,
    timeout: Math.min(connectMs, answerMs),
    keepAliveInitialDelay: tcpKeepAliveMs,
  } as Pool.Options['connect'];
  const shared = { headersTimeout: answerMs, bodyTimeout: answerMs, keepAliveTimeout: idleMs };
  if (proxy === undefined) return new Pool(origin.origin, { ...shared, connect });
  if (!/^https?:/.test(proxy)) {
    throw new ClusterError('ClusterUnavailable', `proxy-url "${proxy}" must be http:// or https://`);
  }
  return new ProxyAgent({ ...shared, uri: proxy, requestTls: connect as object });
}

/**
 * A request that waits for its connection does not look at its signal. What is left behind here is not sent: it looks
 * when it is to be written.
 */
async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  work.catch(() => {});
  return Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener('abort', abort));
}

function asking(pool: Dispatcher, mayWrite: () => void): Dispatcher {
  return pool.compose((dispatch) => (options, handler) => dispatch(options, new Asking(handler, mayWrite)));
}

/** The package's types leave out what its handlers are called with. */
const PassingOn = DecoratorHandler as unknown as new (handler: Dispatcher.DispatchHandler) => {
  onRequestStart(controller: Dispatcher.DispatchController, context: unknown): void;
};

/** Asks at the last moment: a request may have waited for its connection, or its process for being woken. */
class Asking extends PassingOn {
  readonly #mayWrite: () => void;

  constructor(handler: Dispatcher.DispatchHandler, mayWrite: () => void) {
    super(handler);
    this.#mayWrite = mayWrite;
  }

  override onRequestStart(controller: Dispatcher.DispatchController, context: unknown): void {
    super.onRequestStart(controller, context);
    this.#mayWrite();
  }
}

function queryText(query: RequestOptions['query'] = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  if (given.length === 0) return '';
  const texts = given.map(([name, value]): [string, string] => [name, String(value)]);
  return `?${new URLSearchParams(texts).toString()}`;
}

interface Status {
  readonly message?: string;
  readonly reason?: string;
  readonly details?: { readonly causes?: Cause[]; readonly retryAfterSeconds?: number };
}

async function refusalOf(what: string, response: Dispatcher.ResponseData): Promise<ClusterError> {
  const status = response.statusCode;
  const text = await response.body.text().catch(() => '');
  return refusal(what, status, text, Number(response.headers['retry-after']));
}

function refusal(what: string, status: number, text: string, retryAfterSeconds: number): ClusterError {
  let said: Status = {};
  try {
    said = JSON.parse(text) as Status;
  } catch {
    // Not a Status: an unknown path, or a proxy in between.
  }
  const after = said.details?.retryAfterSeconds ?? retryAfterSeconds;
  const message = said.message ?? `${what}: HTTP ${status} ${text.slice(0, 200).trim()}`;
  return new ClusterError(codeOf(status), message, {
    status,
    reason: said.reason,
    causes: said.details?.causes ?? [],
    retryAfterMs: Number.isFinite(after) && after > 0 ? after * 1000 : undefined,
  });
}

/** The `object` of a watch's event of type ERROR. */
export function errorOfWatch(what: string, object: unknown): ClusterError {
  const status = Number((object as { code?: unknown } | null)?.code);
  return refusal(what, Number.isInteger(status) ? status : 500, JSON.stringify(object), NaN);
}

function codeOf(status: number): Code {
  switch (status) {
    case 400:
      return 'InvalidRequest';
    case 401:
    case 403:
      return 'ClusterForbidden';
    case 404:
      return 'NotFound';
    case 409:
      return 'Conflict';
    case 422:
      return 'InvalidObject';
    default:
      return 'ClusterUnavailable';
  }
}

const silences = [errors.ConnectTimeoutError, errors.HeadersTimeoutError, errors.BodyTimeoutError];

/** What has a code of ours stays as it is: a refusal of `mayWrite` among it. */
function unreachable(what: string, server: string, error: unknown): AtollError {
  if (error instanceof AtollError) return error;
  if (silences.some((kind) => error instanceof kind)) {
    return new ClusterError('ClusterUnavailable', `${what}: ${server} does not answer`, { cause: error });
  }
  const { message } = error as Error;
  return new ClusterError('ClusterUnavailable', `${what}: ${server} cannot be reached: ${message}`, {
    cause: error,
  });
}
