/**
 * One MQTT session of a process: opened also while the broker is away, reconnecting for ever, and acknowledging
 * a message only when whoever took it says so.
 */
import { readFile, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type { IClientOptions, IPublishPacket, MqttClient, Packet } from 'mqtt';
import type { MqttSettings } from '../config.ts';
import { AtollError, type Code } from '../errors.ts';
import type { Log } from '../log.ts';
import { Acknowledgements, Repeats } from './mqtt-acknowledgements.ts';
import { readTlsFiles } from './tls-files.ts';

export type QoS = 0 | 1 | 2;
/** 4 is MQTT 3.1.1. */
export type MqttVersion = 4 | 5;

export interface MqttMessage {
  readonly topic: string;
  readonly data: Uint8Array;
  readonly qos: QoS;
  readonly retain: boolean;
  /** The broker sent it before, perhaps to us. */
  readonly dup: boolean;
  /** MQTT 5 only. */
  readonly properties?: NonNullable<IPublishPacket['properties']>;
}

/** What `prepare` may do with a fresh connection. Each rejects with SubscriptionRefused or MqttUnavailable. */
export interface MqttConnection {
  /** The broker still knew the session. */
  readonly sessionPresent: boolean;
  subscribe(topic: string, qos: QoS): Promise<void>;
  unsubscribe(topics: readonly string[]): Promise<void>;
}

export interface MqttOptions {
  readonly clientId: string;
  /** 4 by default. `newest`: 5, or 4 where the broker refuses 5. */
  readonly version?: MqttVersion | 'newest';
  /** `persistent`: the broker keeps subscriptions and what comes meanwhile; `clean`: it forgets both. */
  readonly session: 'persistent' | 'clean';
  readonly keepaliveSeconds?: number;
  readonly log: Log;
  /** Runs before each connect; when it rejects that counts as a failed one. */
  arrange?(): Promise<void>;
  /** Runs after each connect. When it rejects the connection is dropped and tried again with backoff. */
  prepare?(connection: MqttConnection): Promise<void>;
  /**
   * Called in order, with QoS 0 and 1 also while earlier messages are still being taken. Resolved: the message is
   * acknowledged (PUBACK, after those before it; for QoS 2 PUBREC). Rejected: the connection is dropped without an
   * acknowledgement, so that the broker keeps this message and queues the rest; what came behind it and was taken is
   * not taken again while this process lives.
   */
  take?(message: MqttMessage): Promise<void>;
}

export interface MqttState {
  readonly connected: boolean;
  /** `Ready`, or the code of what is wrong. */
  readonly reason: Code | 'Ready';
  /** With the broker's address. */
  readonly message: string;
}

export interface MqttLink {
  readonly state: MqttState;
  /** Called at each change (not at once). Returns the way to stop listening. */
  onState(listener: (state: MqttState) => void): () => void;
  /** Resolves when it is written (QoS 0) or acknowledged. Rejects with MqttUnavailable: nothing is queued here. */
  publish(topic: string, data: Uint8Array, options?: PublishOptions): Promise<void>;
  /** Waits for the messages being taken and acknowledges them, then DISCONNECT; a persistent session stays. */
  close(): Promise<void>;
}

export interface PublishOptions {
  readonly qos?: QoS;
  readonly retain?: boolean;
  /** MQTT 5 only; dropped on 3.1.1, which has no headers. */
  readonly userProperties?: Readonly<Record<string, string>>;
}

/** A dead peer is noticed after one and a half of these. */
const defaultKeepaliveSeconds = 15;
const connectTimeoutMs = 10_000;
const backoffMs = { min: 250, max: 10_000 };
/** A connection that lived this long was a good one: the next failure starts at the smallest backoff again. */
const steadyMs = 10_000;
/** How long close() waits for the messages being taken, and for the broker to hang up. */
const closeMs = 3_000;
/** MQTT 5: 3.1.2.11.2, never. */
const sessionNeverExpires = 0xffffffff;

/** The session's name at the broker (CONTRACTS 1). */
export function mqttClientId(
  site: string,
  target: { readonly namespace: string; readonly name: string },
  trigger: string,
): string {
  return `atoll-${site}-${target.namespace}-${target.name}-${trigger}`;
}

export function openMqttLink(settings: MqttSettings, options: MqttOptions): MqttLink {
  const address = addressOf(settings.url);
  const listeners = new Set<(state: MqttState) => void>();
  const closing = new AbortController();
  const memory = { received: new ReceivedStore(), repeats: new Repeats() };
  let state: MqttState = { connected: false, reason: 'Connecting', message: `connecting to ${address}` };
  let session: Session | undefined;

  function become(next: MqttState): void {
    if (next.reason === state.reason && next.message === state.message) return;
    state = next;
    if (!next.connected) options.log.warn({ code: next.reason, error: next.message }, 'mqtt connection down');
    for (const listener of listeners) listener(next);
  }

  async function run(): Promise<void> {
    let failures = 0;
    while (!closing.signal.aborted) {
      let readyAt: number | undefined;
      let fault: AtollError;
      try {
        await options.arrange?.();
        session = await openNewest(settings, options, memory, closing.signal);
        if (closing.signal.aborted) return await session.end();
        await options.prepare?.(session);
        readyAt = performance.now();
        become({ connected: true, reason: 'Ready', message: `connected to ${address}` });
        fault = await session.lost;
      } catch (error) {
        fault =
          error instanceof AtollError
            ? error
            : new AtollError('MqttUnavailable', `${address}: ${String(error)}`);
      }
      if (closing.signal.aborted) return;
      session?.drop();
      session = undefined;
      if (readyAt !== undefined && performance.now() - readyAt > steadyMs) failures = 0;
      failures += 1;
      become({ connected: false, reason: fault.code, message: fault.message });
      await pause(backoffFor(failures), closing.signal);
    }
  }
  const running = run();

  return {
    get state() {
      return state;
    },
    onState(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async publish(topic, data, publishOptions = {}) {
      if (!state.connected || session === undefined) throw new AtollError('MqttUnavailable', state.message);
      await session.publish(topic, data, publishOptions);
    },
    async close() {
      closing.abort();
      await session?.end();
      await running;
      listeners.clear();
    },
  };
}

/**
 * Makes the broker forget a session with its subscriptions and queue: a clean connect under its name. Whoever
 * is connected under that name is thrown out. Rejects with MqttUnavailable.
 */
export async function forgetMqtt(
  settings: MqttSettings,
  clientId: string,
  version: MqttVersion = 4,
): Promise<void> {
  const options = { clientId, version, session: 'clean' } as const;
  const memory = { received: new ReceivedStore(), repeats: new Repeats() };
  const session = await openSession(settings, options, memory, new AbortController().signal);
  await session.end();
}

/** What this process knows of a session beyond one connection. */
interface SessionMemory {
  readonly received: ReceivedStore;
  readonly repeats: Repeats;
}

interface Session extends MqttConnection {
  /** Resolves with what ended it. */
  readonly lost: Promise<AtollError>;
  publish(topic: string, data: Uint8Array, options: PublishOptions): Promise<void>;
  /** At once, without a word to the broker. */
  drop(): void;
  /** See MqttLink.close. */
  end(): Promise<void>;
}

/** Looked for at each connect: another broker may have come to that address. */
async function openNewest(
  settings: MqttSettings,
  options: MqttOptions,
  memory: SessionMemory,
  signal: AbortSignal,
): Promise<Session> {
  const { version = 4 } = options;
  if (version !== 'newest') return await openSession(settings, { ...options, version }, memory, signal);
  try {
    return await openSession(settings, { ...options, version: 5 }, memory, signal);
  } catch (error) {
    if (!(error instanceof WrongVersion)) throw error;
    return await openSession(settings, { ...options, version: 4 }, memory, signal);
  }
}

class WrongVersion extends AtollError {
  constructor(message: string, cause: unknown) {
    super('MqttUnavailable', message, { cause });
  }
}

/**
 * One connection from CONNECT to its end. mqtt.js would reconnect by itself, but with a constant delay, and would
 * carry messages it has parsed and not handed out yet over into the next connection.
 */
async function openSession(
  settings: MqttSettings,
  options: Pick<MqttOptions, 'clientId' | 'session' | 'keepaliveSeconds' | 'take'> & { version: MqttVersion },
  memory: SessionMemory,
  signal: AbortSignal,
): Promise<Session> {
  const address = addressOf(settings.url);
  const { version } = options;
  const persistent = options.session === 'persistent';
  const credentials = await readCredentials(settings);
  const tls = await readTlsFiles(settings.tls ?? {}).catch((error: unknown) => {
    throw new AtollError('MqttUnavailable', `${address}: ${(error as Error).message}`, { cause: error });
  });
  // Loaded when first needed: a host without MQTT triggers does not pay for it.
  const { default: mqtt } = await import('mqtt');

  const lost = Promise.withResolvers<AtollError>();
  let lastError: unknown;
  let ending = false;
  /** Of QoS 2. */
  let receiving: Promise<void> = Promise.resolve();
  const { received, repeats } = memory;
  const acknowledgements = new Acknowledgements(repeats, (bytes) => void client.stream.write(bytes));

  const take = (packet: IPublishPacket): Promise<void> =>
    options.take?.(messageOf(packet)) ?? Promise.resolve();

  /** Settles only when the message may be acknowledged; otherwise the connection ends without. */
  const orFail = (taken: Promise<void>): Promise<void> =>
    taken.catch((error: unknown) => {
      fail(error);
      return never;
    });

  function fail(error: unknown): void {
    acknowledgements.flush();
    acknowledgements.end();
    lost.resolve(faultOf(error, address, version));
    client.end(true);
  }

  received.take = (packet) => {
    if (ending) return never;
    const taken = take(packet);
    receiving = taken.catch(() => {});
    return orFail(taken);
  };
  const connectOptions: IClientOptions = {
    clientId: options.clientId,
    protocolVersion: version,
    clean: !persistent,
    keepalive: options.keepaliveSeconds ?? defaultKeepaliveSeconds,
    connectTimeout: connectTimeoutMs,
    reconnectPeriod: 0,
    resubscribe: false,
    queueQoSZero: false,
    manualConnect: true,
    incomingStore: received,
    ...credentials,
    ...tls,
    ...(version === 5 && persistent && { properties: { sessionExpiryInterval: sessionNeverExpires } }),
  };
  let client: MqttClient;
  try {
    client = mqtt.connect(settings.url, connectOptions);
  } catch (error) {
    throw faultOf(error, address, version);
  }
  // Called back without an error, mqtt.js sends the PUBACK and goes on; with one it only goes on.
  client.handleMessage = (packet, callback) => {
    // It comes here with its PUBREL: it was taken before.
    if (packet.qos === 2) return callback();
    if (ending) return;
    const taken = packet.qos === 0 ? take(packet) : repeats.take(packet, take);
    acknowledgements.add(packet, orFail(taken));
    acknowledgements.whenFree(() => callback(acknowledgedLater));
  };
  client.on('error', (error) => (lastError = error));
  client.on('disconnect', ({ reasonCode = 0 }) => {
    lastError = new Error(`the broker ended the connection (reason 0x${reasonCode.toString(16)})`);
  });
  client.on('close', () => {
    acknowledgements.end();
    lost.resolve(faultOf(lastError ?? new Error('the connection was closed'), address, version));
  });
  const connected = new Promise<boolean>((resolve) =>
    client.once('connect', (packet) => resolve(packet.sessionPresent)),
  );
  const abandon = (): void => void client.end(true);
  if (signal.aborted) throw new AtollError('MqttUnavailable', `${address}: closed`);
  signal.addEventListener('abort', abandon, { once: true });
  client.connect();
  const first = await Promise.race([connected, lost.promise]);
  signal.removeEventListener('abort', abandon);
  if (typeof first !== 'boolean') {
    client.end(true);
    throw first;
  }
  // The broker's side of half-finished exchanges is gone with the session: their ids mean nothing now.
  if (!first) {
    received.clear();
    repeats.clear();
  }

  /** mqtt.js leaves some callbacks uncalled when the connection ends. */
  const orLost = <T>(answer: Promise<T>): Promise<T> =>
    Promise.race([
      answer,
      lost.promise.then((fault) => {
        throw fault;
      }),
    ]);

  return {
    sessionPresent: first,
    lost: lost.promise,
    async subscribe(topic, qos) {
      // rh 1: retained messages only when the subscription is new, not after every reconnect.
      const wanted = version === 5 ? { qos, rh: 1 } : { qos };
      const answer = client.subscribeAsync(topic, wanted).catch((error: unknown) => {
        const granted = (error as { packet?: { granted?: number[] } }).packet?.granted;
        if (granted === undefined) throw faultOf(error, address, version);
        const code = granted.map((one) => `0x${one.toString(16)}`).join(' ');
        throw new AtollError(
          'SubscriptionRefused',
          `${address} refused to subscribe to "${topic}" (${code})`,
        );
      });
      await orLost(answer);
    },
    async unsubscribe(topics) {
      if (topics.length > 0) await orLost(client.unsubscribeAsync([...topics]));
    },
    async publish(topic, data, { qos = 0, retain = false, userProperties }) {
      const properties = version === 5 && userProperties ? { properties: { userProperties } } : {};
      const answer = client.publishAsync(topic, Buffer.from(data), { qos, retain, ...properties });
      await orLost(
        answer.catch((error: unknown) => {
          throw faultOf(error, address, version);
        }),
      );
    },
    drop: () => void client.end(true),
    async end() {
      ending = true;
      const late = new AbortController();
      const limit = pause(closeMs, late.signal);
      await Promise.race([Promise.all([receiving, acknowledgements.idle()]), limit]);
      // A PUBREC is written one microtask after `receiving`.
      await new Promise((resolve) => setImmediate(resolve));
      await Promise.race([client.endAsync(), lost.promise, limit]);
      late.abort();
      client.end(true);
      lost.resolve(new AtollError('MqttUnavailable', `${address}: closed`));
    },
  };
}

const never = new Promise<never>(() => {});
const acknowledgedLater = new Error('acknowledged later');

/**
 * Where mqtt.js keeps QoS 2 messages between PUBLISH and PUBREL. It sends PUBREC when `put` calls back, and by
 * then the message must be safe (4.3.3): the message goes to its taker here, and only its id is remembered, so
 * that a repeated PUBLISH is not taken twice while this process lives.
 */
class ReceivedStore {
  take: (packet: IPublishPacket) => Promise<void> = () => never;
  readonly #ids = new Map<number, IPublishPacket>();

  put(packet: Packet, callback: () => void): this {
    const publish = packet as IPublishPacket;
    const id = publish.messageId as number;
    if (this.#ids.has(id)) callback();
    else {
      void this.take(publish).then(() => {
        this.#ids.set(id, { ...publish, payload: '' });
        callback();
      });
    }
    return this;
  }

  get(packet: Pick<Packet, 'messageId'>, callback: (error?: Error, packet?: Packet) => void): this {
    const known = this.#ids.get(packet.messageId as number);
    if (known === undefined) callback(new Error('missing packet'));
    else callback(undefined, known);
    return this;
  }

  del(packet: Pick<Packet, 'messageId'>, callback: (error?: Error, packet?: Packet) => void): this {
    this.#ids.delete(packet.messageId as number);
    callback();
    return this;
  }

  clear(): void {
    this.#ids.clear();
  }

  createStream(): never {
    // Only outgoing stores are read back.
    return Readable.from([]) as never;
  }

  close(callback: () => void): void {
    callback();
  }
}

function messageOf(packet: IPublishPacket): MqttMessage {
  return {
    topic: packet.topic,
    data: typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload,
    qos: packet.qos,
    retain: packet.retain,
    dup: packet.dup,
    ...(packet.properties && { properties: packet.properties }),
  };
}

function backoffFor(failures: number): number {
  const step = Math.min(backoffMs.max, backoffMs.min * 2 ** Math.min(16, failures - 1));
  return Math.round(step * (0.5 + 0.5 * Math.random()));
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
  });
}

/** Read at each connect, so that changed credentials are used without a restart. */
async function readCredentials(settings: MqttSettings): Promise<{ username?: string; password?: string }> {
  const { credentialsFile: file } = settings;
  if (file === undefined) return {};
  try {
    if (((await stat(file)).mode & 0o007) !== 0) throw new Error('everyone may use it: chmod 600');
    const { username, password } = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
    if (typeof username !== 'string') throw new Error('it has no "username"');
    return { username, ...(typeof password === 'string' && { password }) };
  } catch (error) {
    // JSON.parse quotes the text it cannot read, which may be the password.
    const why = error instanceof SyntaxError ? 'it is not JSON' : (error as Error).message;
    throw new AtollError('MqttUnavailable', `MQTT credentials file ${file}: ${why}`);
  }
}

/** The broker's address without what may be secret in a URL. */
function addressOf(text: string): string {
  if (!URL.canParse(text)) return 'the MQTT broker';
  const url = new URL(text);
  return `${url.protocol}//${url.host}`;
}

function faultOf(error: unknown, address: string, version: MqttVersion): AtollError {
  if (error instanceof AtollError) return error;
  const code = (error as { code?: unknown } | undefined)?.code;
  const wrongVersion =
    code === 1 || code === 132 || (version === 5 && String(error).includes('protocol version'));
  let message = `${address}: ${error instanceof Error ? error.message : String(error)}`;
  if (wrongVersion) {
    const advice = version === 5 ? 'use "version: 4" (MQTT 3.1.1)' : 'try "version: 5"';
    return new WrongVersion(
      `${address} does not speak MQTT ${version === 5 ? '5' : '3.1.1'}: ${advice}`,
      error,
    );
  }
  if (code === 'ECONNREFUSED') message = `${address}: connection refused`;
  return new AtollError('MqttUnavailable', message, { cause: error });
}
