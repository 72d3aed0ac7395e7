/** One message of ROS on its way to NATS: whether it is sent, as what, where to, and in which class. */
import { setTimeout as pause } from 'node:timers/promises';
import { CallError, nats, PermanentError, type Context } from 'atoll';
import {
  encode,
  readCdr,
  telemetryHeaders,
  type RosMessage,
  type Schema,
  type Telemetry,
} from 'atoll/telemetry';
import { project } from './condition.ts';
import type { Definitions } from './definitions.ts';
import type { Settings, TopicSettings } from './settings.ts';
import { misfit, printed, type Passage, type Topic, type Topics } from './topics.ts';

/** While JetStream is away for long, kept messages wait for it in at most so many of the function's slots. */
const keptSlots = Math.max(1, Math.floor(Number(process.env['AWS_LAMBDA_MAX_CONCURRENCY'] ?? 1) / 2));
/** A restart of the server takes less: meanwhile the order is worth more than that others go on. */
const longMs = 5_000;
const pauseMs = { first: 100, most: 2_000 };
/** What is left of the invocation for its end. */
const reserveMs = 1_000;

export interface Forwarding {
  readonly settings: Settings;
  readonly topics: Topics;
  readonly definitions: Definitions;
  /** Tells this process from the ones before. */
  readonly run: string;
  /** Of what somebody should look at. */
  tell(topic: Topic, problem: string): void;
}

/** `data`: CDR. Rejects where the event is to come again, or to be kept as a dead letter: only of class lossless. */
export function openForward(forwarding: Forwarding): (data: Uint8Array, context: Context) => Promise<void> {
  const { settings, topics, definitions, run, tell } = forwarding;
  const { robot } = settings;
  let keptWaiting = 0;
  /** Since when JetStream has taken nothing. */
  let failingMs: number | undefined;
  /** When the link has room for the next piece of a frame. */
  let roomMs = 0;

  return async (data, context) => {
    const { subject: name, id } = context.trigger;
    const topic = topics.of(name, String(context.trigger['type']));
    const own = topic.settings;
    if (own === undefined) {
      topic.counter.came();
      return topic.counter.filtered();
    }
    const kept = own.class === 'lossless' || own.class === 'ring';
    if (kept && isAwayForLong() && keptWaiting >= keptSlots) {
      throw new Error(`${name}: ${keptWaiting} messages wait for JetStream already; this one comes again`);
    }
    // One that comes again was counted, and may have passed the filter.
    const passage = topic.passage(id);
    if (!passage.isCounted) topic.counter.came();
    passage.isCounted = true;
    keptWaiting += kept ? 1 : 0;
    try {
      const done = await topic.line.take((next) => one(topic, own, data, context, passage, next), {
        newestWins: !kept,
      });
      if (done === undefined) {
        topic.end(id);
        topic.counter.dropped('a newer message came while it waited');
      }
    } finally {
      keptWaiting -= kept ? 1 : 0;
    }
  };

  function isAwayForLong(): boolean {
    return failingMs !== undefined && performance.now() - failingMs > longMs;
  }

  async function one(
    topic: Topic,
    own: TopicSettings,
    data: Uint8Array,
    context: Context,
    passage: Passage,
    next: () => void,
  ): Promise<true> {
    const { id, time } = context.trigger;
    try {
      const schema = await schemaFor(topic, own);
      let message: RosMessage | undefined;
      const decoded = (): RosMessage => (message ??= readable(topic, schema, data));
      if (passage.sequence === undefined) {
        if (!topic.filter.passes(time, decoded)) {
          topic.end(id);
          topic.counter.filtered();
          return true;
        }
        passage.sequence = topic.nextSequence();
      }
      // Untouched: nobody looked into it unless a filter asked to.
      const body =
        own.as === 'cdr' ? data : encode(own.fields ? project(decoded(), own.fields) : decoded(), own.as);
      const telemetry: Telemetry = {
        encoding: own.as,
        robot,
        topic: topic.name,
        type: topic.type,
        ...(schema && { schema: schema.hash }),
        ...stampOf(schema, data),
        received: time,
        run,
        sequence: passage.sequence,
        ...(own.fields && { fields: own.fields.map(printed) }),
      };
      await send(topic, own, context, body, telemetry, next);
      topic.end(id);
      topic.counter.sent(body.byteLength, Date.now() - time);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      // What comes again is not lost; the last attempt's dead letter has it.
      if (own.class === 'lossless' && !(error instanceof Lost)) throw error;
      topic.end(id);
      topic.counter.dropped(why, { undecodable: error instanceof Lost && error.undecodable });
      tell(topic, why);
      if (own.class === 'lossless') throw new PermanentError(`${topic.name}: ${why}`);
    }
    return true;
  }

  /** undefined: there is none, and the message can go without. */
  async function schemaFor(topic: Topic, own: TopicSettings): Promise<Schema | undefined> {
    if (own.type !== undefined && own.type !== topic.type) {
      throw new Lost(`its publisher has ${topic.type}, and TELEMETRY has ${own.type} for it`);
    }
    let schema: Schema;
    try {
      schema = await definitions.of(topic.type);
    } catch (error) {
      if (own.as === 'cdr' && own.onChange.length + own.condition.length === 0) {
        tell(topic, `it goes without a definition: ${(error as Error).message}`);
        return undefined;
      }
      if (error instanceof CallError && error.retryable) throw error;
      throw new Lost(`there is no definition of ${topic.type}: ${(error as Error).message}`, {
        undecodable: true,
      });
    }
    if (!topic.checked.has(schema.hash)) topic.checked.set(schema.hash, misfit(own, schema));
    const wrong = topic.checked.get(schema.hash);
    if (wrong !== undefined) throw new Lost(wrong);
    return schema;
  }

  async function send(
    topic: Topic,
    own: TopicSettings,
    context: Context,
    body: Uint8Array,
    telemetry: Telemetry,
    next: () => void,
  ): Promise<void> {
    const headers = telemetryHeaders(telemetry);
    const msgId = `${robot}${topic.name}/${context.trigger.id}`;
    const kept = `robots.${robot}.kept.${topic.subject}`;
    const live = `robots.${robot}.live.${topic.subject}`;
    switch (own.class) {
      case 'lossless':
        return await keep(topic, kept, body, { headers, msgId }, context, next);
      case 'ring': {
        // A subject for each place in the ring, of which the stream keeps the last message.
        const place = `${kept}.${telemetry.sequence % own.last}`;
        const rolled = { ...headers, 'Nats-Rollup': 'sub' };
        return await keep(topic, place, body, { headers: rolled, msgId }, context, next);
      }
      case 'latest':
        return await nats.publish(live, body, { headers });
      case 'frames':
        return await sendPieces(live, body, telemetry, context);
    }
  }

  /** Until it is stored, so that the order stays while JetStream is away for a little. The next begins before. */
  async function keep(
    topic: Topic,
    subject: string,
    body: Uint8Array,
    options: { headers: Record<string, string>; msgId: string },
    context: Context,
    next: () => void,
  ): Promise<void> {
    let waitMs: number = pauseMs.first;
    const stored = topic.window.send(
      async () => {
        await nats.publish(subject, body, options);
        failingMs = undefined;
      },
      async (error) => {
        if (error instanceof CallError && error.code === 'TooLarge') throw new Lost(error.message);
        if (!(error instanceof CallError) || !error.retryable) throw error;
        failingMs ??= performance.now();
        if (context.getRemainingTimeInMillis() < waitMs + reserveMs) throw error;
        await pause(waitMs, undefined, { signal: context.signal });
        // After the pause: who gave up at the same time has made room.
        if (isAwayForLong() && keptWaiting > keptSlots) throw error;
        waitMs = Math.min(waitMs * 2, pauseMs.most);
      },
    );
    next();
    await stored;
  }

  /** Each piece waits until the share of the link has room for it; what is small goes between two of them. */
  async function sendPieces(
    subject: string,
    body: Uint8Array,
    telemetry: Telemetry,
    context: Context,
  ): Promise<void> {
    const { bytesPerSecond, chunkBytes } = settings.frames;
    const neededMs = (body.byteLength / bytesPerSecond) * 1000 + Math.max(0, roomMs - performance.now());
    if (neededMs > context.getRemainingTimeInMillis() - reserveMs) {
      throw new Lost(
        `${body.byteLength} bytes take ${Math.ceil(neededMs / 1000)} s at frames.bytesPerSecond ${bytesPerSecond}, which is longer than the function's timeout`,
      );
    }
    const of = Math.max(1, Math.ceil(body.byteLength / chunkBytes));
    for (let number = 1; number <= of; number += 1) {
      const piece = body.subarray((number - 1) * chunkBytes, number * chunkBytes);
      const nowMs = performance.now();
      const startMs = Math.max(nowMs, roomMs);
      roomMs = startMs + (piece.byteLength / bytesPerSecond) * 1000;
      if (startMs > nowMs) await pause(startMs - nowMs, undefined, { signal: context.signal });
      const headers = telemetryHeaders(of === 1 ? telemetry : { ...telemetry, chunk: { number, of } });
      await nats.publish(subject, piece, { headers });
    }
  }
}

/** It will not be sent, however often it comes. */
class Lost extends Error {
  readonly undecodable: boolean;

  constructor(why: string, { undecodable = false } = {}) {
    super(why);
    this.undecodable = undecodable;
  }
}

function readable(topic: Topic, schema: Schema | undefined, data: Uint8Array): RosMessage {
  if (schema === undefined) throw new Lost(`there is no definition of ${topic.type}`, { undecodable: true });
  try {
    return readCdr(schema, data);
  } catch (error) {
    throw new Lost(`it is no ${topic.type}: ${(error as Error).message}`, { undecodable: true });
  }
}

/** Where the type begins with a header or a stamp, its eight bytes are at a fixed place: the message is not decoded. */
export function stampOf(schema: Schema | undefined, data: Uint8Array): Pick<Telemetry, 'stamp'> {
  const [first] = schema?.fields ?? [];
  const stamp = typeof first?.type === 'object' ? first.type[0] : first;
  if (first?.array !== undefined || stamp?.name !== 'stamp' || stamp.type !== 'time') return {};
  const [, kind] = data;
  // XCDR1 and XCDR2 without delimiters, either endianness.
  if (data.byteLength < 12 || kind === undefined || ![0, 1, 6, 7].includes(kind)) return {};
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const little = kind % 2 === 1;
  return { stamp: { sec: view.getInt32(4, little), nanosec: view.getUint32(8, little) } };
}
