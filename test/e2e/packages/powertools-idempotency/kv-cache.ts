/** The library's cache of Redis and Valkey on a NATS KV bucket. */
import type { CacheClient } from '@aws-lambda-powertools/idempotency/cache/types';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';

export async function kvCache(connection: NatsConnection, ttlSeconds: number): Promise<CacheClient> {
  const bucket = await new Kvm(connection).create('idempotency', { ttl: ttlSeconds * 1000 });
  // The library's keys have a "#" in them, which a key of a bucket must not.
  const keyOf = (name: unknown): string => Buffer.from(String(name)).toString('base64url');
  return {
    async get(name) {
      const entry = await bucket.get(keyOf(name));
      return entry?.operation === 'PUT' ? entry.string() : null;
    },
    async set(name, value, options) {
      const text = String(value);
      if ((options as { NX?: boolean }).NX !== true) {
        await bucket.put(keyOf(name), text);
        return text;
      }
      return await bucket.create(keyOf(name), text).then(
        () => text,
        () => null,
      );
    },
    async del(keys) {
      for (const key of keys) await bucket.delete(keyOf(key));
      return keys.length;
    },
  };
}
