/**
 * Closes the books over numbered events: in = handled + dead-lettered + still queued. What was handled is read from a
 * file that the handler writes, dead letters and queues from JetStream, by a client that is none of ours.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { jetstream, jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';

export const flowNames = ['jetstream', 'mqtt', 'invoke'] as const;
export type FlowName = (typeof flowNames)[number];

/** This share of the events fails at every attempt, and so has to end as a dead letter. */
const failsEvery = 100;
export const fails = (n: number): boolean => n % failsEvery === 7;

/** The handler that keeps the books: a line for each event that it handled. */
export const bookkeeper = `
import { appendFileSync } from 'node:fs';
export const handler = async ({ n }, { trigger }) => {
  if (n % ${failsEvery} === 7) throw new Error('never this one');
  appendFileSync(process.env.JOURNAL, trigger.kind + ' ' + n + '\\n');
};`;

export interface Entry {
  accepted: number;
  handled: number;
  dead: number;
  /** Of accepted events: neither handled nor dead. */
  missing: number[];
  queued: number;
  /** Handled, or dead-lettered, once more. */
  duplicates: number;
  /** Sent again because no answer came: each may be a duplicate that the sender made. */
  resent: number;
}

export interface Books {
  accept(flow: FlowName, n: number): void;
  resend(flow: FlowName, count?: number): void;
  /** Of all flows. */
  readonly accepted: number;
  /** Of all flows, each number once. */
  handled(): number;
  /** As of now. Throws when JetStream cannot be asked. */
  entries(): Promise<Record<FlowName, Entry>>;
}

export interface BooksOptions {
  readonly journal: string;
  /** Of each flow. */
  readonly events: number;
  readonly function: string;
  /** The user's stream and our consumer on it. */
  readonly stream: string;
  readonly consumer: string;
  nats(): NatsConnection;
}

export function openBooks(options: BooksOptions): Books {
  const { events } = options;
  const counted = (): Record<FlowName, Uint16Array> => ({
    jetstream: new Uint16Array(events),
    mqtt: new Uint16Array(events),
    invoke: new Uint16Array(events),
  });
  const [accepted, handled, dead] = [counted(), counted(), counted()];
  const resent: Record<FlowName, number> = { jetstream: 0, mqtt: 0, invoke: 0 };
  const reasons = new Map<string, number>();
  const journal = openLines(options.journal);
  let acceptedCount = 0;
  let handledCount = 0;
  let deadSequence = 0;

  function readJournal(): void {
    for (const line of journal()) {
      const [kind, number] = line.split(' ');
      const counts = handled[kind as FlowName];
      const n = Number(number);
      if (counts[n] === undefined) throw new Error(`the journal says "${line}"`);
      counts[n] += 1;
      if (counts[n] === 1) handledCount += 1;
    }
  }

  async function readDeadLetters(manager: JetStreamManager): Promise<void> {
    const filter = `atoll.local.dead.default.${options.function}.>`;
    const { state } = await manager.streams.info('ATOLL_DEAD');
    if (state.last_seq <= deadSequence) return;
    const consumer = await jetstream(options.nats()).consumers.get('ATOLL_DEAD', {
      filter_subjects: [filter],
      opt_start_seq: deadSequence + 1,
      // By sequence: 'by_start_sequence' of the API.
      deliver_policy: 'by_start_sequence' as never,
    });
    const waiting = (await consumer.info()).num_pending;
    if (waiting > 0) {
      const messages = await consumer.fetch({ max_messages: waiting, expires: 5_000 });
      for await (const message of messages) {
        const flow = triggerFlows[message.subject.split('.').at(-1) ?? ''];
        const { n } = message.json<{ n: number }>();
        if (flow === undefined) throw new Error(`a dead letter on ${message.subject}`);
        (dead[flow][n] as number) += 1;
        const reason = message.headers?.get('Atoll-Reason') ?? '';
        if (!fails(n) || reason !== 'RetriesExhausted') {
          const what = `${flow} ${reason}`;
          reasons.set(what, (reasons.get(what) ?? 0) + 1);
        }
      }
    }
    deadSequence = state.last_seq;
  }

  return {
    accept(flow, n) {
      (accepted[flow][n] as number) += 1;
      acceptedCount += 1;
    },
    resend(flow, count = 1) {
      resent[flow] += count;
    },
    get accepted() {
      return acceptedCount;
    },
    handled() {
      readJournal();
      return handledCount;
    },
    async entries() {
      const manager = await jetstreamManager(options.nats(), { timeout: 5_000 });
      await readDeadLetters(manager);
      const queued: Record<FlowName, number> = {
        jetstream: await waitingFor(manager, options.stream, options.consumer),
        mqtt: await waitingIn(manager, options.function, 'topic'),
        invoke: await waitingIn(manager, options.function, 'invoke'),
      };
      // Last: what is no longer queued is in the journal by now.
      readJournal();
      if (reasons.size > 0) {
        throw new BooksError(`dead letters that should not be: ${JSON.stringify([...reasons])}`);
      }
      return Object.fromEntries(
        flowNames.map((flow) => [
          flow,
          entryOf(accepted[flow], handled[flow], dead[flow], queued[flow], resent[flow]),
        ]),
      ) as Record<FlowName, Entry>;
    },
  };
}

/** The books are wrong, and will not come right by waiting. */
export class BooksError extends Error {}

/** Of what a flow waits for to be closed. */
export const open = ({ missing, queued }: Entry): boolean => missing.length > 0 || queued > 0;

export const headline = [
  'fault'.padEnd(44),
  'flow     ',
  'accepted',
  ' handled',
  '    dead',
  '  queued',
  '    lost',
  '   twice',
  '  resent',
].join(' ');

export function line(fault: string, flow: FlowName, entry: Entry): string {
  const { accepted, handled, dead, queued, missing, duplicates, resent } = entry;
  const numbers = [accepted, handled, dead, queued, missing.length, duplicates, resent];
  return [fault.padEnd(44), flow.padEnd(9), ...numbers.map((number) => String(number).padStart(8))].join(' ');
}

const triggerFlows: Record<string, FlowName> = { stream: 'jetstream', topic: 'mqtt', invoke: 'invoke' };

function entryOf(
  accepted: Uint16Array,
  handled: Uint16Array,
  dead: Uint16Array,
  queued: number,
  resent: number,
): Entry {
  const entry: Entry = { accepted: 0, handled: 0, dead: 0, missing: [], queued, duplicates: 0, resent };
  for (let n = 0; n < accepted.length; n++) {
    const [taken, done, letters] = [accepted[n], handled[n], dead[n]] as [number, number, number];
    if (taken > 0) entry.accepted += 1;
    if (done > 0) entry.handled += 1;
    if (letters > 0) entry.dead += 1;
    if (done > 0 && letters > 0) throw new BooksError(`event ${n} was handled and dead-lettered`);
    if (taken > 0 && done + letters === 0) entry.missing.push(n);
    entry.duplicates += Math.max(0, done - 1) + Math.max(0, letters - 1);
  }
  return entry;
}

async function waitingFor(manager: JetStreamManager, stream: string, consumer: string): Promise<number> {
  const { num_pending, num_ack_pending } = await manager.consumers.info(stream, consumer);
  return num_pending + num_ack_pending;
}

/** A work queue: what was handled is gone. */
async function waitingIn(manager: JetStreamManager, name: string, trigger: string): Promise<number> {
  const filter = `atoll.local.inbox.default.${name}.${trigger}`;
  const { state } = await manager.streams.info('ATOLL_INBOX', { subjects_filter: filter });
  return state.subjects?.[filter] ?? 0;
}

/** What was appended to a file since the last call, by whole lines. */
function openLines(path: string): () => string[] {
  let offset = 0;
  let rest = '';
  const buffer = Buffer.alloc(1024 * 1024);
  return () => {
    let file: number;
    try {
      file = openSync(path, 'r');
    } catch {
      return [];
    }
    const lines: string[] = [];
    try {
      for (;;) {
        const length = readSync(file, buffer, 0, buffer.length, offset);
        if (length === 0) return lines;
        offset += length;
        const parts = (rest + buffer.toString('latin1', 0, length)).split('\n');
        rest = parts.pop() ?? '';
        lines.push(...parts);
      }
    } finally {
      closeSync(file);
    }
  };
}
