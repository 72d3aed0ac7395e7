/** nats.js alone: publishes so many at a time, and answers when the server has all. Arguments: URL, subject. */
import { connect } from '@nats-io/transport-node';

const [servers = '', subject = ''] = process.argv.slice(2);
const nats = await connect({ servers });
const payload = 'x'.repeat(100);

async function publish({ count, atATime }: { count: number; atATime: number }): Promise<number> {
  for (let sent = 0; sent < count; sent += atATime) {
    for (let one = 0; one < atATime; one++) nats.publish('bench.sink', payload);
    await nats.flush();
  }
  return count;
}

nats.subscribe(subject, {
  callback: (_error, message) => {
    void publish(message.json()).then((count) => message.respond(JSON.stringify(count)));
  },
});
await nats.flush();
console.log('{}');
