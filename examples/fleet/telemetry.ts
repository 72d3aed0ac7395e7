/** functions/telemetry on the robots, and at the hub a reader of what it sends, which has no ROS. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { JetStreamManager, MsgRequest } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { decode, type Decoded, type Definitions, type RosMessage } from 'atoll/telemetry';
import { until } from '../site.ts';
import type { Robot } from './fleet.ts';
import { telemetryFolder, telemetryManifest } from './telemetry-manifest.ts';

const stream = 'TELEMETRY';
const numbersSubject = (robot: string): string => `robots.${robot}.kept.numbers`;

/** `faas deploy functions/telemetry -f …`, with the robot's id and one topic more. */
export async function deployTelemetry({ id, site }: Robot): Promise<void> {
  const file = join(site.dir, '..', `${id}-telemetry.yaml`);
  await writeFile(file, await telemetryManifest(id, 'json'));
  await site.faas('deploy', telemetryFolder, '-f', file, '--timeout', '120');
}

/** How many messages of a topic the function on the robot has taken over from ROS, by its own metrics. */
export async function takenOver({ site }: Robot, topic: string): Promise<number> {
  const response = await fetch(`${site.info.url}/telemetry/metrics`);
  const count = new RegExp(`^telemetry_messages_in_total\\{topic="${topic}"\\} (\\d+)$`, 'm').exec(
    await response.text(),
  );
  return Number(count?.[1] ?? 0);
}

export interface Reader {
  /** The newest of each topic of that robot, and how many there were. */
  of(robot: string): { readonly count: number; readonly newest: Decoded }[];
  /** Called with each from now on; returns the way to stop. */
  listen(listener: (message: Decoded) => void): () => void;
}

/** Hears all robots' telemetry from now on. */
export function openReader(nats: NatsConnection, manager: JetStreamManager): Reader {
  const heard = new Map<string, { count: number; newest: Decoded }>();
  const listeners = new Set<(message: Decoded) => void>();
  const read = async (lane: string): Promise<void> => {
    for await (const received of nats.subscribe(`robots.*.${lane}.>`)) {
      if (received.subject.includes('.ros-schemas.')) continue;
      const message = await decode(received, { definitions: definitionsOf(manager) });
      const key = `${message.robot} ${message.topic}`;
      heard.set(key, { count: (heard.get(key)?.count ?? 0) + 1, newest: message });
      for (const listener of listeners) listener(message);
    }
  };
  for (const lane of ['live', 'kept']) {
    read(lane).catch((error: unknown) => {
      // Nothing more is heard then, which the row of the telemetry shows.
      process.stderr.write(`robots.*.${lane}.>: ${String(error)}\n`);
    });
  }
  return {
    of: (robot) => [...heard.values()].filter(({ newest }) => newest.robot === robot),
    listen(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
}

/** A definition is kept before the first message that needs it, and may get here a little later all the same. */
const definitionsOf =
  (manager: JetStreamManager): Definitions =>
  async (schema, { robot }) =>
    await until(async () => {
      const last_by_subj = `robots.${robot}.kept.ros-schemas.${schema}`;
      return (await manager.streams.getMessage(stream, { last_by_subj }).catch(() => null))?.string();
    });

/** How many of /numbers the hub has stored, of each robot. */
export async function storedNumbers(manager: JetStreamManager, robots: readonly Robot[]): Promise<number[]> {
  const { state } = await manager.streams.info(stream, { subjects_filter: numbersSubject('*') });
  return robots.map(({ id }) => state.subjects?.[numbersSubject(id)] ?? 0);
}

/** Those that the hub has stored of a robot, in its order. */
export async function readNumbers(manager: JetStreamManager, robot: string): Promise<number[]> {
  const numbers: number[] = [];
  for (let seq = 1; ;) {
    const query = { seq, next_by_subj: numbersSubject(robot) } as MsgRequest;
    const stored = await manager.streams.getMessage(stream, query).catch(() => null);
    if (stored === null) return numbers;
    const received = { data: stored.data, headers: stored.header };
    const { message } = await decode(received, { definitions: definitionsOf(manager) });
    numbers.push(Number(message['data']));
    seq = stored.seq + 1;
  }
}

/** One line of what is in it. */
export function summary({ type, message }: Decoded): string {
  switch (type) {
    case 'nav_msgs/msg/Odometry': {
      const { x, y } = field(message, 'pose.pose.position') as { x: number; y: number };
      const speed = field(message, 'twist.twist.linear.x') as number;
      return `at x ${x.toFixed(2)} m, y ${y.toFixed(2)} m, ${speed.toFixed(2)} m/s`;
    }
    case 'sensor_msgs/msg/LaserScan': {
      const ranges = message['ranges'] as Float32Array;
      return `${ranges.length} ranges, the nearest ${Math.min(...ranges).toFixed(2)} m`;
    }
    case 'sensor_msgs/msg/BatteryState':
      return `${((message['percentage'] as number) * 100).toFixed(1)} %, ${(message['voltage'] as number).toFixed(2)} V`;
    case 'diagnostic_msgs/msg/DiagnosticArray':
      return (message['status'] as { name: string; message: string }[])
        .map((status) => `${status.name}: ${status.message}`)
        .join(', ');
    default:
      return Object.keys(message).join(', ');
  }
}

export function field(message: RosMessage, path: string): unknown {
  return path.split('.').reduce<unknown>((value, name) => (value as RosMessage | undefined)?.[name], message);
}
