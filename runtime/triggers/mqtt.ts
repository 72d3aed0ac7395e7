/**
 * Messages of an MQTT topic. One session per trigger, whatever the replicas: the holder of a lease connects
 * (CONTRACTS 4.10). QoS 1 and 2 go through the inbox, which the function's own inbox trigger pulls (so QoS 2 is at
 * least once from there on); with QoS 0 or `delivery: AtMostOnce` they wait in the host.
 */
import { randomUUID } from 'node:crypto';
import type { TriggerSources } from '../../crds/function.ts';
import { forgetMqtt, mqttClientId, openMqttLink } from '../clients/mqtt.ts';
import type { MqttConnection, MqttLink, MqttMessage, MqttOptions, MqttVersion } from '../clients/mqtt.ts';
import { AtollError, faultOf } from '../errors.ts';
import type { TriggerEvent } from '../event.ts';
import { holdLease } from '../lease.ts';
import { openSharedState } from '../state.ts';
import type { State } from '../state.ts';
import { openBuffer } from './buffer.ts';
import { openSilent } from './silent.ts';
import type { FunctionRef, Trigger, TriggerContext, TriggerState } from './trigger.ts';

type MqttSource = TriggerSources['mqtt'];

export interface MqttTiming {
  readonly leaseTtlMs?: number;
  readonly keepaliveSeconds?: number;
}

export function openMqtt(source: MqttSource, context: TriggerContext, timing: MqttTiming = {}): Trigger {
  if (context.mqtt === undefined) {
    context.report(notReady('MqttUnavailable', 'this site has no MQTT broker: give its URL with --mqtt'));
    return openSilent();
  }
  const durable = source.qos > 0 && source.delivery === 'AtLeastOnce';
  return durable ? openDurable(source, context, timing) : openLossy(source, context, timing);
}

/** How long a trigger that may lose messages waits for NATS before it connects without asking the others. */
const patienceMs = 3_000;
const withoutJetStream = '"delivery: AtMostOnce" works without JetStream';

function openDurable(source: MqttSource, context: TriggerContext, timing: MqttTiming): Trigger {
  const { nats, inbox } = context;
  if (nats === undefined || inbox === undefined) {
    const message = `QoS ${source.qos} needs the inbox, and this site has no NATS; ${withoutJetStream}`;
    context.report(notReady('JetStreamUnavailable', message));
    return openSilent();
  }
  const state = openSharedState(nats);
  const known: KnownSession = {
    uid: context.function.uid,
    clientId: mqttClientId(context.site, context.function, context.name),
    version: source.version,
    topics: [source.topic],
  };

  async function take(message: MqttMessage): Promise<void> {
    if (isOurs(message.topic)) return;
    const event = eventOf(message, context);
    try {
      await inbox?.put(context.function, event);
    } catch (error) {
      const doesNotFit = error instanceof AtollError && error.code === 'TooLarge';
      if (doesNotFit && context.deadLetter) return context.deadLetter(event, faultOf(error), 'TooLarge');
      // The broker will not send it again.
      if (message.qos === 0) context.dropped(message.topic);
      throw error;
    }
  }

  const session = openSharedSession(source, context, timing, {
    mayConnect: (turn) => turn.kind === 'ours' && inbox.ready,
    obstacle(turn) {
      if (turn.kind === 'unavailable') {
        return notReady('JetStreamUnavailable', `${turn.fault.message}; ${withoutJetStream}`);
      }
      if (inbox.ready || turn.kind !== 'ours') return undefined;
      return notReady(
        'JetStreamUnavailable',
        'the inbox cannot be reached: disconnected, so the broker queues',
      );
    },
    link: {
      session: 'persistent',
      arrange: () => forgetPredecessor(state, context, known),
      prepare: (connection) => subscribeAgain(state, context, connection, source.qos, known),
      take,
    },
  });
  const stopListening = inbox.onReady(() => session.changed());
  return openSilent(async () => {
    stopListening();
    await session.close();
  });
}

/**
 * What Atoll and NATS clients send among themselves shows as MQTT topics at nats-server's listener: a trigger on
 * `#` would feed itself its own inbox.
 */
const isOurs = (topic: string): boolean => topic.startsWith('atoll/') || topic.startsWith('_INBOX/');

function openLossy(source: MqttSource, context: TriggerContext, timing: MqttTiming): Trigger {
  const buffer = openBuffer();
  let patient = true;
  const session = openSharedSession(source, context, timing, {
    mayConnect(turn, connected) {
      if (turn.kind === 'theirs') return false;
      // A lease that merely slipped is no reason to miss messages.
      if (connected || turn.kind === 'ours' || turn.kind === 'alone') return true;
      return turn.kind === 'unavailable' && (turn.fault.code !== 'NatsUnavailable' || !patient);
    },
    obstacle: () => undefined,
    link: {
      session: 'clean',
      prepare: (connection) => connection.subscribe(source.topic, source.qos),
      async take(message) {
        if (isOurs(message.topic)) return;
        if (!buffer.push(eventOf(message, context))) context.dropped(message.topic);
      },
    },
  });
  // A host that has just started is not connected to NATS yet, and would throw out the one whose turn it is.
  const patience = setTimeout(() => {
    patient = false;
    session.changed();
  }, patienceMs);
  return {
    deliveries: () => buffer.deliveries(),
    async close() {
      clearTimeout(patience);
      await session.close();
      buffer.close();
    },
    lag: () => Promise.resolve(buffer.size),
  };
}

/**
 * Keeps the one session of a trigger. `mayConnect` says whether this host should be connected now; it is asked
 * again at each change. Two links of one trigger never overlap, and the lease goes after the connection.
 */
function openSharedSession(
  source: MqttSource,
  context: TriggerContext,
  timing: MqttTiming,
  rules: {
    mayConnect(turn: Turn, connected: boolean): boolean;
    /** What keeps the trigger from being ready besides the broker. */
    obstacle(turn: Turn): TriggerState | undefined;
    link: Pick<MqttOptions, 'session' | 'arrange' | 'prepare' | 'take'>;
  },
): { changed(): void; close(): Promise<void> } {
  const { namespace, name } = context.function;
  const settings = context.mqtt as NonNullable<TriggerContext['mqtt']>;
  let turn: Turn = { kind: context.nats ? 'unknown' : 'alone' };
  let link: MqttLink | undefined;
  let closed = false;
  let working: Promise<void> = Promise.resolve();
  let reported = '';

  function tell(): void {
    const next = rules.obstacle(turn) ?? stateOf(turn, link, source);
    const text = JSON.stringify(next);
    if (closed || text === reported) return;
    reported = text;
    context.report(next);
  }

  async function follow(): Promise<void> {
    for (;;) {
      const wanted = !closed && rules.mayConnect(turn, link !== undefined);
      if (wanted === (link !== undefined)) return;
      if (link === undefined) {
        link = openMqttLink(settings, {
          ...rules.link,
          clientId: mqttClientId(context.site, context.function, context.name),
          version: source.version,
          log: context.log,
          ...(timing.keepaliveSeconds !== undefined && { keepaliveSeconds: timing.keepaliveSeconds }),
        });
        link.onState(tell);
      } else {
        await link.close();
        link = undefined;
      }
      tell();
    }
  }

  function changed(next: Turn = turn): void {
    turn = next;
    tell();
    working = working.then(follow);
  }

  const lease =
    context.nats &&
    holdLease(context.nats, `mqtt.${namespace}.${name}.${context.name}`, {
      holder: `${context.site}-${process.pid}-${randomUUID()}`,
      ...(timing.leaseTtlMs !== undefined && { ttlMs: timing.leaseTtlMs }),
      onHeld: () => changed({ kind: 'ours' }),
      onLost(why) {
        context.log.warn({ why }, 'mqtt lease lost');
        changed({ kind: 'unknown' });
      },
      onWaiting: (waiting) =>
        changed('holder' in waiting ? { kind: 'theirs', ...waiting } : { kind: 'unavailable', ...waiting }),
    });
  changed();

  return {
    changed: () => changed(),
    async close() {
      closed = true;
      changed();
      await working;
      await lease?.release();
    },
  };
}

/** Whose turn it is to be connected, as far as this host knows. */
type Turn =
  | { readonly kind: 'unknown' | 'ours' | 'alone' }
  | { readonly kind: 'theirs'; readonly holder: string }
  | { readonly kind: 'unavailable'; readonly fault: AtollError };

function stateOf(turn: Turn, link: MqttLink | undefined, source: MqttSource): TriggerState {
  if (turn.kind === 'theirs') {
    return {
      ready: true,
      reason: 'Ready',
      message: `the MQTT session is with ${turn.holder}; this one stands by`,
    };
  }
  if (link === undefined) return notReady('Connecting', 'waiting for the turn to connect');
  const { connected, reason, message } = link.state;
  return connected
    ? { ready: true, reason, message: `subscribed to "${source.topic}", ${message}` }
    : notReady(reason, message);
}

function notReady(reason: string, message: string): TriggerState {
  return { ready: false, reason, message };
}

/** What is remembered of a session in ATOLL_STATE, to tidy it when the manifest changes or the function is gone. */
export interface KnownSession {
  readonly uid: string;
  readonly clientId: string;
  readonly version: MqttVersion;
  /** Subscribed at some time, and perhaps not unsubscribed since. */
  readonly topics: readonly string[];
}

export function knownSessionKey(target: Pick<FunctionRef, 'namespace' | 'name'>, trigger: string): string {
  return `mqtt-topic.${target.namespace}.${target.name}.${trigger}`;
}

/** The session of a deleted function of the same name: what the broker keeps for that one is not for us. */
async function forgetPredecessor(state: State, context: TriggerContext, known: KnownSession): Promise<void> {
  const key = knownSessionKey(context.function, context.name);
  const entry = await state.read(key);
  const before = entry && knownSessionOf(entry.value);
  if (entry === undefined || before === undefined || before.uid === known.uid) return;
  context.log.info({ uid: before.uid }, 'forgetting the mqtt session of an earlier function of this name');
  await forgetMqtt(context.mqtt as NonNullable<TriggerContext['mqtt']>, before.clientId, before.version);
  await remember(state, key, { ...known, topics: [] }, entry.revision);
}

/**
 * Subscribes at every connect, and unsubscribes what an earlier version of the manifest asked for. The key names a
 * topic before it is subscribed and until it is unsubscribed, so a crash between leaves nothing unknown behind.
 */
async function subscribeAgain(
  state: State,
  context: TriggerContext,
  connection: MqttConnection,
  qos: MqttSource['qos'],
  known: KnownSession,
): Promise<void> {
  const key = knownSessionKey(context.function, context.name);
  const entry = await state.read(key);
  const topics = (entry && knownSessionOf(entry.value)?.topics) ?? [];
  const stale = topics.filter((topic) => !known.topics.includes(topic));
  let revision = entry?.revision ?? 0;
  const named = { ...known, topics: [...stale, ...known.topics] };
  if (JSON.stringify(named) !== JSON.stringify(entry?.value))
    revision = await remember(state, key, named, revision);
  for (const topic of known.topics) await connection.subscribe(topic, qos);
  if (stale.length === 0) return;
  await connection.unsubscribe(stale);
  await remember(state, key, known, revision);
}

async function remember(state: State, key: string, known: KnownSession, revision: number): Promise<number> {
  const written = await state.write(key, known, revision);
  if (written === undefined)
    throw new AtollError('JetStreamUnavailable', `${key} was changed by another host`);
  return written;
}

function knownSessionOf(value: unknown): KnownSession | undefined {
  const known = value as Partial<KnownSession> | undefined;
  if (typeof known?.uid !== 'string' || typeof known.clientId !== 'string') return undefined;
  const topics = Array.isArray(known.topics) ? known.topics.filter((topic) => typeof topic === 'string') : [];
  return { uid: known.uid, clientId: known.clientId, version: known.version === 5 ? 5 : 4, topics };
}

/** A message has no id of its own, so a repeated one (`dup`) is a new event. */
function eventOf(message: MqttMessage, context: TriggerContext): TriggerEvent {
  const { topic, data, qos, retain, dup } = message;
  return {
    id: randomUUID(),
    trigger: context.name,
    kind: 'mqtt',
    subject: topic,
    time: Date.now(),
    attempt: 1,
    headers: headersOf(message.properties),
    encoding: context.encoding,
    data,
    detail: { retain, qos, dup },
  };
}

/**
 * Names that would be taken for ours or for instructions to JetStream: anybody may publish. The hop count is passed
 * on, since it ends circles.
 */
const reservedName = /^(nats-|atoll-(?!hops$))/i;

/** MQTT 5 properties as headers. */
function headersOf(properties: MqttMessage['properties'] = {}): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(properties.userProperties ?? {})) {
    if (!reservedName.test(name)) headers[name] = Array.isArray(value) ? value.join(', ') : String(value);
  }
  const { contentType, responseTopic, correlationData } = properties;
  if (contentType !== undefined) headers['Content-Type'] = contentType;
  if (responseTopic !== undefined) headers['Response-Topic'] = responseTopic;
  if (correlationData !== undefined) headers['Correlation-Data'] = correlationData.toString('base64');
  return headers;
}
