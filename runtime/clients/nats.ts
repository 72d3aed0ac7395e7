/** One NATS connection of a process: opened also while the server is away, reconnecting for ever. */
import { readFileSync, statSync } from 'node:fs';
import { PermissionViolationError } from '@nats-io/nats-core';
import { connect, credsAuthenticator } from '@nats-io/transport-node';
import type { Auth, NatsConnection, NodeConnectionOptions, Subscription } from '@nats-io/transport-node';
import type { NatsSettings } from '../config.ts';
import { AtollError } from '../errors.ts';
import type { Log } from '../log.ts';
import { repeatQuestions } from './repeated-questions.ts';
import { refuseOpenKey } from './tls-files.ts';

export interface LinkState {
  readonly connected: boolean;
  /** Why not, with the server's address. */
  readonly message: string;
}

export interface NatsLink {
  /** Resolves with the first connection; rejects only after close(). The same object survives reconnects. */
  connection(): Promise<NatsConnection>;
  /** The connection when it is up at this moment. */
  current(): NatsConnection | undefined;
  readonly state: LinkState;
  /** Of the subjects that this client may have answers sent to. */
  readonly inboxPrefix: string;
  /** Called at each change (not at once). Returns the way to stop listening. */
  onState(listener: (state: LinkState) => void): () => void;
  /**
   * Called when the server ended a connection because this client read too slowly: what it had published to plain
   * subscriptions and not delivered yet is lost. `why` is the server's reason, or why we think so where it tells none.
   * Returns the way to stop listening.
   */
  onCutOff(listener: (why: string) => void): () => void;
  close(): Promise<void>;
}

/** A half-open link is noticed after two unanswered pings. */
const pingIntervalMs = 10_000;
const connectTimeoutMs = 5_000;
/** Each attempt waits between these two, so that a site's hosts do not come back in one instant. */
const retryFloorMs = 250;
const retryCeilingMs = 1_500;
/** What is given to messages that are still on their way when something is closed. */
const flushMs = 2_000;
const askMs = 2_000;

export function openNats(
  settings: NatsSettings,
  options: {
    name: string;
    site: string;
    log: Log;
    /** Text of a user's JWT and seed, as nsc writes it, where it lies in no file. */
    creds?: string;
  },
): NatsLink {
  const { log } = options;
  const inboxPrefix = settings.inboxPrefix ?? `_INBOX.${options.site}`;
  const servers = settings.url.split(',').map((server) => server.trim());
  const address = servers.map(withoutUserInfo).join(',');
  const listeners = new Set<(state: LinkState) => void>();
  const cutOffListeners = new Set<(why: string) => void>();
  const closing = new AbortController();
  let state: LinkState = { connected: false, message: `connecting to NATS at ${address}` };
  let connection: NatsConnection | undefined;
  let opened = pendingConnection();

  function change(next: LinkState): void {
    if (next.connected === state.connected && next.message === state.message) return;
    if (next.connected) log.info({ address }, 'NATS connected');
    else if (state.connected) log.warn({ address, reason: next.message }, 'NATS disconnected');
    state = next;
    for (const listener of [...listeners]) listener(state);
  }

  const away = (error?: unknown): LinkState => ({
    connected: false,
    message: `NATS at ${address} cannot be reached${error === undefined ? '' : `: ${reasonOf(error)}`}`,
  });

  async function keepConnected(): Promise<void> {
    while (!closing.signal.aborted) {
      try {
        const established = await connect(connectionOptions(servers, { ...settings, inboxPrefix }, options));
        if (closing.signal.aborted) return void (await established.close());
        repeatQuestions(established);
        await follow(established);
      } catch (error) {
        if (!closing.signal.aborted) change(away(error));
      }
      await pause(retryFloorMs + Math.random() * (retryCeilingMs - retryFloorMs), closing.signal);
    }
  }

  /** Until the client gives the connection up, which it does for errors of the credentials file only. */
  async function follow(established: NatsConnection): Promise<void> {
    connection = established;
    change({ connected: true, message: `connected to NATS at ${address}` });
    opened.resolve(established);
    let seat = seatOf(established);
    /** Why the connection would end was said: by the server, or by ourselves. */
    let explained = false;
    for await (const status of established.status()) {
      if (status.type === 'disconnect') change(away());
      else if (status.type === 'reconnect') {
        change({ connected: true, message: `connected to NATS at ${address}` });
        if (!explained) void tellIfCutOff(established, seat);
        seat = seatOf(established);
        explained = false;
      } else if (status.type === 'error') {
        log.debug({ address, reason: reasonOf(status.error) }, 'NATS refused');
        explained ||= !(status.error instanceof PermissionViolationError);
      } else if (
        status.type === 'staleConnection' ||
        status.type === 'forceReconnect' ||
        status.type === 'ldm'
      ) {
        explained = true;
      }
    }
    const error = await established.closed();
    connection = undefined;
    if (closing.signal.aborted) return;
    opened = pendingConnection();
    change(away(error ?? undefined));
  }

  /** A slow consumer is not told: the server closes its connection, and notes why. */
  async function tellIfCutOff(established: NatsConnection, seat: Seat): Promise<void> {
    const noted = await reasonOfEnd(established, seat);
    const ranOn = seatOf(established).serverId === seat.serverId;
    if (noted === undefined ? !ranOn : !noted.startsWith('Slow Consumer')) return;
    const why =
      noted ?? 'the server closed the connection without a word and ran on, as it does with a slow consumer';
    log.warn({ address, reason: why }, 'NATS cut this client off: it read too slowly');
    for (const listener of [...cutOffListeners]) listener(why);
  }

  void keepConnected();

  return {
    connection: () => opened.promise,
    current: () => (state.connected ? connection : undefined),
    inboxPrefix,
    get state() {
      return state;
    },
    onState(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    onCutOff(listener) {
      cutOffListeners.add(listener);
      return () => cutOffListeners.delete(listener);
    },
    async close() {
      if (closing.signal.aborted) return;
      closing.abort();
      const last = connection;
      if (last && state.connected)
        await Promise.race([last.flush().catch(() => {}), pause(flushMs, undefined)]);
      await last?.close();
      const closed = new AtollError('NatsUnavailable', `the connection to NATS at ${address} was closed`);
      opened.reject(closed);
      // A connection that was there once must not be handed out any more.
      opened = pendingConnection();
      opened.reject(closed);
      connection = undefined;
      change({ connected: false, message: closed.message });
    },
  };
}

/**
 * Ends a subscription after what the server had sent already was received. Without a server, or with one that says
 * nothing more, there is nothing to wait for. Never rejects.
 */
export async function endSubscription(link: NatsLink, subscription: Subscription | undefined): Promise<void> {
  if (!subscription || subscription.isClosed()) return;
  if (link.current()) {
    await Promise.race([subscription.drain().catch(() => {}), pause(flushMs, undefined)]);
  }
  if (!subscription.isClosed()) subscription.unsubscribe();
}

/** Resolves with the connection when it is up, at the latest after `timeoutMs`; undefined: it is not. */
export async function connectionWithin(
  link: NatsLink,
  timeoutMs: number,
): Promise<NatsConnection | undefined> {
  const now = link.current();
  if (now || timeoutMs <= 0) return now;
  const changed = Promise.withResolvers<void>();
  const stop = link.onState(({ connected }) => {
    if (connected) changed.resolve();
    // A link that was closed does not come back.
    else link.connection().catch(() => changed.resolve());
  });
  await Promise.race([changed.promise, pause(timeoutMs, undefined)]);
  stop();
  return link.current();
}

/** A connection as its server knows it. */
interface Seat {
  /** A server's own, anew at each of its starts. */
  readonly serverId: string | undefined;
  readonly serverName: string | undefined;
  readonly clientId: number | undefined;
}

function seatOf({ info }: NatsConnection): Seat {
  return { serverId: info?.server_id, serverName: info?.server_name, clientId: info?.client_id };
}

/**
 * What the server noted when it closed that connection. It tells the users of an account, but not those of the one
 * that servers without accounts have; undefined also when it may not be asked.
 */
async function reasonOfEnd(nc: NatsConnection, seat: Seat): Promise<string | undefined> {
  const closed = 1;
  const question = { cid: seat.clientId, state: closed, server_name: seat.serverName, exact_match: true };
  try {
    const answer = await nc.request('$SYS.REQ.ACCOUNT.PING.CONNZ', JSON.stringify(question), {
      timeout: askMs,
    });
    const { data } = answer.json<{ data?: { connections?: { cid: number; reason?: string }[] } }>();
    return data?.connections?.find(({ cid }) => cid === seat.clientId)?.reason;
  } catch {
    return undefined;
  }
}

function connectionOptions(
  servers: string[],
  settings: NatsSettings & { inboxPrefix: string },
  { name, creds }: { name: string; creds?: string },
): NodeConnectionOptions {
  const { credentialsFile, credsFile, inboxPrefix, tls } = settings;
  if (tls) refuseOpenKey(tls);
  return {
    servers,
    name,
    inboxPrefix,
    timeout: connectTimeoutMs,
    pingInterval: pingIntervalMs,
    maxPingOut: 2,
    maxReconnectAttempts: -1,
    reconnectTimeWait: retryFloorMs,
    reconnectJitter: retryCeilingMs - retryFloorMs,
    reconnectJitterTLS: retryCeilingMs - retryFloorMs,
    // Refused credentials may be put right while we wait: the file is read again at every attempt.
    ignoreAuthErrorAbort: true,
    noAsyncTraces: true,
    // Given, a server that offers no TLS is refused.
    ...((tls ?? servers.some((server) => server.startsWith('tls://'))) && {
      tls: {
        ...(tls?.ca !== undefined && { caFile: tls.ca }),
        ...(tls?.certificate !== undefined && { certFile: tls.certificate }),
        ...(tls?.key !== undefined && { keyFile: tls.key }),
      },
    }),
    ...(credentialsFile !== undefined && { authenticator: authenticator(credentialsFile, readCredentials) }),
    ...(credsFile !== undefined && {
      authenticator: authenticator(credsFile, (file) => ({ creds: readPrivate(file) })),
    }),
    ...(creds !== undefined && { authenticator: credsAuthenticator(new TextEncoder().encode(creds)) }),
  };
}

/** Falls back on what the file said before while it is being replaced. */
function authenticator(
  file: string,
  read: (file: string) => Record<string, string>,
): (nonce?: string) => Auth {
  let last: Record<string, string> | undefined;
  return (nonce) => {
    try {
      last = read(file);
    } catch (error) {
      if (!last) throw error;
    }
    const { user, pass, token, creds } = last;
    if (creds !== undefined) return credsAuthenticator(new TextEncoder().encode(creds))(nonce);
    if (token !== undefined) return { auth_token: token };
    return { user: user ?? '', ...(pass !== undefined && { pass }) };
  };
}

function readPrivate(file: string): string {
  if ((statSync(file).mode & 0o007) !== 0) {
    throw new AtollError('NatsUnavailable', `${file} holds credentials and everyone may use it: chmod 600`);
  }
  return readFileSync(file, 'utf8');
}

function readCredentials(file: string): Record<string, string> {
  const text = readPrivate(file);
  try {
    return JSON.parse(text) as Record<string, string>;
  } catch {
    // The parser's own message quotes the text, and with it the secret.
    throw new AtollError(
      'NatsUnavailable',
      `${file} is not JSON of { user, pass } or { token } or { creds }`,
    );
  }
}

function withoutUserInfo(server: string): string {
  return server.replace(/^([a-z]+:\/\/)?[^@/]*@/i, '$1');
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error && cause.message !== error.message
    ? `${error.message} (${cause.message})`
    : error.message;
}

function pendingConnection(): PromiseWithResolvers<NatsConnection> {
  const pending = Promise.withResolvers<NatsConnection>();
  // Whoever does not wait for it must not be ended by its rejection.
  pending.promise.catch(() => {});
  return pending;
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}
