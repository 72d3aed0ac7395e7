/**
 * The sweep (CONTRACTS 4.14): what Functions and triggers that are gone have left in the broker. Done again and again
 * with all that lives, it needs no memory of what was deleted, and a deletion never waits for it.
 */
import { JetStreamApiCodes } from '@nats-io/jetstream';
import type { JetStreamManager, StoredMsg } from '@nats-io/jetstream';
import type { NatsLink } from '../clients/nats.ts';
import { consumerLabels } from '../consumer.ts';
import type { DeadLetters } from '../dead-letters.ts';
import { AtollError, faultOf } from '../errors.ts';
import { eventOf } from '../inbox.ts';
import type { Log } from '../log.ts';
import { inboxConsumer } from '../names.ts';
import { inboxStream, inboxSubject, isApiError, managerOf, openState } from '../streams.ts';

export interface Living {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly triggers: readonly string[];
}

export interface Swept {
  /** `<stream>/<consumer>` of each that was removed. */
  readonly consumers: string[];
  readonly keys: string[];
  /** Events that waited in the inbox and are dead letters now (`FunctionDeleted`). */
  readonly deadLettered: number;
  /** Events of living functions that were settled, and that a full disk had kept in the inbox. */
  readonly settled: number;
  /** Of such events, those that cannot be told yet from what is on its way: worth another look soon. */
  readonly lingering: number;
  /**
   * Keys of MQTT sessions that the broker still keeps, with what was written there: whoever cleans one by a clean
   * connect removes its key then.
   */
  readonly mqttSessions: { key: string; value: unknown; revision: number }[];
}

/** What is younger may belong to a Function that came after `living` was gathered. */
export const graceMs = 60_000;

/** Keys of ATOLL_STATE that name a trigger: `<kind>.<namespace>.<function>.<trigger>[.…]`. */
const ownedKeys = ['attempts', 'schedule', 'mqtt'];
const mqttSessionKeys = 'mqtt-topic';

/** Who a site's state in a NATS account belongs to: a folder, by an id that is made once. */
export interface Owner {
  readonly id: string;
  /** For people: host and folder. */
  readonly place: string;
}

/**
 * Consumers and inbox carry the site's name, not its folder: two sites of one name in one NATS account would take
 * each other's events, and sweep what is the other's. The first one keeps the name; rejects with AtollError SiteInUse
 * for any other, NatsUnavailable while NATS is away.
 */
export async function claimState(link: NatsLink, site: string, owner: Owner): Promise<void> {
  const nc = link.current();
  if (!nc) throw new AtollError('NatsUnavailable', link.state.message);
  const state = await openState(nc);
  const key = `site.${site}`;
  const created = await state.create(key, JSON.stringify(owner)).catch(() => undefined);
  const entry = created === undefined ? await state.get(key) : undefined;
  if (entry?.operation !== 'PUT') return;
  const holder = entry.json<Owner>();
  if (holder.id === owner.id) return;
  throw new AtollError(
    'SiteInUse',
    `in this NATS account the site "${site}" is that of ${holder.place}: give this one an account of its own, or, if that site is gone, "nats kv del ATOLL_STATE ${key}"`,
  );
}

/** Rejects with AtollError NatsUnavailable, JetStreamUnavailable or SiteInUse; what was done until then stays done. */
export async function forget(
  living: readonly Living[],
  parts: {
    link: NatsLink;
    deadLetters: DeadLetters;
    site: string;
    owner: Owner;
    log: Log;
    graceMs?: number;
  },
): Promise<Swept> {
  const { link, log } = parts;
  await claimState(link, parts.site, parts.owner);
  const nc = link.current();
  if (!nc) throw new AtollError('NatsUnavailable', link.state.message);
  const known = new Known(living);
  try {
    const manager = await managerOf(nc);
    const bornBefore = Date.now() - (parts.graceMs ?? graceMs);
    const consumers = await forgetConsumers(manager, known, parts.site, bornBefore);
    const deadLettered = await forgetInbox(manager, known, parts, bornBefore);
    const { settled, lingering } = await removeSettled(manager, living, parts.site);
    const { keys, mqttSessions } = await forgetKeys(await openState(nc), known, bornBefore);
    const swept = { consumers, keys, deadLettered, settled, lingering, mqttSessions };
    if (settled > 0)
      log.warn({ events: settled }, 'handled events that a full disk had kept in the inbox are removed');
    if (consumers.length + keys.length + deadLettered > 0) {
      log.info({ consumers, keys: keys.length, deadLettered }, 'forgot what deleted functions left behind');
    }
    return swept;
  } catch (error) {
    if (error instanceof AtollError) throw error;
    throw new AtollError('JetStreamUnavailable', `the sweep was not finished: ${faultOf(error).message}`, {
      cause: error,
    });
  }
}

/** For whoever cleaned an MQTT session: its key goes too, unless somebody wrote it since. */
export async function forgetSessionKey(
  link: NatsLink,
  { key, revision }: Pick<Swept['mqttSessions'][number], 'key' | 'revision'>,
): Promise<void> {
  const kv = await openState(await link.connection());
  await kv.purge(key, { previousSeq: revision });
}

class Known {
  readonly #triggersByUid: Map<string, Set<string>>;
  readonly #triggersByName: Map<string, Set<string>>;

  constructor(living: readonly Living[]) {
    this.#triggersByUid = new Map(living.map(({ uid, triggers }) => [uid, new Set(triggers)]));
    this.#triggersByName = new Map(
      living.map(({ namespace, name, triggers }) => [`${namespace}.${name}`, new Set(triggers)]),
    );
  }

  /** Without a trigger: what belongs to the function as a whole. */
  hasUid(uid: string | undefined, trigger?: string): boolean {
    const triggers = this.#triggersByUid.get(uid ?? '');
    return triggers !== undefined && (trigger === undefined || triggers.has(trigger));
  }

  hasName(namespace: string, name: string, trigger?: string): boolean {
    const triggers = this.#triggersByName.get(`${namespace}.${name}`);
    return triggers !== undefined && (trigger === undefined || triggers.has(trigger));
  }
}

async function forgetConsumers(
  manager: JetStreamManager,
  known: Known,
  site: string,
  bornBefore: number,
): Promise<string[]> {
  const forgotten: string[] = [];
  for await (const stream of manager.streams.names()) {
    for await (const { name, config, created } of manager.consumers.list(stream)) {
      const metadata = config.metadata ?? {};
      if (metadata[consumerLabels.site] !== site || Date.parse(created) > bornBefore) continue;
      if (known.hasUid(metadata[consumerLabels.uid], metadata[consumerLabels.trigger])) continue;
      await manager.consumers.delete(stream, name).catch((error: unknown) => {
        if (!isApiError(error, JetStreamApiCodes.ConsumerNotFound)) throw error;
      });
      forgotten.push(`${stream}/${name}`);
    }
  }
  return forgotten;
}

/** Events of a living function stay, also those of a trigger that it had: the function itself handles them. */
async function forgetInbox(
  manager: JetStreamManager,
  known: Known,
  { deadLetters, site }: { deadLetters: DeadLetters; site: string },
  bornBefore: number,
): Promise<number> {
  let count = 0;
  const info = await manager.streams
    .info(inboxStream, { subjects_filter: `atoll.${site}.inbox.>` })
    .catch((error: unknown) => {
      if (isApiError(error, JetStreamApiCodes.StreamNotFound)) return undefined;
      throw error;
    });
  for (const subject of Object.keys(info?.state.subjects ?? {})) {
    const [, , , namespace = '', name = ''] = subject.split('.');
    if (known.hasName(namespace, name)) continue;
    for (
      let next = await nextOf(manager, subject, 1);
      next;
      next = await nextOf(manager, subject, next.seq + 1)
    ) {
      if (next.time.getTime() > bornBefore) break;
      const event = eventOf(subject, next.header, next.data, {
        id: `${inboxStream}:${next.seq}`,
        time: next.time.getTime(),
      });
      const message = `function ${namespace}/${name} was deleted while the event waited for it`;
      const fault = { code: 'FunctionDeleted', message };
      await deadLetters.put({ namespace, name }, { ...event, attempt: 1 }, fault, 'FunctionDeleted', {
        attempts: 0,
      });
      await manager.streams.deleteMessage(inboxStream, next.seq, false);
      count += 1;
    }
  }
  return count;
}

/**
 * nats-server notes an acknowledgement first and then takes the event out of the stream. When the disk is full the
 * second fails, and is not done again: such an event comes to nobody any more, and uses up its trigger's share. Up to
 * the consumer's floor all of a function's events are settled; a restart never leaves it above the stream's end.
 */
async function removeSettled(
  manager: JetStreamManager,
  living: readonly Living[],
  site: string,
): Promise<Pick<Swept, 'settled' | 'lingering'>> {
  const swept = { settled: 0, lingering: 0 };
  for (const target of living) {
    const filter = inboxSubject(site, target, '>');
    const [consumer, stream] = await Promise.all([
      manager.consumers.info(inboxStream, inboxConsumer(target)),
      manager.streams.info(inboxStream, { subjects_filter: filter }),
    ]).catch((error: unknown) => {
      const missing = [JetStreamApiCodes.ConsumerNotFound, JetStreamApiCodes.StreamNotFound];
      if (missing.some((code) => isApiError(error, code))) return [];
      throw error;
    });
    if (!consumer || !stream) continue;
    const stored = Object.values(stream.state.subjects ?? {}).reduce((sum, count) => sum + count, 0);
    const kept = stored - consumer.num_pending - consumer.num_ack_pending;
    // What is settled at this moment may look so for an instant; it is removed either way.
    if (kept <= 0) continue;
    const seq = consumer.ack_floor.stream_seq + 1;
    const { purged } = await manager.streams.purge(inboxStream, { filter, seq });
    swept.settled += purged;
    swept.lingering += Math.max(0, kept - purged);
  }
  return swept;
}

async function nextOf(manager: JetStreamManager, subject: string, seq: number): Promise<StoredMsg | null> {
  // The client's types know this pair for direct reads only; the server takes it here too.
  const query = { seq, next_by_subj: subject };
  return manager.streams.getMessage(inboxStream, query);
}

async function forgetKeys(
  kv: Awaited<ReturnType<typeof openState>>,
  known: Known,
  bornBefore: number,
): Promise<Pick<Swept, 'keys' | 'mqttSessions'>> {
  const swept: Pick<Swept, 'keys' | 'mqttSessions'> = { keys: [], mqttSessions: [] };
  // Gathered first: removing while listing would list what is removed.
  const listed: string[] = [];
  for await (const key of await kv.keys()) listed.push(key);
  for (const key of listed) {
    const [kind = '', namespace = '', name = '', trigger = ''] = key.split('.');
    const isSession = kind === mqttSessionKeys;
    if (!isSession && !ownedKeys.includes(kind)) continue;
    const owner = kind === 'attempts' ? undefined : trigger;
    if (known.hasName(namespace, name, owner)) continue;
    const entry = await kv.get(key);
    if (entry?.operation !== 'PUT' || entry.created.getTime() > bornBefore) continue;
    if (isSession) {
      swept.mqttSessions.push({ key, value: jsonOf(entry.string()), revision: entry.revision });
      continue;
    }
    await kv.purge(key, { ttl: '1m' });
    swept.keys.push(key);
  }
  return swept;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
