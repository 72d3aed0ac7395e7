/** Telemetry as a program at the hub has it, without ROS: what comes there, and what is stored. */
import { setTimeout as pause } from 'node:timers/promises';
import type { MsgRequest } from '@nats-io/jetstream';
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import { decode, openAssembly, type Decoded, type Definitions } from '../../runtime/telemetry.ts';
import { managerOf, until } from './fleet.ts';

/** Between two of what is sent until it is heard: until interest has got to the robot, nothing comes. */
const againMs = 200;

export interface TelemetryReader {
  /** As docs/reference/telemetry.md tells readers; of what is on its way it is waited for. */
  readonly definitions: Definitions;
  /** Hands messages to `take` as they come, while `send` is done again and again, until `take` says that it is enough. */
  hear(
    subject: string,
    send: () => unknown,
    take: (message: Msg) => boolean | Promise<boolean>,
  ): Promise<void>;
  /** The first one that comes, as it is. */
  first(subject: string, send: () => unknown): Promise<Msg>;
  /** The next so many, put together and decoded. */
  heard(subject: string, count: number, send?: () => unknown): Promise<Decoded[]>;
  /** All that the hub has stored of a subject, decoded, in its order. */
  stored(subject: string): Promise<Decoded[]>;
}

export function openTelemetryReader(connection: NatsConnection): TelemetryReader {
  const definitions: Definitions = async (schema, { robot }) => {
    const manager = await managerOf(connection);
    const last_by_subj = `robots.${robot}.kept.ros-schemas.${schema}`;
    return await until('the definition is at the hub', async () =>
      (await manager.streams.getMessage('TELEMETRY', { last_by_subj }).catch(() => null))?.string(),
    );
  };

  const hear: TelemetryReader['hear'] = async (subject, send, take) => {
    const subscription = connection.subscribe(subject);
    await connection.flush();
    const done = new AbortController();
    const sending = sendUntil(done.signal, send);
    // Nothing more will come then; it is awaited, and so thrown, at the end.
    sending.catch(() => subscription.unsubscribe());
    try {
      for await (const message of subscription) if (await take(message)) return;
      throw new Error(`${subject}: the subscription ended`);
    } finally {
      done.abort();
      subscription.unsubscribe();
      await sending;
    }
  };

  return {
    definitions,
    hear,
    async first(subject, send) {
      let found: Msg | undefined;
      await hear(subject, send, (message) => {
        found = message;
        return true;
      });
      return found!;
    },
    async heard(subject, count, send = () => {}) {
      const assembly = openAssembly();
      const found: Decoded[] = [];
      await hear(subject, send, async (message) => {
        const whole = assembly.add(message);
        if (whole !== undefined) found.push(await decode(whole, { definitions }));
        return found.length >= count;
      });
      return found;
    },
    async stored(subject) {
      const manager = await managerOf(connection);
      const found: Decoded[] = [];
      for (let seq = 1; ;) {
        const message = await manager.streams
          .getMessage('TELEMETRY', { seq, next_by_subj: subject } as MsgRequest)
          .catch(() => null);
        if (message === null) return found;
        found.push(await decode({ data: message.data, headers: message.header }, { definitions }));
        seq = message.seq + 1;
      }
    },
  };
}

async function sendUntil(over: AbortSignal, send: () => unknown): Promise<void> {
  while (!over.aborted) {
    await send();
    await pause(againMs, undefined, { signal: over }).catch(() => {});
  }
}
