import { request, type IncomingMessage } from 'node:http';
import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { AtollError } from '../../runtime/errors.ts';
import { openLog } from '../../runtime/log.ts';
import { openServer, type Handle, type Server } from '../../runtime/server.ts';
import { closeLater } from '../support/closing.ts';

async function listening(): Promise<{ server: Server; address: string }> {
  const server = openServer({ host: '127.0.0.1', port: 0 }, openLog({ level: 'silent' }));
  const { address } = await server.listen();
  closeLater(() => server.close(0));
  return { server, address };
}

async function ask(url: string): Promise<{ status: number | undefined; body: string }> {
  const asked = request(url, { agent: false }).end();
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  return { status: response.statusCode, body: await text(response) };
}

const says =
  (name: string): Handle =>
  (_request, response, rest) =>
    void response.end(`${name} ${rest}`);

test('the longest prefix of whole segments gets the request, with what follows it and the query', async () => {
  const { server, address } = await listening();
  server.mount('/status', says('status'));
  server.mount('/http/default/shop/api', says('api'));
  server.mount('/http/default/shop', says('shop'));
  expect((await ask(`${address}/status?watch=true`)).body).toBe('status ?watch=true');
  expect((await ask(`${address}/http/default/shop/api/a/b%2Fc?x=1`)).body).toBe('api /a/b%2Fc?x=1');
  expect((await ask(`${address}/http/default/shop/apis`)).body).toBe('shop /apis');
  expect((await ask(`${address}/statuses`)).status).toBe(404);
});

test('a prefix may be mounted anew; taking the first away leaves the second', async () => {
  const { server, address } = await listening();
  const first = server.mount('/x', says('first'));
  const second = server.mount('/x', says('second'));
  first();
  expect((await ask(`${address}/x`)).body).toBe('second ');
  second();
  expect((await ask(`${address}/x`)).status).toBe(404);
});

test('what a handler throws, now or later, is answered; what is not ours to tell is told as Internal', async () => {
  const { server, address } = await listening();
  server.mount('/now', () => {
    throw new AtollError('InvalidRequest', 'no such thing');
  });
  server.mount('/large', async () => {
    throw new AtollError('TooLarge', 'too much');
  });
  server.mount('/later', async () => {
    throw new Error('password is hunter2');
  });
  expect(await ask(`${address}/now`)).toMatchObject({
    status: 400,
    body: expect.stringContaining('no such'),
  });
  expect(await ask(`${address}/large`)).toMatchObject({ status: 413 });
  const { status, body } = await ask(`${address}/later`);
  expect({ status, ...(JSON.parse(body) as object) }).toMatchObject({ status: 500, code: 'Internal' });
  expect(body).not.toContain('hunter2');
});

test('what is no HTTP is answered 400, and the next request is served', async () => {
  const { server, address } = await listening();
  server.mount('/x', says('x'));
  const { port, hostname } = new URL(address);
  const socket = connect(Number(port), hostname);
  socket.end('nonsense\r\n\r\n');
  expect(await text(socket)).toMatch(/^HTTP\/1\.1 400 /);
  expect((await ask(`${address}/x`)).status).toBe(200);
});

test('close lets an open request end, takes no new one, and cuts what is open at the deadline', async () => {
  const { server, address } = await listening();
  const held: import('node:http').ServerResponse[] = [];
  const arrived = Promise.withResolvers<void>();
  server.mount('/held', (_request, response) => {
    held.push(response);
    if (held.length === 2) arrived.resolve();
  });
  const answered = ask(`${address}/held`);
  const cut = ask(`${address}/held`).catch((error: NodeJS.ErrnoException) => error.code);
  await arrived.promise;
  const closed = server.close(Date.now() + 1000);
  await expect(ask(`${address}/held`)).rejects.toThrow('ECONNREFUSED');
  held[0]!.end('done');
  const settled = await Promise.race([answered, cut]);
  expect(settled).toMatchObject({ status: 200, body: 'done' });
  await closed;
  expect(await Promise.all([answered, cut])).toContain('ECONNRESET');
});
