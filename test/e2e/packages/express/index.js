import express from 'express';
import serverless from 'serverless-http';

const binary = 'application/octet-stream';
const app = express();
app.use(express.json());
app.use(express.raw({ type: binary }));
app.get('/express/echo', ({ query, headers }, response) => response.json({ query, cookie: headers.cookie }));
app.post('/express/json', ({ body }, response) => response.status(201).json({ got: body }));
app.post('/express/bytes', ({ body }, response) => response.type(binary).send(body));
app.get('/express/cookies', (_, response) =>
  response.cookie('a', '1').cookie('b', '2', { httpOnly: true }).send('two'),
);
app.get('/express/fails', () => {
  throw new Error('on purpose');
});

export const handler = serverless(app, { binary: [binary] });
