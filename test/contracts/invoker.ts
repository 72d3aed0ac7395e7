/** What every Invoker does, whatever it runs handlers in. Each implementation's test hands in how to open it. */
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { Caller, Calls } from '../../runtime/calls/calls.ts';
import type { Outcome, TriggerEvent } from '../../runtime/event.ts';
import type { CallAnswer, HandlerCall } from '../../runtime/handler-calls.ts';
import { monotonicMs } from '../../runtime/invoker/clock.ts';
import type { Invocation, Invoker } from '../../runtime/invoker/invoker.ts';
import type { PoolOptions } from '../../runtime/invoker/pool.ts';
import { callWindow } from '../../runtime/invoker/protocol.ts';
import type { LogRecord } from '../../runtime/log.ts';
import { closeLater } from '../support/closing.ts';

export type OpenInvoker = (options: PoolOptions) => Invoker;

export interface Fixture {
  readonly invoker: Invoker;
  readonly records: LogRecord[];
  readonly restarts: string[];
  /** Invokes with one JSON event. */
  call(data: unknown, more?: Partial<Invocation> & { event?: Partial<TriggerEvent> }): Promise<Outcome>;
  /** Resolves with the first record that fits, also one that was logged before. */
  record(fits: (record: LogRecord) => boolean): Promise<LogRecord>;
}

export const handlers = fileURLToPath(new URL('../handlers/', import.meta.url));
export const version = 'c0ffee'.repeat(10) + 'abcd';
let count = 0;

export function eventOf(data: unknown, more: Partial<TriggerEvent> = {}): TriggerEvent {
  return {
    id: `event-${++count}`,
    trigger: 'door',
    kind: 'nats',
    subject: 'doors.open',
    time: 1_700_000_000_000,
    attempt: 1,
    headers: {},
    encoding: 'json',
    data: data instanceof Uint8Array ? data : Buffer.from(JSON.stringify(data)),
    ...more,
  };
}

/** Opens an invoker over `test/handlers/<name>`; it is drained when the test ends. Not started yet. */
export function openFixture(
  open: OpenInvoker,
  name: string,
  more: Partial<PoolOptions> & { retries?: boolean } = {},
): Fixture {
  const records: LogRecord[] = [];
  const restarts: string[] = [];
  const waiting = new Set<(record: LogRecord) => void>();
  const options: PoolOptions = {
    function: { namespace: 'default', name: 'door' },
    version,
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    root: handlers + name,
    env: {},
    timeoutMs: 10_000,
    memoryBytes: 128 * 1024 * 1024,
    concurrency: 1,
    processes: 1,
    spareProcesses: 0,
    log(record) {
      records.push(record);
      for (const look of waiting) look(record);
    },
    metrics: { restarted: (reason) => void restarts.push(reason) },
    ...more,
  };
  const invoker = open(options);
  closeLater(() => invoker.drain(0));
  return {
    invoker,
    records,
    restarts,
    call(data, { event, ...invocation } = {}) {
      return invoker.invoke({
        events: [eventOf(data, event)],
        deadline: Date.now() + options.timeoutMs,
        ...invocation,
      });
    },
    record(fits) {
      const found = records.find(fits);
      if (found !== undefined) return Promise.resolve(found);
      return new Promise((resolve) => {
        const look = (record: LogRecord) => {
          if (!fits(record)) return;
          waiting.delete(look);
          resolve(record);
        };
        waiting.add(look);
      });
    },
  };
}

export async function startFixture(...args: Parameters<typeof openFixture>): Promise<Fixture> {
  const fixture = openFixture(...args);
  await fixture.invoker.start();
  return fixture;
}

/** The JSON that a handler returned; the test fails with what happened instead. */
export function returned(outcome: Outcome): unknown {
  if (outcome.kind !== 'returned') throw new Error(`${outcome.kind}: ${JSON.stringify(outcome.fault)}`);
  expect(outcome.result.encoding).toBe('json');
  return JSON.parse(Buffer.from(outcome.result.data).toString('utf8'));
}

export function faultOf(outcome: Outcome): { code: string; message: string; stack?: readonly string[] } {
  if (outcome.kind === 'returned') throw new Error(`returned ${Buffer.from(outcome.result.data).toString()}`);
  return outcome.fault;
}

export function testInvoker(
  open: OpenInvoker,
  /** The handler is loaded by Node itself; under vitest, in-process, vitest's own loader words syntax errors. */
  { loadedByNode }: { loadedByNode: boolean },
): void {
  describe('every invoker', () => {
    test('answers with what the handler returned', async () => {
      const { call } = await startFixture(open, 'echo');
      expect(returned(await call({ a: [1, 'ä', null] }))).toEqual({ a: [1, 'ä', null] });
    });

    test('is ready after start and says so to its listeners', async () => {
      const fixture = openFixture(open, 'ok');
      const states: boolean[] = [];
      fixture.invoker.onState(({ ready }) => states.push(ready));
      expect(fixture.invoker.state.ready).toBe(false);
      await fixture.invoker.start();
      expect(fixture.invoker.state).toEqual({ ready: true, reason: 'Ready', message: '' });
      expect(states).toEqual([true]);
    });

    test('decodes an event as its trigger declares: json, text or binary', async () => {
      const { call } = await startFixture(open, 'echo');
      const data = Buffer.from('"ä"');
      expect(returned(await call(data, { event: { encoding: 'json' } }))).toBe('ä');
      expect(returned(await call(data, { event: { encoding: 'text' } }))).toBe('"ä"');
      const binary = await call(Buffer.from([0, 255, 10]), { event: { encoding: 'binary' } });
      expect(binary.kind === 'returned' && binary.result).toEqual({
        encoding: 'binary',
        data: Buffer.from([0, 255, 10]),
      });
    });

    test('refuses an event that is not what its trigger declares, without calling the handler', async () => {
      const { call } = await startFixture(open, 'echo');
      for (const [encoding, data] of [
        ['json', Buffer.from('{"a":')],
        ['json', Buffer.from([0x22, 0xff, 0x22])],
        ['text', Buffer.from([0xc3, 0x28])],
      ] as const) {
        const outcome = await call(data, { event: { encoding } });
        expect(outcome).toMatchObject({ kind: 'threw', retryable: false });
        expect(faultOf(outcome).code).toBe('Runtime.InvalidEvent');
        expect(faultOf(outcome).message).toContain('doors.open');
      }
    });

    test('takes no payload as {} for an invoke and as null for a message', async () => {
      const { call } = await startFixture(open, 'echo');
      expect(returned(await call(Buffer.alloc(0), { event: { kind: 'invoke' } }))).toEqual({});
      expect(returned(await call(Buffer.alloc(0)))).toBeNull();
    });

    test('hands an http event over as payload format 2.0, text as text and the rest as base64', async () => {
      const { call } = await startFixture(open, 'echo');
      const http = (data: Buffer, headers: Record<string, string>) =>
        call(data, { event: { kind: 'http', detail: { version: '2.0', rawPath: '/a', headers } } });
      const json = await http(Buffer.from('{"a":1}'), { 'content-type': 'application/json; charset=utf-8' });
      expect(returned(json)).toMatchObject({
        version: '2.0',
        rawPath: '/a',
        body: '{"a":1}',
        isBase64Encoded: false,
      });
      const image = await http(Buffer.from([0x89, 0x50]), { 'content-type': 'image/png' });
      expect(returned(image)).toMatchObject({ body: 'iVA=', isBase64Encoded: true });
      const zipped = await http(Buffer.from('abc'), {
        'content-type': 'text/plain',
        'content-encoding': 'gzip',
      });
      expect(returned(zipped)).toMatchObject({ body: 'YWJj', isBase64Encoded: true });
      const latin = await http(Buffer.from([0xe4]), { 'content-type': 'text/plain' });
      expect(returned(latin)).toMatchObject({ body: '5A==', isBase64Encoded: true });
      expect(returned(await http(Buffer.alloc(0), {}))).not.toHaveProperty('body');
    });

    test('hands a batch over in the shape of SQS', async () => {
      const { call, invoker } = await startFixture(open, 'echo');
      const events = [
        eventOf({ n: 1 }, { id: 'orders:1', kind: 'jetstream', attempt: 2, headers: { 'X-Site': 'reef' } }),
        eventOf(Buffer.from([255, 0]), { id: 'orders:2', kind: 'jetstream', encoding: 'binary' }),
        eventOf(Buffer.from([0xff]), { id: 'orders:3', kind: 'jetstream', detail: { stream: 'orders' } }),
      ];
      const outcome = await invoker.invoke({ events, batch: true, deadline: Date.now() + 5000 });
      const { Records } = returned(outcome) as { Records: Record<string, unknown>[] };
      expect(Records).toHaveLength(3);
      expect(Records[0]).toEqual({
        messageId: 'orders:1',
        receiptHandle: 'orders:1',
        body: '{"n":1}',
        attributes: {
          ApproximateReceiveCount: '2',
          SentTimestamp: '1700000000000',
          SenderId: 'doors.open',
          ApproximateFirstReceiveTimestamp: '1700000000000',
        },
        messageAttributes: {
          'X-Site': { stringValue: 'reef', stringListValues: [], binaryListValues: [], dataType: 'String' },
        },
        md5OfBody: '082c26c8a6bc75226a31da5495cc9292',
        eventSource: 'aws:sqs',
        eventSourceARN: 'arn:aws:sqs:us-east-1:000000000000:door',
        awsRegion: 'us-east-1',
      });
      expect(Records[1]).toMatchObject({ body: '/wA=', attributes: { AtollBodyEncoding: 'base64' } });
      expect(Records[2]).toMatchObject({
        body: '/w==',
        attributes: { AtollBodyEncoding: 'base64' },
        eventSourceARN: 'arn:aws:sqs:us-east-1:000000000000:orders',
      });
      const single = await call({ n: 1 }, { batch: true });
      expect((returned(single) as { Records: unknown[] }).Records).toHaveLength(1);
    });

    test("gives Lambda's context, and trigger and signal besides", async () => {
      const { call } = await startFixture(open, 'context');
      const clientContext = Buffer.from('{"custom":{"a":"b"}}').toString('base64');
      const event = { id: 'id-1', attempt: 3, headers: { h: 'v' } };
      const seen = returned(await call({}, { event: { ...event, detail: { retain: true } } })) as Record<
        string,
        unknown
      >;
      expect(seen).toMatchObject({
        context: {
          functionName: 'door',
          functionVersion: version.slice(0, 12),
          packageSha256: version,
          invokedFunctionArn: 'arn:aws:lambda:us-east-1:000000000000:function:door',
          memoryLimitInMB: '128',
          awsRequestId: 'id-1',
          logGroupName: '/aws/lambda/default/door',
          callbackWaitsForEmptyEventLoop: true,
        },
        trigger: {
          kind: 'nats',
          name: 'door',
          subject: 'doors.open',
          id: 'id-1',
          time: 1_700_000_000_000,
          attempt: 3,
          headers: { h: 'v' },
          retain: true,
        },
        aborted: false,
        callbacks: [],
      });
      expect(seen['remaining']).toBeGreaterThan(5_000);
      expect(seen['remaining']).toBeLessThanOrEqual(10_000);
      const invoke = await call({}, { event: { kind: 'invoke', detail: { clientContext } } });
      expect(returned(invoke)).toMatchObject({ context: { clientContext: { custom: { a: 'b' } } } });
    });

    test('runs callback handlers on nodejs22.x: callback, done, succeed, fail, and promises as ever', async () => {
      const { call } = await startFixture(open, 'callbacks', { runtime: 'nodejs22.x' });
      for (const [what, answer] of [
        ['callback', 'called back'],
        ['twice', 'first'],
        ['succeed', 'succeeded'],
        ['done', 'done'],
        ['promise', 'promised'],
      ] as const) {
        expect(returned(await call({ what })), what).toBe(answer);
      }
      for (const [what, code, message] of [
        ['error', 'RangeError', 'no'],
        ['text', 'string', 'just words'],
        ['fail', 'TypeError', 'failed'],
        ['throws', 'RangeError', 'at once'],
      ] as const) {
        expect(faultOf(await call({ what })), what).toMatchObject({ code, message });
      }
      const two = await startFixture(open, 'callbacks', { runtime: 'nodejs22.x', handler: 'index.two' });
      expect(returned(await two.call({ what: 'succeed' }))).toBe('succeeded');
    });

    test('tells what was thrown: name, message, stack without our own frames', async () => {
      const { call } = await startFixture(open, 'throws');
      const outcome = await call({});
      expect(outcome).toMatchObject({ kind: 'threw', retryable: true });
      const { code, message, stack } = faultOf(outcome);
      expect({ code, message }).toEqual({ code: 'DoorError', message: 'the door is closed' });
      expect(stack?.[1]).toContain('handlers/throws/index.mjs');
      expect(stack?.join('\n')).not.toContain('runtime/invoker');
      expect(faultOf(await call({ what: 'late' })).code).toBe('DoorError');
    });

    test('tells a thrown value that is no Error', async () => {
      const { call } = await startFixture(open, 'throws');
      expect(faultOf(await call({ what: 'string' }))).toMatchObject({
        code: 'string',
        message: 'just words',
      });
      expect(faultOf(await call({ what: 'null' }))).toMatchObject({ code: 'object', message: 'null' });
      expect(faultOf(await call({ what: 'object' })).message).toContain("reason: 'plain'");
      expect((await call({ what: 'hostile' })).kind).toBe('threw');
      expect(faultOf(await call({ what: 'after' })).code).toBe('DoorError');
    });

    test('tells what a handler throws before it gave a promise', async () => {
      const { call } = await startFixture(open, 'throws-at-once');
      expect(faultOf(await call({}))).toMatchObject({ code: 'TypeError', message: 'not even a promise' });
    });

    test('takes retryable: false on what was thrown, and PermanentError, as final', async () => {
      const { call } = await startFixture(open, 'throws');
      expect(await call({ what: 'permanent' })).toMatchObject({ kind: 'threw', retryable: false });
      const other = await startFixture(open, 'permanent');
      expect(await other.call({})).toMatchObject({
        kind: 'threw',
        retryable: false,
        fault: { code: 'PermanentError', message: 'wrong for ever' },
      });
    });

    test('answers bytes as bytes, undefined as null, and refuses what has no encoding', async () => {
      const { call } = await startFixture(open, 'returns');
      expect(await call({ what: 'bytes' })).toMatchObject({
        kind: 'returned',
        result: { encoding: 'binary', data: Buffer.from([0, 1, 2, 255]) },
      });
      expect(returned(await call({ what: 'undefined' }))).toBeNull();
      expect(returned(await call({ what: 'function' }))).toBeNull();
      expect(returned(await call({ what: 'umlauts' }))).toEqual({ text: 'ä€😀'.repeat(10000) });
      expect(returned(await call({ what: 'thenable' }))).toBe('then');
      for (const what of ['bigint', 'circular', 'big', 'toJSON']) {
        const outcome = await call({ what });
        expect(faultOf(outcome).code, what).toBe('Runtime.InvalidResponse');
        expect(outcome, what).toMatchObject({ kind: 'threw', retryable: false });
      }
      expect(faultOf(await call({ what: 'hostile' })).message).toBe('then threw');
    });

    test('logs console.* with level, request id and the fields of an Error', async () => {
      const env = { AWS_LAMBDA_LOG_LEVEL: 'TRACE' };
      const { call, record, records } = await startFixture(open, 'logs', { env });
      const outcome = await call({ levels: true, error: true });
      await record(({ message }) => message === 'trace');
      const failed = await record(({ message }) => message.startsWith('it failed'));
      expect(failed).toMatchObject({
        level: 'ERROR',
        namespace: 'default',
        function: 'door',
        requestId: outcome.report.requestId,
        source: 'handler',
        errorType: 'RangeError',
        errorMessage: 'too far',
      });
      expect(failed['stackTrace']).toBeInstanceOf(Array);
      const levels = records.filter(({ message }) => /^(trace|debug|info|warn|error)$/.test(message));
      expect(levels.map(({ level }) => level)).toEqual(['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR']);
    });

    test('a line of JSON on console becomes the fields of its record, and its own level counts', async () => {
      const { call, records } = await startFixture(open, 'logs');
      const lines = [
        '{"level":"error","message":"stuck","robot":"r7","requestId":"another","source":"arm"}',
        '{"level":"debug","msg":"too fine"}',
        '{"half":',
        '["a list"]',
      ];
      const { report } = await call({ lines });
      const { requestId } = report;
      const common = { namespace: 'default', function: 'door', requestId, source: 'handler' };
      const told = records.filter(({ source }) => source === 'handler');
      expect(told.map(({ time: _time, trigger: _trigger, ...rest }) => rest)).toEqual([
        { ...common, level: 'ERROR', message: 'stuck', robot: 'r7', _requestId: 'another', _source: 'arm' },
        { ...common, level: 'INFO', message: '{"half":' },
        { ...common, level: 'INFO', message: '["a list"]' },
      ]);
    });

    test('logs an object as Node prints it, whatever keys it has', async () => {
      const { call, record } = await startFixture(open, 'logs');
      await call({ lines: [{ message: 'stuck', level: 'ERROR' }] });
      const { level } = await record(({ message }) => message === "{ message: 'stuck', level: 'ERROR' }");
      expect(level).toBe('INFO');
    });

    test('with AWS_LAMBDA_LOG_FORMAT=Text a line of JSON stays text, and nothing is below the level', async () => {
      const { call, records } = await startFixture(open, 'logs', { env: { AWS_LAMBDA_LOG_FORMAT: 'Text' } });
      await call({ lines: ['{"level":"debug","a":1}'], levels: true });
      const told = records.filter(({ source }) => source === 'handler');
      expect(told.map(({ level, message }) => `${level} ${message}`)).toEqual([
        'INFO {"level":"debug","a":1}',
        'TRACE trace',
        'DEBUG debug',
        'INFO info',
        'WARN warn',
        'ERROR error',
      ]);
    });

    test("collects the log's tail between START and REPORT when asked", async () => {
      const { call } = await startFixture(open, 'logs');
      const { tail, report } = await call({ lines: ['one', 'two'] }, { tail: true });
      const id = report.requestId;
      expect(tail).toMatch(
        new RegExp(
          `^START RequestId: ${id} Version: \\w+\n.*\t${id}\tINFO\tone\n.*\t${id}\tINFO\ttwo\n` +
            `END RequestId: ${id}\nREPORT RequestId: ${id}\tDuration: [\\d.]+ ms\tBilled Duration: \\d+ ms\t` +
            'Memory Size: 128 MB\tMax Memory Used: \\d+ MB\tInit Duration: [\\d.]+ ms\n$',
        ),
      );
      expect((await call({ lines: ['three'] })).tail).toBeUndefined();
      const long = await call({ lines: Array.from({ length: 300 }, () => 'ä'.repeat(50)) }, { tail: true });
      expect(Buffer.byteLength(long.tail!)).toBeLessThanOrEqual(4096);
      expect(long.tail).not.toContain('\ufffd');
      expect(long.tail).toContain('REPORT');
    });

    test('keeps the invocations of one process apart: log lines and InvokeStore', async () => {
      const { call, records } = await startFixture(open, 'logs-per-invocation', { concurrency: 64 });
      const names = Array.from({ length: 64 }, (_, index) => `n${index}`);
      const outcomes = await Promise.all(names.map((name) => call({ name })));
      for (const [index, outcome] of outcomes.entries()) {
        const { requestId } = outcome.report;
        expect(returned(outcome)).toEqual({ name: names[index], requestId });
        const own = records.filter((record) => record.requestId === requestId);
        expect(own.map(({ message }) => message)).toEqual([0, 1, 2].map((step) => `${names[index]} ${step}`));
      }
    });

    test('times an invocation out at its deadline, never before', async () => {
      const { call } = await startFixture(open, 'never-returns', { timeoutMs: 150, concurrency: 8 });
      const begun = Date.now();
      const outcomes = await Promise.all(
        Array.from({ length: 8 }, async () => ({ ...(await call({})), at: Date.now() })),
      );
      for (const { at, kind, report } of outcomes) {
        expect(kind).toBe('timedOut');
        expect(at - begun).toBeGreaterThanOrEqual(150);
        expect(report.durationMs).toBeGreaterThanOrEqual(149);
        expect(report.durationMs).toBeLessThan(2_000);
      }
      expect(faultOf(outcomes[0]!)).toMatchObject({
        code: 'Sandbox.Timedout',
        message: expect.stringContaining('Task timed out after 0.15 seconds') as string,
      });
    });

    test("aborts the handler's signal when the caller goes away", async () => {
      const { call } = await startFixture(open, 'never-returns');
      const caller = new AbortController();
      const outcome = call({ untilAborted: true }, { signal: caller.signal });
      setTimeout(() => caller.abort(), 20);
      expect(returned(await outcome)).toBe('the caller went away');
      const gone = call({ untilAborted: true }, { signal: AbortSignal.abort() });
      expect(returned(await gone)).toBe('the caller went away');
    });

    test('says coldStart and the init duration once per process', async () => {
      const { call } = await startFixture(open, 'ok');
      const first = (await call({}, { event: { id: 'the-id' } })).report;
      expect(first).toMatchObject({ requestId: 'the-id', coldStart: true });
      expect(first.initDurationMs).toBeGreaterThan(0);
      expect(first.maxMemoryMiB).toBeGreaterThan(5);
      const second = (await call({})).report;
      expect(second.coldStart).toBe(false);
      expect(second).not.toHaveProperty('initDurationMs');
    });

    test.for([
      ['no-such-folder', 'index.handler', 'Runtime.ImportModuleError', 'no file for handler'],
      ['imports-missing', 'index.handler', 'Runtime.ImportModuleError', 'a-package-that-is-not-there'],
      ['imports-missing-name', 'index.handler', 'Runtime.UserCodeSyntaxError', 'nothingOfThatName'],
      ['broken/syntax', 'index.handler', 'Runtime.UserCodeSyntaxError', 'index.mjs'],
      ['throws-at-import', 'index.handler', 'Runtime.InitError', 'RangeError: no database'],
      ['exports', 'index.nothing', 'Runtime.HandlerNotFound', '"nothing"'],
      ['exports', 'index.number', 'Runtime.HandlerNotFound', '"number"'],
      ['exports', 'index.api.door.shut', 'Runtime.HandlerNotFound', '"api.door.shut"'],
      ['exports', 'index.callback', 'Runtime.CallbackHandlerDeprecated', 'callback'],
      ['exports', 'index', 'Runtime.MalformedHandlerName', '"index"'],
      ['exports', '.handler', 'Runtime.MalformedHandlerName', '".handler"'],
      ['exports', 'index.', 'Runtime.MalformedHandlerName', '"index."'],
      ['exports', '../ok/index.handler', 'Runtime.MalformedHandlerName', 'leaves the package'],
      ['exports', '/etc/index.handler', 'Runtime.MalformedHandlerName', 'leaves the package'],
    ] as const)('refuses to start %s with handler %s: %s', async ([name, handler, code, said], { skip }) => {
      skip(!loadedByNode && code === 'Runtime.UserCodeSyntaxError', "vitest's loader has its own errors");
      const { invoker } = openFixture(open, name, { handler });
      await expect(invoker.start()).rejects.toMatchObject({
        code,
        message: expect.stringContaining(said) as string,
      });
      expect(invoker.state).toMatchObject({ ready: false, reason: code });
    });

    test.for([
      ['exports', 'index.api.door.open', 'open'],
      ['exports', 'index.handler', 'default'],
      ['nested', 'src/app.handler', 'nested'],
    ] as const)('finds the handler of %s at %s', async ([name, handler, answer]) => {
      const { call } = await startFixture(open, name, { handler });
      expect(returned(await call({}))).toBe(answer);
    });

    test('runs CommonJS, also exports that cannot be seen without running it', async () => {
      const dynamic = await startFixture(open, 'commonjs');
      expect(returned(await dynamic.call({}))).toEqual({ permanent: true, require: 'function' });
      const js = await startFixture(open, 'commonjs-js');
      expect(returned(await js.call({}))).toEqual({ commonjs: 'object' });
    });

    test('more calls than its capacity wait and are all answered', async () => {
      const { call, invoker } = await startFixture(open, 'echo');
      expect(invoker.capacity).toBe(1);
      const outcomes = await Promise.all(Array.from({ length: 20 }, (_, index) => call(index)));
      expect(outcomes.map(returned)).toEqual(Array.from({ length: 20 }, (_, index) => index));
    });

    describe('takes the calls of a handler to the host', () => {
      const patient = { timeout: 20_000 };
      const answered: CallAnswer = { ok: true, detail: '', data: new Uint8Array() };
      const fault = (code: string): CallAnswer => ({
        ok: false,
        code,
        message: `${code}!`,
        retryable: false,
      });

      function recorded(answer: (call: HandlerCall, caller: Caller) => CallAnswer | Promise<CallAnswer>) {
        const made: { call: HandlerCall & { data: Buffer }; caller: Caller }[] = [];
        const calls: Calls = {
          async make(call, caller) {
            made.push({ call: { ...call, data: Buffer.from(call.data) }, caller });
            return await answer(call, caller);
          },
        };
        return { made, calls };
      }

      test('with what was given, and back with what the host answered', async () => {
        const { made, calls } = recorded(({ kind, detail }) => {
          if (kind === 'kv.get' && detail.includes('nothing')) return answered;
          if (kind.startsWith('kv.'))
            return { ...answered, detail: '{"revision":7}', data: Buffer.from('four') };
          if (kind === 'ros.call')
            return { ...answered, data: Buffer.from('{"stamp":{"$bigint":"9"},"success":true}') };
          if (kind === 'ros.topics') return { ...answered, data: Buffer.from('[]') };
          if (kind === 'ros.definition') return { ...answered, data: Buffer.from('string data') };
          return answered;
        });
        const { call } = await startFixture(open, 'calls', { calls });
        const options = { headers: { Robot: 'r1' }, msgId: 'one' };
        expect(returned(await call({ publish: 'a.b', data: { n: 1 }, options }))).toBe('ok');
        // BigInt has no JSON: what the handler got of ROS is a number here only because it answers text.
        const outcome = await call({ every: true });
        expect(faultOf(outcome)).toMatchObject({ code: 'Runtime.InvalidResponse' });
        expect(
          made.map(({ call: { kind, target, detail, data } }) => [kind, target, detail, String(data)]),
        ).toEqual([
          ['nats.publish', 'a.b', JSON.stringify(options), '{"n":1}'],
          ['mqtt.publish', 'a/b', '{"qos":2,"retain":true}', '{"n":1}'],
          ['kv.put', 'settings', '{"key":"speed"}', '3'],
          ['kv.update', 'settings', '{"key":"speed","revision":7}', '4'],
          ['kv.create', 'settings', '{"key":"name"}', '\u0001\u0002'],
          ['kv.delete', 'settings', '{"key":"name","revision":9}', ''],
          ['kv.get', 'settings', '{"key":"speed"}', ''],
          [
            'ros.publish',
            '/cmd_vel',
            '{"type":"geometry_msgs/msg/Twist"}',
            '{"linear":{"x":{"$bigint":"1"}},"ranges":{"$array":"Float32Array","$base64":"AADAPwAAwH8="}}',
          ],
          ['ros.call', '/reset', '{"type":"std_srvs/srv/Trigger","timeoutMs":5}', '{}'],
          ['ros.definition', 'std_msgs/msg/String', '', ''],
          ['ros.topics', '', '', ''],
          ['kv.get', 'settings', '{"key":"nothing"}', ''],
        ]);
      });

      test('and tells why one failed, as an error with its code', async () => {
        const { calls } = recorded(() => fault('NotAllowed'));
        const { call } = await startFixture(open, 'calls', { calls });
        expect(returned(await call({ fails: 'secret' }))).toEqual({
          code: 'NotAllowed',
          name: 'NotAllowed',
          message: 'NotAllowed!',
          retryable: false,
        });
        expect(await call({ publish: 'secret' })).toMatchObject({
          kind: 'threw',
          retryable: false,
          fault: { code: 'NotAllowed', message: 'NotAllowed!' },
        });
      });

      test('for the invocation that makes them: its hops, its deadline, also with many in a process', async () => {
        const { made, calls } = recorded(async ({ target }, { hops }) => {
          // The later ones are answered first.
          await new Promise((resolve) => setTimeout(resolve, 40 - hops));
          return { ...answered, detail: '{}', data: Buffer.from(JSON.stringify([target, hops])) };
        });
        const { call } = await startFixture(open, 'calls', { calls, concurrency: 20, timeoutMs: 5_000 });
        const before = monotonicMs();
        const outcomes = await Promise.all(
          Array.from({ length: 20 }, (_, hops) =>
            call({ request: `chain.${hops}` }, { event: { headers: { 'Atoll-Hops': String(hops) } } }),
          ),
        );
        expect(outcomes.map(returned)).toEqual(
          Array.from({ length: 20 }, (_, hops) => [`chain.${hops}`, hops]),
        );
        for (const { caller } of made) {
          expect(caller.deadlineMs).toBeGreaterThan(before + 4_999);
          expect(caller.deadlineMs).toBeLessThan(monotonicMs() + 5_100);
          expect(caller.signal.aborted).toBe(false);
        }
      });

      test('rejects them with the reason of context.signal: the deadline', async () => {
        const { made, calls } = recorded(() => new Promise<CallAnswer>(() => {}));
        const { call, record } = await startFixture(open, 'calls', {
          calls,
          timeoutMs: 4_000,
          concurrency: 2,
        });
        await call({});
        const outcome = call({ untilAborted: true, tells: true });
        await expect.poll(() => made.length, patient).toBe(1);
        // While a neighbour runs the process is not ended at once. Its deadline comes two seconds later.
        await new Promise((resolve) => setTimeout(resolve, 2_000));
        const neighbour = call({ untilAborted: true });
        await expect.poll(() => made.length, patient).toBe(2);
        expect((await outcome).kind).toBe('timedOut');
        expect(made.map(({ caller }) => caller.signal.aborted)).toEqual([true, false]);
        await record(({ message }) => message === 'the invocation took longer than 4000 ms: true');
        expect((await neighbour).kind).toBe('timedOut');
        expect(made.map(({ caller }) => caller.signal.aborted)).toEqual([true, true]);
      });

      test('and that the caller went away', async () => {
        const { made, calls } = recorded(() => new Promise<CallAnswer>(() => {}));
        const { call } = await startFixture(open, 'calls', { calls });
        const caller = new AbortController();
        const outcome = call({ untilAborted: true }, { signal: caller.signal });
        await expect.poll(() => made.length, patient).toBe(1);
        caller.abort();
        expect(returned(await outcome)).toEqual({ message: 'the caller went away', same: true });
        expect(made[0]!.caller.signal.aborted).toBe(true);
      });

      test('refuses those that no invocation makes: at import, and after its end', async () => {
        const { made, calls } = recorded(() => answered);
        const { call, record } = await startFixture(open, 'calls', { calls });
        expect(returned(await call({ early: true }))).toBe('OutsideInvocation');
        expect(returned(await call({ later: 1 }))).toBe('ok');
        const told = await record(({ message }) => message.includes('much.later'));
        expect(told).toMatchObject({
          level: 'WARN',
          message: expect.stringContaining('has ended') as string,
        });
        // It lives on, although nothing handled that.
        expect(returned(await call({ publish: 'now' }))).toBe('ok');
        expect(made.map(({ call: { target } }) => target)).toEqual(['now']);
      });

      test('what was not awaited goes out all the same; that it failed is logged and ends no process', async () => {
        const late = Promise.withResolvers<CallAnswer>();
        const { made, calls } = recorded(() => late.promise);
        const { call, record, restarts } = await startFixture(open, 'calls', { calls });
        expect(returned(await call({ unawaited: 'fire' }))).toBe('ok');
        expect(made.map(({ call: { target } }) => target)).toEqual(['fire']);
        late.resolve(fault('NatsUnavailable'));
        await record(({ message }) => message.includes('NatsUnavailable!'));
        expect(returned(await call({ early: true }))).toBe('OutsideInvocation');
        expect(restarts).toEqual([]);
      });

      test(
        'no more at a time than the window; what waits is handed on as answers come',
        { timeout: 150_000 },
        async () => {
          let underWay = 0;
          let most = 0;
          const full = Promise.withResolvers<void>();
          const { calls } = recorded(async () => {
            most = Math.max(most, (underWay += 1));
            if (underWay === callWindow.calls) full.resolve();
            // None is answered before there are as many as there may be; one more would have time to come.
            await full.promise;
            await new Promise((resolve) => setImmediate(resolve));
            underWay -= 1;
            return answered;
          });
          const { call } = await startFixture(open, 'calls', { calls, timeoutMs: 60_000 });
          expect(returned(await call({ flood: 2_000 }))).toEqual({ done: 2_000, failed: 0 });
          expect(most).toBe(callWindow.calls);
          // Without a word of the host: what is beyond window and queue is told at once.
          expect(returned(await call({ flood: 12_000 }))).toMatchObject({
            done: callWindow.calls + 10_000,
            code: 'TooManyRequests',
          });
        },
      );

      test(
        'no more bytes at a time than the window, and no call beyond what a frame holds',
        { timeout: 150_000 },
        async () => {
          let bytes = 0;
          let most = 0;
          const pair: (() => void)[] = [];
          const { made, calls } = recorded(async ({ data, target }) => {
            if (target !== 'flood') return answered;
            most = Math.max(most, (bytes += data.length));
            // Two are on their way before one is answered, and a third would have time to come.
            await new Promise<void>((resolve) => pair.push(resolve) === 2 && setTimeout(release, 50));
            bytes -= data.length;
            return answered;
          });
          const release = (): void => pair.splice(0).forEach((go) => go());
          const { call } = await startFixture(open, 'calls', {
            calls,
            memoryBytes: 512 * 1024 * 1024,
            timeoutMs: 60_000,
          });
          const mebibyte = 1024 * 1024;
          expect(returned(await call({ flood: 6, bytes: 6 * mebibyte }))).toEqual({ done: 6, failed: 0 });
          expect(most).toBe(12 * mebibyte);
          expect(returned(await call({ large: 10 * mebibyte }))).toBeNull();
          expect(made.at(-1)!.call.data.equals(Buffer.alloc(10 * mebibyte, 'x'))).toBe(true);
          expect(returned(await call({ large: 15 * mebibyte }))).toMatchObject({ code: 'TooLarge' });
        },
      );

      test('those that wait for the window when their invocation ends are refused, and it is logged', async () => {
        const { made, calls } = recorded(() => new Promise<CallAnswer>(() => {}));
        const { call, record } = await startFixture(open, 'calls', { calls });
        expect(returned(await call({ unawaitedMany: callWindow.calls + 1 }))).toBe('ok');
        await record(({ message }) => message.includes('before it was sent'));
        expect(made).toHaveLength(callWindow.calls);
      });
    });

    test('drain lets what runs end and hands everything new back', async () => {
      const { call, invoker } = await startFixture(open, 'never-returns');
      const running = call({ wait: 100 });
      const queued = call({ wait: 1 });
      const drained = invoker.drain(Date.now() + 5_000);
      expect(returned(await running)).toBe('waited');
      expect(faultOf(await queued).code).toBe('Runtime.Drained');
      await drained;
      expect(await call({})).toMatchObject({ kind: 'returnedUnrun', fault: { code: 'Runtime.Drained' } });
      expect(invoker.state.ready).toBe(false);
    });

    test('drain gives what still runs at its deadline back', async () => {
      const { call, invoker } = await startFixture(open, 'never-returns');
      const running = call({});
      await invoker.drain(Date.now() + 50);
      expect(await running).toMatchObject({ kind: 'returnedUnrun', fault: { code: 'Runtime.Drained' } });
    });
  });
}
