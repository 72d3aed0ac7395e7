import { Hono } from 'hono';
import { handle } from 'hono/aws-lambda';

const app = new Hono().basePath('/hono');
app.get('/echo', (c) => c.json({ query: c.req.query(), cookie: c.req.header('cookie') }));
app.post('/json', async (c) => c.json({ got: await c.req.json<unknown>() }, 201));
app.post('/bytes', async (c) =>
  c.body(await c.req.arrayBuffer(), 200, { 'content-type': 'application/octet-stream' }),
);
app.get('/cookies', (c) => {
  c.header('set-cookie', 'a=1; Path=/', { append: true });
  c.header('set-cookie', 'b=2; Path=/; HttpOnly', { append: true });
  return c.text('two');
});
app.get('/fails', () => {
  throw new Error('on purpose');
});

export const handler = handle(app);
