/** What a site keeps in JetStream for itself: inbox, dead letters, state. Made when missing, by whoever needs it. */
import {
  DiscardPolicy,
  JetStreamApiCodes,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  jetstreamManager,
} from '@nats-io/jetstream';
import type { JetStreamManager, StreamConfig } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { KV } from '@nats-io/kv';
import { nanos } from '@nats-io/nats-core';
import type { NatsConnection } from '@nats-io/nats-core';
import { deadStream, inboxStream, stateBucket, type Target } from './names.ts';

export { deadStream, inboxStream, stateBucket };

/** Events of one trigger that may wait in the inbox: what a flooded function cannot take from the others. */
export const inboxEventsPerTrigger = 10_000;
/** As large as our own servers let a message be; NATS servers of others may allow less. */
export const inboxMaxEventBytes = 8 * 1024 * 1024;
/** Dead letters of one trigger; when they are reached its failing events wait at their source. */
export const deadLettersPerTrigger = 100_000;
/** Within this time the same message id is stored once. */
const dedupeMs = 120_000;

export function inboxSubject(site: string, { namespace, name }: Target, trigger: string): string {
  return `atoll.${site}.inbox.${namespace}.${name}.${trigger}`;
}

export function deadSubject(site: string, { namespace, name }: Target, trigger: string): string {
  return `atoll.${site}.dead.${namespace}.${name}.${trigger}`;
}

/** `jetstreamManager` without its question whether there is JetStream: the first request tells that too. */
export function managerOf(nc: NatsConnection, domain?: string): Promise<JetStreamManager> {
  return jetstreamManager(nc, { checkAPI: false, ...(domain !== undefined && { domain }) });
}

export function ensureInboxStream(nc: NatsConnection, site: string): Promise<void> {
  return ensureStream(nc, {
    name: inboxStream,
    subjects: [`atoll.${site}.inbox.>`],
    retention: RetentionPolicy.Workqueue,
    storage: StorageType.File,
    discard: DiscardPolicy.New,
    discard_new_per_subject: true,
    max_msgs_per_subject: inboxEventsPerTrigger,
    max_msg_size: inboxMaxEventBytes,
    duplicate_window: nanos(dedupeMs),
  });
}

export function ensureDeadStream(nc: NatsConnection, site: string): Promise<void> {
  return ensureStream(nc, {
    name: deadStream,
    subjects: [`atoll.${site}.dead.>`],
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.New,
    discard_new_per_subject: true,
    max_msgs_per_subject: deadLettersPerTrigger,
    duplicate_window: nanos(dedupeMs),
  });
}

/** The KV bucket of ticks, leases, attempts; an entry may be given a time to live of its own. */
export async function openState(nc: NatsConnection): Promise<KV> {
  const kv = await new Kvm(nc).create(stateBucket, { history: 1, markerTTL: 60_000 });
  const { config } = (await kv.status()).streamInfo;
  // A bucket that exists is taken as it is, and it may be one that was made by hand.
  if (!config.allow_msg_ttl) await (await managerOf(nc)).streams.update(config.name, { allow_msg_ttl: true });
  return kv;
}

async function ensureStream(
  nc: NatsConnection,
  config: Pick<StreamConfig, 'name' | 'subjects'> & Partial<StreamConfig>,
): Promise<void> {
  const manager = await managerOf(nc);
  const existing = await found(manager, config.name);
  if (!existing) {
    await manager.streams.add(config);
    return;
  }
  // Sites that share one NATS account share the streams: each has subjects of its own in them.
  const missing = config.subjects.filter((subject) => !existing.subjects.includes(subject));
  if (missing.length > 0) {
    await manager.streams.update(config.name, { subjects: [...existing.subjects, ...missing] });
  }
}

async function found(manager: JetStreamManager, name: string): Promise<StreamConfig | undefined> {
  try {
    return (await manager.streams.info(name)).config;
  } catch (error) {
    if (isApiError(error, JetStreamApiCodes.StreamNotFound)) return undefined;
    throw error;
  }
}

export function isApiError(error: unknown, code: number): boolean {
  return error instanceof JetStreamApiError && error.code === code;
}
