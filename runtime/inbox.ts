/** Into JetStream and out again: for sources that cannot redeliver (MQTT QoS 1 and 2, schedule, async invoke). */
import { JetStreamApiError } from '@nats-io/jetstream';
import { headers as newHeaders } from '@nats-io/nats-core';
import type { MsgHdrs, NatsConnection } from '@nats-io/nats-core';
import type { NatsLink } from './clients/nats.ts';
import { openConsumer } from './consumer.ts';
import { AtollError, faultOf } from './errors.ts';
import type { EventEncoding, EventSchema, SourceKind, TriggerEvent } from './event.ts';
import type { Log } from './log.ts';
import { inboxConsumer } from './names.ts';
import { openPublisher } from './publisher.ts';
import type { Publisher, Stored } from './publisher.ts';
import { ensureInboxStream, inboxEventsPerTrigger, inboxMaxEventBytes, inboxStream } from './streams.ts';
import { inboxSubject } from './streams.ts';
import type { FunctionRef, Trigger, TriggerContext } from './triggers/trigger.ts';

export { inboxMaxEventBytes, inboxStream } from './streams.ts';

export interface Inbox {
  /**
   * Resolves when JetStream has stored the event. Rejects with AtollError InboxUnavailable, InboxFull or
   * TooLarge (it does not fit; the caller dead-letters or answers 413).
   * The message id is `messageId(…)`; `duplicate`: it was there already.
   */
  put(
    target: { namespace: string; name: string },
    event: TriggerEvent,
    options?: { redrive?: number },
  ): Promise<{ duplicate: boolean }>;
  /** Can an event be stored at this moment? */
  readonly ready: boolean;
  onReady(listener: (ready: boolean) => void): () => void;
}

const putTimeoutMs = 5_000;
const ensureFloorMs = 500;
const ensureCeilingMs = 10_000;
/** JetStream's own limit for the headers of a message. */
export const maxHeaderBytes = 65_535;

/** JetStream's numbers for what it refuses for good or for now. */
const apiCodes = { messageTooLarge: 10054, headersTooLarge: 10097, limitReached: 10077 };

const storedNow = { duplicate: false };
const storedBefore = { duplicate: true };

export function openInbox(link: NatsLink, options: { site: string; log: Log }): Inbox {
  const { site, log } = options;
  const listeners = new Set<(ready: boolean) => void>();
  let ready = false;
  let ensuring: Promise<void> | undefined;
  let opened: { nc: NatsConnection; publisher: Publisher } | undefined;

  function change(next: boolean): void {
    if (next === ready) return;
    ready = next;
    for (const listener of [...listeners]) listener(next);
  }

  /** Tries until there is an inbox or no connection. */
  async function ensure(): Promise<void> {
    for (let failures = 0; ; failures++) {
      const nc = link.current();
      if (!nc) return change(false);
      try {
        await ensureInboxStream(nc, site);
        if (link.current() === nc) return change(true);
      } catch (error) {
        if (link.current() !== nc) continue;
        change(false);
        if (failures === 0) log.warn({ reason: faultOf(error).message }, 'JetStream has no inbox yet');
        await pause(Math.min(ensureCeilingMs, ensureFloorMs * 2 ** Math.min(10, failures)));
      }
    }
  }

  function startEnsuring(): Promise<void> {
    ensuring ??= ensure().finally(() => (ensuring = undefined));
    return ensuring;
  }

  function publisherOn(nc: NatsConnection): Publisher {
    if (opened?.nc !== nc) {
      opened = {
        nc,
        publisher: openPublisher(nc, { inboxPrefix: link.inboxPrefix, timeoutMs: putTimeoutMs }),
      };
    }
    return opened.publisher;
  }

  function store(nc: NatsConnection, subject: string, event: TriggerEvent, id: string): Promise<Stored> {
    const headers = headersOf(event);
    const size = headers.bytes + event.data.length;
    const limit = Math.min(inboxMaxEventBytes, nc.info?.max_payload ?? inboxMaxEventBytes);
    if (size > limit || headers.bytes > maxHeaderBytes) {
      throw new AtollError('TooLarge', `event ${event.id} has ${size} bytes with its headers; ${limit} fit`);
    }
    headers.value.append('Nats-Msg-Id', id);
    return publisherOn(nc).publish(subject, event.data, headers.value);
  }

  link.onState(({ connected }) => {
    if (connected) void startEnsuring();
    else change(false);
  });
  if (link.state.connected) void startEnsuring();

  return {
    async put(target, event, { redrive = 0 } = {}) {
      const subject = inboxSubject(site, target, event.trigger);
      const id = messageId(target, event, redrive);
      const carried = redrive === 0 ? event : redriven(event, redrive);
      // Just opened, or just connected again: the stream is on its way.
      if (!ready && ensuring) await Promise.race([ensuring, pause(putTimeoutMs)]);
      const nc = link.current();
      if (!nc) throw new AtollError('InboxUnavailable', `the inbox cannot be reached: ${link.state.message}`);
      try {
        return (await store(nc, subject, carried, id)).duplicate ? storedBefore : storedNow;
      } catch (error) {
        const mapped = putFailure(error, target, event);
        if (mapped.code === 'InboxUnavailable' && link.current() === nc) {
          change(false);
          void startEnsuring();
        }
        throw mapped;
      }
    },
    get ready() {
      return ready;
    },
    onReady(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** The function's end of the inbox: one durable consumer for all its triggers. */
export function openInboxTrigger(context: TriggerContext & { function: FunctionRef }): Trigger {
  const { site, function: ref } = context;
  return openConsumer(
    {
      stream: inboxStream,
      consumer: inboxConsumer(ref),
      filter: inboxSubject(site, ref, '>'),
      startAt: 'All',
      prepare: (nc) => ensureInboxStream(nc, site),
      read({ subject, headers, data, time, sequence }) {
        const event = eventOf(subject, headers, data, { id: `${inboxStream}:${sequence}`, time });
        return { event, attemptsId: `${event.id}/${redriveOf(event)}` };
      },
    },
    context,
  );
}

/**
 * What JetStream tells repeated messages by. It names function and trigger too: ids are unique only among the events
 * of one trigger (two functions may consume one stream), while JetStream compares them over the whole stream. And it
 * says when a stream stored the event: one that is deleted and made anew counts from 1 again.
 */
export function messageId(
  { namespace, name }: { namespace: string; name: string },
  { id, trigger, kind, time, headers }: Pick<TriggerEvent, 'id' | 'trigger' | 'kind' | 'time' | 'headers'>,
  redrive: number,
): string {
  const stored = kind === 'jetstream' ? `@${headerSafe(headers['Atoll-First-Time'] ?? String(time))}` : '';
  return `${namespace}.${name}.${trigger}/${headerSafe(id)}${stored}/${redrive}`;
}

/** How often the event was redriven before this. */
export function redriveOf(event: Pick<TriggerEvent, 'headers'>): number {
  return Number(event.headers['Atoll-Redrive'] ?? 0) || 0;
}

function redriven(event: TriggerEvent, redrive: number): TriggerEvent {
  return { ...event, headers: { ...event.headers, 'Atoll-Redrive': String(redrive) } };
}

/** Ours in event.headers: they tell what happened to the event, and travel with it under their own names. */
const travelling = new Set(['Atoll-Hops', 'Atoll-Redrive', 'Atoll-First-Time']);
const plainName = /^[!#$%&'*+.^_`|~0-9a-z-]+$/i;

/**
 * An event as headers of a stored message, its data being the message's. Headers that came with it stay what they
 * were, except those that would tell JetStream something (`Nats-Rollup`) or cannot be written as such: those travel as
 * JSON in `Atoll-Headers`.
 */
export function headersOf(event: TriggerEvent): { value: MsgHdrs; bytes: number } {
  // Each name comes once, so append() does what set() would, which looks for it twice.
  const value = newHeaders();
  const wrapped: Record<string, string> = {};
  for (const [name, content] of Object.entries(event.headers)) {
    const reserved = /^(nats|atoll)-/i.test(name) && !travelling.has(name);
    // Line breaks end a header, blanks around it are trimmed, and not all clients read more than ASCII.
    const plain = plainName.test(name) && /^[ -~]*$/.test(content) && content.trim() === content;
    if (reserved || !plain || content === '') wrapped[name] = content;
    else value.append(name, content);
  }
  value.append('Atoll-Id', headerSafe(event.id));
  value.append('Atoll-Time', String(event.time));
  value.append('Atoll-Trigger', event.trigger);
  value.append('Atoll-Kind', event.kind);
  value.append('Atoll-Subject', headerSafe(event.subject));
  value.append('Atoll-Encoding', event.encoding);
  if (event.detail) value.append('Atoll-Detail', asciiJson(event.detail));
  if (event.schema) value.append('Atoll-Schema', asciiJson(event.schema));
  if (Object.keys(wrapped).length > 0) value.append('Atoll-Headers', asciiJson(wrapped));
  let bytes = 'NATS/1.0\r\n\r\n'.length;
  for (const [name, values] of value) for (const one of values) bytes += name.length + one.length + 4;
  return { value, bytes };
}

/** Reads also what was put there by hand: what is missing is filled in from the message itself. */
export function eventOf(
  subject: string,
  headers: MsgHdrs | undefined,
  data: Uint8Array,
  known: { id: string; time: number },
): Omit<TriggerEvent, 'attempt'> {
  const own: Record<string, string> = {};
  const carried: Record<string, string> = {};
  for (const [name, values] of headers ?? []) {
    const joined = values.join(', ');
    if (/^(nats|atoll)-/i.test(name) && !travelling.has(name)) own[name] = joined;
    else carried[name] = joined;
  }
  const detail = parsed(own['Atoll-Detail']);
  const schema = parsed(own['Atoll-Schema']) as EventSchema | undefined;
  const time = Number(own['Atoll-Time']);
  return {
    id: decoded(own['Atoll-Id']) ?? known.id,
    trigger: own['Atoll-Trigger'] ?? subject.split('.').at(-1) ?? '',
    kind: (own['Atoll-Kind'] ?? 'nats') as SourceKind,
    subject: decoded(own['Atoll-Subject']) ?? subject,
    time: time > 0 ? time : known.time,
    headers: { ...carried, ...(parsed(own['Atoll-Headers']) as Record<string, string> | undefined) },
    encoding: (own['Atoll-Encoding'] ?? 'json') as EventEncoding,
    data,
    ...(detail && { detail }),
    ...(schema && { schema }),
  };
}

function putFailure(
  error: unknown,
  { namespace, name }: { namespace: string; name: string },
  event: TriggerEvent,
): AtollError {
  if (error instanceof AtollError) return error;
  const { message } = faultOf(error);
  if (error instanceof JetStreamApiError) {
    if (error.code === apiCodes.messageTooLarge || error.code === apiCodes.headersTooLarge) {
      return new AtollError('TooLarge', `event ${event.id} does not fit the inbox: ${message}`);
    }
    if (error.code === apiCodes.limitReached && /per subject/.test(message)) {
      const share = `${inboxEventsPerTrigger} events of ${namespace}/${name}, trigger ${event.trigger}, are waiting`;
      return new AtollError('InboxFull', `${share}: no more are taken until some are handled`);
    }
  }
  return new AtollError('InboxUnavailable', `the inbox could not store the event: ${message}`, {
    cause: error,
  });
}

/** As it is where it can be read as it is. */
function headerSafe(text: string): string {
  return /^[!-$&-~]+$/.test(text) ? text : encodeURIComponent(text.toWellFormed());
}

/** Header values are bytes to NATS, and its clients do not agree on more than ASCII. */
export function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[^ -~]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function parsed(text: string | undefined): Record<string, unknown> | undefined {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function decoded(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function pause(ms: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  setTimeout(resolve, ms).unref();
  return promise;
}
