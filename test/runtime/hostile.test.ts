/**
 * Hostile and clumsy handlers in a whole host, one after another: what a caller is answered, what the log and the
 * metrics say, what becomes of an event, and a neighbour in the same host that must not notice.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { openNats } from '../../runtime/clients/nats.ts';
import { openDeadLetters, type DeadLetters } from '../../runtime/dead-letters.ts';
import { openLog, type LogRecord } from '../../runtime/log.ts';
import { identify } from '../../runtime/process/identity.ts';
import { handlers } from '../contracts/invoker.ts';
import { openJournal, type Journal } from '../e2e/journal.ts';
import { until } from '../e2e/site.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import { functionConfig, startedHost, type StartedHost } from './started-host.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 60_000 });

interface Case {
  /** Ends the sentence "a handler that …". */
  readonly that: string;
  /** A folder of test/handlers. */
  readonly fixture: string;
  readonly event?: object;
  readonly spec?: object;
  readonly outcome: 'returned' | 'threw' | 'timedOut' | 'crashed';
  /** Code and a part of the message; what was returned, where it returns. */
  readonly answer: { readonly code: string; readonly message: string } | { readonly returns: unknown };
  /** Of a record that the log has because of it; besides its report. */
  readonly logs?: (record: LogRecord) => boolean;
  /** Of `atoll_process_restarts_total`. */
  readonly restarts?: 'timeout' | 'crash' | 'memory';
  /** What the same event from a stream is dead-lettered as, with one attempt. */
  readonly dead?: 'RetriesExhausted' | 'Refused';
  /** What is to be gone when the function is removed. */
  readonly leaves?: (answer: unknown, logs: readonly LogRecord[]) => number;
}

const said =
  (text: string | RegExp, source: LogRecord['source'] = 'handler') =>
  (record: LogRecord): boolean =>
    record.source === source &&
    (typeof text === 'string' ? record.message === text : text.test(record.message));
const pidOf = (answer: unknown): number => (answer as { pid: number }).pid;

const timedOut = {
  outcome: 'timedOut',
  answer: { code: 'Sandbox.Timedout', message: 'Task timed out after 1.00 seconds' },
  spec: { timeoutSeconds: 1 },
  restarts: 'timeout',
  dead: 'RetriesExhausted',
} as const;
const threw = { outcome: 'threw', dead: 'RetriesExhausted' } as const;
const crashed = { outcome: 'crashed', restarts: 'crash', dead: 'RetriesExhausted' } as const;
const refused = { fixture: 'returns', outcome: 'threw', dead: 'Refused' } as const;
const outOfMemory = {
  ...crashed,
  spec: { memory: '64Mi' },
  answer: { code: 'Runtime.OutOfMemory', message: '64 MiB' },
  restarts: 'memory',
} as const;
const printed = { fixture: 'logs', outcome: 'returned', answer: { returns: 'logged' } } as const;

const cases: readonly Case[] = [
  {
    that: 'throws a non-Error',
    fixture: 'throws',
    event: { what: 'string' },
    ...threw,
    answer: { code: 'string', message: 'just words' },
  },
  {
    that: 'rejects late',
    fixture: 'throws',
    event: { what: 'late' },
    ...threw,
    answer: { code: 'DoorError', message: 'the door is closed' },
  },
  { that: 'never returns', fixture: 'never-returns', ...timedOut },
  { that: 'spins', fixture: 'spins', ...timedOut, logs: said('about to spin') },
  {
    that: 'exits with 0',
    fixture: 'exits',
    event: { code: 0 },
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'exit code 0' },
    logs: said('said before the exit'),
  },
  {
    that: 'exits with 1',
    fixture: 'exits',
    event: { code: 1 },
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'exit code 1' },
    logs: said('said before the exit'),
  },
  {
    that: 'aborts',
    fixture: 'aborts',
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'SIGABRT' },
  },
  {
    that: 'crashes in native code',
    fixture: 'segfaults',
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'SIGSEGV' },
  },
  { that: 'fills the heap with objects', fixture: 'heap', ...outOfMemory },
  { that: 'fills the heap with one growing array', fixture: 'heap', event: { array: true }, ...outOfMemory },
  {
    that: 'keeps Buffers far over its memory',
    fixture: 'buffers',
    event: { mebibytes: 256, hold: 20_000 },
    ...outOfMemory,
  },
  {
    that: 'leaves a rejection unhandled while it runs',
    fixture: 'unhandled',
    ...crashed,
    answer: { code: 'Runtime.UnhandledPromiseRejection', message: 'nobody looked' },
  },
  {
    that: 'leaves a rejection unhandled after it returned',
    fixture: 'unhandled',
    event: { later: true },
    outcome: 'returned',
    answer: { returns: 'returned before' },
    logs: ({ message, errorType }) =>
      message === 'handler process ended while idle' && errorType === 'Runtime.UnhandledPromiseRejection',
    restarts: 'crash',
  },
  {
    that: 'prints a line of 10 MB',
    event: { big: 10_000_000, raw: 10_000_000 },
    ...printed,
    logs: said(/^r{65536} \[9934464 more bytes cut\]$/, 'stdout'),
  },
  { that: 'prints 100,000 lines', event: { flood: 100_000 }, ...printed, logs: said(/^line 99999 y/) },
  { that: 'prints binary garbage', event: { garbage: true }, ...printed, logs: said('hi', 'stderr') },
  {
    that: 'returns a BigInt',
    event: { what: 'bigint' },
    ...refused,
    answer: { code: 'Runtime.InvalidResponse', message: 'BigInt' },
  },
  {
    that: 'returns a circular object',
    event: { what: 'circular' },
    ...refused,
    answer: { code: 'Runtime.InvalidResponse', message: 'circular' },
  },
  {
    that: 'returns 20 MB',
    event: { what: 'big' },
    ...refused,
    answer: { code: 'Runtime.InvalidResponse', message: '20971522 bytes' },
  },
  {
    that: 'returns undefined',
    fixture: 'returns',
    event: { what: 'undefined' },
    outcome: 'returned',
    answer: { returns: null },
  },
  {
    that: 'writes to the descriptor of the channel',
    fixture: 'writes-fd3',
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'wrote to descriptor 3' },
  },
  {
    that: 'closes the descriptor of the channel',
    fixture: 'closes-fd3',
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'closed descriptor 3' },
  },
  {
    that: 'forks a child and returns',
    fixture: 'forks',
    event: { inherit: true },
    outcome: 'returned',
    answer: { returns: { pid: expect.any(Number) as number } },
    leaves: pidOf,
  },
  {
    that: 'forks a child and exits',
    fixture: 'forks',
    event: { inherit: true, exit: true },
    ...crashed,
    answer: { code: 'Runtime.ExitError', message: 'exit code 1' },
    leaves: (_answer, logs) => pidOf(logs.find((record) => 'pid' in record)),
  },
  {
    that: 'ignores SIGTERM',
    fixture: 'ignores-sigterm',
    outcome: 'returned',
    answer: { returns: { pid: expect.any(Number) as number } },
    leaves: pidOf,
  },
  {
    that: 'changes environment, folder and globals',
    fixture: 'changes-surroundings',
    outcome: 'returned',
    answer: { returns: 'changed' },
  },
  {
    that: 'keeps timers alive',
    fixture: 'keeps-timers',
    outcome: 'returned',
    answer: { returns: { pid: expect.any(Number) as number } },
    logs: said('said after the return'),
    leaves: pidOf,
  },
];

const codeOf = (fixture: string): string => readFileSync(join(handlers, fixture, 'index.mjs'), 'utf8');
const configOf = ({ fixture, spec }: Pick<Case, 'fixture' | 'spec'>, name: string) =>
  functionConfig(name, codeOf(fixture), {
    spec: {
      retry: { maxAttempts: 1 },
      triggers: [
        { name: 'in', jetstream: { stream: 'HOSTILE', subject: `hostile.${name}`, startAt: 'All' } },
      ],
      env: addon === undefined ? [] : [{ name: 'ADDON', value: addon }],
      ...spec,
    },
  });

let nats: NatsServer;
let host: StartedHost;
let dead: DeadLetters;
let addon: string | undefined;
let stream: ReturnType<typeof jetstream>;
let neighbour: ReturnType<typeof startNeighbour>;
let journal: Journal<{ n: number }>;
/** Takes 20 s to import, all the while; with more than that as its timeout it would be let. */
const slow = () => configOf({ fixture: 'slow-import', spec: { timeoutSeconds: 3 } }, 'slow');

const neighbourConfig = () =>
  functionConfig(
    'neighbour',
    `const { appendFileSync } = require('node:fs');
     exports.handler = async ({ n, stored }) => {
       if (stored) appendFileSync(${JSON.stringify(journal.path)}, JSON.stringify({ n }) + '\\n');
       const { polluted } = {};
       return { n, pid: process.pid, folder: process.cwd(), title: process.title, polluted, changed: process.env.CHANGED };
     };`,
    {
      spec: {
        triggers: [
          { name: 'in', jetstream: { stream: 'HOSTILE', subject: 'hostile.neighbour', startAt: 'All' } },
        ],
      },
    },
  );

/** Calls it, and gives it events, until told to stop. */
function startNeighbour() {
  const answers = new Set<string>();
  const wrong: string[] = [];
  let n = 0;
  let going = true;
  async function calls(): Promise<void> {
    for (; going; n++) {
      try {
        await stream.publish('hostile.neighbour', JSON.stringify({ n, stored: true }));
        const { n: answered, ...rest } = (await host.invoke('neighbour', { n })) as { n: number };
        answers.add(JSON.stringify(rest));
        if (answered !== n) wrong.push(`${n}: ${answered}`);
      } catch (error) {
        wrong.push(`${n}: ${String(error)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  const done = calls();
  return {
    wrong,
    answers,
    async stop() {
      going = false;
      await done;
      return n;
    },
  };
}

beforeAll(async () => {
  nats = await startNats();
  const client = await nats.connect();
  await (await jetstreamManager(client)).streams.add({ name: 'HOSTILE', subjects: ['hostile.>'] });
  stream = jetstream(client);
  const log = openLog({ level: 'silent' });
  const link = openNats({ url: nats.url }, { name: 'test', site: 'local', log });
  closeLater(() => link.close());
  await link.connection();
  dead = openDeadLetters(link, { site: 'local', log });
  journal = await openJournal();
  addon = await nativeAddon();
  const config = neighbourConfig();
  host = await startedHost([config, slow()], { nats: { url: nats.url } });
  await host.untilReady(config);
  neighbour = startNeighbour();
});
afterAll(() => neighbour.stop().then(() => undefined));

/** No headers of Node are needed for one that never gets as far as to register itself. */
async function nativeAddon(): Promise<string | undefined> {
  const folder = await temporaryFolder();
  const source = join(folder, 'addon.c');
  const target = join(folder, 'addon.node');
  await writeFile(
    source,
    '__attribute__((constructor)) static void load(void) { *(volatile int *)0 = 1; }\n',
  );
  const { status } = spawnSync('cc', ['-shared', '-fPIC', '-o', target, source], { stdio: 'ignore' });
  return status === 0 ? target : undefined;
}

async function metrics(name: string): Promise<string[]> {
  const { body } = await host.ask('/metrics');
  return body.split('\n').filter((line) => line.includes(`function="${name}"`));
}

test.each(cases.map((one, index) => [one.that, `case-${index}`, one] as const))(
  'a handler that %s',
  async (_that, name, one) => {
    const { event = {}, outcome, answer, logs, restarts, leaves } = one;
    const config = configOf(one, name);
    await host.reload([neighbourConfig(), slow(), config]);
    await host.untilReady(config);

    const { headers, body } = await host.ask(`/invoke/default/${name}`, event);
    const got = JSON.parse(body) as { errorType?: string; errorMessage?: string };
    const expected =
      'returns' in answer
        ? answer.returns
        : expect.objectContaining({
            errorType: answer.code,
            errorMessage: expect.stringContaining(answer.message) as string,
          });
    expect({ outcome: headers['atoll-outcome'], body: got }).toEqual({ outcome, body: expected });
    if (logs) await host.untilLogged((record) => record.function === name && logs(record));
    const code = 'code' in answer ? { errorType: answer.code } : {};
    const report = await host.untilLogged(
      (record) => record.function === name && record.source === 'report' && record['trigger'] === 'invoke',
    );
    expect(report).toMatchObject({ outcome, requestId: headers['atoll-request-id'], ...code });

    // The same as an event that nobody waits for.
    const { seq } = await stream.publish(`hostile.${name}`, JSON.stringify(event));
    const count = (trigger: string) =>
      `atoll_invocations_total{namespace="default",function="${name}",trigger="${trigger}",outcome="${outcome}"} 1`;
    const counted = await until('the event has ended', async () => {
      const lines = await metrics(name);
      return lines.includes(count('in')) ? lines : undefined;
    });
    expect(counted).toContain(count('invoke'));
    const restarted = await metrics(name);
    const reasons = restarted.filter((line) => line.startsWith('atoll_process_restarts_total'));
    expect(reasons.join()).toMatch(restarts ? new RegExp(`^[^\n]*reason="${restarts}"} [12]$`) : /^$/);
    const ref = { namespace: 'default', name };
    if (one.dead) {
      const [letter] = await until('it is a dead letter', async () => {
        const letters = await dead.list(ref);
        return letters.length > 0 ? letters : undefined;
      });
      expect(letter).toMatchObject({ id: `HOSTILE:${seq}`, reason: one.dead, attempts: 1 });
      expect(letter!.fault.code).toBe('code' in answer && answer.code);
    }
    const ownLogs = host.logs.filter((record) => record.function === name);
    const left = leaves?.(got, ownLogs);
    await host.reload([neighbourConfig(), slow()]);
    if (left !== undefined) await vi.waitFor(() => expect(identify(left)).toBeUndefined(), 20_000);
    if (!one.dead) expect(await dead.list(ref)).toEqual([]);
    expect(neighbour.wrong).toEqual([]);
  },
);

test('a handler module that throws at import is never called, and its events wait in their stream', async () => {
  const config = configOf({ fixture: 'throws-at-import' }, 'throws');
  await stream.publish('hostile.throws', '{}');
  await host.reload([neighbourConfig(), slow(), config]);
  const record = await host.untilLogged(
    ({ function: name, message }) => name === 'throws' && message === 'handler process did not start',
  );
  expect(record).toMatchObject({ level: 'ERROR', errorType: 'Runtime.InitError' });
  expect(record['errorMessage']).toContain('RangeError: no database');
  expect(await statusOf('throws')).toMatchObject({ ready: false, reason: 'Runtime.InitError' });
  expect(await dead.list({ namespace: 'default', name: 'throws' })).toEqual([]);
  const mended = functionConfig('throws', "exports.handler = async () => 'mended'", {
    generation: 2,
    spec: { triggers: config.spec.triggers },
  });
  await host.reload([neighbourConfig(), slow(), mended]);
  await host.untilLogged(
    ({ function: name, source, outcome, trigger }) =>
      name === 'throws' && source === 'report' && outcome === 'returned' && trigger === 'in',
  );
});

test('a handler module that takes 20 s to import is given up after 10, and told', async () => {
  const record = await host.untilLogged(
    ({ function: name, message }) => name === 'slow' && message === 'handler process did not start',
  );
  expect(record).toMatchObject({ errorType: 'Runtime.InitTimeout' });
  expect(record['errorMessage']).toContain('longer than 10000 ms');
});

test('all the while the neighbour answered every call, and got every event once', async () => {
  const published = await neighbour.stop();
  expect(neighbour.wrong).toEqual([]);
  // One process, in surroundings that nobody changed.
  expect([...neighbour.answers]).toHaveLength(1);
  expect([...neighbour.answers][0]).not.toContain('polluted');
  expect([...neighbour.answers][0]).not.toContain('changed');
  const handled = () => journal.read().map(({ n }) => n);
  await until('every event was handled', () => new Set(handled()).size === published || undefined);
  expect(handled()).toHaveLength(published);
  expect(await dead.list({ namespace: 'default', name: 'neighbour' })).toEqual([]);
});

/** What the host says of the function's handler now. */
async function statusOf(name: string): Promise<unknown> {
  for await (const line of await host.watch()) {
    if ('function' in line && line.function.name === name) return line.function.handler;
  }
  throw new Error(`the host knows no ${name}`);
}
