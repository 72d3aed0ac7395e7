/** NATS for handlers, on the host's connection. */
import { setImmediate as turn } from 'node:timers/promises';
import {
  InvalidArgumentError,
  NoRespondersError,
  PermissionViolationError,
  TimeoutError,
  headers as newHeaders,
  type MsgHdrs,
  type NatsConnection,
} from '@nats-io/nats-core';
import { JetStreamApiError } from '@nats-io/jetstream';
import { connectionWithin, type NatsLink } from '../clients/nats.ts';
import { AtollError, faultOf } from '../errors.ts';
import { monotonicMs } from '../invoker/clock.ts';
import { hopsHeader } from '../lineage.ts';
import { NoStreamError, openPublisher, type Publisher, type Stored } from '../publisher.ts';
import type { Caller } from './calls.ts';

export interface Message {
  readonly subject: string;
  readonly data: Uint8Array;
  readonly headers: readonly (readonly [string, string])[];
  readonly hops: number;
}

/** Each rejects with AtollError. */
export interface NatsCalls {
  /** Resolves when the server has it. */
  publish(message: Message, caller: Caller): Promise<void>;
  /** Resolves when a stream has stored it. */
  store(message: Message & { readonly msgId?: string }, caller: Caller): Promise<Stored>;
  request(message: Message, timeoutMs: number, caller: Caller): Promise<Reply>;
  /** The connection, when it is up within a short time. */
  connection(caller: Caller): Promise<NatsConnection>;
}

export interface Reply {
  readonly headers: Readonly<Record<string, string>>;
  readonly data: Uint8Array;
}

/** A server that is just being restarted is waited for. */
const connectWaitMs = 5_000;
/** As long as a silent server may stay unnoticed. */
const storeMs = 30_000;

export function openNatsCalls(link: NatsLink): NatsCalls {
  let opened: { nc: NatsConnection; flush: () => Promise<Refusals>; publisher: Publisher } | undefined;

  async function connection({ deadlineMs }: Caller): Promise<NatsConnection> {
    const up =
      link.current() ?? (await connectionWithin(link, Math.min(connectWaitMs, deadlineMs - monotonicMs())));
    if (up === undefined) throw new AtollError('NatsUnavailable', link.state.message);
    return up;
  }

  function on(nc: NatsConnection): NonNullable<typeof opened> {
    if (opened?.nc !== nc) {
      const publisher = openPublisher(nc, { inboxPrefix: link.inboxPrefix, timeoutMs: storeMs });
      opened = { nc, flush: flusher(nc), publisher };
    }
    return opened;
  }

  return {
    connection,
    async publish({ subject, data, headers, hops }, caller) {
      const nc = await connection(caller);
      const { flush } = on(nc);
      try {
        nc.publish(subject, data, { headers: headersOf(headers, hops) });
        const refused = await flush();
        if (refused.has(subject)) throw refusedByServer(subject);
      } catch (error) {
        throw mapped(error, subject, data, nc);
      }
    },
    async store({ subject, data, headers, hops, msgId }, caller) {
      const nc = await connection(caller);
      const all = headersOf(headers, hops);
      if (msgId !== undefined) all.set('Nats-Msg-Id', msgId);
      try {
        return await on(nc).publisher.publish(subject, data, all);
      } catch (error) {
        throw mapped(error, subject, data, nc);
      }
    },
    async request({ subject, data, headers, hops }, timeoutMs, caller) {
      const nc = await connection(caller);
      try {
        const message = await nc.request(subject, data, {
          timeout: Math.max(1, timeoutMs),
          headers: headersOf(headers, hops),
        });
        return { headers: plain(message.headers), data: message.data };
      } catch (error) {
        if (error instanceof TimeoutError || (error as Error).cause instanceof TimeoutError) {
          throw new AtollError('RequestTimeout', `no answer within ${Math.round(timeoutMs)} ms`, {
            cause: error,
          });
        }
        throw mapped(error, subject, data, nc);
      }
    },
  };
}

type Refusals = ReadonlySet<string>;

/**
 * One question to the server for all that was published in a turn: once it is answered the server has read them. It
 * answers in order, so what it refused of them is known by then, too.
 */
function flusher(nc: NatsConnection): () => Promise<Refusals> {
  const open = new Set<Set<string>>();
  let next: Promise<Refusals> | undefined;

  async function watch(): Promise<void> {
    for await (const status of nc.status()) {
      if (status.type !== 'error' || !(status.error instanceof PermissionViolationError)) continue;
      if (status.error.operation === 'publish') for (const refused of open) refused.add(status.error.subject);
    }
  }
  void watch();

  async function flush(): Promise<Refusals> {
    // When the frames that came together are all through.
    await new Promise<void>((resolve) => process.nextTick(resolve));
    next = undefined;
    const refused = new Set<string>();
    open.add(refused);
    try {
      await nc.flush();
      // What it refused is told by an iterator, which takes a few steps more.
      if (refused.size === 0) await turn();
      return refused;
    } finally {
      open.delete(refused);
    }
  }

  return () => (next ??= flush());
}

/** The count of hops is ours, whatever the handler gave. */
function headersOf(given: Message['headers'], hops: number): MsgHdrs {
  const headers = newHeaders();
  for (const [name, value] of given) {
    if (name.toLowerCase() !== hopsHeader.toLowerCase()) headers.append(name, value);
  }
  headers.set(hopsHeader, String(hops));
  return headers;
}

function plain(headers: MsgHdrs | undefined): Record<string, string> {
  if (headers === undefined) return {};
  return Object.fromEntries(headers.keys().map((name) => [name, headers.get(name)]));
}

export function refusedByServer(subject: string, cause?: unknown): AtollError {
  return new AtollError(
    'NotAllowed',
    `the NATS server does not let this host reach ${subject}; with accounts, spec.permissions has to name it`,
    { cause },
  );
}

function mapped(error: unknown, subject: string, data: Uint8Array, nc: NatsConnection): AtollError {
  if (error instanceof AtollError) return error;
  const causes = [error, (error as Error).cause];
  const isOne = (type: new (...args: never[]) => Error): boolean => causes.some((one) => one instanceof type);
  const options = { cause: error };
  const { message } = faultOf(error);
  if (isOne(NoRespondersError))
    return new AtollError('NoResponders', `nobody listens on ${subject}`, options);
  if (isOne(PermissionViolationError)) return refusedByServer(subject, error);
  if (isOne(NoStreamError)) return new AtollError('StreamNotFound', message, options);
  if (isOne(JetStreamApiError)) return new AtollError('JetStreamUnavailable', message, options);
  if (isOne(InvalidArgumentError) && message.includes('max_payload')) {
    const limit = nc.info?.max_payload;
    return new AtollError(
      'TooLarge',
      `${data.length} bytes; the NATS server takes ${limit} with headers`,
      options,
    );
  }
  if (isOne(InvalidArgumentError)) return new AtollError('InvalidRequest', message, options);
  return new AtollError('NatsUnavailable', `whether the server has it is not known: ${message}`, options);
}
