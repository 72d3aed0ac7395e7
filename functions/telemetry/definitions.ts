/** Definitions of message types: asked of ROS once, and kept for whoever reads the messages without ROS. */
import { nats, ros } from 'atoll';
import { readSchema, type Schema } from 'atoll/telemetry';
import { schemaSubject } from './subjects.ts';

/** ROS may have been away, or the package may have been installed meanwhile. */
const askAgainMs = 10_000;
/** The robot's stream may have dropped it with all that is old. */
const keepAgainMs = 3_600_000;

export interface Definitions {
  /** Rejects with why there is none, for ten seconds with the same reason. */
  of(type: string): Promise<Schema>;
  /** Keeps those that are not kept yet, or were long ago. */
  keep(): Promise<void>;
}

export function openDefinitions(robot: string, now: () => number = () => performance.now()): Definitions {
  const found = new Map<string, { schema: Promise<Schema>; failedMs?: number }>();
  const kept = new Map<Schema, number>();

  async function ask(type: string): Promise<Schema> {
    const schema = readSchema(type, await ros.definition(type));
    kept.set(schema, -Infinity);
    // Before the first message that is read by it. Where it cannot be kept, the next report tries again.
    await keepOne(schema).catch(() => {});
    return schema;
  }

  async function keepOne(schema: Schema): Promise<void> {
    await nats.publish(schemaSubject(robot, schema.hash), schema.text, {
      msgId: `${robot}/schema/${schema.hash}`,
      headers: {
        'Content-Type': 'text/x-ros2msg',
        'Ros-Robot': robot,
        'Ros-Type': schema.type,
        'Ros-Schema': schema.hash,
        // Only the last one of it need be there.
        'Nats-Rollup': 'sub',
      },
    });
    kept.set(schema, now());
  }

  return {
    of(type) {
      const known = found.get(type);
      if (known !== undefined && (known.failedMs === undefined || now() - known.failedMs < askAgainMs)) {
        return known.schema;
      }
      const entry: { schema: Promise<Schema>; failedMs?: number } = { schema: ask(type) };
      found.set(type, entry);
      entry.schema.catch(() => (entry.failedMs = now()));
      return entry.schema;
    },
    async keep() {
      for (const [schema, keptMs] of kept) if (now() - keptMs >= keepAgainMs) await keepOne(schema);
    },
  };
}
