/** What functions send: messages to topics, requests to services. */
import { setTimeout as pause } from 'node:timers/promises';
import { AtollError, faultOf } from '../errors.ts';
import { monotonicMs } from '../invoker/clock.ts';
import type { Definitions } from './definitions.ts';
import { codecOf } from './message.ts';
import { resolveName } from './names.ts';
import { typeClassOf, type Rclnodejs, type RosClient, type RosNode, type RosPublisher } from './rclnodejs.ts';
import { serviceFault } from './services.ts';
import { qosOf } from './topics.ts';

/** Kept for the next message or request; beyond it the ones used longest ago go. */
const maxKept = 256;
const depth = 10;
/** A new publisher is not known to subscribers yet, and what it publishes before is lost to them. */
const matchedMs = 2_000;
const probeMs = 10;

export interface Calls {
  publish(topic: string, type: string, cdr: Buffer): Promise<void>;
  /** Rejects with AtollError, or the signal's reason. */
  call(
    service: string,
    type: string,
    request: Buffer,
    options: { timeoutMs: number; signal: AbortSignal },
  ): Promise<Buffer>;
  close(): void;
}

export interface CallParts {
  readonly rcl: Rclnodejs;
  readonly node: RosNode;
  readonly definitions: Definitions;
  readonly namespace: string;
}

interface KeptPublisher {
  readonly publisher: RosPublisher;
  /** Messages go out in the order in which they came. */
  last: Promise<void>;
}

export function openCalls({ rcl, node, definitions, namespace }: CallParts): Calls {
  const publishers = new Map<string, KeptPublisher>();
  const clients = new Map<string, RosClient & { calls?: number }>();

  function publisherOf(topic: string, type: string): KeptPublisher {
    const key = `${topic} ${type}`;
    let kept = publishers.get(key);
    if (kept === undefined) {
      definitions.text(type);
      const publisher = node.createPublisher(typeClassOf(type), topic, {
        qos: qosOf(rcl, 'reliable', depth),
      });
      kept = { publisher, last: matched(topic, publisher) };
    }
    publishers.delete(key);
    publishers.set(key, kept);
    if (publishers.size > maxKept) {
      const [oldest, { publisher }] = publishers.entries().next().value!;
      publishers.delete(oldest);
      node.destroyPublisher(publisher);
    }
    return kept;
  }

  /** Resolves when those who subscribe to the topic have found the publisher, or take too long. */
  async function matched(topic: string, publisher: RosPublisher): Promise<void> {
    const until = monotonicMs() + matchedMs;
    while (publisher.subscriptionCount < node.countSubscribers(topic) && monotonicMs() < until)
      await pause(probeMs);
  }

  function clientOf(service: string, type: string): RosClient & { calls?: number } {
    const key = `${service} ${type}`;
    let client = clients.get(key);
    if (client === undefined) {
      definitions.text(`${type}_Request`);
      client = node.createClient(type, service);
    }
    clients.delete(key);
    clients.set(key, client);
    for (const [oldest, { calls = 0 }] of clients) {
      if (clients.size <= maxKept) break;
      if (calls > 0) continue;
      node.destroyClient(clients.get(oldest));
      clients.delete(oldest);
    }
    return client;
  }

  async function available(
    client: RosClient,
    service: string,
    until: number,
    signal: AbortSignal,
  ): Promise<void> {
    for (let waitMs = 5; !client.isServiceServerAvailable(); waitMs = Math.min(waitMs * 2, 200)) {
      signal.throwIfAborted();
      if (monotonicMs() >= until) throw new AtollError('RosServiceUnavailable', `nobody serves ${service}`);
      await pause(Math.max(1, Math.min(waitMs, until - monotonicMs())));
    }
  }

  return {
    async publish(topic, type, cdr) {
      const name = resolveName(topic, namespace);
      let kept: KeptPublisher;
      try {
        kept = publisherOf(name, type);
      } catch (error) {
        throw error instanceof AtollError
          ? error
          : new AtollError('RosTypeNotFound', `${name} (${type}): ${faultOf(error).message}`);
      }
      kept.last = kept.last.then(() => kept.publisher.publish(cdr));
      const mine = kept.last;
      // The next message does not fail for this one.
      kept.last = mine.catch(() => {});
      await mine;
    },
    async call(service, type, request, { timeoutMs, signal }) {
      const name = resolveName(service, namespace);
      const until = monotonicMs() + timeoutMs;
      let client: RosClient & { calls?: number };
      try {
        client = clientOf(name, type);
      } catch (error) {
        throw new AtollError('RosTypeNotFound', serviceFault(error, type).message);
      }
      client.calls = (client.calls ?? 0) + 1;
      try {
        await available(client, `${name} (${type})`, until, signal);
        const codec = codecOf(definitions.text(`${type}_Request`), `${type}_Request`);
        const response = await client.sendRequestAsync(codec.decode(request), {
          timeout: Math.max(1, Math.ceil(until - monotonicMs())),
          signal,
        });
        return codecOf(definitions.text(`${type}_Response`), `${type}_Response`).encode(response);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof AtollError) throw error;
        if (monotonicMs() >= until - 1)
          throw new AtollError('RosTimeout', `${name} did not answer within ${timeoutMs} ms`);
        throw new AtollError('RosUnavailable', `${name} (${type}): ${faultOf(error).message}`);
      } finally {
        client.calls -= 1;
      }
    },
    close() {
      for (const { publisher } of publishers.values()) node.destroyPublisher(publisher);
      for (const client of clients.values()) node.destroyClient(client);
    },
  };
}
