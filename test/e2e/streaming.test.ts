/** A streaming handler on a real site: through http triggers, Lambda's own client, and to callers who do not stream. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import {
  InvokeCommand,
  InvokeWithResponseStreamCommand,
  LambdaClient,
  type InvokeWithResponseStreamCommandOutput,
} from '@aws-sdk/client-lambda';
import { beforeAll, expect, test, vi } from 'vitest';
import { closeLater } from '../support/closing.ts';
import { startSite, until, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

let site: Site;
let client: LambdaClient;

const code = `
  import { existsSync } from 'node:fs';
  import { setTimeout as wait } from 'node:timers/promises';
  const { streamifyResponse, HttpResponseStream } = globalThis.awslambda;

  export const handler = streamifyResponse(async (event, responseStream, context) => {
    const http = event.requestContext?.http;
    const asked = http ? { ...event.queryStringParameters } : event;
    const stream = http
      ? HttpResponseStream.from(responseStream, {
          statusCode: 206,
          headers: { 'content-type': 'text/event-stream', 'x-robot': 'r7' },
          cookies: ['seen=1; Path=/'],
        })
      : responseStream;
    console.log('asked', asked.what);
    stream.write('first ');
    if (asked.what === 'halves') while (!existsSync(asked.until)) await wait(2);
    if (asked.what === 'throws') {
      // What was written before is on its way.
      while (!existsSync(asked.until)) await wait(2);
      throw new RangeError('in the middle');
    }
    if (asked.what === 'exits') process.exit(3);
    if (asked.what === 'hangs') await new Promise(() => {});
    if (asked.what === 'much') {
      const chunk = Buffer.alloc(64 * 1024, 'x');
      for (let sent = 0; sent < asked.bytes; sent += chunk.length) {
        if (!stream.write(chunk)) await new Promise((drained) => stream.once('drain', drained));
      }
    }
    if (asked.what === 'untilGone') {
      context.signal.addEventListener('abort', () => console.log('gone', asked.id));
      while (!context.signal.aborted) {
        stream.write('tick ');
        await wait(5);
      }
    }
    stream.end('second');
  });`;

const plain = `
  export const handler = async (event, context) => {
    if (event.fail) throw new TypeError('on purpose');
    if (event.requestContext) {
      console.log('waits');
      await new Promise((aborted) => context.signal.addEventListener('abort', aborted));
      console.log('gone for', context.signal.reason.message);
    }
    return { plain: event };
  };`;

beforeAll(async () => {
  site = await startSite();
  const http = (path: string) => ({ name: 'web', http: { path, auth: 'None' } });
  const spec = { timeoutSeconds: 20, concurrency: 4 };
  await Promise.all([
    site.deploy({
      name: 'streams',
      spec: { ...spec, triggers: [http('/stream'), { name: 'asked', nats: { subject: 'streams.asked' } }] },
      code,
    }),
    site.deploy({
      name: 'hasty',
      spec: { timeoutSeconds: 1, triggers: [http('/hasty')] },
      code,
    }),
    site.deploy({ name: 'plain', spec: { ...spec, triggers: [http('/plain')] }, code: plain }),
  ]);
  client = new LambdaClient({
    endpoint: site.info.url,
    region: 'us-east-1',
    credentials: { accessKeyId: 'any', secretAccessKey: 'any' },
    maxAttempts: 1,
  });
  closeLater(async () => client.destroy());
});

/** As a robot's page would: the response is there as soon as its head is. */
async function open(path: string): Promise<IncomingMessage> {
  const asked = httpRequest(`${site.info.url}${path}`, { agent: false });
  asked.end();
  asked.on('error', () => {});
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  return response;
}

async function* events(answer: InvokeWithResponseStreamCommandOutput): AsyncGenerator<{
  chunk?: string;
  complete?: { ErrorCode?: string; ErrorDetails?: string; LogResult?: string };
}> {
  for await (const { PayloadChunk, InvokeComplete } of answer.EventStream!) {
    if (PayloadChunk) yield { chunk: Buffer.from(PayloadChunk.Payload!).toString() };
    if (InvokeComplete) yield { complete: InvokeComplete as object };
  }
}

async function all(FunctionName: string, event: object, LogType?: 'Tail') {
  const answer = await client.send(
    new InvokeWithResponseStreamCommand({ FunctionName, Payload: JSON.stringify(event), LogType }),
  );
  let text = '';
  let complete: { ErrorCode?: string; ErrorDetails?: string; LogResult?: string } | undefined;
  for await (const one of events(answer)) {
    text += one.chunk ?? '';
    complete = one.complete ?? complete;
  }
  return { answer, text, complete };
}

const logged = (name: string, pattern: RegExp): Promise<true> =>
  until(`the log of ${name} has ${pattern}`, async () =>
    pattern.test(await (await site.fetch(`/atoll/v1/namespaces/default/functions/${name}/logs`)).text())
      ? true
      : undefined,
  );

test('an http client has status, headers, cookies and the first bytes before the handler ends', async () => {
  const goOn = join(site.work, 'halves');
  const response = await open(`/stream?what=halves&until=${goOn}`);
  expect(response.statusCode).toBe(206);
  expect(response.headers).toMatchObject({
    'content-type': 'text/event-stream',
    'x-robot': 'r7',
    'set-cookie': ['seen=1; Path=/'],
    'transfer-encoding': 'chunked',
  });
  response.setEncoding('utf8');
  // Not by its events: what comes while nobody listens would be lost.
  const chunks = response[Symbol.asyncIterator]();
  expect(await chunks.next()).toEqual({ done: false, value: 'first ' });
  await writeFile(goOn, '');
  expect(await chunks.next()).toEqual({ done: false, value: 'second' });
  expect(await chunks.next()).toMatchObject({ done: true });
});

test("Lambda's client reads the chunks as they are written, then how it ended, with the log's tail", async () => {
  const goOn = join(site.work, 'chunks');
  const answer = await client.send(
    new InvokeWithResponseStreamCommand({
      FunctionName: 'streams',
      Payload: JSON.stringify({ what: 'halves', until: goOn }),
      LogType: 'Tail',
    }),
  );
  expect(answer).toMatchObject({ StatusCode: 200, ExecutedVersion: '$LATEST' });
  expect(answer.ResponseStreamContentType).toBe('application/vnd.amazon.eventstream');
  const read = events(answer);
  expect((await read.next()).value).toEqual({ chunk: 'first ' });
  await writeFile(goOn, '');
  expect((await read.next()).value).toEqual({ chunk: 'second' });
  const { complete } = (await read.next()).value!;
  expect(complete).not.toHaveProperty('ErrorCode');
  expect(Buffer.from(complete!.LogResult!, 'base64').toString()).toMatch(
    /START.*\n.*asked halves\n[^]*REPORT/,
  );
  expect((await read.next()).done).toBe(true);
});

test("what failed before or after the first byte is told in InvokeComplete, with Lambda's error object", async () => {
  const goOn = join(site.work, 'throws');
  await writeFile(goOn, '');
  const thrown = await all('streams', { what: 'throws', until: goOn });
  expect(thrown.text).toBe('first ');
  expect(thrown.complete?.ErrorCode).toBe('RangeError');
  expect(JSON.parse(thrown.complete!.ErrorDetails!)).toMatchObject({
    errorType: 'RangeError',
    errorMessage: 'in the middle',
    trace: expect.arrayContaining([]) as unknown,
  });
  const crashed = await all('streams', { what: 'exits' });
  expect(crashed.complete?.ErrorCode).toBe('Runtime.ExitError');
  const slow = await all('hasty', { what: 'hangs' });
  expect(slow.text).toBe('first ');
  expect(slow.complete?.ErrorCode).toBe('Sandbox.Timedout');
  const early = await all('plain', { fail: true });
  expect(early).toMatchObject({ text: '', complete: { ErrorCode: 'TypeError' } });
});

test("Lambda's client reads a handler that does not stream as well, and gets its refusals by name", async () => {
  expect((await all('plain', { a: 1 })).text).toBe('{"plain":{"a":1}}');
  const unknown = all('nobody', {});
  await expect(unknown).rejects.toMatchObject({ name: 'ResourceNotFoundException' });
  const garbled = client.send(
    new InvokeWithResponseStreamCommand({ FunctionName: 'plain', Payload: '{"a":' }),
  );
  await expect(garbled).rejects.toMatchObject({ name: 'InvalidRequestContentException' });
  const dry = await client.send(
    new InvokeWithResponseStreamCommand({ FunctionName: 'plain', InvocationType: 'DryRun' }),
  );
  expect(dry.StatusCode).toBe(204);
});

test('a response of 20 MB comes whole, through the http trigger and through the invoke door', async () => {
  const bytes = 20 * 1024 * 1024;
  const expected = 'first '.length + bytes + 'second'.length;
  const response = await site.fetch(`/stream?what=much&bytes=${bytes}`);
  expect((await response.arrayBuffer()).byteLength).toBe(expected);
  const { text, complete } = await all('streams', { what: 'much', bytes });
  expect(text).toHaveLength(expected);
  expect(complete).not.toHaveProperty('ErrorCode');
});

test('an http client whose stream fails in the middle is cut off, by an error and by the timeout', async () => {
  const goOn = join(site.work, 'cut');
  for (const path of [`/stream?what=throws&until=${goOn}`, '/hasty?what=hangs']) {
    const response = await open(path);
    const cut = once(response, 'error');
    expect(response.statusCode).toBe(206);
    await once(response, 'data');
    await writeFile(goOn, '');
    const [error] = (await cut) as [NodeJS.ErrnoException];
    expect(error.code).toBe('ECONNRESET');
    expect(response.complete).toBe(false);
  }
});

test('a client that goes away aborts the signal of its handler, streaming or not, and the process serves on', async () => {
  const pids = () => site.processes().filter(({ commandLine }) => commandLine.includes('invoker/child'));
  const before = pids().map(({ pid }) => pid);
  const streaming = await open('/stream?what=untilGone&id=http');
  await once(streaming, 'data');
  streaming.destroy();
  await logged('streams', /gone http/);

  const leaving = new AbortController();
  const answer = await client.send(
    new InvokeWithResponseStreamCommand({
      FunctionName: 'streams',
      Payload: JSON.stringify({ what: 'untilGone', id: 'sdk' }),
    }),
    { abortSignal: leaving.signal },
  );
  await events(answer).next();
  leaving.abort();
  await logged('streams', /gone sdk/);

  const waiting = httpRequest(`${site.info.url}/plain`, { agent: false });
  waiting.on('error', () => {});
  waiting.end();
  await logged('plain', /waits/);
  waiting.destroy();
  await logged('plain', /gone for the caller went away/);

  expect(await site.invoke('plain', { still: 'here' })).toEqual({ plain: { still: 'here' } });
  const after = pids().map(({ pid }) => pid);
  expect(before.filter((pid) => after.includes(pid))).toEqual(before);
});

test('who does not stream gets all of it at once: Invoke, a NATS request, and up to 6 MiB', async () => {
  const goOn = join(site.work, 'whole');
  await writeFile(goOn, '');
  const event = JSON.stringify({ what: 'halves', until: goOn });
  const invoked = await client.send(new InvokeCommand({ FunctionName: 'streams', Payload: event }));
  expect(Buffer.from(invoked.Payload!).toString()).toBe('first second');
  const nats = await site.nats();
  const reply = await nats.request('streams.asked', event, { timeout: 20_000 });
  expect(reply.string()).toBe('first second');
  const tooMuch = await client.send(
    new InvokeCommand({
      FunctionName: 'streams',
      Payload: JSON.stringify({ what: 'much', bytes: 6 * 1024 * 1024 }),
    }),
  );
  expect(tooMuch.FunctionError).toBe('Unhandled');
  expect(JSON.parse(Buffer.from(tooMuch.Payload!).toString())).toMatchObject({
    errorType: 'Runtime.InvalidResponse',
    errorMessage: expect.stringContaining('6291456 bytes allowed') as string,
  });
});
