/** The whole way: gateway, store, engine, backend, host and handler process, as a site has them; AWS's own clients in front. */
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { InvokeCommand, LambdaClient, type LambdaClientConfig } from '@aws-sdk/client-lambda';
import { beforeAll, describe, expect, test } from 'vitest';
import { type LocalBackend, openLocalBackend } from '../../controller/backends/local.ts';
import { startController } from '../../controller/start.ts';
import { openDirectoryStore } from '../../controller/stores/directory.ts';
import { openSiteFolder } from '../../controller/stores/site.ts';
import type { Store } from '../../controller/stores/store.ts';
import { type Gateway, type GatewayOptions, startGateway } from '../../gateway/start.ts';
import { openNats } from '../../runtime/clients/nats.ts';
import { openDeadLetters } from '../../runtime/dead-letters.ts';
import { openInbox } from '../../runtime/inbox.ts';
import { openLog } from '../../runtime/log.ts';
import { aws } from '../support/aws.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { ask } from './ask.ts';

const log = openLog({ level: 'silent' });
const secret = 'secret-of-the-operator';

const code = `
export const handler = async (event, context) => {
  if (event?.requestContext?.http) return answer(event, context);
  console.log('got', JSON.stringify(event));
  switch (event?.do) {
    case 'throw': throw new RangeError('too far');
    case 'sleep': await new Promise((resolve) => setTimeout(resolve, event.ms)); return 'slept';
    case 'exit': process.exit(7);
    case 'client': return context.clientContext ?? null;
    default: return { event, id: context.awsRequestId, attempt: context.trigger?.attempt };
  }
};
async function answer(event, context) {
  const { http } = event.requestContext;
  const query = event.queryStringParameters ?? {};
  if (query.wait) {
    console.log('waiting', query.wait);
    await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
    console.log('left', query.wait);
  }
  if (query.status === '204') return { statusCode: 204 };
  return {
    statusCode: Number(query.status ?? 200),
    headers: { 'content-type': 'application/json', 'x-two': 'a' },
    cookies: ['one=1', 'two=2'],
    body: JSON.stringify({ method: http.method, path: event.rawPath, query: event.rawQueryString,
      headers: event.headers, body: event.body ?? null, base64: event.isBase64Encoded }),
  };
}
`;

const spec = (more: object = {}) => ({
  package: { inline: code },
  timeoutSeconds: 5,
  concurrency: 4,
  ...more,
});
const manifest = (name: string, more: object = {}, namespace = 'default') => ({
  apiVersion: 'atoll.dev/v1alpha1',
  kind: 'Function',
  metadata: { name, namespace },
  spec: spec(more),
});

const triggers = [
  { name: 'exact', http: { path: '/hello', methods: ['GET', 'POST'] } },
  { name: 'prefix', http: { path: '/api', pathType: 'Prefix' } },
  { name: 'locked', http: { path: '/locked', auth: 'Key' } },
];

let nats: NatsServer;
let store: Store;
let backend: LocalBackend;
let gateway: Gateway;
let keyed: Gateway;

async function open(options: Partial<GatewayOptions> = {}): Promise<Gateway> {
  const link = openNats({ url: nats.url }, { name: 'test', site: 'local', log });
  closeLater(() => link.close());
  await link.connection();
  const started = await startGateway({
    host: '127.0.0.1',
    port: 0,
    site: 'local',
    siteInfo: () => ({ site: 'local' }),
    store,
    backend,
    inbox: openInbox(link, { site: 'local', log }),
    deadLetters: openDeadLetters(link, { site: 'local', log }),
    metrics: () => Promise.resolve('# TYPE controller_up gauge\ncontroller_up 1\n'),
    log,
    ...options,
  });
  closeLater(() => started.stop(Date.now() + 2000));
  return started;
}

/** Resolves when the function's newest generation answers. */
async function ready(name: string, namespace = 'default'): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const look = async () => {
    const hosts = (await backend.observe({ namespace, name }))?.hosts ?? [];
    if (hosts.some(({ handler, triggers }) => handler.ready && triggers.every(({ ready }) => ready)))
      resolve();
  };
  const stop = backend.watch(() => void look());
  await look();
  await promise;
  stop();
}

beforeAll(async () => {
  nats = await startNats();
  const dir = join(await temporaryFolder(), '.atoll');
  const paths = await openSiteFolder(dir);
  store = await openDirectoryStore({ dir, log });
  backend = await openLocalBackend({ paths, site: 'local', nats: { url: nats.url }, log });
  closeLater(() => backend.close());
  const controller = await startController({ store, backend, log });
  closeLater(() => controller.stop());
  gateway = await open();
  const keysFile = join(await temporaryFolder(), 'keys');
  await writeFile(keysFile, `${JSON.stringify({ id: 'ops', secret })}\n`, { mode: 0o600 });
  keyed = await open({ requireKeys: true, keysFile });
  await store.put(manifest('echo', { triggers, retry: { maxAttempts: 2, minBackoffMs: 10 } }));
  await store.put(manifest('other', {}, 'team'));
  await store.put(manifest('stopped', { replicas: 0 }));
  await Promise.all([ready('echo'), ready('other', 'team')]);
});

function client(to: Gateway, more: LambdaClientConfig = {}): LambdaClient {
  const lambda = new LambdaClient({
    endpoint: to.url,
    region: 'us-east-1',
    credentials: { accessKeyId: 'ops', secretAccessKey: secret },
    maxAttempts: 1,
    ...more,
  });
  closeLater(() => Promise.resolve(lambda.destroy()));
  return lambda;
}

const textOf = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();
const jsonOf = (bytes: Uint8Array | undefined): unknown => JSON.parse(textOf(bytes));
const payload = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));

const api = (path: string, options: Parameters<typeof ask>[1] = {}) =>
  ask(`${gateway.url}/atoll/v1/namespaces/default/functions/echo${path}`, options);

describe("AWS's SDK invokes", () => {
  test.each([
    'echo',
    'echo:$LATEST',
    '000000000000:function:echo',
    'arn:aws:lambda:us-east-1:000000000000:function:echo',
    'arn:aws:lambda:us-east-1:000000000000:function:echo:$LATEST',
  ])('a function as %s', async (FunctionName) => {
    const answer = await client(gateway).send(
      new InvokeCommand({ FunctionName, Payload: payload({ order: 7 }) }),
    );
    expect(answer.StatusCode).toBe(200);
    expect(answer.FunctionError).toBeUndefined();
    expect(answer.ExecutedVersion).toBe('$LATEST');
    expect(jsonOf(answer.Payload)).toMatchObject({ event: { order: 7 }, id: answer.$metadata.requestId });
  });

  test('with a qualifier, and without a payload, which is an empty event', async () => {
    const answer = await client(gateway).send(
      new InvokeCommand({ FunctionName: 'echo', Qualifier: '$LATEST' }),
    );
    expect(jsonOf(answer.Payload)).toMatchObject({ event: {} });
  });

  test('a function of another namespace through its endpoint path', async () => {
    const lambda = client(gateway, { endpoint: `${gateway.url}/ns/team` });
    const answer = await lambda.send(new InvokeCommand({ FunctionName: 'other', Payload: payload(1) }));
    expect(jsonOf(answer.Payload)).toMatchObject({ event: 1 });
    await expect(lambda.send(new InvokeCommand({ FunctionName: 'echo' }))).rejects.toMatchObject({
      name: 'ResourceNotFoundException',
    });
  });

  test('and gets the last lines of the log', async () => {
    const answer = await client(gateway).send(
      new InvokeCommand({ FunctionName: 'echo', LogType: 'Tail', Payload: payload({ shown: 'in the log' }) }),
    );
    expect(Buffer.from(answer.LogResult ?? '', 'base64').toString()).toContain('in the log');
  });

  test('and gets the error of a function that throws, times out or exits', async () => {
    const call = (event: object) =>
      client(gateway).send(new InvokeCommand({ FunctionName: 'echo', Payload: payload(event) }));
    const threw = await call({ do: 'throw' });
    expect(threw).toMatchObject({ StatusCode: 200, FunctionError: 'Unhandled' });
    expect(jsonOf(threw.Payload)).toMatchObject({ errorType: 'RangeError', errorMessage: 'too far' });
    const exited = await call({ do: 'exit' });
    expect(exited.FunctionError).toBe('Unhandled');
    expect(jsonOf(exited.Payload)).toMatchObject({ errorType: 'Runtime.ExitError' });
    const late = await call({ do: 'sleep', ms: 20_000 });
    expect(late.FunctionError).toBe('Unhandled');
    expect(jsonOf(late.Payload)).toMatchObject({ errorType: 'Sandbox.Timedout' });
  }, 20_000);

  test('with a client context', async () => {
    const context = { client: { installation_id: 'i' }, custom: { a: 'b' } };
    const answer = await client(gateway).send(
      new InvokeCommand({
        FunctionName: 'echo',
        Payload: payload({ do: 'client' }),
        ClientContext: Buffer.from(JSON.stringify(context)).toString('base64'),
      }),
    );
    expect(jsonOf(answer.Payload)).toMatchObject({ custom: { a: 'b' } });
    await expect(
      client(gateway).send(new InvokeCommand({ FunctionName: 'echo', ClientContext: '%%%' })),
    ).rejects.toMatchObject({ name: 'InvalidRequestContentException' });
  });

  test('later: the event is stored, then handled under the request id', async () => {
    const marker = crypto.randomUUID();
    const answer = await client(gateway).send(
      new InvokeCommand({ FunctionName: 'echo', InvocationType: 'Event', Payload: payload({ marker }) }),
    );
    expect(answer.StatusCode).toBe(202);
    expect(textOf(answer.Payload)).toBe('');
    const line = await firstLogLine((text) => text.includes(marker));
    expect(line).toMatchObject({ requestId: answer.$metadata.requestId });
  });

  test('later, also while the function is down', async () => {
    const answer = await client(gateway).send(
      new InvokeCommand({ FunctionName: 'stopped', InvocationType: 'Event' }),
    );
    expect(answer.StatusCode).toBe(202);
    await expect(client(gateway).send(new InvokeCommand({ FunctionName: 'stopped' }))).rejects.toMatchObject({
      name: 'ServiceException',
      $metadata: { httpStatusCode: 503 },
    });
  });

  test('later, and is told when the inbox cannot take an event of that size', async () => {
    const small = await startNats({ maxPayload: 64 * 1024 });
    const link = openNats({ url: small.url }, { name: 'test', site: 'local', log });
    closeLater(() => link.close());
    await link.connection();
    const own = await open({ inbox: openInbox(link, { site: 'local', log }) });
    const invoke = new InvokeCommand({
      FunctionName: 'echo',
      InvocationType: 'Event',
      Payload: payload('x'.repeat(100_000)),
    });
    await expect(client(own).send(invoke)).rejects.toMatchObject({ name: 'RequestTooLargeException' });
  });

  test('a dry run, which runs nothing', async () => {
    const answer = await client(gateway).send(
      new InvokeCommand({ FunctionName: 'echo', InvocationType: 'DryRun', Payload: payload({ do: 'exit' }) }),
    );
    expect(answer.StatusCode).toBe(204);
  });

  test.each([
    ['a function that is not there', { FunctionName: 'nobody' }, 'ResourceNotFoundException', 404],
    ['a version', { FunctionName: 'echo', Qualifier: '1' }, 'ResourceNotFoundException', 404],
    ['an alias', { FunctionName: 'echo:prod' }, 'ResourceNotFoundException', 404],
    [
      'no JSON',
      { FunctionName: 'echo', Payload: Buffer.from('{"open":') },
      'InvalidRequestContentException',
      400,
    ],
    [
      'no UTF-8',
      { FunctionName: 'echo', Payload: Buffer.from([0x22, 0xff, 0x22]) },
      'InvalidRequestContentException',
      400,
    ],
    [
      'an unknown type',
      { FunctionName: 'echo', InvocationType: 'Never' as 'Event' },
      'InvalidParameterValueException',
      400,
    ],
    [
      '6 MiB and a byte',
      { FunctionName: 'echo', Payload: Buffer.alloc(6 * 1024 * 1024 + 1, ' ') },
      'RequestTooLargeException',
      413,
    ],
  ])('%s fails as in AWS', async (_what, input, name, status) => {
    await expect(client(gateway).send(new InvokeCommand(input))).rejects.toMatchObject({
      name,
      $metadata: { httpStatusCode: status },
    });
  });

  test('and is told to wait when everything is busy', async () => {
    await store.put(manifest('busy', { concurrency: 1, timeoutSeconds: 1 }));
    await ready('busy');
    const lambda = client(gateway, { requestHandler: { httpAgent: { maxSockets: 100 } } });
    const call = (ms: number) =>
      lambda.send(new InvokeCommand({ FunctionName: 'busy', Payload: payload({ do: 'sleep', ms }) }));
    const answers = await Promise.allSettled(Array.from({ length: 6 }, () => call(700)));
    const refused = answers
      .filter((answer) => answer.status === 'rejected')
      .map(({ reason }) => reason as unknown);
    expect(refused.length).toBeGreaterThan(0);
    expect(refused[0]).toMatchObject({ name: 'TooManyRequestsException', retryAfterSeconds: '1' });
  }, 20_000);
});

describe('where keys are asked', () => {
  test('a request that the SDK signs comes in, with every form of the name', async () => {
    for (const FunctionName of ['echo', 'arn:aws:lambda:us-east-1:000000000000:function:echo']) {
      const answer = await client(keyed).send(
        new InvokeCommand({ FunctionName, Qualifier: '$LATEST', Payload: payload({ grüße: 'ü' }) }),
      );
      expect(jsonOf(answer.Payload)).toMatchObject({ event: { grüße: 'ü' } });
    }
  });

  test('a body that was changed on the way does not', async () => {
    const lambda = client(keyed);
    lambda.middlewareStack.add(
      (next) => (args) => {
        (args.request as { body: unknown }).body = payload({ order: 8 });
        return next(args);
      },
      { step: 'deserialize', name: 'manInTheMiddle', priority: 'low' },
    );
    await expect(
      lambda.send(new InvokeCommand({ FunctionName: 'echo', Payload: payload({ order: 7 }) })),
    ).rejects.toMatchObject({ name: 'AccessDeniedException', $metadata: { httpStatusCode: 403 } });
  });

  test('a wrong secret and an unknown id do not', async () => {
    for (const credentials of [
      { accessKeyId: 'ops', secretAccessKey: 'another-secret-as-long' },
      { accessKeyId: 'nobody', secretAccessKey: secret },
    ]) {
      await expect(
        client(keyed, { credentials }).send(new InvokeCommand({ FunctionName: 'echo' })),
      ).rejects.toMatchObject({ name: 'AccessDeniedException' });
    }
  });

  test('a client whose clock is ten minutes off is refused; the SDK takes our time, and comes in', async () => {
    const lambda = client(keyed, { systemClockOffset: -600_000 });
    const call = () => lambda.send(new InvokeCommand({ FunctionName: 'echo' }));
    await expect(call()).rejects.toMatchObject({
      name: 'InvalidSignatureException',
      $metadata: { httpStatusCode: 403 },
    });
    expect((await call()).StatusCode).toBe(200);
  });

  test('a trigger asks as it declares, and its handler never sees the key', async () => {
    const authorization = `Bearer ops.${secret}`;
    for (const path of ['/hello', '/locked', '/nothing']) {
      expect((await ask(`${keyed.url}${path}`)).status).toBe(403);
    }
    const answer = await ask(`${keyed.url}/locked`, { headers: { authorization } });
    expect(answer.status).toBe(200);
    expect(answer.body).not.toContain(secret);
    const open = await ask(`${gateway.url}/hello`, { headers: { authorization: 'Bearer of-the-user' } });
    expect(JSON.parse(open.body)).toMatchObject({ headers: { authorization: 'Bearer of-the-user' } });
    expect((await ask(`${gateway.url}/locked`)).status).toBe(403);
  });
});

describe("AWS's command line", () => {
  const target = (to: Gateway) => ({
    endpoint: to.url,
    region: 'us-east-1',
    accessKeyId: 'ops',
    secretAccessKey: secret,
  });

  test('invokes, signed, and reads the log', async () => {
    const out = join(await temporaryFolder(), 'out.json');
    const answer = await aws(
      [
        'lambda',
        'invoke',
        '--function-name',
        'arn:aws:lambda:us-east-1:000000000000:function:echo',
        '--payload',
        '{"order":7}',
        '--log-type',
        'Tail',
        out,
      ],
      target(keyed),
    );
    expect(answer.stderr).toBe('');
    expect(JSON.parse(answer.stdout)).toMatchObject({ StatusCode: 200, ExecutedVersion: '$LATEST' });
    expect(JSON.parse(await readFile(out, 'utf8'))).toMatchObject({ event: { order: 7 } });
  });

  test('is told that a function is not there', async () => {
    const answer = await aws(['lambda', 'invoke', '--function-name', 'nobody', '/dev/null'], target(gateway));
    expect(answer.exitCode).not.toBe(0);
    expect(answer.stderr).toContain('ResourceNotFoundException');
    expect(answer.stderr).toContain('arn:aws:lambda:us-east-1:000000000000:function:nobody');
  });
});

describe('http triggers', () => {
  test('get method, path, query, headers and body as they came', async () => {
    const answer = await ask(`${gateway.url}/api/a%20b/c?x=1&x=2&y=%2F`, {
      method: 'PUT',
      headers: {
        'content-type': 'text/plain',
        'x-own': 'v',
        'x-forwarded-for': '6.6.6.6',
        connection: 'x-hop',
        'x-hop': '1',
      },
      body: 'hello',
    });
    expect(answer.status).toBe(200);
    expect(JSON.parse(answer.body)).toMatchObject({
      method: 'PUT',
      path: '/api/a%20b/c',
      query: 'x=1&x=2&y=%2F',
      body: 'hello',
      headers: {
        'x-own': 'v',
        'x-forwarded-for': '127.0.0.1',
        'x-forwarded-proto': 'http',
        host: new URL(gateway.url).host,
      },
    });
    expect(answer.body).not.toContain('x-hop');
    expect(answer.headers['set-cookie']).toEqual(['one=1', 'two=2']);
  });

  test('what the handler answers goes out, whatever its status', async () => {
    expect((await ask(`${gateway.url}/hello?status=404`)).status).toBe(404);
    expect((await ask(`${gateway.url}/hello?status=418`)).status).toBe(418);
  });

  test('HEAD is served where it is declared, without a body', async () => {
    expect(await ask(`${gateway.url}/api`, { method: 'HEAD' })).toMatchObject({ status: 200, body: '' });
    expect((await ask(`${gateway.url}/hello`, { method: 'HEAD' })).status).toBe(405);
  });

  test('another method is told what is allowed', async () => {
    const answer = await ask(`${gateway.url}/hello`, { method: 'DELETE' });
    expect(answer.status).toBe(405);
    expect(answer.headers.allow).toBe('GET, POST');
  });

  test('an unknown path says nothing about others', async () => {
    const answer = await ask(`${gateway.url}/hello/x`);
    expect(answer).toMatchObject({
      status: 404,
      body: '{"code":"NotFound","message":"there is nothing here"}',
    });
  });

  test('a body beyond the limit is refused, with and without its length given', async () => {
    const body = Buffer.alloc(6 * 1024 * 1024 + 1, 'x');
    for (const headers of [{ 'content-length': body.length }, { 'transfer-encoding': 'chunked' }]) {
      expect((await ask(`${gateway.url}/api`, { method: 'POST', headers, body })).status).toBe(413);
    }
    const most = body.subarray(1);
    expect((await ask(`${gateway.url}/hello?status=204`, { method: 'POST', body: most })).status).toBe(204);
  });

  test('a function that is down is 503 and says when to come again', async () => {
    await store.put(manifest('down', { replicas: 0, triggers: [{ name: 'web', http: { path: '/down' } }] }));
    const answer = await until(
      () => ask(`${gateway.url}/down`),
      ({ status }) => status !== 404,
    );
    expect(answer.status).toBe(503);
    expect(answer.headers['retry-after']).toBe('1');
  });

  test('a route goes with its function', async () => {
    await store.put(manifest('brief', { triggers: [{ name: 'web', http: { path: '/brief' } }] }));
    await until(
      () => ask(`${gateway.url}/brief`),
      ({ status }) => status === 200,
    );
    await store.remove({ namespace: 'default', name: 'brief' });
    await until(
      () => ask(`${gateway.url}/brief`),
      ({ status }) => status === 404,
    );
  });
});

describe('the control API', () => {
  test('tells the status with what the hosts say now', async () => {
    const answer = await api('/status');
    expect(JSON.parse(answer.body)).toMatchObject({
      namespace: 'default',
      name: 'echo',
      generation: 1,
      hosts: [{ name: 'echo', handler: { ready: true } }],
    });
    const { triggers } = JSON.parse(answer.body) as { triggers: { name: string; ready: boolean }[] };
    expect(triggers.filter(({ ready }) => ready).map(({ name }) => name)).toEqual(
      expect.arrayContaining(['exact', 'prefix', 'locked']),
    );
  });

  test('invokes with its own names', async () => {
    const returned = await api('/invocations?tail=true', { method: 'POST', body: '{"order":7}' });
    expect(returned.status).toBe(200);
    expect(JSON.parse(returned.body)).toMatchObject({
      event: { order: 7 },
      id: returned.headers['x-amzn-requestid'],
    });
    expect(Buffer.from(String(returned.headers['x-amz-log-result']), 'base64').toString()).toContain('order');
    const threw = await api('/invocations', { method: 'POST', body: '{"do":"throw"}' });
    expect(threw.headers['x-amz-function-error']).toBe('Unhandled');
    const later = await api('/invocations?async=true', { method: 'POST' });
    expect(later.status).toBe(202);
    const wrong = await api('/invocations', { method: 'POST', body: 'no json' });
    expect(JSON.parse(wrong.body)).toMatchObject({ code: 'InvalidRequest' });
  });

  test('gives the log of one request, and ends', async () => {
    const { headers } = await api('/invocations', { method: 'POST', body: '{"a":1}' });
    const id = String(headers['x-amzn-requestid']);
    const answer = await until(
      () => api(`/logs?requestId=${id}`),
      ({ body }) => body.includes('"report"'),
    );
    const records = answer.body
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { requestId: string });
    expect(new Set(records.map(({ requestId }) => requestId))).toEqual(new Set([id]));
  });

  test('keeps, shows, redrives and purges dead letters', async () => {
    const { headers } = await api('/invocations?async=true', { method: 'POST', body: '{"do":"throw"}' });
    const id = String(headers['x-amzn-requestid']);
    interface Letter {
      seq: number;
      id: string;
      reason: string;
      attempts: number;
    }
    const list = async () =>
      (JSON.parse((await api('/dead-letters')).body) as { deadLetters: Letter[] }).deadLetters;
    const letters = await until(list, (all) => all.some((letter) => letter.id === id));
    const letter = letters.find((one) => one.id === id) as Letter;
    expect(letter).toMatchObject({ reason: 'RetriesExhausted', attempts: 2, trigger: 'invoke' });
    const shown = await api(`/dead-letters/${letter.seq}`);
    expect(JSON.parse(shown.body)).toMatchObject({ text: '{"do":"throw"}', fault: { code: 'RangeError' } });

    const redrive = await api('/dead-letters/redrive', {
      method: 'POST',
      body: JSON.stringify({ seqs: [letter.seq] }),
    });
    expect(JSON.parse(redrive.body)).toEqual({ redriven: 1, duplicates: 0, refused: [] });
    const again = await until(list, (all) => all.some((one) => one.id === id && one.seq !== letter.seq));
    const elsewhere = await api('/dead-letters/redrive', {
      method: 'POST',
      body: JSON.stringify({ to: 'nobody/invoke' }),
    });
    expect(JSON.parse(elsewhere.body)).toMatchObject({
      redriven: 0,
      refused: again.map(({ seq }) => ({ seq })),
    });

    const [first] = again as [Letter];
    expect(JSON.parse((await api(`/dead-letters/${first.seq}`, { method: 'DELETE' })).body)).toEqual({
      purged: 1,
    });
    expect((await api(`/dead-letters/${first.seq}`)).status).toBe(404);
    expect(JSON.parse((await api('/dead-letters', { method: 'DELETE' })).body)).toEqual({
      purged: again.length - 1,
    });
    expect(await list()).toEqual([]);
  }, 20_000);

  test.each([
    ['{"seqs":[]}'],
    ['{"seqs":[0]}'],
    ['{"seqs":"all"}'],
    ['{"to":"nowhere"}'],
    ['{"to":"a/b/c"}'],
    ['{"wat":1}'],
    ['[]'],
    ['{'],
  ])('a redrive that is not understood (%s) is refused before anything moves', async (body) => {
    const answer = await api('/dead-letters/redrive', { method: 'POST', body });
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.body)).toMatchObject({ code: 'InvalidRequest' });
  });
});

test('a follower hears that it follows, then each line; stopping the gateway ends it', async () => {
  const own = await open();
  const url = `${own.url}/atoll/v1/namespaces/default/functions/echo/logs?follow=true&limit=1`;
  const request = http.get(url, { agent: false });
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  const marker = crypto.randomUUID();
  await api('/invocations', { method: 'POST', body: JSON.stringify({ marker }) });
  let heard = '';
  for await (const chunk of response) {
    heard += String(chunk);
    if (heard.includes(marker)) void own.stop(Date.now() + 5000);
  }
  expect(heard).toContain(marker);
});

test('one address has the figures of host, controller and gateway, each family once', async () => {
  const { body } = await ask(`${gateway.url}/metrics`);
  expect(body).toMatch(/^atoll_invocations_total\{.*function="echo".*outcome="threw"\} \d+$/m);
  expect(body).toContain('controller_up{component="controller"} 1');
  expect(body).toContain('atoll_gateway_requests_total{route="invoke",code="404"}');
  const types = body.match(/^# TYPE \S+/gm) ?? [];
  expect(new Set(types).size).toBe(types.length);
});

test('a caller that goes away ends its invocation', async () => {
  const mark = crypto.randomUUID();
  const request = http.request(`${gateway.url}/hello?wait=${mark}`, { agent: false });
  request.on('error', () => undefined);
  request.end();
  await firstLogLine((text) => text.includes(`waiting ${mark}`));
  request.destroy();
  await firstLogLine((text) => text.includes(`left ${mark}`));
});

test('without JetStream an async invoke is not accepted', async () => {
  const own = await open();
  await nats.pause();
  try {
    const answer = await ask(`${own.url}/2015-03-31/functions/echo/invocations`, {
      method: 'POST',
      headers: { 'x-amz-invocation-type': 'Event' },
    });
    expect(answer.status).toBe(503);
    expect(answer.headers['x-amzn-errortype']).toBe('ServiceException');
  } finally {
    nats.resume();
  }
}, 20_000);

/** Asks until the answer is as wanted; the test's own time limit ends it. */
async function until<T>(question: () => Promise<T>, wanted: (answer: T) => boolean): Promise<T> {
  for (;;) {
    const answer = await question();
    if (wanted(answer)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function firstLogLine(wanted: (text: string) => boolean): Promise<unknown> {
  const { body } = await until(
    () => api('/logs'),
    ({ body }) => body.split('\n').some(wanted),
  );
  return JSON.parse(body.split('\n').find(wanted) as string);
}
