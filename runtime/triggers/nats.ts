/** Plain NATS: a subject calls the function; what cannot be run at once waits in the host (CONTRACTS 4.1, 4.2, 4.5). */
import { randomUUID } from 'node:crypto';
import { PermissionViolationError, headers as newHeaders } from '@nats-io/nats-core';
import type { Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/nats-core';
import type { TriggerSources } from '../../crds/function.ts';
import { endSubscription } from '../clients/nats.ts';
import { faultOf } from '../errors.ts';
import type { Fault } from '../errors.ts';
import type { Settlement, TriggerEvent } from '../event.ts';
import { managerOf } from '../streams.ts';
import { openBuffer } from './buffer.ts';
import type { Trigger, TriggerContext, TriggerState } from './trigger.ts';

/** Between attempts to get a subscription that the server refused. */
const refusedRetryMs = 10_000;
/** A longer id than this is not taken over: it travels in every header that speaks of the event. */
const maxIdLength = 256;
const noHeaders: Readonly<Record<string, string>> = Object.freeze({});

export function openNats(source: TriggerSources['nats'], context: TriggerContext): Trigger {
  const { subject } = source;
  const { name, encoding, nats: link, log } = context;
  const buffer = openBuffer();
  const takesRequests = source.reply === 'Always';
  let subscription: Subscription | undefined;
  let subscribedOn: NatsConnection | undefined;
  let retry: NodeJS.Timeout | undefined;
  let closed = false;
  let reported = '';

  function report(state: TriggerState): void {
    const text = `${state.reason} ${state.message}`;
    if (closed || text === reported) return;
    reported = text;
    context.report(state);
  }

  function received(message: Msg): void {
    const given = message.headers;
    const event: TriggerEvent = {
      id: (given && idOf(given)) ?? randomUUID(),
      trigger: name,
      kind: 'nats',
      subject: message.subject,
      time: Date.now(),
      attempt: 1,
      headers: given ? recordOf(given) : noHeaders,
      encoding,
      data: message.data,
    };
    if (takesRequests && message.reply) {
      const answer = (settlement: Settlement): void => reply(message, settlement);
      if (!buffer.push(event, answer)) answer(overflow(subject));
    } else if (!buffer.push(event)) {
      context.dropped(message.subject);
    }
  }

  function reply(message: Msg, settlement: Settlement): void {
    try {
      if (settlement.kind === 'done') message.respond(settlement.result?.data);
      else message.respond(...failureOf(settlement));
    } catch (error) {
      // Too large for the server, or the connection was closed: then nobody can be told.
      try {
        message.respond(...failureOf({ kind: 'failed', fault: faultOf(error), reason: 'TooLarge' }));
      } catch {
        log.warn({ err: error, subject: message.subject }, 'reply could not be sent');
      }
    }
  }

  /** Subscriptions outlive reconnects by themselves; a connection that was given up is subscribed anew. */
  async function subscribe(): Promise<void> {
    const nc = link?.current();
    if (closed || !nc) return;
    if (subscribedOn !== nc || !subscription || subscription.isClosed()) {
      const queue = queueOf(source, context);
      subscribedOn = nc;
      try {
        subscription = nc.subscribe(subject, {
          ...(queue !== undefined && { queue }),
          callback: (error, message) => (error ? refused(error) : received(message)),
        });
      } catch (error) {
        return refused(error);
      }
    }
    const mine = subscription;
    try {
      // A refusal is on its way before the answer to the ping is.
      await nc.flush();
    } catch {
      // The connection broke: we are called again when it is back.
      return;
    }
    if (mine !== subscription || mine.isClosed()) return;
    report({ ready: true, reason: 'Ready', message: `subscribed to ${subject}` });
    await warnOfStreams(nc);
  }

  function refused(error: unknown): void {
    const message =
      error instanceof PermissionViolationError
        ? `the NATS user may not subscribe to ${subject}`
        : `NATS refused the subscription to ${subject}: ${faultOf(error).message}`;
    report({ ready: false, reason: 'SubscriptionRefused', message });
    subscription = undefined;
    clearTimeout(retry);
    if (!closed) retry = setTimeout(() => void subscribe(), refusedRetryMs).unref();
  }

  /** `js.publish` sets a reply subject too, and would get the function's result instead of the stream's word. */
  async function warnOfStreams(nc: NatsConnection): Promise<void> {
    if (!takesRequests) return;
    const streams = await managerOf(nc)
      .then((manager) => manager.streams.names(subject).next())
      .catch(() => []);
    if (streams.length === 0) return;
    report({
      ready: true,
      reason: 'Ready',
      message:
        `subscribed to ${subject}, which stream ${streams.join(', ')} stores too: ` +
        'use a jetstream trigger, or reply: Never',
    });
  }

  function follow(): void {
    if (!link) {
      report({ ready: false, reason: 'NatsUnavailable', message: 'this host has no NATS' });
    } else if (!link.state.connected) {
      report({ ready: false, reason: 'NatsUnavailable', message: link.state.message });
    } else {
      void subscribe();
    }
  }

  const unfollow = link?.onState(follow);
  const unhear = link?.onCutOff((why) => context.cutOff?.(why));
  follow();

  return {
    deliveries: () => buffer.deliveries(),
    async close() {
      if (closed) return;
      closed = true;
      unfollow?.();
      unhear?.();
      clearTimeout(retry);
      if (link) await endSubscription(link, subscription);
      buffer.close();
    },
    lag: () => Promise.resolve(buffer.size),
  };
}

function queueOf(source: TriggerSources['nats'], context: TriggerContext): string | undefined {
  if (source.broadcast) return undefined;
  const { namespace, name } = context.function;
  return source.queue ?? `atoll.${context.site}.${namespace}.${name}.${context.name}`;
}

function idOf(headers: MsgHdrs): string | undefined {
  const id = headers.get('Atoll-Id');
  return id !== '' && id.length <= maxIdLength ? id : undefined;
}

function overflow(subject: string): Settlement {
  const message = `too many requests to ${subject} are waiting; try again later`;
  return { kind: 'failed', reason: 'Overflow', fault: { code: 'Overflow', message } };
}

/** As NATS' own services fail, with Lambda's error object as the body. */
function failureOf(settlement: Exclude<Settlement, { kind: 'done' }>): [Uint8Array, { headers: MsgHdrs }] {
  const fault: Fault =
    settlement.kind === 'failed'
      ? settlement.fault
      : { code: 'Runtime.Drained', message: 'the function was stopped before it answered; try again' };
  const headers = newHeaders();
  headers.set('Nats-Service-Error', `${fault.code}: ${fault.message}`.replace(/\s+/g, ' ').slice(0, 1024));
  headers.set('Nats-Service-Error-Code', String(statusOf(settlement, fault)));
  const body = { errorType: fault.code, errorMessage: fault.message, trace: fault.stack ?? [] };
  return [Buffer.from(JSON.stringify(body)), { headers }];
}

function statusOf(settlement: Exclude<Settlement, { kind: 'done' }>, fault: Fault): number {
  if (settlement.kind === 'retry' || settlement.reason === 'Overflow') return 503;
  if (fault.code === 'Runtime.Drained' || fault.code === 'Runtime.StartError') return 503;
  if (fault.code === 'Sandbox.Timedout') return 504;
  if (settlement.reason === 'TooLarge') return 413;
  if (settlement.reason === 'Undecodable') return 400;
  if (settlement.reason === 'Recursion') return 508;
  return 500;
}

/** NATS headers may repeat; a handler sees them joined, as HTTP does. */
export function recordOf(headers: MsgHdrs): Record<string, string> {
  const record: Record<string, string> = {};
  for (const [name, values] of headers) record[name] = values.join(', ');
  return record;
}
