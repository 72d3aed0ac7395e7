/** A topic's bytes to NATS, as they are. */
import { nats } from 'atoll';

export async function handler(scan: Buffer): Promise<void> {
  await nats.publish('bench.atoll', scan);
}
