/** Where events go that failed finally: kept with their reason until they are redriven or purged (CONTRACTS 4.7–4.9). */
import {
  AckPolicy,
  DeliverPolicy,
  JetStreamApiCodes,
  JetStreamApiError,
  jetstream,
} from '@nats-io/jetstream';
import type { JetStreamManager, StoredMsg } from '@nats-io/jetstream';
import { nanos } from '@nats-io/nats-core';
import type { MsgHdrs, NatsConnection } from '@nats-io/nats-core';
import { connectionWithin } from './clients/nats.ts';
import type { NatsLink } from './clients/nats.ts';
import { AtollError, faultOf } from './errors.ts';
import type { Fault } from './errors.ts';
import type { DeadLetterReason, TriggerEvent } from './event.ts';
import { asciiJson, eventOf, headersOf, maxHeaderBytes, messageId, redriveOf } from './inbox.ts';
import type { Inbox } from './inbox.ts';
import { withoutHops } from './lineage.ts';
import type { Log } from './log.ts';
import { deadStream, deadSubject, ensureDeadStream, isApiError, managerOf } from './streams.ts';

export { deadStream } from './streams.ts';

export interface DeadLetterTarget {
  readonly namespace: string;
  readonly name: string;
}

/** As the control API lists it. */
export interface DeadLetterEntry {
  /** Names it: its sequence in ATOLL_DEAD. */
  readonly seq: number;
  /** The event's. */
  readonly id: string;
  readonly namespace: string;
  readonly function: string;
  readonly trigger: string;
  readonly reason: DeadLetterReason;
  readonly attempts: number;
  /** ISO 8601: when it was dead-lettered, and when its event was first accepted. */
  readonly time: string;
  readonly firstTime: string;
  readonly subject: string;
  /** Bytes of the event's data, also of what was cut off. */
  readonly size: number;
  readonly truncated: boolean;
  readonly fault: Fault;
}

export interface DeadLetter extends DeadLetterEntry {
  /** Base64. */
  readonly data: string;
  /** Only where the data is UTF-8. */
  readonly text?: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface RedriveResult {
  redriven: number;
  /** In the inbox already, from a redrive that was interrupted. */
  duplicates: number;
  refused: { seq: number; reason: string }[];
}

/** Every method rejects with AtollError NatsUnavailable or JetStreamUnavailable when nobody can be asked. */
export interface DeadLetters {
  /** Resolves when it is stored: only then may the event be acknowledged. Rejects when the stream is full, too. */
  put(
    target: DeadLetterTarget,
    event: TriggerEvent,
    fault: Fault,
    reason: DeadLetterReason,
    meta?: { attempts?: number; firstTime?: number },
  ): Promise<void>;
  /** The newest `limit` (100), the newest last; with `before` those of a lower sequence. */
  list(target: DeadLetterTarget, options?: { limit?: number; before?: number }): Promise<DeadLetterEntry[]>;
  /** Undefined: there is none of that sequence, or it is another function's. */
  show(target: DeadLetterTarget, seq: number): Promise<DeadLetter | undefined>;
  /**
   * Puts events into the inbox of the same function and trigger, or of `to`; each dead letter goes when its event is
   * there. `exists` tells whether a function has that trigger.
   */
  redrive(
    target: DeadLetterTarget,
    options: {
      inbox: Pick<Inbox, 'put'>;
      seqs?: readonly number[];
      to?: { name: string; trigger: string };
      exists(name: string, trigger: string): boolean | Promise<boolean>;
    },
  ): Promise<RedriveResult>;
  /** How many went. */
  purge(target: DeadLetterTarget, seqs?: readonly number[]): Promise<number>;
}

/** What is kept of an event that does not fit. */
const truncatedBytes = 64 * 1024;
const maxFaultBytes = 8 * 1024;
const defaultLimit = 100;
const putTimeoutMs = 5_000;
const pulledTogether = 1_000;
const defaultConnectionWaitMs = 10_000;
/** What the server adds to a message when it stores it: subject, message id. */
const spareBytes = 1024;
const noSuchMessage = 10057;

export function openDeadLetters(
  link: NatsLink,
  options: { site: string; log: Log; connectionWaitMs?: number },
): DeadLetters {
  const { site, log, connectionWaitMs = defaultConnectionWaitMs } = options;

  function connected(): NatsConnection {
    const nc = link.current();
    if (!nc) throw new AtollError('NatsUnavailable', link.state.message);
    return nc;
  }

  async function ask<T>(question: (manager: JetStreamManager, nc: NatsConnection) => Promise<T>): Promise<T> {
    const nc = connected();
    try {
      return await question(await managerOf(nc), nc);
    } catch (error) {
      if (error instanceof AtollError) throw error;
      throw new AtollError('JetStreamUnavailable', `dead letters: ${faultOf(error).message}`, {
        cause: error,
      });
    }
  }

  /** Undefined: gone, or not this target's. */
  async function read(
    manager: JetStreamManager,
    target: DeadLetterTarget,
    seq: number,
  ): Promise<StoredMsg | undefined> {
    const stored = await getMessage(manager, deadStream, seq);
    return stored?.subject.startsWith(deadSubject(site, target, '')) ? stored : undefined;
  }

  async function remove(manager: JetStreamManager, seq: number): Promise<boolean> {
    try {
      return await manager.streams.deleteMessage(deadStream, seq, false);
    } catch (error) {
      // Somebody else was faster.
      if (isApiError(error, noSuchMessage) || isApiError(error, JetStreamApiCodes.NoMessageFound))
        return false;
      throw error;
    }
  }

  async function redriveOne(
    manager: JetStreamManager,
    target: DeadLetterTarget,
    seq: number,
    { inbox, to, exists }: Parameters<DeadLetters['redrive']>[1],
  ): Promise<'redriven' | 'duplicate' | { refused: string }> {
    const stored = await read(manager, target, seq);
    if (!stored) return { refused: 'there is no such dead letter' };
    const event = eventOfStored(stored);
    const { name, trigger } = to ?? { name: target.name, trigger: event.trigger };
    if (!(await exists(name, trigger))) {
      return {
        refused: `function ${name} has no trigger ${trigger}; name another one with --to FUNCTION/TRIGGER`,
      };
    }
    const data = stored.header.has('Atoll-Truncated') ? await original(event) : event.data;
    if (!data)
      return { refused: 'only its first 64 KiB were kept, and its stream does not have it any more' };
    const firstTime = stored.header.get('Atoll-First-Time');
    // Whoever redrives what came in a circle has ended that, or else it is stopped again after as many hops.
    const headers =
      stored.header.get('Atoll-Reason') === 'Recursion' ? withoutHops(event.headers) : event.headers;
    const again: TriggerEvent = {
      ...event,
      data,
      trigger,
      attempt: 1,
      // Its age counts from now; since when it is under way stays known.
      time: Date.now(),
      headers: { ...headers, ...(firstTime && { 'Atoll-First-Time': firstTime }) },
    };
    try {
      const redrive = redriveOf(event) + 1;
      const { duplicate } = await inbox.put({ namespace: target.namespace, name }, again, { redrive });
      await remove(manager, seq);
      return duplicate ? 'duplicate' : 'redriven';
    } catch (error) {
      if (error instanceof AtollError && error.code === 'JetStreamUnavailable') throw error;
      return { refused: faultOf(error).message };
    }
  }

  /** Of a dead letter that did not fit: the event as its own stream may still have it. */
  async function original(event: Omit<TriggerEvent, 'attempt'>): Promise<Uint8Array | undefined> {
    const { stream, sequence, domain } = event.detail ?? {};
    if (event.kind !== 'jetstream' || typeof stream !== 'string' || typeof sequence !== 'number')
      return undefined;
    const manager = await managerOf(connected(), typeof domain === 'string' ? domain : undefined);
    const stored = await getMessage(manager, stream, sequence).catch(() => undefined);
    return stored?.subject === event.subject ? stored.data : undefined;
  }

  async function* sequences(manager: JetStreamManager, target: DeadLetterTarget): AsyncIterable<number> {
    const subject = deadSubject(site, target, '>');
    // Those that come while we are at it belong to the next redrive: a failing function would keep us for ever.
    const last = (await manager.streams.info(deadStream)).state.last_seq;
    for (let seq = 1; seq <= last;) {
      // The client's types know this pair for direct reads only; the server takes it here too.
      const query = { seq, next_by_subj: subject };
      const next = await manager.streams.getMessage(deadStream, query);
      if (!next || next.seq > last) return;
      yield next.seq;
      seq = next.seq + 1;
    }
  }

  return {
    async put(target, event, fault, reason, meta = {}) {
      // An event that cannot be put here goes back and is run again: a short outage is better waited for.
      await connectionWithin(link, connectionWaitMs);
      await ask(async (_manager, nc) => {
        const subject = deadSubject(site, target, event.trigger);
        const limit = (nc.info?.max_payload ?? Infinity) - spareBytes;
        const { headers, data } = asDeadLetter(event, fault, reason, meta, limit);
        const msgID = messageId(target, event, redriveOf(event));
        const publish = () => jetstream(nc).publish(subject, data, { headers, msgID, timeout: putTimeoutMs });
        try {
          await publish();
        } catch (error) {
          if (error instanceof JetStreamApiError) throw error;
          // Nobody takes it: the stream is not there yet, or not any more.
          await ensureDeadStream(nc, site);
          await publish();
        }
      });
    },

    list: (target, { limit = defaultLimit, before } = {}) =>
      ask(async (manager, nc) => {
        try {
          return await newest(manager, nc, deadSubject(site, target, '>'), limit, before);
        } catch (error) {
          if (isApiError(error, JetStreamApiCodes.StreamNotFound)) return [];
          throw error;
        }
      }),

    show: (target, seq) =>
      ask(async (manager) => {
        const stored = await read(manager, target, seq);
        if (!stored) return undefined;
        const text = textOf(stored.data);
        return {
          ...entryOf(stored.subject, stored.header, stored.seq, stored.time, stored.data.length),
          data: Buffer.from(stored.data).toString('base64'),
          ...(text !== undefined && { text }),
          headers: eventOfStored(stored).headers,
        };
      }),

    redrive: (target, redriveOptions) =>
      ask(async (manager) => {
        const result: RedriveResult = { redriven: 0, duplicates: 0, refused: [] };
        const seqs = redriveOptions.seqs ?? ((await streamExists(manager)) ? sequences(manager, target) : []);
        for await (const seq of seqs) {
          const ended = await redriveOne(manager, target, seq, redriveOptions);
          if (ended === 'redriven') result.redriven += 1;
          else if (ended === 'duplicate') result.duplicates += 1;
          else result.refused.push({ seq, reason: ended.refused });
        }
        log.info(
          { ...target, redriven: result.redriven, refused: result.refused.length },
          'dead letters redriven',
        );
        return result;
      }),

    purge: (target, seqs) =>
      ask(async (manager) => {
        if (!(await streamExists(manager))) return 0;
        if (!seqs) {
          return (await manager.streams.purge(deadStream, { filter: deadSubject(site, target, '>') })).purged;
        }
        let purged = 0;
        for (const seq of seqs) {
          if ((await read(manager, target, seq)) && (await remove(manager, seq))) purged += 1;
        }
        return purged;
      }),
  };
}

/** The event as it is stored; what does not fit is cut, never refused (CONTRACTS 4.8). */
function asDeadLetter(
  event: TriggerEvent,
  fault: Fault,
  reason: DeadLetterReason,
  meta: { attempts?: number; firstTime?: number },
  limit: number,
): { headers: MsgHdrs; data: Uint8Array } {
  const own: Record<string, string> = {
    'Atoll-Reason': reason,
    'Atoll-Attempts': String(meta.attempts ?? event.attempt),
    'Atoll-First-Time': event.headers['Atoll-First-Time'] ?? String(meta.firstTime ?? event.time),
    'Atoll-Fault': faultText(fault),
  };
  const ownBytes = Object.entries(own).reduce(
    (sum, [name, value]) => sum + name.length + value.length + 4,
    0,
  );
  let { value: headers, bytes } = headersOf(event);
  let fits = bytes + ownBytes + spareBytes <= maxHeaderBytes;
  if (!fits) ({ value: headers, bytes } = headersOf(withoutHeaders(event)));
  fits &&= bytes + ownBytes + event.data.length <= limit;
  for (const [name, value] of Object.entries(own)) headers.set(name, value);
  if (fits) return { headers, data: event.data };
  headers.set('Atoll-Truncated', String(event.data.length));
  const room = Math.max(0, limit - bytes - ownBytes);
  return { headers, data: event.data.subarray(0, Math.min(truncatedBytes, room)) };
}

/** What says how far it came, and nothing that came with it. */
function withoutHeaders(event: TriggerEvent): TriggerEvent {
  const kept = ['Atoll-Hops', 'Atoll-Redrive', 'Atoll-First-Time'];
  const entries = Object.entries(event.headers).filter(([name]) => kept.includes(name));
  const { stream, sequence, domain } = event.detail ?? {};
  return { ...event, headers: Object.fromEntries(entries), detail: { stream, sequence, domain } };
}

const faultText = (fault: Fault): string => asciiJson(shortened(fault));

/** At most `maxFaultBytes` as JSON: the end of the stack goes first, then the end of the message. */
export function shortened(fault: Fault): Fault {
  let { message, stack } = fault;
  for (;;) {
    const short = { code: fault.code.slice(0, 256), message, ...(stack && { stack }) };
    if (asciiJson(short).length <= maxFaultBytes) return short;
    if (stack && stack.length > 1) stack = stack.slice(0, Math.floor(stack.length / 2));
    else if (stack) stack = undefined;
    else message = message.slice(0, Math.floor(message.length / 2));
  }
}

/** The last `limit` messages of a subject, or of those before a sequence. JetStream counts from a sequence on: the one to begin at is searched for. */
async function newest(
  manager: JetStreamManager,
  nc: NatsConnection,
  subject: string,
  limit: number,
  before: number | undefined,
): Promise<DeadLetterEntry[]> {
  const { state } = await manager.streams.info(deadStream);
  const from = async (seq: number) => {
    const info = await manager.consumers.add(deadStream, {
      filter_subject: subject,
      ack_policy: AckPolicy.None,
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: Math.max(1, seq),
      headers_only: true,
      mem_storage: true,
      inactive_threshold: nanos(30_000),
    });
    return { info, remove: () => manager.consumers.delete(deadStream, info.name).catch(() => false) };
  };
  const end = Math.min(before ?? Infinity, state.last_seq + 1);
  // Those from `before` on are counted with the others, and left out.
  let left = 0;
  if (end <= state.last_seq) {
    const rest = await from(end);
    left = rest.info.num_pending;
    await rest.remove();
  }
  let begin = state.first_seq;
  let consumer = await from(begin);
  let beyond = end;
  while (consumer.info.num_pending - left > limit && begin + 1 < beyond) {
    const middle = Math.floor((begin + beyond) / 2);
    const later = await from(middle);
    if (later.info.num_pending - left < limit) {
      beyond = middle;
      await later.remove();
    } else {
      begin = middle;
      await consumer.remove();
      consumer = later;
    }
  }
  try {
    const entries: DeadLetterEntry[] = [];
    const { num_pending: pending, name } = consumer.info;
    const pulling = await jetstream(nc).consumers.get(deadStream, name);
    // In pieces: what does not come within one wait would be left out without a word.
    for (let missing = pending - left; missing > 0;) {
      let came = 0;
      const pull = { max_messages: Math.min(missing, pulledTogether), expires: putTimeoutMs };
      for await (const message of await pulling.fetch(pull)) {
        const { headers, info, seq } = message;
        const time = new Date(info.timestampNanos / 1e6);
        came += 1;
        if (headers && seq < end)
          entries.push(entryOf(message.subject, headers, seq, time, Number(headers.get('Nats-Msg-Size'))));
      }
      // Nothing more: some went meanwhile.
      if (came === 0) break;
      missing -= came;
    }
    return entries.slice(-limit);
  } finally {
    await consumer.remove();
  }
}

function entryOf(subject: string, headers: MsgHdrs, seq: number, time: Date, size: number): DeadLetterEntry {
  const [, , , namespace = '', name = '', trigger = ''] = subject.split('.');
  const event = eventOf(subject, headers, new Uint8Array(), { id: String(seq), time: time.getTime() });
  const truncated = headers.get('Atoll-Truncated');
  return {
    seq,
    id: event.id,
    namespace,
    function: name,
    trigger,
    reason: headers.get('Atoll-Reason') as DeadLetterReason,
    attempts: Number(headers.get('Atoll-Attempts')),
    time: time.toISOString(),
    firstTime: new Date(Number(headers.get('Atoll-First-Time')) || event.time).toISOString(),
    subject: event.subject,
    size: truncated === '' ? size : Number(truncated),
    truncated: truncated !== '',
    fault: faultIn(headers.get('Atoll-Fault')),
  };
}

function faultIn(text: string): Fault {
  try {
    return JSON.parse(text) as Fault;
  } catch {
    return { code: 'Error', message: text };
  }
}

function eventOfStored(stored: StoredMsg): Omit<TriggerEvent, 'attempt'> {
  const { subject, header, data, seq, time } = stored;
  return eventOf(subject, header, data, { id: `${deadStream}:${seq}`, time: time.getTime() });
}

function textOf(data: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(data);
  } catch {
    return undefined;
  }
}

/** Undefined: it is gone, or its stream is. */
async function getMessage(
  manager: JetStreamManager,
  stream: string,
  seq: number,
): Promise<StoredMsg | undefined> {
  try {
    return (await manager.streams.getMessage(stream, { seq })) ?? undefined;
  } catch (error) {
    if (isApiError(error, JetStreamApiCodes.StreamNotFound)) return undefined;
    throw error;
  }
}

async function streamExists(manager: JetStreamManager): Promise<boolean> {
  try {
    await manager.streams.info(deadStream);
    return true;
  } catch (error) {
    if (isApiError(error, JetStreamApiCodes.StreamNotFound)) return false;
    throw error;
  }
}
