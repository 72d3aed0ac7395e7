import awsLambdaFastify from '@fastify/aws-lambda';
import fastify from 'fastify';

const binary = 'application/octet-stream';
const app = fastify();
app.addContentTypeParser(binary, { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
app.get('/fastify/echo', async ({ query, headers }) => ({ query, cookie: headers.cookie }));
app.post('/fastify/json', async ({ body }, reply) => reply.status(201).send({ got: body }));
app.post('/fastify/bytes', async ({ body }, reply) => reply.type(binary).send(body));
app.get('/fastify/cookies', async (_request, reply) =>
  reply.header('set-cookie', ['a=1; Path=/', 'b=2; Path=/; HttpOnly']).send('two'),
);
app.get('/fastify/fails', async () => {
  throw new Error('on purpose');
});

export const handler = awsLambdaFastify(app, { binaryMimeTypes: [binary] });
