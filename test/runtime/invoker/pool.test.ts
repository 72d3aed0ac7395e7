import { readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';
import { expect, test, vi } from 'vitest';
import type { Calls } from '../../../runtime/calls/calls.ts';
import type { InvokerState } from '../../../runtime/invoker/invoker.ts';
import { openPool } from '../../../runtime/invoker/pool.ts';
import { callWindow } from '../../../runtime/invoker/protocol.ts';
import { identify } from '../../../runtime/process/identity.ts';
import {
  eventOf,
  faultOf,
  handlers,
  openFixture,
  returned,
  startFixture,
  testInvoker,
} from '../../contracts/invoker.ts';
import { testStreaming } from '../../contracts/streaming.ts';
import { temporaryFolder } from '../../support/folder.ts';

testInvoker(openPool, { loadedByNode: true });
testStreaming(openPool);

const mebibyte = 1024 * 1024;
const gone = (pid: number) => vi.waitFor(() => expect(identify(pid)).toBeUndefined(), { timeout: 60_000 });
const pidOf = (value: unknown) => (value as { pid: number }).pid;

/** Every process below this one, by pid, with its command line. */
function descendants(): { pid: number; command: string }[] {
  const found: { pid: number; command: string }[] = [];
  const look = (pid: number) => {
    let children: string[];
    try {
      children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
    } catch {
      return;
    }
    for (const child of children.map(Number)) {
      try {
        found.push({
          pid: child,
          command: readFileSync(`/proc/${child}/cmdline`, 'utf8').replaceAll('\0', ' '),
        });
      } catch {
        continue;
      }
      look(child);
    }
  };
  look(process.pid);
  return found;
}
const handlerProcesses = () => descendants().filter(({ command }) => command.includes('invoker/child'));

test('a handler process sees Lambda’s variables and its own, from the first import on, and none of the host’s', async () => {
  vi.stubEnv('SECRET_OF_THE_HOST', 'hidden');
  const env = { OWN: 'value', AWS_LAMBDA_FUNCTION_NAME: 'forged' };
  const { call } = await startFixture(openPool, 'environment', { env, concurrency: 4 });
  const seen = returned(await call({})) as { atImport: Record<string, string>; cwd: string; hour: number };
  expect(seen.atImport).toEqual({
    OWN: 'value',
    PATH: process.env['PATH'],
    HOME: '/tmp',
    LANG: process.env['LANG'] ?? 'C.UTF-8',
    TZ: 'UTC',
    AWS_REGION: 'us-east-1',
    AWS_DEFAULT_REGION: 'us-east-1',
    AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs24.x',
    AWS_LAMBDA_FUNCTION_NAME: 'door',
    AWS_LAMBDA_FUNCTION_VERSION: 'c0ffeec0ffee',
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '128',
    AWS_LAMBDA_INITIALIZATION_TYPE: 'on-demand',
    AWS_LAMBDA_LOG_FORMAT: 'JSON',
    AWS_LAMBDA_LOG_LEVEL: 'INFO',
    AWS_LAMBDA_LOG_GROUP_NAME: '/aws/lambda/default/door',
    AWS_LAMBDA_LOG_STREAM_NAME: expect.stringMatching(
      /^\d{4}\/\d\d\/\d\d\/\[c0ffeec0ffee\][0-9a-f]{32}$/,
    ) as string,
    AWS_LAMBDA_MAX_CONCURRENCY: '4',
    LAMBDA_TASK_ROOT: `${handlers}environment`,
    LAMBDA_RUNTIME_DIR: `${handlers}environment`,
    _HANDLER: 'index.handler',
  });
  expect(seen.cwd).toBe(`${handlers}environment`);
  expect(seen.hour).toBe(0);
});

test('secrets of spec.env are not in what /proc shows of the process’s start', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { env: { TOKEN: 'very-secret-value' } });
  const pid = pidOf(returned(await call({})));
  expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).not.toContain('very-secret-value');
  expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).not.toContain('very-secret-value');
});

test('a variable that the handler changes is changed in its process alone', async () => {
  const fixture = await startFixture(openPool, 'environment');
  await fixture.call({ set: 'yes' });
  expect(returned(await fixture.call({}))).toMatchObject({ now: { CHANGED: 'yes' } });
  expect(process.env['CHANGED']).toBeUndefined();
  const other = await startFixture(openPool, 'environment');
  expect(returned(await other.call({}))).not.toHaveProperty('now.CHANGED');
});

test.for(['@aws/lambda-invoke-store', 'lambda-invoke-store-0.3'])(
  '%s finds the context of its own invocation, however 20 of them interleave',
  async (STORE_PACKAGE) => {
    const { call } = await startFixture(openPool, 'invoke-store', {
      concurrency: 20,
      env: { STORE_PACKAGE },
    });
    const names = Array.from({ length: 60 }, (_, index) => `n${index}`);
    const rootOf = (index: number): string => `1-67891233-${String(index).padStart(24, '0')}`;
    const outcomes = await Promise.all(
      names.map((name, index) => {
        const headers = {
          'x-amz-tenant-id': `t-${name}`,
          'x-amzn-trace-id': `Root=${rootOf(index)};Sampled=1`,
          traceparent: `w-${name}`,
        };
        return call({ name }, { event: { id: `id-${name}`, headers } });
      }),
    );
    for (const [index, outcome] of outcomes.entries()) {
      const name = names[index];
      expect(returned(outcome)).toEqual({
        seen: [
          expect.stringMatching(
            `^id-${name} t-${name} Root=${rootOf(index)};Parent=[0-9a-f]{16};Sampled=1;Lineage=00000000:1 ${name}$`,
          ),
        ],
        traceparent: `w-${name}`,
        isHost: true,
        refused: expect.stringContaining('_AWS_LAMBDA_REQUEST_ID') as string,
      });
    }
    const without = returned(await call({ name: 'bare' }, { event: { id: 'id-bare' } }));
    expect(without).toMatchObject({
      seen: [
        expect.stringMatching(/^id-bare {2}Root=1-[0-9a-f]{8}-[0-9a-f]{24};.*;Lineage=00000000:1 bare$/),
      ],
    });
    expect(without).not.toHaveProperty('traceparent');
  },
);

test('TZ, and what Node reads only as it starts, can be set by spec.env', async () => {
  const env = { TZ: 'Asia/Tokyo', NODE_OPTIONS: '--title=from-node-options' };
  const { call } = await startFixture(openPool, 'environment', { env });
  expect(returned(await call({}))).toMatchObject({ hour: 9, now: { NODE_OPTIONS: env.NODE_OPTIONS } });
});

test.each(['nodejs24.x', 'nodejs22.x'] as const)(
  '%s: --require and --import of NODE_OPTIONS run with the whole environment, before the handler is required',
  async (runtime) => {
    const env = { SECRET: 's', NODE_OPTIONS: '--import ./imported.mjs --require=./required.cjs' };
    const { call } = await startFixture(openPool, 'preloads', { env, runtime });
    expect(returned(await call({}))).toEqual([
      `required with s in ${handlers}preloads`,
      'imported with s',
      'saw the handler being required',
    ]);
  },
);

test('a preload of NODE_OPTIONS that is not there is told by its name', async () => {
  const env = { NODE_OPTIONS: '--import ./missing.mjs' };
  const fixture = openFixture(openPool, 'ok', { env });
  await expect(fixture.invoker.start()).rejects.toMatchObject({
    code: 'Runtime.ImportModuleError',
    message: expect.stringContaining('./missing.mjs'),
  });
});

test('nodejs22.x runs in Node 22, with the same answers', async () => {
  const { call } = await startFixture(openPool, 'environment', { runtime: 'nodejs22.x' });
  expect(returned(await call({}))).toMatchObject({ now: { AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs22.x' } });
  const permanent = await startFixture(openPool, 'permanent', { runtime: 'nodejs22.x' });
  expect(await permanent.call({})).toMatchObject({ kind: 'threw', fault: { code: 'PermanentError' } });
  const commonjs = await startFixture(openPool, 'commonjs', { runtime: 'nodejs22.x' });
  expect(returned(await commonjs.call({}))).toMatchObject({ permanent: true });
});

test('an ES module in a .js file of a package without a type runs, and Node gives no advice in its log', async () => {
  const root = await temporaryFolder();
  await writeFile(join(root, 'package.json'), '{}');
  await writeFile(join(root, 'index.js'), 'export const handler = async (event) => event;');
  const { call, invoker, records } = await startFixture(openPool, 'ok', { root });
  expect(returned(await call(1))).toBe(1);
  await invoker.drain(Date.now() + 1000);
  expect(records).toEqual([]);
});

const callbacks = (more: Parameters<typeof startFixture>[2] = {}) =>
  startFixture(openPool, 'callbacks', { runtime: 'nodejs22.x', ...more });

test('on nodejs22.x the answer of a callback waits until the event loop is empty, unless the handler says otherwise', async () => {
  const { call } = await callbacks();
  expect(returned(await call({ what: 'waits', waits: true }))).toEqual({ ended: true });
  expect(returned(await call({ what: 'waits', waits: false }))).toEqual({ ended: false });
  // The process is not ended by having had nothing to do.
  const pid = returned(await call({ what: 'pid' }));
  expect(returned(await call({ what: 'pid' }))).toBe(pid);
});

test('on nodejs22.x a handler that neither calls back nor gives a promise answers null when it has nothing more to do', async () => {
  const { call } = await callbacks();
  expect(returned(await call({ what: 'never', busyMs: 20 }))).toBeNull();
  expect(returned(await call({ what: 'ignored' }))).toBeNull();
  const { call: short } = await callbacks({ timeoutMs: 200 });
  expect((await short({ what: 'never', busyMs: 60_000 })).kind).toBe('timedOut');
});

test('on nodejs22.x a call that the host has not answered yet keeps the event loop busy', async () => {
  let made = 0;
  const calls: Calls = {
    async make() {
      made += 1;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return { ok: true, detail: '', data: new Uint8Array() };
    },
  };
  const { call } = await callbacks({ calls });
  expect(returned(await call({ what: 'calls' }))).toBe('published');
  expect(returned(await call({ what: 'calls' }))).toBe('published');
  expect(returned(await call({ what: 'never', busyMs: 1 }))).toBeNull();
  expect(made).toBe(2);
});

test('a stack of bundled code points into its source', async () => {
  const root = await temporaryFolder();
  await build({
    entryPoints: [join(handlers, 'source-map/source.ts')],
    outfile: join(root, 'index.mjs'),
    bundle: true,
    minify: true,
    platform: 'node',
    format: 'esm',
    sourcemap: 'linked',
    logLevel: 'silent',
  });
  const { call } = await startFixture(openPool, 'ok', { root });
  const { stack } = faultOf(await call({ open: false }));
  expect(stack?.join('\n')).toMatch(/source\.ts:6:/);
});

test('a handler that spins is timed out at its deadline, and the next event runs', async () => {
  const { call, record, restarts } = await startFixture(openPool, 'spins', { timeoutMs: 300 });
  const begun = Date.now();
  const outcome = await call({});
  expect(outcome.kind).toBe('timedOut');
  expect(Date.now() - begun).toBeGreaterThanOrEqual(300);
  expect(outcome.report.durationMs).toBeLessThan(3_000);
  expect((await record(({ message }) => message === 'about to spin')).requestId).toBe(
    outcome.report.requestId,
  );
  const next = await call({ not: true }, { deadline: Date.now() + 10_000 });
  expect(returned(next)).toBe('did not spin');
  expect(next.report.coldStart).toBe(true);
  expect(restarts).toEqual(['timeout']);
});

test('the process of a timed-out invocation is gone, and what it forked with it', async () => {
  const { call, record } = await startFixture(openPool, 'forks', { timeoutMs: 400 });
  const before = handlerProcesses();
  expect((await call({ hang: true })).kind).toBe('timedOut');
  await gone(pidOf(await record(({ source }) => source === 'handler')));
  await gone(before[0]!.pid);
});

test('neighbours of a timed-out invocation may end within the grace', async () => {
  const { call } = await startFixture(openPool, 'never-returns', {
    timeoutMs: 300,
    concurrency: 2,
    graceMs: 5_000,
  });
  const late = call({ wait: 500 }, { deadline: Date.now() + 10_000 });
  expect((await call({})).kind).toBe('timedOut');
  expect(returned(await late)).toBe('waited');
});

test('neighbours that cannot end within the grace are handed back, not failed', async () => {
  const options = { timeoutMs: 300, concurrency: 2, graceMs: 100 };
  const { call } = await startFixture(openPool, 'neighbours', options);
  const neighbour = call({ wait: 5_000 }, { deadline: Date.now() + 10_000 });
  expect((await call({ spin: true })).kind).toBe('timedOut');
  expect(await neighbour).toMatchObject({ kind: 'returnedUnrun', fault: { code: 'Runtime.Drained' } });
  expect(returned(await call({}, { deadline: Date.now() + 10_000 }))).toHaveProperty('pid');
});

test('a process that exits fails its invocation with the exit code, keeps its last words, and is replaced', async () => {
  const fixture = await startFixture(openPool, 'exits');
  const outcome = await fixture.call({});
  expect(outcome).toMatchObject({ kind: 'crashed', suspects: 1, fault: { code: 'Runtime.ExitError' } });
  expect(faultOf(outcome).message).toContain('exit code 7');
  expect((await fixture.record(({ message }) => message === 'said before the exit')).requestId).toBe(
    outcome.report.requestId,
  );
  expect((await fixture.call({})).kind).toBe('crashed');
  expect(fixture.restarts).toEqual(['crash', 'crash']);
});

test('a process that aborts is told by its signal', async () => {
  const { call } = await startFixture(openPool, 'aborts');
  const outcome = await call({});
  expect(outcome).toMatchObject({ kind: 'crashed', fault: { code: 'Runtime.ExitError' } });
  expect(faultOf(outcome).message).toContain('SIGABRT');
});

test('an unhandled rejection and an uncaught exception end the process and are told by name', async () => {
  const { call } = await startFixture(openPool, 'unhandled');
  const rejection = await call({});
  expect(rejection).toMatchObject({
    kind: 'crashed',
    fault: { code: 'Runtime.UnhandledPromiseRejection', message: 'Error: nobody looked' },
  });
  expect(faultOf(rejection).stack?.join('\n')).toContain('handlers/unhandled/index.mjs');
  const exception = await call({ exception: true });
  expect(exception).toMatchObject({
    kind: 'crashed',
    fault: { code: 'RangeError', message: 'out of the blue' },
  });
});

test('a process that hangs in its own exit handler is ended all the same', async () => {
  const { call } = await startFixture(openPool, 'hangs-at-exit');
  const outcome = await call({});
  expect(outcome).toMatchObject({ kind: 'crashed', fault: { code: 'Runtime.UnhandledPromiseRejection' } });
  expect(outcome.report.durationMs).toBeLessThan(5_000);
});

test('all that were in flight when a process died are suspects', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { concurrency: 3 });
  const outcomes = await Promise.all([call({ wait: 5_000 }), call({ wait: 5_000 }), call({ exit: 50 })]);
  for (const outcome of outcomes) expect(outcome).toMatchObject({ kind: 'crashed', suspects: 3 });
});

test('alone: an invocation gets a process of its own, which ends with it', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { concurrency: 4 });
  const pooled = pidOf(returned(await call({})));
  const alone = await call({}, { alone: true });
  const pid = pidOf(returned(alone));
  expect(pid).not.toBe(pooled);
  expect(alone.report.coldStart).toBe(true);
  await gone(pid);
  const dead = await call({ exit: 1 }, { alone: true });
  expect(dead).toMatchObject({ kind: 'crashed', suspects: 1 });
  expect(pidOf(returned(await call({})))).toBe(pooled);
});

test('suspects run alone one at a time, in one process until one of them ends it', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { concurrency: 64 });
  const most = { processes: 0 };
  const looks = setInterval(() => {
    most.processes = Math.max(most.processes, handlerProcesses().length);
  }, 5);
  const outcomes = await Promise.all(
    Array.from({ length: 64 }, (_, n) => call(n === 20 ? { exit: 1 } : {}, { alone: true })),
  );
  clearInterval(looks);
  expect(outcomes[20]).toMatchObject({ kind: 'crashed', suspects: 1 });
  const pids = outcomes.filter((_, n) => n !== 20).map((outcome) => pidOf(returned(outcome)));
  expect(new Set(pids.slice(0, 20)).size).toBe(1);
  expect(new Set(pids.slice(20)).size).toBe(1);
  expect(pids[0]).not.toBe(pids[20]);
  // The pool's own, the one of the suspects, and one that is about to be gone.
  expect(most.processes).toBeLessThanOrEqual(3);
  await gone(pids[20]!);
});

test('a suspect has its whole time, however long those before it took', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { timeoutMs: 700 });
  const outcomes = await Promise.all(Array.from({ length: 4 }, () => call({ wait: 400 }, { alone: true })));
  for (const outcome of outcomes) expect(returned(outcome)).toHaveProperty('pid');
});

test('what timed out in a process that spins is a suspect, and so is all else in it: any of them may be the cause', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { timeoutMs: 300, concurrency: 4 });
  const again = { mayRunAgain: true };
  const innocent = call({ wait: 200 }, again);
  const later = call({ wait: 200 }, { ...again, deadline: Date.now() + 10_000 });
  const caller = call({ wait: 200 }, { deadline: Date.now() + 10_000 });
  const spinner = call({ spin: true }, again);
  expect(await innocent).toMatchObject({ kind: 'timedOut', suspects: 4 });
  expect(await spinner).toMatchObject({ kind: 'timedOut', suspects: 4 });
  expect(await later).toMatchObject({ kind: 'returnedUnrun', suspects: 4 });
  expect(await caller).toMatchObject({ kind: 'returnedUnrun', fault: { code: 'Runtime.Drained' } });
  const { durationMs } = (await innocent).report;
  expect(durationMs).toBeGreaterThanOrEqual(299);
});

test('what timed out in a process that still answers is no suspect: it was itself', async () => {
  const { call } = await startFixture(openPool, 'never-returns', { timeoutMs: 300, concurrency: 3 });
  const neighbour = call({ wait: 600 }, { mayRunAgain: true, deadline: Date.now() + 10_000 });
  const outcome = await call({}, { mayRunAgain: true });
  expect(outcome.kind).toBe('timedOut');
  expect(outcome).not.toHaveProperty('suspects');
  expect(returned(await neighbour)).toBe('waited');
});

test('the least busy process gets the next invocation', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { processes: 2, concurrency: 4 });
  await vi.waitFor(async () => {
    const outcomes = await Promise.all([1, 2, 3, 4].map(() => call({ wait: 50 })));
    const pids = outcomes.map((outcome) => pidOf(returned(outcome)));
    expect(new Set(pids).size).toBe(2);
    expect(pids.filter((pid) => pid === pids[0])).toHaveLength(2);
  }, 10_000);
});

test('a spare takes the place of a process that ended, without waiting for a start', async () => {
  const { call } = await startFixture(openPool, 'neighbours', { spareProcesses: 1 });
  const spare = await vi.waitFor(async () => {
    const [first, second] = handlerProcesses();
    expect(second).toBeDefined();
    const active = pidOf(returned(await call({})));
    return first!.pid === active ? second!.pid : first!.pid;
  }, 10_000);
  // Ready, not only started: nothing tells, so a moment's invocations go by first.
  await call({ wait: 1_500 });
  expect((await call({ exit: 1 })).kind).toBe('crashed');
  expect(pidOf(returned(await call({})))).toBe(spare);
});

test('a heap that runs out is told as out of memory, and the next event runs', async () => {
  const { call } = await startFixture(openPool, 'heap', { memoryBytes: 32 * mebibyte, timeoutMs: 25_000 });
  const outcome = await call({});
  expect(outcome).toMatchObject({ kind: 'crashed', suspects: 1, fault: { code: 'Runtime.OutOfMemory' } });
  expect(returned(await call({ spare: true }))).toBe('spared');
});

test('a process that is over its limit before it ran anything is not replaced again and again', async () => {
  const looks: number[] = [];
  const restarts: string[] = [];
  const metrics = {
    memory: (bytes: number) => void looks.push(bytes),
    restarted: (reason: string) => void restarts.push(reason),
  };
  const { call } = await startFixture(openPool, 'big-import', { memoryBytes: 64 * mebibyte, metrics });
  // The first looks may find it importing.
  const over = () => looks.filter((bytes) => bytes > 64 * mebibyte);
  await vi.waitFor(() => expect(over().length).toBeGreaterThanOrEqual(3), 20_000);
  expect(restarts).toEqual([]);
  expect(returned(await call({}))).toBe('ok');
});

test('memory outside of the heap counts too: far over the limit the process is killed', async () => {
  const { call } = await startFixture(openPool, 'buffers', { memoryBytes: 64 * mebibyte });
  const outcome = await call({ mebibytes: 256, hold: 8_000 });
  expect(outcome).toMatchObject({ kind: 'crashed', fault: { code: 'Runtime.OutOfMemory' } });
  expect(outcome.report.maxMemoryMiB).toBeGreaterThan(64);
});

test('a process a little over its limit is replaced between two events, and neither fails', async () => {
  // What runs in it has its own time, not the grace of a timed-out one's neighbours.
  const options = { memoryBytes: 160 * mebibyte, graceMs: 10 };
  const { call, restarts } = await startFixture(openPool, 'buffers', options);
  const first = pidOf(returned(await call({ mebibytes: 160, hold: 1_200 })));
  expect(pidOf(returned(await call({ mebibytes: 0 })))).not.toBe(first);
  expect(restarts).toEqual(['memory']);
  await gone(first);
});

test.for([
  ['buffers', 1],
  ['buffers', 4],
  ['objects', 1],
  ['objects', 4],
] as const)('a slow leak of %s costs no call, at concurrency %i', async ([kind, concurrency]) => {
  const options = { memoryBytes: 64 * mebibyte, concurrency };
  const { call, restarts } = await startFixture(openPool, 'leaks', options);
  const pids = new Set<number>();
  const caller = async () => {
    for (let n = 0; n < 480 / concurrency; n++)
      pids.add(pidOf(returned(await call({ kind, kibibytes: 256 }))));
  };
  await Promise.all(Array.from({ length: concurrency }, caller));
  // 120 MiB are more than one process may hold.
  expect(pids.size).toBeGreaterThan(1);
  expect(new Set(restarts)).toEqual(new Set(['memory']));
});

test('closing or writing to descriptor 3 hurts only the process that does it', async () => {
  for (const [name, said] of [
    ['closes-fd3', 'closed descriptor 3'],
    ['writes-fd3', 'wrote to descriptor 3'],
  ] as const) {
    const { call } = await startFixture(openPool, name);
    const outcome = await call({});
    expect(outcome, name).toMatchObject({ kind: 'crashed', fault: { code: 'Runtime.ExitError' } });
    expect(faultOf(outcome).message).toContain(said);
    expect((await call({})).kind, name).toBe('crashed');
  }
});

test('a process that makes more calls than its window, past the functions of atoll, is ended for it', async () => {
  let made = 0;
  const calls: Calls = {
    make() {
      made += 1;
      return new Promise(() => {});
    },
  };
  const { call } = await startFixture(openPool, 'writes-fd3', { calls });
  const outcome = await call({ calls: 2 * callWindow.calls });
  expect(outcome).toMatchObject({ kind: 'crashed', fault: { code: 'Runtime.ExitError' } });
  expect(faultOf(outcome).message).toContain('more calls came than may be made at a time');
  expect(made).toBe(callWindow.calls);
  // Those of an invocation that there is not come nowhere.
  const other = await call({ calls: 3, id: 4_000_000 });
  expect(other).toMatchObject({ kind: 'crashed' });
  expect(made).toBe(callWindow.calls);
});

test('a handler that breaks its own surroundings is stopped and started like any other', async () => {
  const { call, invoker } = await startFixture(openPool, 'changes-console', { timeoutMs: 1_000 });
  expect(returned(await call({}))).toBe('changed');
  expect(['threw', 'timedOut', 'crashed']).toContain((await call({})).kind);
  await invoker.drain(0);
});

test('a log line of 10 MB is cut, on console and on stdout alike, and the next lines arrive', async () => {
  const { call, record } = await startFixture(openPool, 'logs');
  await call({ big: 10_000_000, raw: 10_000_000 });
  const logged = await record(({ source, message }) => source === 'handler' && message.startsWith('xxx'));
  expect(logged.message).toHaveLength(65_536 + ' [9934464 more characters cut]'.length);
  const raw = await record(({ source, message }) => source === 'stdout' && message.startsWith('rrr'));
  expect(raw.message).toMatch(/^r{65536} \[9934464 more bytes cut\]$/);
  await record(({ source, message }) => source === 'stdout' && message === 'after');
});

test('bytes on stderr that are no text do no harm', async () => {
  const { call, record } = await startFixture(openPool, 'logs');
  const { report } = await call({ garbage: true });
  const line = await record(({ source, message }) => source === 'stderr' && message === 'hi');
  expect(line).toMatchObject({ level: 'WARN', requestId: report.requestId });
});

test('everything logged before process.exit arrives, however much', async () => {
  const { call, records } = await startFixture(openPool, 'logs');
  expect((await call({ flood: 20_000, exit: true })).kind).toBe('crashed');
  expect(records.filter(({ message }) => message.startsWith('line '))).toHaveLength(20_000);
});

test.for([
  [{}, ['INFO', 'WARN', 'ERROR']],
  [{ AWS_LAMBDA_LOG_LEVEL: 'WARN' }, ['WARN', 'ERROR']],
  [{ AWS_LAMBDA_LOG_LEVEL: 'TRACE' }, ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR']],
] as [Record<string, string>, string[]][])(
  'AWS_LAMBDA_LOG_LEVEL keeps lower levels back: %j',
  async ([env, levels]) => {
    const { call, records } = await startFixture(openPool, 'logs', { env });
    await call({ levels: true });
    const told = records.filter(({ source }) => source === 'handler');
    expect(told.map(({ level }) => level)).toEqual(levels);
  },
);

test('a line of JSON that is written straight to stdout or stderr becomes fields, unless its level is too low', async () => {
  const { call, record, records } = await startFixture(openPool, 'logs', {
    env: { AWS_LAMBDA_LOG_LEVEL: 'WARN' },
  });
  const { report } = await call({
    raw: 1,
    stdout: ['{"level":20,"msg":"too fine"}', '{"level":50,"time":1,"msg":"stuck","arm":{"joint":3}}'],
    stderr: ['{"level":"nonsense"}', '{"_aws":{"Timestamp":1},"asked":1}'],
  });
  const { requestId } = report;
  expect(await record(({ message }) => message === 'stuck')).toEqual({
    time: expect.stringMatching(/Z$/) as string,
    level: 'ERROR',
    message: 'stuck',
    msg: 'stuck',
    arm: { joint: 3 },
    _time: 1,
    namespace: 'default',
    function: 'door',
    requestId,
    source: 'stdout',
  });
  // Without a level that is known, the stream's.
  expect(await record((one) => one['_level'] === 'nonsense')).toMatchObject({ level: 'WARN', message: '' });
  const metric = await record((one) => '_aws' in one);
  expect(metric).toMatchObject({ level: 'WARN', message: '', _aws: { Timestamp: 1 }, asked: 1 });
  // What is no JSON has no level, so it is kept.
  await record(({ message }) => message === 'after');
  expect(records.filter(({ message }) => message === 'too fine')).toEqual([]);
});

test('megabytes go in and out whole, beside small ones', async () => {
  const { call } = await startFixture(openPool, 'echo', { concurrency: 16, memoryBytes: 512 * mebibyte });
  const text = 'ä1234567'.repeat(500_000);
  const outcomes = await Promise.all([call(text), call('small'), call(text), call([1])]);
  expect(outcomes.map((outcome) => JSON.stringify(returned(outcome)).length)).toEqual([
    4_000_002, 7, 4_000_002, 3,
  ]);
});

test('what does not fit into one invocation is refused, not sent', async () => {
  const { invoker } = await startFixture(openPool, 'ok');
  const events = [1, 2].map(() => eventOf(Buffer.alloc(8 * mebibyte)));
  const outcome = await invoker.invoke({ events, deadline: Date.now() + 5_000 });
  expect(outcome).toMatchObject({ kind: 'threw', retryable: false, fault: { code: 'TooLarge' } });
});

test.for([
  ['slow-import', 'Runtime.InitTimeout', 'longer than 200 ms'],
  ['spins-at-import', 'Runtime.InitTimeout', 'longer than 200 ms'],
  ['exits-at-import', 'Runtime.ExitError', 'exit code 5 while the module'],
] as const)('refuses to start %s: %s', async ([name, code, said]) => {
  const { invoker } = openFixture(openPool, name, { initTimeoutMs: 100, timeoutMs: 200 });
  await expect(invoker.start()).rejects.toMatchObject({
    code,
    message: expect.stringContaining(said) as string,
  });
  expect(invoker.state).toMatchObject({ ready: false, reason: code });
});

test('an import that takes longer than the init phase may take as long as an invocation, and the state says so', async () => {
  const { invoker, call } = openFixture(openPool, 'slow-import', {
    initTimeoutMs: 100,
    timeoutMs: 20_000,
    env: { IMPORT_MS: '1000' },
  });
  const states: InvokerState[] = [];
  invoker.onState((state) => states.push(state));
  // Who calls meanwhile waits for it.
  const early = call({});
  await invoker.start();
  expect(states).toEqual([
    {
      ready: false,
      reason: 'Starting',
      message:
        'importing the module of handler index.handler takes longer than 0.1 s; it may take 20 s, as an invocation may',
    },
    { ready: true, reason: 'Ready', message: '' },
  ]);
  expect(returned(await early)).toBe('late');
});

test('after a crash, callers of a function whose import hangs are told so at their deadline, and it is tried again', async () => {
  const flag = join(await temporaryFolder(), 'hang');
  const { invoker, call, records } = openFixture(openPool, 'slow-import', {
    timeoutMs: 1_000,
    initTimeoutMs: 100,
    env: { IMPORT_MS: '0', HANG_IF: flag },
  });
  await invoker.start();
  await writeFile(flag, '');
  expect(await call({ exit: true })).toMatchObject({ kind: 'crashed', suspects: 1 });
  const told = await call({});
  expect(told).toMatchObject({ kind: 'crashed', suspects: 0 });
  await vi.waitFor(() => expect(invoker.state).toMatchObject({ reason: 'Runtime.InitTimeout' }), 10_000);
  expect((await call({})).kind).toBe('crashed');
  await rm(flag);
  await vi.waitFor(() => expect(invoker.state.ready).toBe(true), 20_000);
  expect(returned(await call({}))).toBe('late');
  const waits = records.filter(({ message }) => message === 'handler process did not start');
  expect(waits.length).toBeGreaterThan(0);
});

test('an invocation that runs alone has its whole time, however long its process takes to start', async () => {
  const { call } = await startFixture(openPool, 'slow-import', { timeoutMs: 300, env: { IMPORT_MS: '600' } });
  expect(returned(await call({}, { alone: true }))).toBe('late');
});

test('processes that die idle again and again are restarted ever more slowly, and the state says why', async () => {
  const fixture = openFixture(openPool, 'dies-idle');
  const states: InvokerState[] = [];
  fixture.invoker.onState((state) => states.push(state));
  await fixture.invoker.start();
  const waits: number[] = [];
  for (let loop = 1; loop <= 3; loop++) {
    const isLoop = (record: { message: string }) => record.message === 'handler process ended while idle';
    await fixture.record((record) => isLoop(record) && !waits.includes(record['retryInMs'] as number));
    waits.splice(
      0,
      waits.length,
      ...fixture.records.filter(isLoop).map((record) => record['retryInMs'] as number),
    );
  }
  expect(waits[0]).toBeLessThanOrEqual(100);
  expect(waits[2]).toBeGreaterThanOrEqual(200);
  expect(states).toContainEqual({
    ready: false,
    reason: 'Runtime.ExitError',
    message: 'the handler process ended with exit code 9',
  });
});

test('processes that crash with their event one after another are started ever more slowly, until one ends well', async () => {
  const { call, records } = await startFixture(openPool, 'says-when-started');
  const waits = () =>
    records.flatMap(({ message, retryInMs }) =>
      message === 'handler processes crash one after another' ? [retryInMs as number] : [],
    );
  for (let n = 0; n < 6; n++) expect((await call({ exit: true })).kind).toBe('crashed');
  expect(returned(await call({}))).toHaveProperty('pid');
  const loop = waits();
  expect(loop).toHaveLength(5);
  // The first successor is not waited for; then from half of 100, 200, 400, 800, 1000 ms to the whole.
  for (const [index, wait] of loop.entries()) {
    const step = Math.min(1_000, 100 * 2 ** index);
    expect(wait).toBeGreaterThanOrEqual(step / 2);
    expect(wait).toBeLessThanOrEqual(step);
  }
  expect(new Set(loop.map((wait, index) => wait / Math.min(1_000, 100 * 2 ** index))).size).toBeGreaterThan(
    1,
  );
  const starts = records.flatMap(
    ({ message }) => /^started (\d+)$/.exec(message)?.slice(1).map(Number) ?? [],
  );
  expect(starts).toHaveLength(7);
  for (const [index, wait] of loop.entries()) {
    expect(starts[index + 2]! - starts[index + 1]!).toBeGreaterThanOrEqual(wait);
  }
  // It was well in between, so it begins anew.
  expect((await call({ exit: true })).kind).toBe('crashed');
  expect((await call({ exit: true })).kind).toBe('crashed');
  await call({});
  expect(waits()).toHaveLength(6);
  expect(waits()[5]).toBeLessThanOrEqual(100);
});

test('nothing lives after drain: a process that ignores SIGTERM, its children, a spare', async () => {
  const stubborn = await startFixture(openPool, 'ignores-sigterm', { spareProcesses: 1, processes: 2 });
  const forks = await startFixture(openPool, 'forks');
  await stubborn.call({});
  const child = pidOf(returned(await forks.call({ inherit: true })));
  const all = [child, ...handlerProcesses().map(({ pid }) => pid)];
  expect(all.length).toBeGreaterThanOrEqual(3);
  await Promise.all([stubborn, forks].map(({ invoker }) => invoker.drain(Date.now() + 5_000)));
  for (const pid of all) await gone(pid);
  expect(handlerProcesses()).toEqual([]);
});

test('what a process forked does not outlive its exit', async () => {
  const { call, record } = await startFixture(openPool, 'forks');
  expect((await call({ exit: true, inherit: true })).kind).toBe('crashed');
  await gone(pidOf(await record(({ source }) => source === 'handler')));
});

test('a process may tidy up at SIGTERM when it is drained', async () => {
  const { call, invoker, record } = await startFixture(openPool, 'tidies-up');
  await call({});
  await invoker.drain(Date.now() + 5_000);
  await record(({ message }) => message === 'tidied up');
});

test('drain while the first process is starting ends it', async () => {
  const { invoker } = openFixture(openPool, 'slow-import');
  const started = invoker.start();
  await invoker.drain(Date.now() + 5_000);
  await expect(started).rejects.toMatchObject({ code: 'Runtime.Drained' });
  expect(handlerProcesses()).toEqual([]);
});

test('an invocation that finds no process by its deadline is not blamed', async () => {
  const { call } = openFixture(openPool, 'ok', { timeoutMs: 50 });
  expect(await call({})).toMatchObject({
    kind: 'crashed',
    suspects: 0,
    fault: { code: 'Runtime.StartError' },
  });
});
