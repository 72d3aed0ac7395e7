import { buffer, json } from 'node:stream/consumers';
import Koa from 'koa';
import serverless from 'serverless-http';

const binary = 'application/octet-stream';
const routes = {
  'GET /koa/echo': (ctx) => {
    ctx.body = { query: ctx.query, cookie: ctx.get('cookie') };
  },
  'POST /koa/json': async (ctx) => {
    ctx.status = 201;
    ctx.body = { got: await json(ctx.req) };
  },
  'POST /koa/bytes': async (ctx) => {
    ctx.body = await buffer(ctx.req);
    ctx.type = binary;
  },
  'GET /koa/cookies': (ctx) => {
    ctx.cookies.set('a', '1', { httpOnly: false });
    ctx.cookies.set('b', '2');
    ctx.body = 'two';
  },
  'GET /koa/fails': () => {
    throw new Error('on purpose');
  },
};
const app = new Koa();
app.use((ctx) => routes[`${ctx.method} ${ctx.path}`]?.(ctx));

export const handler = serverless(app, { binary: [binary] });
