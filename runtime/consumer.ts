/**
 * A durable pull consumer as deliveries: what jetstream triggers and the inbox have in common. As many messages are
 * pulled as there is demand (CONTRACTS 4.3); leases are renewed while an event is unsettled (4.4).
 */
import {
  AckPolicy,
  DeliverPolicy,
  JetStreamApiCodes,
  JetStreamApiError,
  RetentionPolicy,
} from '@nats-io/jetstream';
import type { ConsumerConfig, ConsumerInfo, JetStreamManager } from '@nats-io/jetstream';
import { PermissionViolationError, createInbox, nanos } from '@nats-io/nats-core';
import type { Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/nats-core';
import { attemptsKey, openAttempts } from './attempts.ts';
import type { AttemptRecord, Attempts } from './attempts.ts';
import { endSubscription } from './clients/nats.ts';
import { AtollError, faultOf } from './errors.ts';
import type { Fault } from './errors.ts';
import type { Delivery, GivenUp, Settlement, TriggerEvent } from './event.ts';
import { isApiError, managerOf } from './streams.ts';
import { Fifo } from './triggers/buffer.ts';
import type { Trigger, TriggerContext, TriggerState } from './triggers/trigger.ts';
import { Verdicts } from './verdicts.ts';

/** How long the server waits for a word about an event; renewed at a third of it. */
const ackWaitMs = 30_000;
/** Events in backoff count against it and must not stall the rest. */
const maxAckPending = 10_000;
/** Deliveries beyond maxAttempts after which an event is poison: hand-backs and dead hosts use up no attempt. */
export const handBacksAllowed = 20;
/** A pull waits this long for messages, and says every heartbeat that it still does. */
const pullExpiresMs = 60_000;
const heartbeatMs = 10_000;
/** Pull requests this trigger keeps open at once; the consumer allows `maxWaitingPulls` to all hosts together. */
const maxOpenPulls = 16;
const maxWaitingPulls = 2_048;
const maxPullBatch = 10_000;
const tickMs = 2_000;
const resyncMs = 1_000;
const establishFloorMs = 500;
const establishCeilingMs = 10_000;
/** How long an event waits whose record could not be read or written; doubled with each delivery, up to 64 s. */
const attemptsRetryMs = 1_000;

/** `metadata` of our consumers: by it they are found again when their Function is gone. */
export const consumerLabels = {
  site: 'atoll.dev/site',
  uid: 'atoll.dev/uid',
  namespace: 'atoll.dev/namespace',
  function: 'atoll.dev/function',
  trigger: 'atoll.dev/trigger',
} as const;

export interface ConsumerSource {
  readonly stream: string;
  readonly consumer: string;
  readonly domain?: string | undefined;
  readonly filter?: string | undefined;
  readonly startAt: 'New' | 'All';
  /** In the consumer's metadata; absent for the inbox, which belongs to all triggers of a function. */
  readonly trigger?: string;
  /** Before the consumer is made or found. */
  prepare?(nc: NatsConnection): Promise<void>;
  read(message: PulledMessage): ReadEvent;
}

export interface PulledMessage {
  readonly subject: string;
  readonly headers: MsgHdrs | undefined;
  readonly data: Uint8Array;
  readonly sequence: number;
  /** When the stream stored it, ms since the epoch. */
  readonly time: number;
}

export interface ReadEvent {
  readonly event: Omit<TriggerEvent, 'attempt'>;
  /** Names the event among those of its trigger; another one after a redrive. */
  readonly attemptsId: string;
}

/** An event that was pulled and not settled. */
interface Held {
  /** Where to answer: of the newest delivery, if the server delivered it again. */
  reply: string;
  readonly sequence: number;
}

const ack = '+ACK';
const terminate = '+TERM';
const working = '+WPI';
const negative = (delayMs: number): string =>
  delayMs > 0 ? `-NAK {"delay":${nanos(Math.round(delayMs))}}` : '-NAK';

export function openConsumer(source: ConsumerSource, context: TriggerContext): Trigger {
  const { nats: link, log, retry } = context;
  const attempts: Attempts | undefined = link && openAttempts(link, { maxAgeSeconds: retry.maxAgeSeconds });
  const demand = new Fifo<(result: IteratorResult<Delivery>) => void>();
  const held = new Map<string, Held>();
  const preparing = new Set<Promise<void>>();
  const verdicts = new Verdicts();
  let confirming = false;

  /** Records that could not be written down, by key. Only events that come back to this host know of them. */
  const unwritten = new Map<string, AttemptRecord>();

  let subscription: Subscription | undefined;
  let inbox = '';
  let subscribedOn: NatsConnection | undefined;
  /** Pulled and not arrived, as far as we know; the server tells what it did not serve. */
  let pulled = 0;
  let openPulls = 0;
  let pullScheduled = false;
  let lastHeard = 0;
  let established: { created: string; lastSequence: number } | undefined;
  let streamWasMissing = false;
  let establishing = false;
  let generation = 0;
  let resyncing: NodeJS.Timeout | undefined;
  let lastResync = -resyncMs;
  let wake = (): void => {};
  let closed = false;
  let reported = '';
  let ticks = 0;
  let ticker: NodeJS.Timeout | undefined;

  function report(state: TriggerState): void {
    const text = `${state.reason} ${state.message}`;
    if (closed || text === reported) return;
    reported = text;
    context.report(state);
  }

  function tell(reply: string, verdict: string): void {
    const nc = subscribedOn;
    if (!nc || nc.isClosed()) return;
    try {
      nc.publish(reply, verdict);
    } catch (error) {
      log.warn({ err: error }, 'JetStream could not be told; the event will be delivered again');
    }
  }

  // ── Demand and pulling ──

  function pull(): void {
    if (pullScheduled || closed) return;
    pullScheduled = true;
    // One request for all the demand of this turn.
    setImmediate(() => {
      pullScheduled = false;
      sendPull();
    });
  }

  function sendPull(): void {
    const nc = subscribedOn;
    if (closed || !nc || !subscription || subscription.isClosed()) return;
    const wanted = Math.min(maxPullBatch, demand.size - preparing.size - pulled);
    if (wanted <= 0) return;
    if (pulled === 0) openPulls = 0;
    // Each open request has at least one message to come, so there are no more of them than that.
    if (Math.min(openPulls, pulled) >= maxOpenPulls) return;
    const prefix = source.domain === undefined ? '$JS.API' : `$JS.${source.domain}.API`;
    const request = {
      batch: wanted,
      expires: nanos(pullExpiresMs),
      idle_heartbeat: nanos(heartbeatMs),
    };
    try {
      nc.publish(`${prefix}.CONSUMER.MSG.NEXT.${source.stream}.${source.consumer}`, JSON.stringify(request), {
        reply: inbox,
      });
    } catch {
      return resync();
    }
    if (pulled === 0) lastHeard = performance.now();
    pulled += wanted;
    openPulls += 1;
    startTicking();
  }

  /** `from` is an older subscription when the message was on its way while we began anew. */
  function received(message: Msg, from: Subscription): void {
    const { reply } = message;
    if (from === subscription) {
      lastHeard = performance.now();
      if (!reply) return heardStatus(message);
      pulled = Math.max(0, pulled - 1);
    }
    const delivered = reply ? parseReply(reply) : undefined;
    if (!reply || !delivered) return;
    const { key } = delivered;
    const verdict = verdicts.get(key);
    const running = held.get(key);
    if (verdict !== undefined) {
      verdicts.add(key, reply, verdict, delivered.sequence);
      tell(reply, verdict);
    } else if (running) {
      // Still running here: not run twice, the newer delivery is the one to answer (CONTRACTS 4.4).
      running.reply = reply;
    } else if (closed || demand.size <= preparing.size) {
      tell(reply, negative(0));
    } else {
      take(message, reply, delivered);
    }
    pull();
  }

  function heardStatus(message: Msg): void {
    const { headers } = message;
    const code = headers?.code ?? 0;
    if (code === 100) return;
    const left = headers?.get('Nats-Pending-Messages');
    // A request that ended in its own time says how much of it was not served.
    if (code === 408 && left) {
      pulled = Math.max(0, pulled - Number(left));
      openPulls = Math.max(0, openPulls - 1);
      return pull();
    }
    // Consumer or stream deleted, server shutting down, too many requests: look again from the beginning.
    log.debug({ code, description: headers?.description }, 'pull ended');
    resync();
  }

  function take(message: Msg, reply: string, delivered: Delivered): void {
    const { key, sequence, count, time } = delivered;
    if (established) established.lastSequence = Math.max(established.lastSequence, sequence);
    const { event, attemptsId } = source.read({
      subject: message.subject,
      headers: message.headers,
      data: message.data,
      sequence,
      time,
    });
    const entry: Held = { reply, sequence };
    held.set(key, entry);
    startTicking();
    const record = attemptsKey(context.function, event.trigger, attemptsId);
    // The usual case reads nothing and waits for nothing.
    if (count === 1 && retry.maxAttempts > 1) {
      return yieldEvent({ ...event, attempt: 1 }, key, entry, record, false);
    }
    const ready = prepare(event, count, record).then(
      async ({ attempt, refuse, recorded }) => {
        if (closed || demand.size === 0) {
          // Its mark says that it was handed out, which it was not: with one attempt it would be Interrupted.
          const unrun: Settlement = { kind: 'retry', delayMs: 0, failed: false };
          await settle(unrun, { ...event, attempt }, key, entry, record, recorded && !refuse);
          return void preparing.delete(ready);
        }
        preparing.delete(ready);
        yieldEvent({ ...event, attempt }, key, entry, record, recorded, refuse);
      },
      (error: unknown) => {
        preparing.delete(ready);
        log.warn({ err: error, eventId: event.id }, 'attempts unknown: event handed back');
        giveBack(key, entry, attemptsRetryMs * 2 ** Math.min(6, count - 1));
        pull();
      },
    );
    preparing.add(ready);
  }

  async function prepare(
    event: Omit<TriggerEvent, 'attempt'>,
    count: number,
    record: string,
  ): Promise<{ attempt: number; recorded: boolean; refuse?: GivenUp }> {
    const store = attempts as Attempts;
    const before: AttemptRecord = count > 1 ? await store.read(record) : { failed: 0 };
    const mine = unwritten.get(record);
    unwritten.delete(record);
    const failed = Math.max(before.failed, mine?.failed ?? 0);
    const attempt = failed + 1;
    const refuse = refusal(event, count, { ...before, ...mine, failed });
    const recorded = failed > 0 || before.started === true;
    if (refuse || retry.maxAttempts > 1) return { attempt, recorded, ...(refuse && { refuse }) };
    await store.write(record, { failed: 0, started: true });
    return { attempt, recorded: true };
  }

  function refusal(
    event: Omit<TriggerEvent, 'attempt'>,
    count: number,
    before: AttemptRecord,
  ): GivenUp | undefined {
    const { failed, givenUp } = before;
    // However often it came meanwhile: its reason stays the one it was given up for.
    if (givenUp) return givenUp;
    if (before.started && retry.maxAttempts === 1) {
      const message = 'the event had been handed to a handler when the host ended';
      return { reason: 'Interrupted', fault: { code: 'Interrupted', message }, attempts: 1 };
    }
    if (count > retry.maxAttempts + handBacksAllowed) {
      const message = `delivered ${count} times without an end`;
      return { reason: 'Poison', fault: { code: 'Poison', message }, attempts: failed };
    }
    // Age ends what failed, never what did not have its turn yet.
    if (failed > 0 && Date.now() - event.time > retry.maxAgeSeconds * 1000) {
      const message = `older than ${retry.maxAgeSeconds} s after ${failed} failed attempts`;
      return { reason: 'EventAgeExceeded', fault: { code: 'EventAgeExceeded', message }, attempts: failed };
    }
    return undefined;
  }

  function yieldEvent(
    event: TriggerEvent,
    key: string,
    entry: Held,
    record: string,
    recorded: boolean,
    refuse?: GivenUp,
  ): void {
    let open = true;
    const delivery: Delivery = {
      event,
      replies: false,
      redeliverable: true,
      ...(refuse && { refuse }),
      settle(settlement) {
        if (!open) return Promise.resolve();
        open = false;
        return settle(settlement, event, key, entry, record, recorded);
      },
      extend: () => tell(entry.reply, working),
    };
    demand.shift()?.({ done: false, value: delivery });
  }

  // ── Settling ──

  async function settle(
    settlement: Settlement,
    event: TriggerEvent,
    key: string,
    entry: Held,
    record: string,
    recorded: boolean,
  ): Promise<void> {
    if (settlement.kind === 'retry') {
      const known = recordOf(settlement, event);
      try {
        if (known) await attempts?.write(record, known);
        else if (recorded && retry.maxAttempts === 1) await attempts?.remove(record);
      } catch (error) {
        if (known) unwritten.set(record, known);
        log.debug({ err: error, eventId: event.id }, 'failed attempt is remembered by this host only');
      }
      return giveBack(key, entry, settlement.delayMs);
    }
    const verdict = settlement.kind === 'done' ? ack : terminate;
    held.delete(key);
    verdicts.add(key, entry.reply, verdict, entry.sequence);
    tell(entry.reply, verdict);
    startTicking();
    if (!recorded) return;
    try {
      await attempts?.remove(record);
    } catch (error) {
      log.debug({ err: error, eventId: event.id }, 'record of attempts stays until its time is over');
    }
  }

  function giveBack(key: string, entry: Held, delayMs: number): void {
    held.delete(key);
    tell(entry.reply, negative(delayMs));
  }

  // ── Time ──

  function startTicking(): void {
    ticker ??= setInterval(tick, tickMs).unref();
  }

  function tick(): void {
    ticks += 1;
    const nc = link?.current();
    if (nc && nc === subscribedOn) {
      if ((ticks * tickMs) % (ackWaitMs / 3) < tickMs) {
        for (const { reply } of held.values()) tell(reply, working);
      }
      void confirm(nc);
      if (pulled > 0 && performance.now() - lastHeard > 2.5 * heartbeatMs) resync();
    }
    if (held.size > 0 || verdicts.size > 0 || (pulled > 0 && !closed)) return;
    clearInterval(ticker);
    ticker = undefined;
    if (closed) unfollow?.();
  }

  /** The server has read all that was sent before the ping that it answers. */
  async function confirm(nc: NatsConnection): Promise<void> {
    if (confirming || verdicts.size === 0) return;
    confirming = true;
    try {
      const round = verdicts.nextRound();
      await nc.flush();
      verdicts.confirm(round, verdicts.doubtful ? (await consumerInfo(nc)).delivered.stream_seq : 0);
    } catch (error) {
      log.debug({ err: error }, 'acknowledgements are not confirmed yet');
    } finally {
      confirming = false;
    }
  }

  // ── The consumer ──

  /** Begins anew, but never in a busy loop with a server that refuses each time. */
  function resync(): void {
    forgetPulls();
    if (resyncing || closed) return;
    const waitMs = Math.max(0, lastResync + resyncMs - performance.now());
    resyncing = setTimeout(() => {
      resyncing = undefined;
      lastResync = performance.now();
      void establish();
    }, waitMs).unref();
  }

  /** Requests that the server still knows find nobody at the old inbox, and are dropped. */
  function forgetPulls(): void {
    pulled = 0;
    openPulls = 0;
    const last = subscription;
    subscription = undefined;
    if (link) void endSubscription(link, last);
  }

  async function establish(): Promise<void> {
    if (establishing) return;
    establishing = true;
    for (let failures = 0; !closed && !subscription; failures++) {
      const nc = link?.current();
      if (!nc) {
        const message = link ? link.state.message : 'this host has no NATS';
        report({ ready: false, reason: 'NatsUnavailable', message });
        break;
      }
      const interrupted = new Promise<'interrupted'>((resolve) => {
        wake = () => resolve('interrupted');
      });
      try {
        // Requests of a connection that broke would be waited for in vain.
        if ((await Promise.race([subscribe(nc), interrupted])) === 'interrupted') failures = 0;
      } catch (error) {
        const { code, message } = failureOf(error, source);
        if (code === 'StreamNotFound') streamWasMissing = true;
        report({ ready: false, reason: code, message });
        await Promise.race([pause(failures), interrupted]);
      }
    }
    establishing = false;
  }

  async function subscribe(nc: NatsConnection): Promise<void> {
    const mine = ++generation;
    const isStale = (): boolean => closed || mine !== generation || link?.current() !== nc;
    await source.prepare?.(nc);
    await ensureConsumer(await managerOf(nc, source.domain));
    if (isStale()) return;
    const subject = createInbox(link?.inboxPrefix);
    let refused: unknown;
    const opened: Subscription = nc.subscribe(subject, {
      callback: (error, message) => {
        if (!error) return received(message, opened);
        refused = error;
        if (subscription === opened) resync();
      },
    });
    try {
      await nc.flush();
    } catch (error) {
      opened.unsubscribe();
      throw error;
    }
    if (refused) throw refused;
    if (isStale()) return opened.unsubscribe();
    inbox = subject;
    subscription = opened;
    subscribedOn = nc;
    const where = source.filter === undefined ? '' : `, ${source.filter}`;
    report({ ready: true, reason: 'Ready', message: `consuming ${source.stream}${where}` });
    tellAgain();
    sendPull();
  }

  /** What the server was told while the link broke may not have reached it. */
  function tellAgain(): void {
    verdicts.tellAgain(tell);
    for (const { reply } of held.values()) tell(reply, working);
  }

  async function consumerInfo(nc: NatsConnection): Promise<ConsumerInfo> {
    return (await managerOf(nc, source.domain)).consumers.info(source.stream, source.consumer);
  }

  async function ensureConsumer(manager: JetStreamManager): Promise<void> {
    const { stream, consumer } = source;
    const existing = await manager.consumers.info(stream, consumer).catch((error: unknown) => {
      if (isApiError(error, JetStreamApiCodes.ConsumerNotFound)) return undefined;
      throw error;
    });
    const metadata = metadataOf(source, context);
    const config: Partial<ConsumerConfig> = {
      ack_wait: nanos(ackWaitMs),
      max_ack_pending: maxAckPending,
      // The host counts: only it knows which deliveries were failures of the event.
      max_deliver: -1,
      ...(source.filter !== undefined && { filter_subject: source.filter }),
    };
    if (existing && mayKeep(existing, metadata)) {
      const current = existing.config;
      const changed =
        Object.entries(config).some(([field, value]) => current[field as keyof ConsumerConfig] !== value) ||
        (current.filter_subject !== undefined && source.filter === undefined);
      if (changed) {
        await manager.consumers.update(stream, consumer, {
          ...config,
          // Undefined takes an earlier filter away.
          filter_subject: source.filter,
          metadata,
        });
      }
      const { created } = await manager.streams.info(stream);
      established = { created, lastSequence: established?.lastSequence ?? existing.ack_floor.stream_seq };
      return;
    }
    if (existing) await manager.consumers.delete(stream, consumer);
    const info = await manager.streams.info(stream);
    const start = startOf(info.created, info.config.retention);
    await manager.consumers.add(stream, {
      ...config,
      ...start,
      durable_name: consumer,
      name: consumer,
      ack_policy: AckPolicy.Explicit,
      max_waiting: maxWaitingPulls,
      metadata,
    });
    if (established) log.warn({ stream, consumer }, 'consumer was gone and is made anew');
    const from =
      start.opt_start_seq ?? (start.deliver_policy === DeliverPolicy.New ? info.state.last_seq + 1 : 1);
    established = { created: info.created, lastSequence: from - 1 };
    streamWasMissing = false;
  }

  /** Where a new consumer begins: one that was lost goes on where it was. */
  function startOf(created: string, retention: RetentionPolicy): Partial<ConsumerConfig> {
    const isNewer = established !== undefined && established.created !== created;
    if (retention === RetentionPolicy.Workqueue) return { deliver_policy: DeliverPolicy.All };
    if (established && !isNewer) {
      return {
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: established.lastSequence + 1,
      };
    }
    // A stream that came after the trigger holds nothing but what is new to it.
    const all = source.startAt === 'All' || isNewer || streamWasMissing;
    return { deliver_policy: all ? DeliverPolicy.All : DeliverPolicy.New };
  }

  /** Is it this Function's? A Function of the same name that is gone left one behind, which is replaced. */
  function mayKeep(existing: ConsumerInfo, metadata: Record<string, string>): boolean {
    const its = existing.config.metadata ?? {};
    if (its[consumerLabels.site] !== context.site) {
      const owner =
        its[consumerLabels.site] === undefined ? 'somebody else' : `site ${its[consumerLabels.site]}`;
      throw new AtollError(
        'SubscriptionRefused',
        `consumer ${source.consumer} on stream ${source.stream} belongs to ${owner}: rename the function or the trigger`,
      );
    }
    if (its[consumerLabels.uid] === metadata[consumerLabels.uid]) return true;
    if (established) {
      throw new AtollError(
        'SubscriptionRefused',
        `consumer ${source.consumer} was taken over by a newer Function of the same name`,
      );
    }
    return false;
  }

  function pause(failures: number): Promise<void> {
    const ceiling = Math.min(establishCeilingMs, establishFloorMs * 2 ** Math.min(10, failures));
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(resolve, ceiling * (0.5 + Math.random() / 2)).unref();
    return promise;
  }

  const unfollow = link?.onState(({ connected, message }) => {
    wake();
    if (connected) {
      if (closed) tellAgain();
      else void establish();
    } else {
      forgetPulls();
      report({ ready: false, reason: 'NatsUnavailable', message });
    }
  });
  report({ ready: false, reason: 'Connecting', message: `looking for stream ${source.stream}` });
  void establish();

  const iterator: AsyncIterator<Delivery> = {
    next: () =>
      new Promise((resolve) => {
        if (closed) return resolve({ done: true, value: undefined });
        demand.push(resolve);
        pull();
      }),
  };

  return {
    deliveries: () => ({ [Symbol.asyncIterator]: () => iterator }),
    async close() {
      if (closed) return;
      closed = true;
      clearTimeout(resyncing);
      wake();
      for (let resolve = demand.shift(); resolve; resolve = demand.shift()) {
        resolve({ done: true, value: undefined });
      }
      // While it drains, what the server had sent already is given back.
      if (link) await endSubscription(link, subscription);
      await Promise.allSettled(preparing);
      startTicking();
    },
    async lag() {
      const nc = link?.current();
      if (!nc) throw new AtollError('NatsUnavailable', link?.state.message ?? 'this host has no NATS');
      try {
        const info = await consumerInfo(nc);
        return info.num_pending + info.num_ack_pending;
      } catch (error) {
        const { code, message } = failureOf(error, source);
        throw new AtollError(code, message, { cause: error });
      }
    },
  };
}

/** What must be known of an event when it comes again. */
function recordOf(
  { failed, givenUp }: Settlement & { kind: 'retry' },
  event: TriggerEvent,
): AttemptRecord | undefined {
  if (givenUp) return { failed: givenUp.attempts, givenUp };
  return failed ? { failed: event.attempt } : undefined;
}

interface Delivered {
  /** Of the message, and of no other: a stream that was made anew counts from one again. */
  readonly key: string;
  readonly sequence: number;
  readonly count: number;
  readonly time: number;
}

/** `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<count>.<sequence>.<delivery>.<time, ns>.<pending>[.<random>]` */
function parseReply(reply: string): Delivered | undefined {
  const tokens = reply.split('.');
  const at = tokens.length === 9 ? 4 : 6;
  const [count, sequence, , time] = tokens.slice(at);
  if (tokens[1] !== 'ACK' || count === undefined || sequence === undefined || time === undefined) {
    return undefined;
  }
  return {
    key: `${sequence}.${time}`,
    sequence: Number(sequence),
    count: Number(count),
    time: Number(time.slice(0, -6)),
  };
}

function metadataOf(source: ConsumerSource, context: TriggerContext): Record<string, string> {
  return {
    [consumerLabels.site]: context.site,
    [consumerLabels.uid]: context.function.uid,
    [consumerLabels.namespace]: context.function.namespace,
    [consumerLabels.function]: context.function.name,
    ...(source.trigger !== undefined && { [consumerLabels.trigger]: source.trigger }),
  };
}

function failureOf(error: unknown, { stream, domain }: ConsumerSource): Fault & { code: AtollError['code'] } {
  if (error instanceof AtollError) return { code: error.code, message: error.message };
  const { message } = faultOf(error);
  const where = domain === undefined ? '' : ` in JetStream domain ${domain}`;
  if (isApiError(error, JetStreamApiCodes.StreamNotFound)) {
    return { code: 'StreamNotFound', message: `there is no stream ${stream}${where}` };
  }
  if (error instanceof PermissionViolationError) {
    return {
      code: 'SubscriptionRefused',
      message: `the NATS user may not consume stream ${stream}: ${message}`,
    };
  }
  if (
    error instanceof JetStreamApiError &&
    !isApiError(error, JetStreamApiCodes.JetStreamNotEnabledForAccount)
  ) {
    return {
      code: 'SubscriptionRefused',
      message: `JetStream refused a consumer on stream ${stream}: ${message}`,
    };
  }
  return { code: 'JetStreamUnavailable', message: `JetStream${where} does not answer: ${message}` };
}
