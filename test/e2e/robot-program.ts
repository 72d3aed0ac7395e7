/**
 * A program on a robot: keeps numbered messages for the hub, each only when the one before was stored, for as long as it
 * runs. Arguments: folder of the site, messages a second. A line of its output is a number that was stored, or a subject
 * of another robot that it heard.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';

const [dir = '', rate = ''] = process.argv.slice(2);
const read = (file: string): unknown => JSON.parse(readFileSync(join(dir, file), 'utf8'));
const { user, pass } = read('programs.json') as { user: string; pass: string };
const { site, nats } = read('site.json') as { site: string; nats: { url: string } };

const connection = await connect({
  servers: nats.url,
  user,
  pass,
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
});
connection.subscribe('robots.>', {
  callback: (error, { subject }) => {
    if (error === null && !subject.startsWith(`robots.${site}.`)) process.stdout.write(`heard ${subject}\n`);
  },
});
const stream = jetstream(connection, { timeout: 2_000 });
const started = performance.now();
for (let number = 1; ; number += 1) {
  const dueMs = started + (number * 1_000) / Number(rate) - performance.now();
  if (dueMs > 0) await pause(dueMs);
  // Until it is stored: the server knows one that was sent again by its id.
  for (;;) {
    try {
      await stream.publish(`robots.${site}.kept.count`, String(number), { msgID: `${site}-${number}` });
      break;
    } catch {
      await pause(50);
    }
  }
  process.stdout.write(`${number}\n`);
}
