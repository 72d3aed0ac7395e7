import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { preludeContentType, type Delivery, type Result, type Settlement } from '../../../runtime/event.ts';
import { openLog } from '../../../runtime/log.ts';
import { maxPayloadBytes } from '../../../runtime/config.ts';
import { openServer } from '../../../runtime/server.ts';
import { openHttp } from '../../../runtime/triggers/http.ts';
import { httpResponse } from '../../../runtime/triggers/http-response.ts';
import { openInvoke } from '../../../runtime/triggers/invoke.ts';
import type { TriggerContext } from '../../../runtime/triggers/trigger.ts';

const log = openLog({ level: 'silent' });
const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const json = (value: unknown): Result => ({ encoding: 'json', data: Buffer.from(JSON.stringify(value)) });
const report = { requestId: 'r', durationMs: 1, maxMemoryMiB: 1, coldStart: false };
const failed = (outcome: 'threw' | 'timedOut' | 'crashed'): Settlement => ({
  kind: 'failed',
  fault: { code: 'Error', message: 'secret detail' },
  reason: 'RetriesExhausted',
  outcome,
  report,
});
const comeLater: Settlement = { kind: 'retry', delayMs: 0, failed: false };

async function open(kind: 'http' | 'invoke', timeoutSeconds = 5) {
  const server = openServer({ host: '127.0.0.1', port: 0 }, log);
  const context: TriggerContext = {
    site: 'local',
    function: { namespace: 'default', name: 'api', uid: 'u' },
    name: 'web',
    encoding: 'json',
    retry: { maxAttempts: 1, minBackoffMs: 1, maxBackoffMs: 1, maxAgeSeconds: 1 },
    timeoutSeconds,
    capacity: 1,
    server,
    log,
    report: () => undefined,
    dropped: () => undefined,
    deadLetter: async () => undefined,
  };
  const trigger =
    kind === 'http' ? openHttp({ path: '/things', pathType: 'Prefix' }, context) : openInvoke(context);
  const { address } = await server.listen();
  closing.push(() => server.close(0));
  closing.push(() => trigger.close());
  const deliveries = trigger.deliveries()[Symbol.asyncIterator]();
  const next = async (): Promise<Delivery> => (await deliveries.next()).value as Delivery;
  const base = kind === 'http' ? `${address}/http/default/api/web` : `${address}/invoke/default/api`;
  return { base, next, trigger, deliveries };
}

test('a request becomes an event in payload format 2.0', async () => {
  const { base, next } = await open('http');
  const answered = fetch(`${base}/things/a%20b?x=1&x=2&y=`, {
    method: 'PUT',
    headers: {
      cookie: 'a=1; b=2',
      'x-many': 'one',
      'x-forwarded-host': 'robot.local:8700',
      'user-agent': 'test',
    },
    body: 'hello',
  });
  const delivery = await next();
  expect(delivery).toMatchObject({ replies: true, redeliverable: false });
  expect(Buffer.from(delivery.event.data).toString()).toBe('hello');
  expect(delivery.event.detail).toMatchObject({
    version: '2.0',
    rawPath: '/things/a%20b',
    rawQueryString: 'x=1&x=2&y=',
    cookies: ['a=1', 'b=2'],
    headers: { 'x-many': 'one', host: 'robot.local:8700' },
    queryStringParameters: { x: '1,2', y: '' },
    requestContext: {
      domainName: 'robot.local:8700',
      requestId: delivery.event.id,
      stage: '$default',
      http: { method: 'PUT', path: '/things/a%20b', protocol: 'HTTP/1.1', userAgent: 'test' },
    },
  });
  await delivery.settle({ kind: 'done', result: json({ ok: true }) });
  const response = await answered;
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('application/json');
  expect(await response.json()).toEqual({ ok: true });
});

test('status, headers with several values, cookies and a binary body come back as the handler gave them', async () => {
  const { base, next } = await open('http');
  const answered = fetch(`${base}/things`);
  const result = {
    statusCode: 201,
    headers: { 'X-One': 1, 'content-type': 'image/png' },
    multiValueHeaders: { 'x-two': ['a', 'b'] },
    cookies: ['s=1; Path=/', 't=2'],
    body: Buffer.from([0, 255, 1]).toString('base64'),
    isBase64Encoded: true,
  };
  await (await next()).settle({ kind: 'done', result: json(result) });
  const response = await answered;
  expect(response.status).toBe(201);
  expect(response.headers.get('x-one')).toBe('1');
  expect(response.headers.get('x-two')).toBe('a, b');
  expect(response.headers.getSetCookie()).toEqual(['s=1; Path=/', 't=2']);
  expect(Buffer.from(await response.arrayBuffer())).toEqual(Buffer.from([0, 255, 1]));
});

test.each([
  ['threw', failed('threw'), 502],
  ['timed out', failed('timedOut'), 504],
  ['crashed', failed('crashed'), 502],
  ['was stopped before it ended', comeLater, 503],
] as const)(
  'the caller of a handler that %s is told nothing of its inside',
  async (_how, settlement, status) => {
    const { base, next } = await open('http');
    const answered = fetch(`${base}/things`);
    await (await next()).settle(settlement);
    const response = await answered;
    expect(response.status).toBe(status);
    expect(await response.text()).not.toContain('secret detail');
    if (status === 503) expect(response.headers.get('retry-after')).toBe('1');
  },
);

test.each([
  ['a status code that is none', { statusCode: 'abc' }],
  ['a status code out of range', { statusCode: 42 }],
  ['a body that is no string', { statusCode: 200, body: { a: 1 } }],
  ['a header with a line break', { statusCode: 200, headers: { a: 'b\r\nc: d' } }],
  ['a header name with a space', { statusCode: 200, headers: { 'a b': 'c' } }],
  ['cookies that are no list', { statusCode: 200, cookies: 'a=b' }],
])('%s is a problem, not a response', (_name, value) => {
  expect(httpResponse(json(value))).toHaveProperty('problem');
});

test('hop-by-hop headers and a content-length of the handler are left out', () => {
  const given = {
    statusCode: 200,
    headers: { Connection: 'close', 'Content-Length': '99', 'x-a': 'b' },
    body: 'hi',
  };
  expect(httpResponse(json(given))).toMatchObject({
    headers: [
      ['x-a', 'b'],
      ['content-type', 'application/json'],
    ],
  });
});

test('a body over the limit is answered 413 and makes no event', async () => {
  const { base, next } = await open('http');
  const response = await fetch(`${base}/things`, { method: 'POST', body: Buffer.alloc(maxPayloadBytes + 1) });
  expect(response.status).toBe(413);
  const answered = fetch(`${base}/things`, { method: 'POST', body: Buffer.alloc(maxPayloadBytes) });
  const delivery = await next();
  expect(delivery.event.data.byteLength).toBe(maxPayloadBytes);
  await delivery.settle({ kind: 'done' });
  await answered;
});

test('a body without a length is answered 413 when it passes the limit, and its connection is closed', async () => {
  const { base } = await open('http');
  const request = httpRequest(`${base}/things`, { method: 'POST' });
  const answered = once(request, 'response') as Promise<[IncomingMessage]>;
  const megabyte = Buffer.alloc(1024 * 1024);
  for (let sent = 0; sent <= maxPayloadBytes; sent += megabyte.length) request.write(megabyte);
  const [response] = await answered;
  expect(response.statusCode).toBe(413);
  expect(response.headers.connection).toBe('close');
  request.destroy();
});

test('a request waits for a slot, and is answered 503 with Retry-After when it waited as long as it may', async () => {
  const { base } = await open('http', 0.05);
  const response = await fetch(`${base}/things`);
  expect(response.status).toBe(503);
  expect(response.headers.get('retry-after')).toBe('1');
});

test('a full queue answers 503 at once', async () => {
  const { base, next } = await open('http', 30);
  const statuses = Array.from({ length: 1001 }, () => fetch(`${base}/things`).then(({ status }) => status));
  expect(await Promise.race(statuses)).toBe(503);
  for (let settled = 0; settled < 1000; settled++) await (await next()).settle({ kind: 'done' });
  expect((await Promise.all(statuses)).filter((status) => status === 200)).toHaveLength(1000);
});

test('a caller who goes away while waiting makes no event; one who goes away later aborts the signal', async () => {
  const { base, next, deliveries } = await open('http', 30);
  const { hostname, port, pathname } = new URL(base);
  const send = async () => {
    const socket = connect(Number(port), hostname);
    await once(socket, 'connect');
    socket.write(`GET ${pathname}/things HTTP/1.1\r\nhost: a\r\n\r\n`);
    return socket;
  };
  const seen = next();
  const running = await send();
  const delivery = await seen;
  const waiting = await send();
  const aborted = once(delivery.signal as AbortSignal, 'abort');
  running.destroy();
  await aborted;
  waiting.destroy();
  await once(waiting, 'close');
  const answered = fetch(`${base}/things?last`);
  // The abandoned one may have been queued before; it is gone by the time the third arrives.
  const last = await deliveries.next();
  expect((last.value as Delivery).event.detail?.['rawQueryString']).toBe('last');
  await (last.value as Delivery).settle({ kind: 'done' });
  await answered;
});

test('after close what waits is still yielded, then the iterator ends', async () => {
  const { base, trigger, deliveries, next } = await open('http', 30);
  const answered = fetch(`${base}/things`);
  const delivery = await next();
  const waiting = fetch(`${base}/things?second`);
  const second = next();
  await delivery.settle({ kind: 'done' });
  await answered;
  await (await second).settle({ kind: 'done' });
  await waiting;
  await trigger.close();
  expect((await deliveries.next()).done).toBe(true);
  expect((await fetch(`${base}/things`)).status).toBe(404);
});

test('the invoke door hands over id and payload, and answers with outcome and log tail', async () => {
  const { base, next } = await open('invoke');
  const answered = fetch(base, {
    method: 'POST',
    headers: { 'atoll-id': 'req-1', 'atoll-tail': 'true' },
    body: '{"a":1}',
  });
  const delivery = await next();
  expect(delivery).toMatchObject({ tail: true, event: { id: 'req-1', kind: 'invoke', trigger: 'invoke' } });
  await delivery.settle({ kind: 'done', result: json(7), report, tail: 'START\nEND' });
  const response = await answered;
  expect(response.headers.get('atoll-outcome')).toBe('returned');
  expect(Buffer.from(response.headers.get('atoll-log-tail') ?? '', 'base64').toString()).toBe('START\nEND');
  expect(await response.json()).toBe(7);
});

test.each(['threw', 'timedOut', 'crashed'] as const)(
  "a handler that %s comes out of the invoke door so, with Lambda's error object",
  async (outcome) => {
    const { base, next } = await open('invoke');
    const answered = fetch(base, { method: 'POST', body: '1' });
    const fault = { code: 'RangeError', message: 'why', stack: ['at x'] };
    await (await next()).settle({ kind: 'failed', fault, reason: 'Refused', outcome, report });
    const response = await answered;
    expect(response.headers.get('atoll-outcome')).toBe(outcome);
    expect(await response.json()).toEqual({ errorType: 'RangeError', errorMessage: 'why', trace: ['at x'] });
  },
);

test('an invocation that was given back is answered 503 with Retry-After', async () => {
  const { base, next } = await open('invoke');
  const answered = fetch(base, { method: 'POST', body: '1' });
  await (await next()).settle(comeLater);
  const response = await answered;
  expect(response.status).toBe(503);
  expect(response.headers.get('retry-after')).toBe('1');
});

test('the invoke door takes POST only, and answers 429 when no slot became free in time', async () => {
  const { base } = await open('invoke', 0.05);
  expect((await fetch(base)).status).toBe(405);
  const response = await fetch(base, { method: 'POST', body: '1' });
  expect(response.status).toBe(429);
  expect(response.headers.get('retry-after')).toBe('1');
});

const prelude = (head: unknown, rest = '') => Buffer.from(`${JSON.stringify(head)}${'\0'.repeat(8)}${rest}`);
const streamed: Settlement = {
  kind: 'done',
  result: { encoding: 'binary', data: Buffer.alloc(0), contentType: preludeContentType },
  report,
};

test('a streamed response is answered as it comes: first its head, then each piece, however its prelude is cut', async () => {
  const head = { statusCode: 207, headers: { 'X-One': 1 }, cookies: ['s=1', 't=2'] };
  const whole = prelude(head, 'one ');
  for (const cut of [1, 5, whole.length - 12, whole.length - 8, whole.length - 4]) {
    const { base, next } = await open('http');
    const answered = fetch(`${base}/things`);
    const { onChunk, settle } = await next();
    await onChunk!(whole.subarray(0, cut), preludeContentType);
    await onChunk!(whole.subarray(cut), preludeContentType);
    const response = await answered;
    expect(response.status).toBe(207);
    expect(response.headers.get('x-one')).toBe('1');
    expect(response.headers.get('content-type')).toBe('application/octet-stream');
    expect(response.headers.getSetCookie()).toEqual(['s=1', 't=2']);
    const body = response.body!.getReader();
    expect(Buffer.from((await body.read()).value!).toString()).toBe('one ');
    await onChunk!(Buffer.from('two'), preludeContentType);
    expect(Buffer.from((await body.read()).value!).toString()).toBe('two');
    await settle(streamed);
    expect((await body.read()).done).toBe(true);
  }
});

test('a streamed response without a prelude has status 200 and the content type that the handler set', async () => {
  const { base, next } = await open('http');
  const answered = fetch(`${base}/things`);
  const delivery = await next();
  await delivery.onChunk!(Buffer.from('data: 1\n\n'), 'text/event-stream');
  const response = await answered;
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('text/event-stream');
  await delivery.settle(streamed);
  expect(await response.text()).toBe('data: 1\n\n');
});

test('the head of a streamed response is out before the first byte of its body', async () => {
  const { base, next } = await open('http');
  const answered = fetch(`${base}/things`);
  const delivery = await next();
  await delivery.onChunk!(prelude({ statusCode: 202 }), preludeContentType);
  const response = await answered;
  expect(response.status).toBe(202);
  await delivery.settle(streamed);
  expect(await response.text()).toBe('');
});

test.each([
  ['is no JSON', Buffer.from(`{"statusCode":${'\0'.repeat(8)}`)],
  ['has no end', Buffer.alloc(20 * 1024, 'x')],
  ['has a status that is none', prelude({ statusCode: 99 })],
  ['splits the response', prelude({ headers: { a: 'b\r\nc: d' } })],
  ['has a header that cannot be sent', prelude({ headers: { a: '€' } })],
] as const)('a prelude that %s is answered 502, and nothing more is taken', async (_what, bytes) => {
  const { base, next } = await open('http');
  const answered = fetch(`${base}/things`);
  const delivery = await next();
  await expect(delivery.onChunk!(bytes, preludeContentType)).rejects.toThrow('not valid');
  const response = await answered;
  expect(response.status).toBe(502);
  await expect(delivery.onChunk!(Buffer.from('x'), preludeContentType)).rejects.toThrow();
  await delivery.settle(failed('threw'));
  expect(await response.text()).not.toContain('x\r\n');
});

test('a streamed response that ends within its prelude is answered 502', async () => {
  const { base, next } = await open('http');
  const answered = fetch(`${base}/things`);
  const delivery = await next();
  await delivery.onChunk!(Buffer.from('{"statusCode"'), preludeContentType);
  await delivery.settle(streamed);
  expect((await answered).status).toBe(502);
});

test.each([failed('threw'), failed('timedOut'), failed('crashed'), comeLater])(
  'a streamed response that failed in the middle is cut, not ended',
  async (settlement) => {
    const { base, next } = await open('http');
    const answered = fetch(`${base}/things`);
    const delivery = await next();
    await delivery.onChunk!(Buffer.from('half of it'), 'text/plain');
    const response = await answered;
    await delivery.settle(settlement);
    await expect(response.text()).rejects.toThrow('terminated');
  },
);

test('a client that reads nothing is sent no more than the sockets hold', async () => {
  const { base, next } = await open('http', 30);
  const { hostname, port, pathname } = new URL(base);
  const socket = connect(Number(port), hostname);
  socket.pause();
  socket.write(`GET ${pathname}/things HTTP/1.1\r\nhost: a\r\n\r\n`);
  const { onChunk, signal, settle } = await next();
  const chunk = Buffer.alloc(64 * 1024);
  let sent = 0;
  let stuck: Promise<void> | undefined;
  for (; stuck === undefined && sent < 64 * 1024 * 1024; sent += chunk.length) {
    const taken = onChunk!(chunk, 'text/plain');
    const waits = await Promise.race([taken, new Promise<true>((resolve) => setTimeout(resolve, 500, true))]);
    if (waits) stuck = taken;
  }
  expect(stuck).toBeDefined();
  const aborted = once(signal as AbortSignal, 'abort');
  socket.destroy();
  await aborted;
  await expect(stuck).rejects.toThrow('the caller went away');
  await settle(failed('threw'));
});
