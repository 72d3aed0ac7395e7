/** How far a contender is. Its handler (bench/handlers/count) tells by datagram, inline and isolated alike. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { Closing } from '../../test/support/closing.ts';
import type { Contender } from './rounds.ts';

/** The handler tells its count at each such step; what a round sends is a multiple of it. */
export const tellEvery = 500;
/** So long without a word: events were lost. */
const silenceMs = 60_000;

export interface Progress {
  /** How many the handler has seen since its process began. */
  readonly seen: number;
  /** Resolves at the next word of the handler. */
  next(): Promise<void>;
  reaches(count: number): Promise<void>;
}

export interface ToldProgress {
  readonly progress: Progress;
  /** For the events' `tell`. */
  readonly port: number;
  close(): void;
}

export async function openProgress(): Promise<ToldProgress> {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { progress, tell } = progressOf();
  socket.on('message', (text) => tell(Number(text.toString())));
  return { progress, port: (socket.address() as AddressInfo).port, close: () => socket.close() };
}

/** Where the events come out again where we are: `came` is called for each. */
export function openCounted(): { readonly progress: Progress; came(): void } {
  const { progress, tell } = progressOf();
  return { progress, came: () => tell(progress.seen + 1) };
}

function progressOf(): { readonly progress: Progress; tell(seen: number): void } {
  let seen = 0;
  let waiting: (() => void)[] = [];
  const next = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`nothing new after ${seen} events`)), silenceMs);
      waiting.push(() => {
        clearTimeout(late);
        resolve();
      });
    });
  return {
    progress: {
      get seen() {
        return seen;
      },
      next,
      async reaches(count) {
        while (seen < count) await next();
      },
    },
    tell(now) {
      seen = now;
      const told = waiting;
      waiting = [];
      for (const resolve of told) resolve();
    },
  };
}

/** 100 bytes of JSON that ask the handler to tell its count. */
export function eventFor(port: number): Buffer {
  const tell = { port, every: tellEvery };
  const text = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 }, tell, pad: '' });
  return Buffer.from(`${text.slice(0, -2)}${'.'.repeat(Math.max(0, 100 - text.length))}"}`);
}

/**
 * Sends `count` events and resolves when all were handled, at most `backlog` being on their way; with `hz` not faster than so
 * many a second. `send` may tell by a promise that the broker has it. Returns the seconds that took.
 */
export async function sendAll(
  progress: Progress,
  {
    count,
    backlog,
    hz = Infinity,
    send,
  }: { count: number; backlog: number; hz?: number; send(): void | Promise<void> },
): Promise<number> {
  const before = progress.seen;
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  for (let sent = 0; sent < count;) {
    const due = hz === Infinity ? count : Math.floor(seconds() * hz) + 1;
    const most = Math.min(count, due, progress.seen - before + backlog);
    // One turn of the event loop sends no more than this, so that what was sent is written.
    for (let turn = 0; turn < 100 && sent < most; turn++, sent++) void send();
    if (sent < most) await new Promise((resolve) => setImmediate(resolve));
    else if (sent >= count) break;
    else if (sent >= due) await pause(Math.max(0, (sent / hz - seconds()) * 1000));
    else await progress.next();
  }
  await progress.reaches(before + count);
  return seconds();
}

/** One that handles what `send` publishes: `count` events each round, at most `backlog` of them on their way. */
export async function receiver(options: {
  readonly name: string;
  readonly pid: number;
  readonly count: number;
  readonly backlog: number;
  readonly closing: Closing;
  send(event: Buffer): void;
}): Promise<Contender> {
  const { name, pid, count, backlog } = options;
  const { progress, port, close } = await openProgress();
  options.closing(async () => close());
  const event = eventFor(port);
  const send = (): void => options.send(event);
  return {
    name,
    pids: () => [pid],
    round: async () => ({ events: count, seconds: await sendAll(progress, { count, backlog, send }) }),
  };
}
