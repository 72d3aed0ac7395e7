/** Libraries written for Lambda, as npm gives them: each is deployed and gets events from a real source. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { beforeAll, expect, test, vi } from 'vitest';
import { publish } from '../../cli/build/publish.ts';
import { sitePaths } from '../../controller/stores/site.ts';
import { packFiles, type PackedFile } from '../../runtime/package/pack.ts';
import { openJournal, type Journal } from './journal.ts';
import { startSite, until, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

/** All that handlers record; each writes fields of its own. */
interface Entry {
  readonly middy?: number;
  readonly batch?: number;
  readonly fifo?: number;
  readonly fails?: boolean;
  readonly order?: string;
  readonly sqs?: { Records: Record<string, unknown>[] };
  readonly schedule?: Record<string, unknown>;
}

let site: Site;
let journal: Journal<Entry>;
let nats: NatsConnection;

beforeAll(async () => {
  journal = await openJournal();
  site = await startSite();
  nats = await site.nats();
});

const packages = join(import.meta.dirname, 'packages');

/** Writes the Function and gives its file. */
async function declare(name: string, spec: Record<string, unknown>): Promise<string> {
  const file = join(site.work, `${name}.json`);
  await mkdir(site.work, { recursive: true });
  const all = { handler: 'index.handler', ...spec };
  await writeFile(
    file,
    JSON.stringify({ apiVersion: 'atoll.dev/v1alpha1', kind: 'Function', metadata: { name }, spec: all }),
  );
  return file;
}

/** Builds the folder below `packages/`; its dependencies are those of this checkout. */
async function deploy(name: string, spec: Record<string, unknown>): Promise<void> {
  const env = [journal.env, { name: 'NATS_URL', value: site.info.nats.url }];
  await site.faas('deploy', join(packages, name), '-f', await declare(name, { env, ...spec }));
}

const http = (path: string) => [{ name: 'web', http: { path: `/${path}`, pathType: 'Prefix' } }];
const quickRetry = { maxAttempts: 2, minBackoffMs: 10, maxBackoffMs: 10 };

/** Stores the messages before anybody reads them, so that they come as one batch. */
async function batchOf(stream: string, messages: readonly unknown[]): Promise<Record<string, unknown>> {
  const manager = await jetstreamManager(nats);
  await manager.streams.add({ name: stream, subjects: [stream.toLowerCase()] });
  for (const message of messages)
    await jetstream(nats).publish(stream.toLowerCase(), JSON.stringify(message));
  const source = { stream, startAt: 'All', batchSize: messages.length, batchWindowMs: 200 };
  return { triggers: [{ name: 'orders', jetstream: source }], retry: quickRetry };
}

async function deadLetters(name: string): Promise<{ reason: string; attempts: number; id: string }[]> {
  const { stdout } = await site.faas('dead', 'list', name, '-o', 'json');
  return JSON.parse(stdout) as { reason: string; attempts: number; id: string }[];
}

const seen = <Field extends keyof Entry>(field: Field): NonNullable<Entry[Field]>[] =>
  journal.read().flatMap((entry) => entry[field] ?? []) as NonNullable<Entry[Field]>[];

async function logsOf(name: string): Promise<Record<string, unknown>[]> {
  const { stdout } = await site.faas('logs', name, '-o', 'json');
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

const json = (body: unknown): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
});

test('@middy/core with http-json-body-parser, validator and http-error-handler answers as on API Gateway', async () => {
  await deploy('middy-http', { triggers: http('middy') });
  const made = await site.fetch('/middy', json({ robot: 'r7' }));
  expect([made.status, await made.json()]).toEqual([201, { hello: 'r7' }]);
  const invalid = await site.fetch('/middy', json({ robot: 'r' }));
  expect([invalid.status, await invalid.text()]).toEqual([400, 'Event object failed validation']);
  const malformed = await site.fetch('/middy', { ...json({}), body: '{"robot":' });
  expect(malformed.status).toBe(422);
  const text = await site.fetch('/middy', { method: 'POST', body: 'r7' });
  expect(text.status).toBe(415);
  const failed = await site.fetch('/middy', json({ robot: 'r7', fail: true }));
  expect([failed.status, await failed.text()]).toEqual([500, '']);
});

test('@middy/sqs-partial-batch-failure fails just the records that were rejected', async () => {
  const orders = [{ n: 1 }, { n: 2, fail: true }, { n: 3 }];
  await deploy('middy-batch', await batchOf('MIDDY', orders));
  const [dead] = await until('the rejected record is a dead letter', async () => {
    const letters = await deadLetters('middy-batch');
    return letters.length > 0 ? letters : undefined;
  });
  expect(dead).toMatchObject({ reason: 'RetriesExhausted', attempts: 2, id: 'MIDDY:2' });
  expect(seen('middy')).toEqual([1, 2, 3, 2]);
});

const everyByte = Buffer.from(Uint8Array.from({ length: 256 }, (_, n) => n));

test.each([
  ['express', 'serverless-http around Express'],
  ['koa', 'serverless-http around Koa'],
  ['codegenie', '@codegenie/serverless-express'],
  ['fastify', '@fastify/aws-lambda'],
  ['hono', 'hono/aws-lambda'],
])('%s: %s serves queries, cookies, JSON, bytes, 404 and errors', async (name) => {
  await deploy(name, { triggers: http(name) });

  const echo = await site.fetch(`/${name}/echo?x=1&y=a%20b%26c`, { headers: { cookie: 'k=v; l=w' } });
  expect(echo.headers.get('content-type')).toMatch(/^application\/json/);
  const { query, cookie } = (await echo.json()) as { query: unknown; cookie: string };
  expect(query).toEqual({ x: '1', y: 'a b&c' });
  expect(cookie.split(/; ?/)).toEqual(['k=v', 'l=w']);

  const made = await site.fetch(`/${name}/json`, json({ robot: 'r7', name: 'Zoë' }));
  expect([made.status, await made.json()]).toEqual([201, { got: { robot: 'r7', name: 'Zoë' } }]);

  const bytes = await site.fetch(`/${name}/bytes`, {
    method: 'POST',
    headers: { 'content-type': 'application/octet-stream' },
    body: everyByte,
  });
  expect(bytes.headers.get('content-type')).toMatch(/^application\/octet-stream/);
  expect(Buffer.from(await bytes.arrayBuffer()).toString('hex')).toBe(everyByte.toString('hex'));

  const cookies = await site.fetch(`/${name}/cookies`);
  expect(cookies.headers.getSetCookie()).toEqual([
    expect.stringMatching(/^a=1; path=\/(; secure)?$/i),
    expect.stringMatching(/^b=2; path=\/(; secure)?; httponly$/i),
  ]);
  expect(await cookies.text()).toBe('two');

  expect((await site.fetch(`/${name}/missing`)).status).toBe(404);
  expect((await site.fetch(`/${name}/fails`)).status).toBe(500);
});

test('hono/aws-lambda streams: the first line is read while the handler waits to write the second', async () => {
  await deploy('hono-stream', { triggers: http('hono-stream'), concurrency: 2 });
  const answer = await site.fetch('/hono-stream/lines');
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toMatch(/^text\/plain/);
  expect(answer.headers.getSetCookie()).toEqual(['seen=1; Path=/']);
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  expect((await reader.read()).value).toBe('first\n');
  expect((await site.fetch('/hono-stream/next', { method: 'POST' })).status).toBe(204);
  expect((await reader.read()).value).toBe('second\n');
  expect((await reader.read()).done).toBe(true);
  expect((await site.fetch('/hono-stream/missing')).status).toBe(404);
});

test('pino-lambda writes the request id into each line', async () => {
  await deploy('pino', { triggers: http('pino') });
  const ids: string[] = [];
  for (let n = 0; n < 2; n++) {
    ids.push(((await (await site.fetch('/pino')).json()) as { requestId: string }).requestId);
  }
  const lines = await until('all lines are in the log', async () => {
    const found = (await logsOf('pino')).filter(({ message }) => /first|second/.test(String(message)));
    return found.length === 4 ? found : undefined;
  });
  for (const [index, line] of lines.entries()) {
    const [, id, level, text] = String(line['message']).split('\t');
    expect([id, level, text]).toEqual([
      ids[Math.floor(index / 2)],
      index % 2 ? 'WARN' : 'INFO',
      index % 2 ? 'second' : 'first',
    ]);
    // The runtime knows it as well: what is written straight to stdout belongs to the one invocation.
    expect(line['requestId']).toBe(id);
  }
});

test("a line of pino's is a record of its level, with its fields", async () => {
  await deploy('pino-plain', {});
  await site.invoke('pino-plain');
  const [line, ...others] = await until('the line is in the log', async () => {
    const found = (await logsOf('pino-plain')).filter(({ source }) => source === 'stdout');
    return found.length > 0 ? found : undefined;
  });
  expect(line).toMatchObject({
    level: 'ERROR',
    message: 'stuck',
    function: 'pino-plain',
    requestId: expect.stringMatching(/^[0-9a-f-]{36}$/),
    robot: 'r7',
    err: { type: 'RangeError', message: 'too far' },
  });
  expect(others).toEqual([]);
  const { stdout } = await site.faas('logs', 'pino-plain');
  expect(stdout).toMatch(/ERROR [0-9a-f]{8} stuck robot=r7 err=\{/);
});

test('@aws-lambda-powertools event-handler, logger, metrics and tracer work, without a daemon', async () => {
  await deploy('powertools-http', { triggers: http('powertools') });
  const robot = await site.fetch('/powertools/robots/r7?verbose=yes');
  expect([robot.status, await robot.json()]).toEqual([200, { robot: 'r7', verbose: 'yes' }]);
  const id = robot.headers.get('x-amzn-requestid');
  const made = await site.fetch('/powertools/robots', json({ robot: 'r8' }));
  expect(await made.json()).toEqual({ created: { robot: 'r8' } });
  const gone = await site.fetch('/powertools/gone');
  expect([gone.status, await gone.json()]).toEqual([
    404,
    { statusCode: 404, error: 'NotFoundError', message: 'no such robot' },
  ]);
  expect((await site.fetch('/powertools/nowhere')).status).toBe(404);

  const records = await until('the log has the metric', async () => {
    const found = await logsOf('powertools-http');
    return found.some((record) => 'asked' in record) ? found : undefined;
  });
  expect(records).toContainEqual(
    expect.objectContaining({
      level: 'INFO',
      message: 'asked for',
      requestId: id,
      robot: 'r7',
      service: 'fleet',
      cold_start: true,
      function_name: 'powertools-http',
      function_request_id: id,
      function_arn: 'arn:aws:lambda:us-east-1:000000000000:function:powertools-http',
      function_memory_size: '128',
    }),
  );
  const embedded = records.filter((record) => '_aws' in record);
  expect(embedded).toContainEqual(
    expect.objectContaining({ ColdStart: 1, function_name: 'powertools-http' }),
  );
  expect(embedded).toContainEqual(
    expect.objectContaining({
      asked: 1,
      service: 'robots',
      _aws: {
        Timestamp: expect.any(Number),
        CloudWatchMetrics: [
          { Namespace: 'fleet', Dimensions: [['service']], Metrics: [{ Name: 'asked', Unit: 'Count' }] },
        ],
      },
    }),
  );
});

test('@aws-lambda-powertools/batch fails just the records whose handler failed', async () => {
  const orders = [{ n: 1 }, { n: 2, fail: true }, { n: 3 }];
  await deploy('powertools-batch', await batchOf('BATCH', orders));
  const [dead] = await until('the failed record is a dead letter', async () => {
    const letters = await deadLetters('powertools-batch');
    return letters.length > 0 ? letters : undefined;
  });
  expect(dead).toMatchObject({ reason: 'RetriesExhausted', attempts: 2, id: 'BATCH:2' });
  expect(seen('batch')).toEqual([1, 2, 3, 2]);
});

test('the FIFO processor of @aws-lambda-powertools/batch hands back what follows a failure without running it', async () => {
  const orders = [{ n: 1 }, { n: 2, failOnce: true }, { n: 3 }, { n: 4 }];
  await deploy('powertools-fifo', await batchOf('FIFO', orders));
  await until('all are handled', () => {
    const done = journal.read().filter(({ fifo, fails }) => fifo !== undefined && fails !== true);
    return done.length >= 4 || undefined;
  });
  // The first batch ends at the failure; the library hands 2, 3 and 4 back without running 3 and 4.
  expect(seen('fifo').slice(0, 2)).toEqual([1, 2]);
  expect(seen('fifo').slice(2).toSorted()).toEqual([2, 3, 4]);
  expect(await deadLetters('powertools-fifo')).toEqual([]);
});

test('@aws-lambda-powertools/parser: its schemas accept an HTTP, a batch and a schedule event', async () => {
  const { triggers, retry } = await batchOf('PARSER', [{ n: 1 }, { n: 2 }]);
  const tick = { name: 'tick', schedule: { every: '1s' } };
  await deploy('powertools-parser', {
    triggers: [...(triggers as unknown[]), ...http('parser'), tick],
    retry,
  });
  const answer = await site.fetch('/parser/a?x=1', { headers: { cookie: 'k=v' } });
  expect(answer.status).toBe(200);
  expect(await answer.json()).toMatchObject({
    version: '2.0',
    rawPath: '/parser/a',
    rawQueryString: 'x=1',
    cookies: ['k=v'],
    requestContext: { http: { method: 'GET' } },
  });
  const [batch] = await until('the batch was parsed', () =>
    seen('sqs').length > 0 ? seen('sqs') : undefined,
  );
  expect(batch?.Records.map(({ messageId, body }) => [messageId, body])).toEqual([
    ['PARSER:1', '{"n":1}'],
    ['PARSER:2', '{"n":2}'],
  ]);
  const [schedule] = await until('a tick was parsed', () =>
    seen('schedule').length > 0 ? seen('schedule') : undefined,
  );
  expect(schedule).toMatchObject({ 'detail-type': 'Scheduled Event', source: 'aws.events' });
  expect(await deadLetters('powertools-parser')).toEqual([]);
});

test('@aws-lambda-powertools/idempotency on a NATS KV bucket answers a repeated event without running the handler', async () => {
  await deploy('powertools-idempotency', {});
  const order = async (event: unknown): Promise<Record<string, unknown>> => {
    const path = '/2015-03-31/functions/powertools-idempotency/invocations';
    return (await (await site.fetch(path, json(event))).json()) as Record<string, unknown>;
  };
  const first = await order({ order: 'o1' });
  expect(first).toEqual({ order: 'o1', by: expect.any(String) });
  expect(await order({ order: 'o1' })).toEqual(first);
  const other = await order({ order: 'o2' });
  expect(other['by']).not.toBe(first['by']);
  expect(seen('order')).toEqual(['o1', 'o2']);

  // A failure leaves nothing behind that would keep the next try away.
  expect(await order({ order: 'o3', fail: true })).toMatchObject({ errorMessage: 'no effect yet' });
  expect(await order({ order: 'o3' })).toMatchObject({ order: 'o3' });
});

/** With all that they depend on, as npm laid them out; types and source maps stay behind. */
async function modules(names: readonly string[]): Promise<PackedFile[]> {
  const root = join(import.meta.dirname, '..', '..');
  const folders = new Set(names.map((name) => join('node_modules', name)));
  const files: PackedFile[] = [];
  // A set that grows while it is walked: dependencies of dependencies.
  for (const folder of folders) {
    const { dependencies = {} } = JSON.parse(await readFile(join(root, folder, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>;
    };
    for (const name of Object.keys(dependencies)) {
      const nested = join(folder, 'node_modules', name);
      folders.add(existsSync(join(root, nested)) ? nested : join('node_modules', name));
    }
    for (const path of await readdir(join(root, folder), { recursive: true })) {
      if (!/\.(?:[cm]?js|json)$/.test(path) || path.startsWith('node_modules/')) continue;
      files.push({ path: join(folder, path), data: await readFile(join(root, folder, path)) });
    }
  }
  return files;
}

test.each([
  ['esm', '--import ./tracing.mjs'],
  ['commonjs', '--require ./tracing.cjs'],
])(
  '@opentelemetry/instrumentation-aws-lambda makes a span per invocation (%s, %s)',
  async (kind, options) => {
    const name = `opentelemetry-${kind}`;
    const folder = join(packages, 'opentelemetry', kind);
    const own = (await readdir(folder)).map(async (path) => ({
      path,
      data: await readFile(join(folder, path)),
    }));
    // Modules that are hooked have to be files of their own, so this is an archive of one's own, not a bundle.
    const archive = await packFiles([
      ...(await Promise.all(own)),
      ...(await modules(['@opentelemetry/instrumentation-aws-lambda', '@opentelemetry/sdk-trace-node'])),
    ]);
    const { uri } = await publish(archive, { paths: sitePaths(site.dir) });
    const manifest = await declare(name, {
      package: { uri, sha256: archive.sha256 },
      env: [{ name: 'NODE_OPTIONS', value: options }],
    });
    await site.faas('apply', '-f', manifest);
    await site.ready(name);

    const ids: string[] = [];
    for (const robot of ['r1', 'r2']) {
      const answer = await site.fetch(`/2015-03-31/functions/${name}/invocations`, json({ robot }));
      expect(await answer.json()).toEqual({ hello: robot });
      ids.push(answer.headers.get('x-amzn-requestid') ?? '');
    }
    const spans = await until('both spans are in the log', async () => {
      const text = (await logsOf(name)).map(({ message }) => message).join('\n');
      const found = [...text.matchAll(/'faas\.invocation_id': '(.*)'/g)].map(([, id]) => id);
      return found.length >= 2 ? { found, text } : undefined;
    });
    expect(spans.found).toEqual(ids);
    expect(spans.text).toContain(
      `'cloud.resource_id': 'arn:aws:lambda:us-east-1:000000000000:function:${name}'`,
    );
    expect([...spans.text.matchAll(/'faas\.coldstart': (\w+)/g)].map(([, cold]) => cold)).toEqual([
      'true',
      'false',
    ]);
  },
);
