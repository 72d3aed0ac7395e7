/** A topic's bytes to NATS, as they are. */
import { nats } from 'atoll';

const subject = process.env['SUBJECT'] ?? 'bench.atoll';

export async function handler(scan: Buffer): Promise<void> {
  await nats.publish(subject, scan);
}
