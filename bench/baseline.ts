/** The baselines, each a process of its own: the same handler inline, behind a raw NATS subscription and a raw HTTP server. */
import { createServer } from 'node:http';
import { connect } from '@nats-io/transport-node';
import { handler } from './handlers/echo/index.ts';

const [natsUrl, ...subjects] = process.argv.slice(2);
const nats = await connect({ servers: natsUrl ?? '' });
for (const subject of subjects) {
  nats.subscribe(subject, {
    queue: subject,
    callback: (_error, message) => {
      void handler(message.json()).then((result) => message.respond(JSON.stringify(result)));
    },
  });
}
await nats.flush();

const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    void handler(JSON.parse(Buffer.concat(chunks).toString())).then((result) => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(result));
    });
  });
});
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  console.log(
    JSON.stringify({ url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}` }),
  );
});
