/**
 * A program on a robot: keeps numbered messages for the hub, each only when the one before was stored, for as long as it
 * runs. Arguments: folder of the site, messages a second, the first number. A line of its output is a number that was
 * stored, or `own` or `foreign` and a subject that it heard for the first time, of all that there are on its server.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';

const [dir = '', rate = '', first = ''] = process.argv.slice(2);
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
/** Names of inboxes and acknowledgements are always new. */
const kinds = new Set<string>();
connection.subscribe('>', {
  callback: (error, { subject }) => {
    if (error !== null) return;
    // Whoever is named: by robots.ID, $JS.ID, _INBOX.ID or any other way.
    const names = subject.match(/\brobot\d+\b/g) ?? [];
    const what = names.some((name) => name !== site) ? 'foreign' : 'own';
    const kind = subject.startsWith('robots.') || what === 'foreign' ? subject : subject.split('.')[0]!;
    if (kinds.has(kind)) return;
    kinds.add(kind);
    process.stdout.write(`${what} ${subject}\n`);
  },
});
const stream = jetstream(connection, { timeout: 2_000 });
const started = performance.now();
for (let number = Number(first); ; number += 1) {
  const dueMs = started + ((number - Number(first)) * 1_000) / Number(rate) - performance.now();
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
