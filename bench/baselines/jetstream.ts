/** A pull consumer of nats.js alone, the handler inline, each message acknowledged after it. Arguments: URL, stream, consumer. */
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { handler } from '../handlers/count/index.ts';

const [servers = '', stream = '', name = ''] = process.argv.slice(2);
const consumer = await jetstream(await connect({ servers })).consumers.get(stream, name);
await consumer.consume({
  max_messages: 1_000,
  callback: (message) => {
    void handler(message.json()).then(() => message.ack());
  },
});
console.log('{}');
