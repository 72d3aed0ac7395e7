/**
 * How often events failed, kept where a host that dies cannot forget it: ATOLL_STATE, one key per event that failed
 * (CONTRACTS 4.6). An event that succeeds at once leaves no trace here.
 */
import { createHash } from 'node:crypto';
import { jetstream } from '@nats-io/jetstream';
import type { KV } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/nats-core';
import type { NatsLink } from './clients/nats.ts';
import { AtollError, faultOf } from './errors.ts';
import type { GivenUp } from './event.ts';
import { openState, stateBucket } from './streams.ts';

export interface AttemptRecord {
  /** Invocations that this event failed. */
  readonly failed: number;
  /** It was handed to a handler; kept with maxAttempts 1 only. */
  readonly started?: boolean;
  /** It failed finally, and its dead letter could not be stored yet. */
  readonly givenUp?: GivenUp;
}

/** Methods reject with AtollError NatsUnavailable or JetStreamUnavailable. */
export interface Attempts {
  read(key: string): Promise<AttemptRecord>;
  write(key: string, record: AttemptRecord): Promise<void>;
  remove(key: string): Promise<void>;
}

/** What is left behind by a host that died just before it could clean up goes by itself, this long after its age. */
const keptSeconds = 86_400;

export function attemptsKey(
  { namespace, name }: { namespace: string; name: string },
  trigger: string,
  id: string,
): string {
  return `attempts.${namespace}.${name}.${trigger}.${keySafe(id)}`;
}

export function openAttempts(link: NatsLink, options: { maxAgeSeconds: number }): Attempts {
  const ttl = `${options.maxAgeSeconds + keptSeconds}s`;
  let opened: { nc: NatsConnection; kv: Promise<KV> } | undefined;

  async function ask<T>(question: (kv: KV, nc: NatsConnection) => Promise<T>): Promise<T> {
    const nc = link.current();
    if (!nc) throw new AtollError('NatsUnavailable', link.state.message);
    if (opened?.nc !== nc) opened = { nc, kv: openState(nc) };
    try {
      return await question(await opened.kv, nc);
    } catch (error) {
      // The bucket may be gone with the server's store: the next question makes it anew.
      opened = undefined;
      throw new AtollError('JetStreamUnavailable', `${stateBucket}: ${faultOf(error).message}`, {
        cause: error,
      });
    }
  }

  return {
    read: (key) =>
      ask(async (kv) => {
        const entry = await kv.get(key);
        return entry?.operation === 'PUT' ? entry.json<AttemptRecord>() : { failed: 0 };
      }),
    write: (key, record) =>
      ask(async (_kv, nc) => {
        // A put of the KV client cannot carry a time to live; its entries are plain messages.
        await jetstream(nc).publish(`$KV.${stateBucket}.${key}`, JSON.stringify(record), { ttl });
      }),
    remove: (key) => ask((kv) => kv.purge(key, { ttl: '1m' })),
  };
}

/** KV keys take letters, digits and -_=/. only; an id may hold anything and be of any length. */
function keySafe(id: string): string {
  const safe = id.replace(/[^-\w]/gu, (char) => `=${Buffer.from(char).toString('hex')}`);
  return safe.length <= 200 ? safe : createHash('sha256').update(id).digest('hex');
}
