/** What a host hands to a trigger, with everything it says back kept for the test. */
import { jetstreamManager } from '@nats-io/jetstream';
import { Writable } from 'node:stream';
import { vi } from 'vitest';
import { openNats } from '../../../runtime/clients/nats.ts';
import type { NatsLink } from '../../../runtime/clients/nats.ts';
import type { Fault } from '../../../runtime/errors.ts';
import type { DeadLetterReason, TriggerEvent } from '../../../runtime/event.ts';
import { eventOf, openInbox } from '../../../runtime/inbox.ts';
import { openLog } from '../../../runtime/log.ts';
import type { LogRecord } from '../../../runtime/log.ts';
import { inboxStream } from '../../../runtime/streams.ts';
import type { TriggerContext, TriggerState } from '../../../runtime/triggers/trigger.ts';
import { closeLater } from '../../support/closing.ts';
import type { NatsServer } from '../../support/nats.ts';

export interface TestHost {
  readonly context: TriggerContext;
  readonly link: NatsLink | undefined;
  readonly states: readonly TriggerState[];
  readonly logs: readonly LogRecord[];
  readonly dropped: readonly string[];
  readonly deadLetters: readonly { event: TriggerEvent; fault: Fault; reason: DeadLetterReason }[];
  /** Waits for the trigger to be in such a state, now or later. */
  untilState(what: Partial<TriggerState>, timeoutMs?: number): Promise<TriggerState>;
}

export interface TestHostOptions {
  nats?: Pick<NatsServer, 'url'>;
  mqttUrl?: string;
  site?: string;
  functionName?: string;
  uid?: string;
  trigger?: string;
}

export async function openHost(options: TestHostOptions): Promise<TestHost> {
  const { site = 'local', functionName = 'echo', uid = 'uid-1', trigger = 'in' } = options;
  const states: TriggerState[] = [];
  const logs: LogRecord[] = [];
  const dropped: string[] = [];
  const deadLetters: { event: TriggerEvent; fault: Fault; reason: DeadLetterReason }[] = [];
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().split('\n').filter(Boolean))
        logs.push(JSON.parse(line) as LogRecord);
      done();
    },
  });
  const log = openLog({ destination });
  const link = options.nats && openNats({ url: options.nats.url }, { name: 'test', site, log });
  if (link) {
    closeLater(() => link.close());
    await link.connection();
  }
  const context: TriggerContext = {
    site,
    function: { namespace: 'default', name: functionName, uid },
    name: trigger,
    encoding: 'json',
    retry: { maxAttempts: 3, minBackoffMs: 1000, maxBackoffMs: 60_000, maxAgeSeconds: 21_600 },
    timeoutSeconds: 30,
    capacity: 1,
    ...(link && { nats: link, inbox: openInbox(link, { site, log }) }),
    ...(options.mqttUrl !== undefined && { mqtt: { url: options.mqttUrl } }),
    server: {
      mount: () => () => {},
      listen: () => Promise.reject(new Error('not in this test')),
      close: () => Promise.resolve(),
    },
    log,
    report: (state) => void states.push(state),
    dropped: (subject) => void dropped.push(subject),
    deadLetter: (event, fault, reason) => {
      deadLetters.push({ event, fault, reason });
      return Promise.resolve();
    },
  };
  return {
    context,
    link,
    states,
    logs,
    dropped,
    deadLetters,
    untilState: (what, timeoutMs = 60_000) =>
      until(timeoutMs, () => {
        const last = states.at(-1);
        if (last === undefined || !matches(last, what))
          throw new Error(`the states were ${JSON.stringify(states)}`);
        return last;
      }),
  };
}

export function until<T>(timeoutMs: number, look: () => T | Promise<T>): Promise<T> {
  return vi.waitFor(look, { timeout: timeoutMs, interval: 20 });
}

function matches(state: TriggerState, what: Partial<TriggerState>): boolean {
  return Object.entries(what).every(([name, value]) => state[name as keyof TriggerState] === value);
}

/** All that waits in the inbox, oldest first, without taking it out. */
export async function inboxEvents(server: NatsServer): Promise<Omit<TriggerEvent, 'attempt'>[]> {
  const connection = await server.connect();
  try {
    const manager = await jetstreamManager(connection);
    const { state } = await manager.streams.info(inboxStream);
    const events: Omit<TriggerEvent, 'attempt'>[] = [];
    for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
      const message = await manager.streams.getMessage(inboxStream, { seq });
      if (message === null) continue;
      const known = { id: String(seq), time: message.time.getTime() };
      events.push(eventOf(message.subject, message.header, message.data, known));
    }
    return events;
  } finally {
    await connection.close();
  }
}

export async function inboxSize(server: NatsServer): Promise<number> {
  const connection = await server.connect();
  try {
    return (await (await jetstreamManager(connection)).streams.info(inboxStream)).state.messages;
  } finally {
    await connection.close();
  }
}
