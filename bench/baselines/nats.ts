/** nats.js alone with a handler inline. Arguments: URL, subject, handler, `reply` to answer. */
import { connect } from '@nats-io/transport-node';
import type { handler as echo } from '../handlers/echo/index.ts';

const [servers = '', subject = '', name, reply] = process.argv.slice(2);
const { handler } = (await import(`../handlers/${name}/index.ts`)) as { handler: typeof echo };
const nats = await connect({ servers });
nats.subscribe(subject, {
  queue: subject,
  callback: (_error, message) => {
    void handler(message.json()).then((result) => {
      if (reply === 'reply') message.respond(JSON.stringify(result));
    });
  },
});
await nats.flush();
console.log('{}');
