/** ROS 2: messages of topics call the function, and a service is answered by it. The ROS process of the machine does the rest. */
import { randomUUID } from 'node:crypto';
import { rosTopicDefaults } from '../../crds/values.ts';
import type { TriggerSources } from '../../crds/function.ts';
import type {
  RosLink,
  RosMessage,
  RosRequest,
  RosState,
  RosSubscription,
  RosSubscriptionStatus,
  RosTopicSpec,
  RosTopicStatus,
} from '../clients/ros.ts';
import { faultOf, type Fault } from '../errors.ts';
import type { Delivery, Settlement, TriggerEvent } from '../event.ts';
import { openBuffer } from './buffer.ts';
import { RequestQueue } from './requests.ts';
import { openSilent } from './silent.ts';
import type { Trigger, TriggerContext, TriggerState } from './trigger.ts';

type RosSource = TriggerSources['ros'];

interface TopicEntry extends RosTopicSpec {
  readonly raw: boolean;
}

/** Of a state's message: a pattern may fit hundreds of topics. */
const toldTopics = 5;
const noHeaders: Readonly<Record<string, string>> = Object.freeze({});

export function openRos(source: RosSource, context: TriggerContext): Trigger {
  const { ros } = context;
  if (ros === undefined) {
    context.report({
      ready: false,
      reason: 'RosNotInstalled',
      message:
        'this host has no ROS 2: a ros trigger needs "faas up" on a machine where ROS 2 is installed and sourced (docs/reference/ros.md)',
    });
    return openSilent();
  }
  return source.service === undefined
    ? openTopics(topicsOf(source), ros, context)
    : openService(source, source.service, ros, context);
}

/** The short form is one entry. */
function topicsOf(source: RosSource): TopicEntry[] {
  const { topic, topics = [], ...fields } = source;
  const entries = topic === undefined ? topics : [{ ...fields, match: topic }];
  return entries.map(({ match, type, raw, maxHz, keepLast, qos, exclude }) => ({
    match,
    ...(type !== undefined && { type }),
    raw: raw ?? rosTopicDefaults.raw,
    maxHz: maxHz ?? 0,
    keepLast: keepLast ?? rosTopicDefaults.keepLast,
    qos: qos ?? rosTopicDefaults.qos,
    ...(exclude && { exclude }),
  }));
}

function openTopics(topics: readonly TopicEntry[], ros: RosLink, context: TriggerContext): Trigger {
  const buffer = openBuffer();
  /** Asked of the buffer and not answered yet; asked of the ROS process, and not come yet. */
  let wanted = 0;
  let asked = 0;
  let tooLarge = new Map<string, number>();
  const since = Date.now();
  let statuses: readonly RosTopicStatus[] = [];
  const report = reporter(context);
  const subscription: RosSubscription = ros.subscribe({
    topics,
    onMessage(message) {
      asked -= 1;
      if (!buffer.push(eventOf(message))) context.dropped(message.topic);
    },
    onStatus(status) {
      statuses = status.topics;
      report(stateOf(topics, status));
      tellTooLarge(status);
    },
  });

  function eventOf({ entry, topic, type, schema, time, data }: RosMessage): TriggerEvent {
    const raw = topics[entry]!.raw;
    return {
      id: randomUUID(),
      trigger: context.name,
      kind: 'ros',
      subject: topic,
      time,
      attempt: 1,
      headers: noHeaders,
      encoding: raw ? 'binary' : 'cdr',
      data,
      detail: { type },
      ...(!raw && { schema }),
    };
  }

  function tellTooLarge({ topics: all }: RosSubscriptionStatus): void {
    const now = new Map(all.map((one) => [one.topic, one.tooLarge]));
    for (const [topic, count] of now) {
      // A new subscription counts from 0.
      for (let left = count - Math.min(count, tooLarge.get(topic) ?? 0); left > 0; left--)
        context.dropped(topic);
    }
    tooLarge = now;
  }

  const unfollow = follow(ros, report);

  return {
    deliveries() {
      const inner = buffer.deliveries()[Symbol.asyncIterator]();
      return {
        [Symbol.asyncIterator]: () => ({
          next() {
            wanted += 1;
            if (wanted > asked) {
              subscription.request(wanted - asked);
              asked = wanted;
            }
            return inner.next().finally(() => (wanted -= 1));
          },
        }),
      };
    },
    async close() {
      unfollow();
      await subscription.close();
      buffer.close();
    },
    lag: () => Promise.resolve(buffer.size),
    topics: () =>
      statuses.map(({ entry: _entry, qos: _qos, problem: _problem, ...counts }) => ({
        trigger: context.name,
        since,
        ...counts,
      })),
  };
}

function openService(source: RosSource, name: string, ros: RosLink, context: TriggerContext): Trigger {
  const queue = new RequestQueue(context.timeoutSeconds * 1000);
  const report = reporter(context);
  const service = ros.serve({
    service: name,
    type: source.type!,
    failure: source.failure ?? {},
    onRequest: take,
    onStatus: ({ ready, code, message }) => report({ ready, reason: code, message }),
  });

  function take(request: RosRequest): void {
    const delivery: Delivery = {
      event: {
        id: randomUUID(),
        trigger: context.name,
        kind: 'ros',
        subject: name,
        time: request.time,
        attempt: 1,
        headers: noHeaders,
        encoding: 'cdr',
        data: request.data,
        schema: request.schema,
        detail: { type: source.type },
      },
      replies: true,
      redeliverable: false,
      signal: request.signal,
      settle: (settlement) => Promise.resolve(answer(request, settlement, context)),
    };
    const busy = (): void =>
      request.fail({ code: 'TooManyRequests', message: 'all slots are busy; try again later' });
    if (!queue.offer(delivery, busy)) busy();
  }

  const unfollow = follow(ros, report);

  return {
    deliveries: () => queue,
    async close() {
      unfollow();
      await service.close();
      queue.close();
    },
  };
}

function answer(request: RosRequest, settlement: Settlement, context: TriggerContext): void {
  if (settlement.kind !== 'done') return request.fail(failureOf(settlement));
  try {
    request.respond(settlement.result?.data ?? new Uint8Array());
  } catch (error) {
    const { message } = faultOf(error);
    context.log.warn({ error: message }, "what the handler answered is not of the service's type");
    request.fail({ code: 'Runtime.InvalidResponse', message });
  }
}

function failureOf(settlement: Exclude<Settlement, { kind: 'done' }>): Fault {
  if (settlement.kind === 'failed') return settlement.fault;
  return { code: 'Runtime.Drained', message: 'the function was stopped before it answered; try again' };
}

function follow(ros: RosLink, report: (state: TriggerState) => void): () => void {
  const tell = ({ connected, reason, message }: RosState): void => {
    if (!connected) report({ ready: false, reason, message });
  };
  tell(ros.state);
  return ros.onState(tell);
}

function reporter(context: TriggerContext): (state: TriggerState) => void {
  let last = '';
  return (state) => {
    const text = JSON.stringify(state);
    if (text === last) return;
    last = text;
    context.report(state);
  };
}

/** Ready: nothing keeps messages of the topics that were named from coming. What a pattern cannot take is only told. */
function stateOf(topics: readonly RosTopicSpec[], { topics: all }: RosSubscriptionStatus): TriggerState {
  const named = (entry: number): boolean => !topics[entry]!.match.includes('*');
  const problems = all.filter(({ problem }) => problem !== undefined);
  const [serious] = problems.filter(({ entry, qos }) => named(entry) && qos === undefined);
  const told = problems.map(({ problem }) => problem!.message);
  if (serious !== undefined) return { ready: false, reason: serious.problem!.code, message: few(told) };
  const taken = all.filter(({ qos }) => qos !== undefined);
  const awaited = all.filter(
    ({ entry, qos, publishers }) => named(entry) && (qos === undefined || publishers === 0),
  );
  const parts = [
    taken.length > 0
      ? `subscribed to ${few(taken.map(topicText))}`
      : 'no topic that fits has a publisher yet',
    ...(awaited.length > 0 && taken.length > 0
      ? [`no publisher yet: ${few(awaited.map(({ topic }) => topic))}`]
      : []),
    ...told.slice(0, toldTopics),
  ];
  return { ready: true, reason: 'Ready', message: parts.join('; ') };
}

const topicText = ({ topic, type, qos }: RosTopicStatus): string => `${topic} (${type}, ${qos})`;

function few(texts: readonly string[]): string {
  const more = texts.length - toldTopics;
  return texts.slice(0, toldTopics).join(', ') + (more > 0 ? ` and ${more} more` : '');
}
