/** The gateway by itself, over real sockets: who gets in, what it says, how it starts and stops. Nothing runs behind it. */
import { once } from 'node:events';
import { chmod, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openDirectoryStore } from '../../controller/stores/directory.ts';
import { type Gateway, type GatewayOptions, startGateway } from '../../gateway/start.ts';
import { openLog } from '../../runtime/log.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { ask } from './ask.ts';

const secret = 'secret-of-the-operator';

async function gateway(options: Partial<GatewayOptions> = {}): Promise<Gateway> {
  const log = openLog({ level: 'silent' });
  const started = await startGateway({
    host: '127.0.0.1',
    port: 0,
    site: 'local',
    siteInfo: () => ({ site: 'local' }),
    store: await openDirectoryStore({ dir: join(await temporaryFolder(), '.atoll'), log }),
    backend: {
      address: () => undefined,
      observe: () => Promise.resolve(undefined),
      // eslint-disable-next-line require-yield
      async *logs(_key, { signal }) {
        if (signal && !signal.aborted) await once(signal, 'abort');
      },
    },
    log,
    ...options,
  });
  closeLater(() => started.stop(Date.now()));
  return started;
}

async function keysFile(): Promise<string> {
  const path = join(await temporaryFolder(), 'keys');
  await writeFile(path, `${JSON.stringify({ id: 'ops', secret })}\n`, { mode: 0o600 });
  return path;
}

const refusals = [
  ['a foreign Host', { host: 'evil.example:8700' }],
  ['a foreign Origin', { origin: 'http://evil.example' }],
] as const;

test.each(refusals)('%s gets the same 403 everywhere, whatever exists there', async (_what, headers) => {
  const { url } = await gateway();
  const answers = await Promise.all(
    ['/atoll/v1/site', '/atoll/v1/nothing', '/metrics', '/healthz', '/hello', '/'].map((path) =>
      ask(`${url}${path}`, { headers }),
    ),
  );
  for (const answer of answers) {
    expect(answer.status).toBe(403);
    expect(answer.body).toBe(answers[0]?.body);
  }
});

test("Lambda's door tells the same in Lambda's words", async () => {
  const { url } = await gateway();
  const answer = await ask(`${url}/2015-03-31/functions/f/invocations`, {
    method: 'POST',
    headers: { host: 'evil.example' },
  });
  expect(answer.status).toBe(403);
  expect(answer.headers['x-amzn-errortype']).toBe('AccessDeniedException');
});

test('on loopback nobody is asked for a key', async () => {
  const { url } = await gateway();
  expect(await ask(`${url}/atoll/v1/site`)).toMatchObject({ status: 200, body: '{"site":"local"}' });
  expect((await ask(`${url}/metrics`)).body).toContain(
    'atoll_gateway_requests_total{route="site",code="200"} 1',
  );
});

test('off loopback it does not start without a keys file', async () => {
  await expect(gateway({ host: '0.0.0.0' })).rejects.toMatchObject({ code: 'KeysRefused' });
});

test('it does not start with a keys file that others may read', async () => {
  const path = await keysFile();
  await chmod(path, 0o644);
  await expect(gateway({ keysFile: path })).rejects.toMatchObject({ code: 'KeysRefused' });
});

test('where keys are asked, what exists and what does not look alike without one', async () => {
  const { url } = await gateway({ requireKeys: true, keysFile: await keysFile() });
  const answers = await Promise.all(
    ['/atoll/v1/site', '/atoll/v1/nothing', '/metrics', '/hello', '/'].flatMap((path) =>
      [undefined, `Bearer ops.${secret}x`, `Bearer nobody.${secret}`].map((authorization) =>
        ask(`${url}${path}`, authorization === undefined ? {} : { headers: { authorization } }),
      ),
    ),
  );
  for (const answer of answers) {
    expect(answer.status).toBe(403);
    expect(answer.body).toBe(answers[0]?.body);
  }
  const authorization = `Bearer ops.${secret}`;
  expect((await ask(`${url}/atoll/v1/site`, { headers: { authorization } })).status).toBe(200);
  expect((await ask(`${url}/hello`, { headers: { authorization } })).status).toBe(404);
  expect((await ask(`${url}/healthz`)).status).toBe(200);
});

test('a taken port is passed over', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  closeLater(async () => void taken.close());
  const { port } = taken.address() as AddressInfo;
  const { port: own, url } = await gateway({ port });
  expect(own).not.toBe(port);
  expect((await ask(`${url}/healthz`)).status).toBe(200);
});

test('what cannot be served says so in JSON', async () => {
  const { url } = await gateway();
  expect(await ask(`${url}/nothing`)).toMatchObject({
    status: 404,
    body: '{"code":"NotFound","message":"there is nothing here"}',
  });
  expect((await ask(`${url}/atoll/v1/nothing`)).status).toBe(404);
  expect((await ask(`${url}/metrics`, { method: 'POST' })).status).toBe(404);
  expect((await ask(`${url}/a/%2e%2e/b`)).status).toBe(404);
  expect((await ask(`${url}/%zz`)).status).toBe(400);
  const lambda = await ask(`${url}/2015-03-31/functions`);
  expect(lambda.status).toBe(404);
  expect(lambda.headers['x-amzn-errortype']).toBe('UnknownOperationException');
});

test.each([
  ['status of a function that is not there', '/status', 404, 'FunctionNotFound'],
  ['an unknown parameter', '/status?wat=1', 400, 'InvalidRequest'],
  ['a flag that is neither true nor false', '/logs?follow=yes', 400, 'InvalidRequest'],
  ['a limit that is no number', '/logs?limit=ten', 400, 'InvalidRequest'],
  ['a limit of nothing', '/logs?limit=0', 400, 'InvalidRequest'],
  ['a parameter given twice', '/logs?since=1&since=2', 400, 'InvalidRequest'],
])('%s is a clear error', async (_what, rest, status, code) => {
  const { url } = await gateway();
  const answer = await ask(`${url}/atoll/v1/namespaces/default/functions/hello${rest}`);
  expect(answer.status).toBe(status);
  expect(JSON.parse(answer.body)).toMatchObject({ code });
});

test.each(['..%2f..%2fsecret', 'UPPER', 'a.b', '%00'])(
  'a name that is none (%s) does not get to the store',
  async (name) => {
    const { url } = await gateway();
    for (const path of [`namespaces/default/functions/${name}`, `namespaces/${name}/functions/hello`]) {
      const answer = await ask(`${url}/atoll/v1/${path}/status`);
      expect(JSON.parse(answer.body)).toMatchObject({ code: 'InvalidRequest' });
      expect(answer.status).toBe(400);
    }
  },
);

test('a body that is too large is told so, with and without its length given', async () => {
  const { url } = await gateway();
  const body = Buffer.alloc(6 * 1024 * 1024 + 1, ' ');
  const path = `${url}/2015-03-31/functions/f/invocations`;
  for (const headers of [{ 'content-length': body.length }, { 'transfer-encoding': 'chunked' }]) {
    const answer = await ask(path, { method: 'POST', headers, body });
    expect(answer.status).toBe(413);
    expect(answer.headers['x-amzn-errortype']).toBe('RequestTooLargeException');
  }
});

test('a content type that nobody knows is no hindrance', async () => {
  const { url } = await gateway();
  for (const type of ['weird', 'application/x-amz-json-1.1', 'text/plain; charset=latin1', '']) {
    const answer = await ask(`${url}/2015-03-31/functions/f/invocations`, {
      method: 'POST',
      headers: { 'content-type': type },
      body: '{}',
    });
    expect(answer.headers['x-amzn-errortype']).toBe('ResourceNotFoundException');
  }
});

test.each(['http://ui.example/', 'ui.example', '*', 'null'])(
  'an allowed origin that no browser sends (%s) is refused at the start',
  async (origin) => {
    await expect(gateway({ allowedOrigins: [origin] })).rejects.toMatchObject({ code: 'InvalidRequest' });
  },
);

test('a page of an allowed origin comes in', async () => {
  const { url } = await gateway({ allowedOrigins: ['http://ui.example:3000'] });
  expect((await ask(`${url}/atoll/v1/site`, { headers: { origin: 'http://ui.example:3000' } })).status).toBe(
    200,
  );
});

test('after stopping nobody listens', async () => {
  const { port, stop } = await gateway();
  await stop(Date.now() + 5000);
  const [error] = (await once(connect(port, '127.0.0.1'), 'error')) as [NodeJS.ErrnoException];
  expect(error.code).toBe('ECONNREFUSED');
});
