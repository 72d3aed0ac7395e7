import { Hono } from 'hono';
import { streamHandle } from 'hono/aws-lambda';
import { streamText } from 'hono/streaming';

const app = new Hono().basePath('/hono-stream');
const second = Promise.withResolvers<void>();
app.get('/lines', (c) => {
  c.header('set-cookie', 'seen=1; Path=/');
  return streamText(c, async (stream) => {
    await stream.writeln('first');
    // The reader asks for the second line when it has the first.
    await second.promise;
    await stream.writeln('second');
  });
});
app.post('/next', (c) => {
  second.resolve();
  return c.body(null, 204);
});

export const handler = streamHandle(app);
