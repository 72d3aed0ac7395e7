/** The site's control API (`/atoll/v1`), as the commands use it. */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { RobotPresence } from '../controller/broker/presence.ts';
import type { KeptTelemetry } from '../controller/broker/telemetry-room.ts';
import type { SiteInfo } from '../controller/stores/site.ts';
import type { Key } from '../controller/stores/store.ts';
import type { LiveStatus } from '../gateway/api/status.ts';
import type { DeadLetter, DeadLetterEntry, RedriveResult } from '../runtime/dead-letters.ts';
import { AtollError, errorCodes, type Code } from '../runtime/errors.ts';
import type { LogRecord } from '../runtime/log.ts';
import { exitCodeOf } from './advice.ts';
import type { Published } from './build/publish.ts';
import { exitCodes } from './command.ts';
import { Failure } from './failure.ts';

// An import of node:http in an ES module loads undici with it, which costs every command tens of milliseconds.
const http = process.getBuiltinModule('node:http');

export interface Invoked {
  /** The body: what the handler returned, or Lambda's error object. */
  readonly body: Uint8Array;
  readonly contentType: string;
  readonly functionFailed: boolean;
  readonly requestId: string;
  /** The last 4 KB of the log, when asked for. */
  readonly tail?: string;
}

export interface LogRequest {
  readonly since?: number | undefined;
  readonly follow?: boolean | undefined;
  readonly requestId?: string | undefined;
  readonly limit?: number | undefined;
}

/** An answer as it comes, whatever its status. */
export interface Answer {
  readonly statusCode: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Readable;
  /** What came behind the body, once that has ended. */
  readonly trailers?: () => NodeJS.Dict<string>;
}

export interface Call {
  readonly method?: string;
  readonly body?: Uint8Array | string | undefined;
  readonly headers?: Record<string, string>;
  readonly signal?: AbortSignal | undefined;
}

/** One request to a path of the gateway. Rejects when there is no answer. */
export type Send = (path: string, call: Call) => Promise<Answer>;

export class Gateway {
  /** In messages. */
  readonly url: string;
  readonly #send: Send;

  /** `send`: the way there; by default straight to the address, with a key (`id.secret`) where the site asks for one. */
  constructor(url: string, way: { readonly key?: string | undefined } | { readonly send: Send } = {}) {
    this.url = url;
    this.#send = 'send' in way ? way.send : straightTo(url, way.key);
  }

  status(key: Key, signal?: AbortSignal): Promise<LiveStatus> {
    return this.#json(`${pathOf(key)}/status`, { signal });
  }

  /** Of a hub. Rejects with NotFound elsewhere. */
  robots(signal?: AbortSignal): Promise<{ robots: RobotPresence[]; kept?: KeptTelemetry }> {
    return this.#json('/atoll/v1/robots', { signal });
  }

  /** Whoever answers at the address. */
  site(signal?: AbortSignal): Promise<SiteInfo> {
    return this.#json('/atoll/v1/site', { signal });
  }

  async invoke(
    key: Key,
    payload: Uint8Array,
    options: { async?: boolean; tail?: boolean; signal?: AbortSignal | undefined },
  ): Promise<Invoked> {
    const query = queryOf({ async: options.async || undefined, tail: options.tail || undefined });
    const response = await this.#request(`${pathOf(key)}/invocations${query}`, {
      method: 'POST',
      body: payload,
      headers: { 'content-type': 'application/json' },
      signal: options.signal,
    });
    const tail = headerOf(response, 'x-amz-log-result');
    return {
      body: await bytesOf(response),
      contentType: headerOf(response, 'content-type') ?? 'application/json',
      functionFailed: headerOf(response, 'x-amz-function-error') !== undefined,
      requestId: headerOf(response, 'x-amzn-requestid') ?? headerOf(response, 'atoll-request-id') ?? '',
      ...(tail !== undefined && { tail: Buffer.from(tail, 'base64').toString('utf8') }),
    };
  }

  /** Ends when the log does, or, following, when the signal aborts. */
  async *logs(key: Key, request: LogRequest, signal?: AbortSignal): AsyncIterable<LogRecord> {
    const response = await this.#request(`${pathOf(key)}/logs${queryOf({ ...request })}`, { signal });
    yield* lines<LogRecord>(response, signal);
  }

  /** As logs(), of a function on a robot of this hub; rejects with RobotAway also when the robot goes away meanwhile. */
  async *robotLogs(
    robot: string,
    key: Key,
    request: LogRequest,
    signal?: AbortSignal,
  ): AsyncIterable<LogRecord> {
    const path = `/atoll/v1/robots/${encodeURIComponent(robot)}${pathOf(key).slice('/atoll/v1'.length)}`;
    const response = await this.#request(`${path}/logs${queryOf({ ...request })}`, { signal });
    yield* lines<LogRecord>(response, signal);
    const [, code, message] = /^(\w+) (.*)$/.exec(response.trailers?.()['atoll-error'] ?? '') ?? [];
    if (code !== undefined && message !== undefined) throw failureOf(code, message);
  }

  /** The newest, the newest last. */
  async deadLetters(key: Key, limit?: number, before?: number): Promise<DeadLetterEntry[]> {
    const path = `${pathOf(key)}/dead-letters${queryOf({ limit, before })}`;
    return (await this.#json<{ deadLetters: DeadLetterEntry[] }>(path)).deadLetters;
  }

  deadLetter(key: Key, seq: number): Promise<DeadLetter> {
    return this.#json(`${pathOf(key)}/dead-letters/${seq}`);
  }

  redrive(
    key: Key,
    request: { seqs?: number[] | undefined; to?: string | undefined },
  ): Promise<RedriveResult> {
    return this.#json(`${pathOf(key)}/dead-letters/redrive`, {
      method: 'POST',
      body: JSON.stringify(request),
    });
  }

  /** All of the function's, or one. */
  purge(key: Key, seq?: number): Promise<{ purged: number }> {
    const one = seq === undefined ? '' : `/${seq}`;
    return this.#json(`${pathOf(key)}/dead-letters${one}`, { method: 'DELETE' });
  }

  /** For spec.package.uri; undefined: the site's store does not have the package, or not as it was. */
  async packageUri(namespace: string, sha256: string): Promise<string | undefined> {
    const path = `/atoll/v1/namespaces/${encodeURIComponent(namespace)}/packages/${sha256}`;
    try {
      return (await this.#json<{ uri: string }>(path)).uri;
    } catch (error) {
      if (error instanceof Failure && error.code === 'PackageNotFound') return undefined;
      throw error;
    }
  }

  /** Puts a package into the site's store; needs no key of that. */
  upload(namespace: string, sha256: string, bytes: Uint8Array): Promise<Published> {
    const path = `/atoll/v1/namespaces/${encodeURIComponent(namespace)}/packages/${sha256}`;
    return this.#json(path, { method: 'PUT', body: bytes });
  }

  async #json<T>(path: string, call: Call = {}): Promise<T> {
    const headers = { 'content-type': 'application/json' };
    const response = await this.#request(path, call.body === undefined ? call : { ...call, headers });
    return JSON.parse(Buffer.from(await bytesOf(response)).toString('utf8')) as T;
  }

  /** Rejects with a Failure for everything but a success. No time limit: functions may run for 15 minutes. */
  async #request(path: string, call: Call): Promise<Answer> {
    let answer: Answer;
    try {
      answer = await this.#send(path, call);
    } catch (error) {
      call.signal?.throwIfAborted();
      // What is in the way to a cluster's gateway has words of its own.
      if (error instanceof Failure || error instanceof AtollError) throw error;
      throw new Failure(exitCodes.site, `${this.url} does not answer: ${(error as Error).message}`, {
        code: 'SiteNotReachable',
        cause: error,
      });
    }
    if (answer.statusCode < 300) return answer;
    throw await refusal(answer, this.url);
  }
}

function straightTo(url: string, key: string | undefined): Send {
  const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` };
  return async (path, { method = 'GET', body, headers = {}, signal }) => {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const request = http.request(new URL(path, url), {
      method,
      agent: false,
      headers: { ...authorization, ...length, ...headers },
      ...(signal && { signal }),
    });
    request.on('response', resolve);
    request.on('error', reject);
    request.end(body);
    const response = await promise;
    return {
      statusCode: response.statusCode ?? 500,
      headers: response.headers,
      body: response,
      trailers: () => response.trailers,
    };
  };
}

const pathOf = ({ namespace, name }: Key): string =>
  `/atoll/v1/namespaces/${encodeURIComponent(namespace)}/functions/${encodeURIComponent(name)}`;

function queryOf(values: Readonly<Record<string, string | number | boolean | undefined>>): string {
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  if (given.length === 0) return '';
  return `?${new URLSearchParams(given.map(([name, value]): [string, string] => [name, String(value)]))}`;
}

function headerOf(response: Answer, name: string): string | undefined {
  const value = response.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

async function bytesOf({ body }: Answer): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  for await (const chunk of body) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function* lines<T>({ body }: Answer, signal: AbortSignal | undefined): AsyncIterable<T> {
  try {
    for await (const line of createInterface({ input: body, crlfDelay: Infinity })) {
      if (line !== '') yield JSON.parse(line) as T;
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}

/** The gateway's `{ code, message }`, or Lambda's `{ Type, Message }`, as a Failure. */
async function refusal(response: Answer, url: string): Promise<Failure> {
  const text = Buffer.from(await bytesOf(response)).toString('utf8');
  let body: { code?: string; message?: string; Message?: string } = {};
  try {
    body = JSON.parse(text) as typeof body;
  } catch {
    // Not ours: some other server answers at this address.
  }
  const message =
    body.message ?? body.Message ?? `${url} answered ${response.statusCode}: ${text.slice(0, 200)}`;
  if (response.statusCode === 401 || response.statusCode === 403) {
    return new Failure(exitCodes.site, message, { code: 'Unauthorized' });
  }
  return failureOf(body.code, message);
}

function failureOf(code: string | undefined, message: string): Failure {
  const known = code !== undefined && Object.hasOwn(errorCodes, code);
  return new Failure(
    known ? exitCodeOf(code as Code) : exitCodes.site,
    message,
    code === undefined ? {} : { code },
  );
}
