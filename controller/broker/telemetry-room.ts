/** How much of the hub's disk the messages of its robots may take: then the oldest go, whosever they are. */
import type { JetStreamManager } from '@nats-io/jetstream';
import { telemetryStream } from './crossing.ts';
import { withRoom } from './stream-size.ts';

/** What the hub keeps of all its robots together; half of it, or half of that, where the disk has no room for so much. */
export const hubTelemetryBytes = 10 * 1024 ** 3;

export interface KeptTelemetry {
  readonly messages: number;
  /** With what the server needs to keep them. */
  readonly bytes: number;
  readonly maxBytes: number;
  /** The oldest, which gave way since the stream was made. */
  readonly dropped: number;
}

/** Gives the stream that limit, or the most that fits; resolves with it. A lower one than before drops what is beyond. */
export async function limitTelemetry(manager: JetStreamManager, wanted: number): Promise<number> {
  const { config } = await manager.streams.info(telemetryStream);
  return await withRoom(wanted, async (bytes) => {
    // What it has is reserved already: no more than that is better than nothing.
    if (bytes === config.max_bytes || (bytes < config.max_bytes && wanted > config.max_bytes)) {
      return config.max_bytes;
    }
    await manager.streams.update(telemetryStream, { ...config, max_bytes: bytes });
    return bytes;
  });
}

/** Undefined: there were no robots yet. */
export async function keptTelemetry(manager: JetStreamManager): Promise<KeptTelemetry | undefined> {
  const found = await manager.streams.info(telemetryStream).catch(() => undefined);
  if (found === undefined) return undefined;
  const { messages, bytes, first_seq: first } = found.state;
  return { messages, bytes, maxBytes: found.config.max_bytes, dropped: Math.max(0, first - 1) };
}
