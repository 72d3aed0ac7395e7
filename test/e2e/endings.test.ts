import { beforeAll, expect, test, vi } from 'vitest';
import type { LogRecord } from '../../runtime/log.ts';
import { startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

const timeoutSeconds = 1;

// Line numbers matter: the stack has to name them.
const ends: FunctionSource = {
  name: 'ends',
  spec: { timeoutSeconds, memory: '64Mi', processes: 1 },
  code: `interface Event { how: string }
class NoReef extends Error {
  override name = 'NoReef';
}
function dive(depth: number): never {
  // one more line, so that bundle and source differ
  throw new NoReef('nothing at ' + depth + ' m');
}
const held: unknown[] = [];
export const handler = async ({ how }: Event): Promise<unknown> => {
  console.log('about to', how);
  if (how === 'throw') dive(40);
  if (how === 'hang') await new Promise(() => {});
  if (how === 'spin') for (;;);
  if (how === 'exit') process.exit(7);
  if (how === 'crash') process.kill(process.pid, 'SIGSEGV');
  if (how === 'crash') await new Promise(() => {});
  if (how === 'eat') for (;;) held.push(new Array(1_000_000).fill(how));
  return { pid: process.pid };
};
`,
};

let site: Site;
beforeAll(async () => {
  site = await startSite();
  await site.deploy(ends);
});

interface Invoked {
  status: number;
  functionError: string | null;
  requestId: string;
  body: { errorType?: string; errorMessage?: string; trace?: string[]; pid?: number };
}

/** As Lambda's clients call it. */
async function call(name: string, event: unknown): Promise<Invoked> {
  const answer = await site.fetch(`/2015-03-31/functions/${name}/invocations`, {
    method: 'POST',
    body: JSON.stringify(event),
  });
  return {
    status: answer.status,
    functionError: answer.headers.get('x-amz-function-error'),
    requestId: answer.headers.get('x-amzn-requestid') ?? '',
    body: (await answer.json()) as Invoked['body'],
  };
}

async function logsOf(name: string, requestId?: string): Promise<LogRecord[]> {
  const of = requestId === undefined ? ['--since', '5m'] : ['--request-id', requestId];
  const { stdout } = await site.faas('logs', name, '-o', 'json', ...of);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as LogRecord);
}

async function count(outcome: string): Promise<number> {
  const text = await (await site.fetch('/metrics')).text();
  const line = text
    .split('\n')
    .find((one) => one.startsWith('atoll_invocations_total{') && one.includes(`outcome="${outcome}"`));
  return Number(line?.split(' ').at(-1) ?? 0);
}

async function reportOf(requestId: string): Promise<LogRecord> {
  return await until('the report is in the log', async () =>
    (await logsOf('ends', requestId)).find(({ source }) => source === 'report'),
  );
}

const endings = [
  { how: 'throw', outcome: 'threw', type: 'NoReef', message: 'nothing at 40 m' },
  { how: 'hang', outcome: 'timedOut', type: 'Sandbox.Timedout', message: 'timed out after 1.00 seconds' },
  { how: 'spin', outcome: 'timedOut', type: 'Sandbox.Timedout', message: 'timed out after 1.00 seconds' },
  { how: 'exit', outcome: 'crashed', type: 'Runtime.ExitError', message: 'exit code 7' },
  { how: 'crash', outcome: 'crashed', type: 'Runtime.ExitError', message: 'SIGSEGV' },
  { how: 'eat', outcome: 'crashed', type: 'Runtime.OutOfMemory', message: '64 MiB' },
];

test.each(endings)(
  'a handler that is to $how ends as "$outcome" ($type) in answer, log and metrics, and the next event runs',
  async ({ how, outcome, type, message }) => {
    const before = await count(outcome);
    const startedMs = performance.now();
    const { status, functionError, requestId, body } = await call('ends', { how });
    const tookMs = performance.now() - startedMs;
    expect({ status, functionError }).toEqual({ status: 200, functionError: 'Unhandled' });
    expect(body.errorType).toBe(type);
    expect(body.errorMessage).toContain(message);
    if (outcome === 'timedOut') {
      expect(tookMs).toBeGreaterThanOrEqual(timeoutSeconds * 1000);
      console.log(`${how}: told ${(tookMs - timeoutSeconds * 1000).toFixed(0)} ms after the limit`);
    }

    const report = await reportOf(requestId);
    expect(report).toMatchObject({
      message: 'REPORT',
      outcome,
      errorType: type,
      trigger: 'invoke',
      attempt: 1,
    });
    expect(report['durationMs']).toBeTypeOf('number');
    expect(report['maxMemoryMiB']).toBeTypeOf('number');
    if (outcome === 'timedOut') expect(report['durationMs']).toBeGreaterThanOrEqual(timeoutSeconds * 1000);
    const records = await logsOf('ends', requestId);
    expect(records.map((record) => record.message)).toContain(`about to ${how}`);
    expect(records.some((record) => record.level === 'ERROR' && record['errorType'] === type)).toBe(true);
    expect(await count(outcome)).toBe(before + 1);

    const next = await call('ends', { how: 'return' });
    expect(next).toMatchObject({
      status: 200,
      functionError: null,
      body: { pid: expect.any(Number) as number },
    });
  },
);

test('"faas invoke" of a handler that throws exits with 1 and prints its stack in the TypeScript sources', async () => {
  const { code, stdout, stderr } = await site.run(['invoke', 'ends', '-d', '{"how":"throw"}']);
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toContain('NoReef: nothing at 40 m');
  expect(stderr).toMatch(/at dive \(.*index\.ts:7:\d+\)/);
  expect(stderr).toMatch(/index\.ts:12:\d+/);
  expect(stderr).not.toMatch(/runtime\/invoker|node:internal/);
});

test.each([
  ['exit', 'Runtime.ExitError'],
  ['hang', 'Sandbox.Timedout'],
])('"faas invoke" of a handler that is to %s exits with 1 and says %s', async (how, type) => {
  const { code, stderr } = await site.run(['invoke', 'ends', '-d', JSON.stringify({ how })]);
  expect(code).toBe(1);
  expect(stderr).toContain(type);
});

test('"faas invoke --tail" prints the log of this invocation on stderr, the result on stdout', async () => {
  const { code, stdout, stderr } = await site.run(['invoke', 'ends', '-d', '{"how":"return"}', '--tail']);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual({ pid: expect.any(Number) as number });
  expect(stderr).toContain('about to return');
  expect(stderr).toMatch(/START RequestId: \S+/);
  expect(stderr).toMatch(/REPORT RequestId: \S+.*Duration: [\d.]+ ms/);
});

test('a timeout never fires early, however often it is tried', async () => {
  const lateMs: number[] = [];
  for (let i = 0; i < 5; i++) {
    const { requestId } = await call('ends', { how: 'hang' });
    const { durationMs } = (await reportOf(requestId)) as unknown as { durationMs: number };
    lateMs.push(durationMs - timeoutSeconds * 1000);
  }
  console.log(`late by ${lateMs.map((ms) => ms.toFixed(2)).join(', ')} ms`);
  expect(Math.min(...lateMs)).toBeGreaterThanOrEqual(0);
});

test('what an event waits for a new process is not taken from the time of its handler', async () => {
  await call('ends', { how: 'exit' });
  const { requestId, body } = await call('ends', { how: 'hang' });
  expect(body.errorType).toBe('Sandbox.Timedout');
  const { durationMs } = (await reportOf(requestId)) as unknown as { durationMs: number };
  expect(durationMs).toBeGreaterThanOrEqual(timeoutSeconds * 1000);
});

test('with 16 invocations in one process each line of console carries the request id of its own', async () => {
  await site.deploy({
    name: 'talks',
    spec: { concurrency: 16 },
    code: `
      import { setTimeout as pause } from 'node:timers/promises';
      let together = 0;
      export const handler = async ({ n }, context) => {
        together += 1;
        const most = together;
        console.log('begin', n, context.awsRequestId);
        for (let i = 0; i < 5; i++) {
          await pause(10 + ((n * 7 + i * 13) % 30));
          console.info('step', n, context.awsRequestId);
        }
        setTimeout(() => console.warn('timer', n, context.awsRequestId), 1);
        await pause(20);
        console.error('end', n, context.awsRequestId);
        together -= 1;
        return { n, most, pid: process.pid };
      };`,
  });
  const calls = await Promise.all(Array.from({ length: 32 }, (_, n) => call('talks', { n })));
  expect(new Set(calls.map(({ body }) => body.pid)).size).toBe(1);
  expect(Math.max(...calls.map(({ body }) => (body as { most?: number }).most ?? 0))).toBe(16);

  const records = await until('all reports are in the log', async () => {
    const found = await logsOf('talks');
    return found.filter(({ source }) => source === 'report').length === calls.length ? found : undefined;
  });
  for (const { requestId, body } of calls) {
    const own = records.filter((record) => record.requestId === requestId);
    const n = (body as { n?: number }).n;
    const said = own.filter(({ source }) => source === 'handler').map(({ message }) => message);
    expect(said).toEqual(
      ['begin', 'step', 'step', 'step', 'step', 'step', 'timer', 'end'].map(
        (what) => `${what} ${n} ${requestId}`,
      ),
    );
    expect(own.map(({ level, message }) => [message.split(' ')[0], level])).toContainEqual(['timer', 'WARN']);
    const reports = own.filter(({ source }) => source === 'report');
    expect(reports).toHaveLength(1);
    expect(reports[0]).toMatchObject({ outcome: 'returned', trigger: 'invoke', attempt: 1 });
  }
  const cold = records.filter(({ source, coldStart }) => source === 'report' && coldStart === true);
  expect(cold).toHaveLength(1);
  expect(cold[0]?.['initDurationMs']).toBeTypeOf('number');
});
