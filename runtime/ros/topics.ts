/**
 * Subscriptions to topics: which topics there are, with which type and quality of service, and what of their messages goes
 * on. Bytes are never decoded here.
 */
import { monotonicMs } from '../invoker/clock.ts';
import { faultOf } from '../errors.ts';
import type { RosSubscriptionStatus, RosTopicSpec, RosTopicStatus } from '../clients/ros.ts';
import type { Log } from '../log.ts';
import type { Definitions } from './definitions.ts';
import { isHidden, isPattern, patternOf, resolveName } from './names.ts';
import { maxMessageBytes } from './protocol.ts';
import { Rate } from './rate.ts';
import { typeClassOf, type PublisherInfo, type Rclnodejs, type RosNode } from './rclnodejs.ts';

/** rclnodejs tells of no change in the graph. */
const graphMs = 250;
/** Of topics that are subscribed to already the publishers' offers are looked at only so often. */
const offersMs = 1_000;
/** A topic that only a pattern asks for is given up when it had no publisher for so long. */
const forgottenMs = 10_000;
/** Held for one subscription, all its topics together (CONTRACTS 4.2). */
const maxHeldBytes = 64 * 1024 * 1024;
/** In the middleware: rclnodejs takes messages one by one, and a burst must not overwrite itself meanwhile. */
const minDepth = 10;

export interface Topics {
  subscribe(topics: readonly RosTopicSpec[], outlet: Outlet): TopicSubscription;
  close(): void;
}

/** Where the messages of a subscription go. */
export interface Outlet {
  message(message: HeldMessage): void;
  status(status: RosSubscriptionStatus): void;
}

export interface HeldMessage {
  readonly entry: number;
  readonly topic: string;
  readonly type: string;
  readonly time: number;
  readonly data: Buffer;
}

export interface TopicSubscription {
  request(messages: number): void;
  close(): void;
}

export interface TopicParts {
  readonly rcl: Rclnodejs;
  readonly node: RosNode;
  readonly definitions: Definitions;
  readonly namespace: string;
}

interface Entry extends RosTopicSpec {
  readonly index: number;
  readonly name: string;
  /** Of a pattern. */
  readonly pattern: RegExp | undefined;
  readonly excluded: readonly RegExp[];
}

export function openTopics(parts: TopicParts & { readonly log: Log }): Topics {
  const subscriptions = new Set<Subscription>();
  /** The last failure, told once. */
  let failure = '';
  const look = (): void => {
    if (subscriptions.size === 0) return;
    try {
      const graph = parts.node.getTopicNamesAndTypes().map(({ name }) => name);
      for (const subscription of subscriptions) subscription.look(graph);
      failure = '';
    } catch (error) {
      const { message } = faultOf(error);
      if (message !== failure) parts.log.error({ err: error }, 'topics cannot be looked for');
      failure = message;
    }
  };
  const timer = setInterval(look, graphMs);
  return {
    subscribe(topics, outlet) {
      const subscription = new Subscription(parts, topics, outlet);
      subscriptions.add(subscription);
      look();
      return {
        request: (messages) => subscription.request(messages),
        close() {
          subscriptions.delete(subscription);
          subscription.close();
        },
      };
    },
    close() {
      clearInterval(timer);
      for (const subscription of subscriptions) subscription.close();
      subscriptions.clear();
    },
  };
}

class Subscription {
  readonly #parts: TopicParts;
  readonly #entries: readonly Entry[];
  readonly #outlet: Outlet;
  readonly #topics = new Map<string, Topic>();
  /** Topics with messages that wait, in the order in which they get a turn. */
  readonly #waiting = new Set<Topic>();
  #asked = 0;
  #heldBytes = 0;
  #told = '';

  constructor(parts: TopicParts, topics: readonly RosTopicSpec[], outlet: Outlet) {
    this.#parts = parts;
    this.#outlet = outlet;
    const { namespace } = parts;
    this.#entries = topics.map((topic, index) => {
      const name = resolveName(topic.match, namespace);
      return {
        ...topic,
        index,
        name,
        pattern: isPattern(name) ? patternOf(name) : undefined,
        excluded: (topic.exclude ?? []).map((one) => patternOf(resolveName(one, namespace))),
      };
    });
  }

  look(graph: readonly string[]): void {
    const now = monotonicMs();
    for (const entry of this.#entries) {
      if (entry.pattern === undefined) this.#take(entry.name, entry);
      else for (const name of graph) if (fits(entry, name)) this.#take(name, entry);
    }
    for (const topic of this.#topics.values()) {
      topic.look(now);
      if (!topic.isForgotten(now)) continue;
      topic.close();
      this.#topics.delete(topic.name);
    }
    this.#tell();
  }

  /** The first entry that fits a topic has it. */
  #take(name: string, entry: Entry): void {
    if (this.#topics.has(name)) return;
    this.#topics.set(name, new Topic(this.#parts, name, entry, (topic, data) => this.#received(topic, data)));
  }

  #received(topic: Topic, data: Buffer): void {
    topic.queue.push({
      entry: topic.entry.index,
      topic: topic.name,
      type: topic.type!,
      time: Date.now(),
      data,
    });
    this.#heldBytes += data.length;
    this.#waiting.add(topic);
    while (
      topic.queue.length > topic.entry.keepLast ||
      (this.#heldBytes > maxHeldBytes && topic.queue.length > 1)
    ) {
      this.#heldBytes -= topic.queue.shift()!.data.length;
      topic.replaced += 1;
    }
    this.#send();
  }

  request(messages: number): void {
    this.#asked += messages;
    this.#send();
  }

  #send(): void {
    while (this.#asked > 0) {
      const [topic] = this.#waiting;
      if (topic === undefined) return;
      const message = topic.queue.shift()!;
      // To the end: a fast topic does not keep the others waiting.
      this.#waiting.delete(topic);
      if (topic.queue.length > 0) this.#waiting.add(topic);
      this.#heldBytes -= message.data.length;
      this.#asked -= 1;
      this.#outlet.message(message);
    }
  }

  #tell(): void {
    const topics = [...this.#topics.values()].map((topic) => topic.status);
    const text = JSON.stringify(topics);
    if (text === this.#told) return;
    this.#told = text;
    this.#outlet.status({ topics });
  }

  close(): void {
    for (const topic of this.#topics.values()) topic.close();
    this.#topics.clear();
    this.#waiting.clear();
  }
}

function fits({ pattern, excluded }: Entry, name: string): boolean {
  return !isHidden(name) && pattern!.test(name) && !excluded.some((one) => one.test(name));
}

/** One topic of a subscription. */
class Topic {
  readonly name: string;
  readonly entry: Entry;
  readonly queue: HeldMessage[] = [];
  /** Of the subscription in the middleware; stays while messages of it wait. */
  type: string | undefined;
  replaced = 0;
  readonly #parts: TopicParts;
  readonly #take: (topic: Topic, data: Buffer) => void;
  readonly #rate: Rate | undefined;
  #subscription: unknown;
  #quality: Quality | undefined;
  #publishers = 0;
  #problem: RosTopicStatus['problem'];
  #received = 0;
  #filtered = 0;
  #tooLarge = 0;
  #nextLookMs = 0;
  #aloneSinceMs: number | undefined;

  constructor(parts: TopicParts, name: string, entry: Entry, take: (topic: Topic, data: Buffer) => void) {
    this.#parts = parts;
    this.name = name;
    this.entry = entry;
    this.#take = take;
    this.#rate = entry.maxHz > 0 ? new Rate(entry.maxHz) : undefined;
  }

  /** Subscribes, or anew when publishers offer something else now. */
  look(now: number): void {
    if (this.#subscription !== undefined && now < this.#nextLookMs) return;
    this.#nextLookMs = now + offersMs;
    const publishers = this.#parts.node.getPublishersInfoByTopic(this.name);
    this.#publishers = publishers.length;
    this.#aloneSinceMs = publishers.length > 0 ? undefined : (this.#aloneSinceMs ?? now);
    const type = this.#typeFor(publishers);
    if (type === undefined) return;
    const { qos } = this.entry;
    // Nothing is known of them yet, and nothing would be received.
    if (publishers.length === 0 && (qos === 'auto' || this.#subscription !== undefined)) return;
    const fitting = publishers.filter((one) => one.topic_type === type);
    // Publishers of another type only: the problem says so.
    if (publishers.length > 0 && fitting.length === 0) return;
    const quality = qos === 'auto' ? offeredBy(fitting) : given[qos];
    if (this.#subscription !== undefined && type === this.type && quality === this.#quality) return;
    this.#subscribe(type, quality);
  }

  #typeFor(publishers: readonly PublisherInfo[]): string | undefined {
    const { entry } = this;
    const types = [...new Set(publishers.map((publisher) => publisher.topic_type))];
    const wanted =
      entry.type ??
      (this.type !== undefined && types.includes(this.type) ? this.type : (types[0] ?? this.type));
    const others = types.filter((type) => type !== wanted);
    this.#problem = undefined;
    if (wanted === undefined) return undefined;
    if (others.length > 0) {
      const from = publishers.filter(({ topic_type }) => topic_type !== wanted).map(nodeOf);
      const message = `${this.name} is published as ${others.join(', ')} by ${[...new Set(from)].join(', ')}, and taken as ${wanted}`;
      this.#problem = { code: 'RosTypeMismatch', message };
    }
    try {
      this.#parts.definitions.text(wanted);
    } catch (error) {
      this.#problem = faultOf(error);
      return undefined;
    }
    return wanted;
  }

  #subscribe(type: string, quality: Quality): void {
    this.#drop();
    const { rcl, node } = this.#parts;
    const depth = Math.max(minDepth, this.entry.keepLast);
    try {
      this.#subscription = node.createSubscription(
        typeClassOf(type),
        this.name,
        { isRaw: true, qos: qosOf(rcl, quality, depth) },
        (data) => this.#message(type, data),
      );
      this.type = type;
      this.#quality = quality;
    } catch (error) {
      this.#problem = { code: 'SubscriptionRefused', message: `${this.name}: ${faultOf(error).message}` };
    }
  }

  #message(type: string, data: Buffer): void {
    this.#received += 1;
    if (data.length > maxMessageBytes) {
      this.#tooLarge += 1;
      return;
    }
    if (this.#rate !== undefined && !this.#rate.pass(monotonicMs())) {
      this.#filtered += 1;
      return;
    }
    if (type === this.type) this.#take(this, data);
  }

  /** Only patterns let a topic go: one that is named is waited for. */
  isForgotten(now: number): boolean {
    return (
      this.entry.pattern !== undefined &&
      this.queue.length === 0 &&
      this.#aloneSinceMs !== undefined &&
      now - this.#aloneSinceMs > forgottenMs
    );
  }

  get status(): RosTopicStatus {
    return {
      entry: this.entry.index,
      topic: this.name,
      ...(this.type !== undefined && { type: this.type }),
      ...(this.#subscription !== undefined && { qos: this.#quality!.replaceAll('_', ' ') }),
      publishers: this.#publishers,
      ...(this.#problem && { problem: this.#problem }),
      received: this.#received,
      filtered: this.#filtered,
      replaced: this.replaced,
      tooLarge: this.#tooLarge,
    };
  }

  #drop(): void {
    if (this.#subscription === undefined) return;
    this.#parts.node.destroySubscription(this.#subscription);
    this.#subscription = undefined;
  }

  close(): void {
    this.#drop();
    this.queue.length = 0;
  }
}

/** Its endpoints are found before its name is. */
function nodeOf({ node_namespace, node_name }: PublisherInfo): string {
  if (node_name.startsWith('_NODE_NAME_UNKNOWN_')) return 'a node that is not known yet';
  return `${node_namespace.replace(/\/$/, '')}/${node_name}`;
}

type Quality = 'reliable' | 'best_effort' | 'reliable_transient_local' | 'best_effort_transient_local';

const given = {
  reliable: 'reliable',
  best_effort: 'best_effort',
  transient_local: 'reliable_transient_local',
} as const;

/** The strongest that all of them give: who asks for more gets nothing from those who offer less. */
function offeredBy(publishers: readonly PublisherInfo[]): Quality {
  const all = (test: (offer: PublisherInfo['qos_profile']) => boolean): boolean =>
    publishers.length > 0 && publishers.every((publisher) => test(publisher.qos_profile));
  // rmw/types.h: RMW_QOS_POLICY_RELIABILITY_RELIABLE and RMW_QOS_POLICY_DURABILITY_TRANSIENT_LOCAL are 1.
  const reliability = all((offer) => offer.reliability === 1) ? 'reliable' : 'best_effort';
  return all((offer) => offer.durability === 1) ? `${reliability}_transient_local` : reliability;
}

export function qosOf({ QoS }: Rclnodejs, quality: Quality, depth: number): unknown {
  const reliable = quality.startsWith('reliable') ? 'RELIABLE' : 'BEST_EFFORT';
  const durable = quality.endsWith('transient_local') ? 'TRANSIENT_LOCAL' : 'VOLATILE';
  return new QoS(
    QoS.HistoryPolicy['RMW_QOS_POLICY_HISTORY_KEEP_LAST']!,
    depth,
    QoS.ReliabilityPolicy[`RMW_QOS_POLICY_RELIABILITY_${reliable}`]!,
    QoS.DurabilityPolicy[`RMW_QOS_POLICY_DURABILITY_${durable}`]!,
  );
}
