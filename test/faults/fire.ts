/** A site with its flows, struck by one fault: every accepted event is found again, every caller is told. */
import { setTimeout as pause } from 'node:timers/promises';
import { jetstreamManager, RetentionPolicy } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { openJournal } from '../e2e/journal.ts';
import { processNamed, startSite, until, type LivingProcess, type Site } from '../e2e/site.ts';
import type { Closing } from '../support/closing.ts';
import { startMosquitto, type MosquittoServer } from '../support/mosquitto.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import type { Place } from '../support/place.ts';
import {
  bookkeeper,
  BooksError,
  fails,
  flowNames,
  headline,
  line,
  open,
  openBooks,
  type Books,
  type Entry,
  type FlowName,
} from './books.ts';
import { sendAll, startCallers, type Calls } from './flows.ts';
import { randomFor, type Random } from './random.ts';
import { scale, soak, testTimeoutMs } from './scale.ts';

/** What a fault can strike. */
export interface World {
  readonly site: Site;
  /** Undefined where the site has its own. */
  readonly nats: NatsServer | undefined;
  /** Undefined where MQTT goes to nats-server's listener. */
  readonly mosquitto: MosquittoServer | undefined;
  readonly books: Books;
  readonly random: Random;
  /** One of the site's processes of that name. */
  process(part: Part): LivingProcess;
}

export type Part = Parameters<typeof processNamed>[1];

export interface Fault {
  /** Completes the sentence "nothing is lost when …". */
  readonly name: string;
  /** Where MQTT goes: mosquitto with MQTT 3.1.1 or 5, or the listener of nats-server. Default: 4. */
  readonly mqtt?: 4 | 5 | 'nats-server';
  /** Whose nats-server it is. Default: the site's own. */
  readonly nats?: 'own' | 'apart';
  /** The user's stream keeps what was handled, or not: a work queue. Default: it does. */
  readonly stream?: 'limits' | 'workqueue';
  /** How often it strikes. Default: 1. */
  readonly times?: number;
  /** Of each flow. Default: those of the scale. */
  readonly events?: number;
  /** Before anything is started. */
  arrange?(closing: Closing): Promise<Arrangement>;
  /** At a random moment of the flows. Resolves when what it did is undone, where it has to be. */
  strike?(world: World): Promise<void>;
  /** Beside the flows, from before the first event until the books are closed. */
  watch?(world: World): Watch;
}

export interface Watch {
  /** Throws when what it saw should not be. */
  stop(): Promise<void>;
}

export interface Arrangement {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Of each function: `spec.env`. */
  readonly variables?: readonly { readonly name: string; readonly value: string }[];
  /** The site's folder. Default: a temporary one. */
  readonly folder?: string;
  /** Where servers listen that are not the site's. Default: loopback. */
  readonly place?: Place;
  /** Default: temporary folders. */
  readonly natsStoreDir?: string;
  readonly mosquittoStoreDir?: string;
  readonly mosquittoConfig?: string;
  /** Where the fault itself has none. */
  strike?(world: World): Promise<void>;
}

type Found = Record<FlowName, Entry>;

const stream = 'FAULTS';
const subject = 'faults.numbers';
/** nats-server's MQTT listener has topics as subjects: not the one above. */
const topic = 'faults/topic';
const collector = 'collect';

/** Side by side in the gate, since most of each is waiting; in the soak one after the other. */
const testOne = soak ? test : test.concurrent;

export function testFault(fault: Fault): void {
  testOne(`nothing is lost when ${fault.name}`, { timeout: testTimeoutMs }, ({ onTestFinished }) =>
    underFire(fault, onTestFinished),
  );
}

async function underFire(fault: Fault, closing: Closing): Promise<void> {
  const random = randomFor(fault.name);
  const events = fault.events ?? scale.events;
  const began = performance.now();
  const arrangement = (await fault.arrange?.(closing)) ?? {};
  const world = await startWorld(fault, arrangement, random, closing);
  const flowing = performance.now();
  const { site, books } = world;

  const watch = fault.watch?.(world);
  const nats = await sender(world);
  const callers = startCallers({
    gatewayUrl: () => site.info.url,
    nats: () => nats,
    path: '/faults',
    subject: 'faults.ask',
  });
  const sent = sendAll({
    closing,
    books,
    events,
    flowMs: scale.flowMs,
    function: collector,
    subject,
    topic,
    mqttVersion: fault.mqtt === 5 ? 5 : 4,
    mqttUrl: () => world.mosquitto?.url ?? site.info.mqtt?.url ?? '',
    gatewayUrl: () => site.info.url,
    nats: () => nats,
  });
  sent.catch(() => {});

  const times = fault.times ?? 1;
  const all = events * flowNames.length;
  const moments = Array.from({ length: times }, () => random.between(0.05, 0.7) * all).sort((a, b) => a - b);
  for (const moment of moments) {
    await until(
      `${Math.round(moment)} of ${all} events are accepted`,
      () => books.accepted >= moment || undefined,
      scale.closingMs,
    );
    await pause(random.between(0, 100));
    await (fault.strike ?? arrangement.strike)?.(world);
  }
  await sent;
  const calls = await callers.stop();
  const accepted = performance.now();
  const entries = await close(fault, books);
  const closed = performance.now();
  const took = [flowing - began, accepted - flowing, closed - accepted];
  print(fault, entries, calls, random, took);

  const failing = Array.from({ length: events }, (_, n) => n).filter(fails).length;
  for (const flow of flowNames) {
    expect(entries[flow].accepted, flow).toBe(events);
    expect(entries[flow].missing, flow).toEqual([]);
    expect(entries[flow].dead, flow).toBe(failing);
  }
  expect(calls.hung).toBe(0);
  expect(calls.answered).toBeGreaterThan(0);
  await watch?.stop();
}

async function startWorld(
  fault: Fault,
  arrangement: Arrangement,
  random: Random,
  closing: Closing,
): Promise<World> {
  const { place, natsStoreDir, mosquittoStoreDir, folder, variables = [] } = arrangement;
  const apart = { closing, ...(place && { place }) };
  const mosquitto =
    fault.mqtt === 'nats-server'
      ? undefined
      : await startMosquitto({
          ...apart,
          ...(mosquittoStoreDir !== undefined && { storeDir: mosquittoStoreDir }),
          ...(arrangement.mosquittoConfig !== undefined && { config: arrangement.mosquittoConfig }),
        });
  const nats =
    fault.nats === 'apart'
      ? await startNats({ ...apart, ...(natsStoreDir !== undefined && { storeDir: natsStoreDir }) })
      : undefined;
  const args = [
    ...(mosquitto ? ['--mqtt', siteUrl(mosquitto.url, place)] : []),
    ...(nats ? ['--nats', siteUrl(nats.url, place)] : []),
    ...(arrangement.args ?? []),
  ];
  const site = await startSite({
    closing,
    args,
    ...(arrangement.env && { env: arrangement.env }),
    ...(folder !== undefined && { folder }),
  });
  const admin = nats ? await nats.connect() : await site.nats();
  const retention = fault.stream === 'workqueue' ? RetentionPolicy.Workqueue : RetentionPolicy.Limits;
  await (await jetstreamManager(admin)).streams.add({ name: stream, subjects: [subject], retention });
  const journal = await openJournal<never>({ closing });
  const version = fault.mqtt === 5 ? { version: 5 } : {};
  await site.deploy({
    name: collector,
    spec: {
      timeoutSeconds: 10,
      concurrency: 32,
      env: [journal.env, ...variables],
      retry: { maxAttempts: 2, minBackoffMs: 100, maxBackoffMs: 500 },
      triggers: [
        { name: 'stream', jetstream: { stream, startAt: 'All' } },
        { name: 'topic', mqtt: { topic, qos: 1, ...version } },
      ],
    },
    code: bookkeeper,
  });
  await site.deploy({
    name: 'answers',
    spec: {
      env: variables,
      timeoutSeconds: 2,
      concurrency: 32,
      triggers: [
        { name: 'web', http: { path: '/faults', methods: ['GET'] } },
        { name: 'ask', nats: { subject: 'faults.ask' } },
      ],
    },
    code: `export const handler = async () => ({ ok: true });`,
  });
  const books = openBooks({
    journal: journal.path,
    events: fault.events ?? scale.events,
    function: collector,
    stream,
    consumer: `default_${collector}_stream`,
    nats: () => admin,
  });
  const process = (part: Part): LivingProcess =>
    random.pick(site.processes().filter(({ commandLine }) => commandLine.includes(part)));
  return { site, nats, mosquitto, books, random, process };
}

/** The sender's way to a server apart is not the site's, so that it can be cut off alone. */
const siteUrl = (url: string, place: Place | undefined): string =>
  place?.siteHost === undefined ? url : url.replace(place.host, place.siteHost);

async function sender({ site, nats }: World): Promise<NatsConnection> {
  return nats ? await nats.connect({ maxReconnectAttempts: -1, reconnectTimeWait: 100 }) : await site.nats();
}

/** Waits until all that was accepted is handled or dead-lettered; when it never is, tells what there is. */
async function close(fault: Fault, books: Books): Promise<Found> {
  const deadline = performance.now() + scale.closingMs;
  let last: Found | undefined;
  for (let failure: unknown; ;) {
    try {
      last = await books.entries();
      if (!flowNames.some((flow) => open((last as Found)[flow]))) return last;
    } catch (error) {
      if (error instanceof BooksError) throw error;
      failure = error;
    }
    if (performance.now() > deadline) {
      const lines = last
        ? flowNames.map((flow) => line(fault.name, flow, (last as Found)[flow]))
        : [String(failure)];
      const missing = last
        ? flowNames.map((flow) => `${flow}: ${(last as Found)[flow].missing.slice(0, 20).join(' ')}`)
        : [];
      throw new Error(['the books do not close', headline, ...lines, ...missing].join('\n'));
    }
    await pause(250);
  }
}

function print(fault: Fault, entries: Found, calls: Calls, { seed }: Random, took: readonly number[]): void {
  const { answered, refused, hung } = calls;
  const lines = [
    headline,
    ...flowNames.map((flow) => line(fault.name, flow, entries[flow])),
    `  callers: ${answered} answered, ${refused} told that it failed, ${hung} hung; ` +
      `${took.map((ms) => (ms / 1000).toFixed(1)).join(' + ')} s; ATOLL_SEED=${seed}`,
  ];
  process.stdout.write(`\n${lines.join('\n')}\n`);
}
