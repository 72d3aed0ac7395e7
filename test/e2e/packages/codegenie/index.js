import serverlessExpress from '@codegenie/serverless-express';
import express from 'express';

const binary = 'application/octet-stream';
const app = express();
app.use(express.json());
app.use(express.raw({ type: binary }));
app.get('/codegenie/echo', ({ query, headers }, response) =>
  response.json({ query, cookie: headers.cookie }),
);
app.post('/codegenie/json', ({ body }, response) => response.status(201).json({ got: body }));
app.post('/codegenie/bytes', ({ body }, response) => response.type(binary).send(body));
app.get('/codegenie/cookies', (_, response) =>
  response.cookie('a', '1').cookie('b', '2', { httpOnly: true }).send('two'),
);
app.get('/codegenie/fails', () => {
  throw new Error('on purpose');
});
// Express's own answer listens to the request's socket, and this library's is none: it would be a 500, here as on AWS.
app.use((_, response) => response.status(404).send('not here'));

export const handler = serverlessExpress({ app, binarySettings: { contentTypes: [binary] } });
