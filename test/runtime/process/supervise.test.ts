import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { identify, isSameProcess, killIfSame } from '../../../runtime/process/identity.ts';
import { maxLineBytes, readLines, readWholeLines } from '../../../runtime/process/lines.ts';
import {
  supervise,
  type SuperviseOptions,
  type Supervised,
  type SupervisedState,
} from '../../../runtime/process/supervise.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';

function shell(script: string, more: Partial<SuperviseOptions> = {}) {
  const states: SupervisedState[] = [];
  const lines: string[] = [];
  const supervised: Supervised = supervise({
    name: 'the child',
    command: 'sh',
    args: ['-c', script],
    minBackoffMs: 20,
    maxBackoffMs: 100,
    graceMs: 300,
    onState: (state) => states.push(state),
    onLine: (line, stream) => lines.push(`${stream}: ${line}`),
    ...more,
  });
  closeLater(() => supervised.stop());
  const waits = () => states.filter((state) => state.kind === 'waiting');
  return { supervised, states, lines, waits };
}
const up = {
  ready: (child: Parameters<NonNullable<SuperviseOptions['ready']>>[0]) => child.line((l) => l === 'up'),
};
const gone = (pid: number) => vi.waitFor(() => expect(identify(pid)).toBeUndefined(), { timeout: 60_000 });

test('a child is ready when it says so, and not before', async () => {
  const { supervised, states, lines } = shell('echo begun; sleep 0.1; echo up; sleep 60', up);
  expect(supervised.state.kind).toBe('starting');
  await supervised.started;
  expect(lines).toEqual(['stdout: begun', 'stdout: up']);
  expect(states.map(({ kind }) => kind)).toEqual(['starting', 'ready']);
  await supervised.ready();
});

test('a child that ends is started again, ever more slowly, and the reason has its last words', async () => {
  const { supervised, waits } = shell('echo up; echo "no disk" >&2; exit 3', up);
  await vi.waitFor(() => expect(waits().length).toBeGreaterThanOrEqual(4), { timeout: 60_000 });
  expect(waits()[0]).toMatchObject({ reason: 'ended with exit code 3\nno disk' });
  expect(waits()[0]!.delayMs).toBeLessThanOrEqual(20);
  expect(waits()[3]!.delayMs).toBeGreaterThanOrEqual(50);
  await supervised.stop();
});

test('a first start that fails rejects started with the reason; it is tried again all the same', async () => {
  const file = join(await temporaryFolder(), 'second');
  const { supervised } = shell(
    `if [ -e ${file} ]; then echo up; sleep 60; fi; touch ${file}; echo broken >&2; exit 1`,
    up,
  );
  await expect(supervised.started).rejects.toMatchObject({
    code: 'ProcessFailed',
    message: 'the child: ended with exit code 1\nbroken',
  });
  await supervised.ready();
});

test('a program that is not there is a failed start', async () => {
  const { supervised } = shell('', {
    command: '/no/such/program',
    args: [],
    ready: () => new Promise(() => {}),
  });
  await expect(supervised.started).rejects.toThrow(/the child: .*\/no\/such\/program/s);
});

test('a child that does not become ready in time is killed and started again', async () => {
  const { waits } = shell('sleep 60', { ...up, readyTimeoutMs: 100 });
  await vi.waitFor(() => expect(waits()[0]).toMatchObject({ reason: 'not ready after 100 ms' }), 5_000);
});

test('a probe that fails is the reason why a start failed', async () => {
  const { supervised } = shell('sleep 60', { ready: () => Promise.reject(new Error('port 4222 is silent')) });
  await expect(supervised.started).rejects.toThrow('the child: port 4222 is silent');
});

test('stop ends a child that ignores the signal when the grace is over, and what it forked', async () => {
  const { supervised, lines, states } = shell(
    'trap "" TERM; sleep 60 & echo $!; echo up; wait; sleep 60',
    up,
  );
  await supervised.started;
  const pids = [supervised.pid!, Number(lines[0]!.slice('stdout: '.length))];
  await supervised.stop();
  for (const pid of pids) await gone(pid);
  expect(states.at(-1)).toEqual({ kind: 'stopped' });
  expect(supervised.pid).toBeUndefined();
  await expect(supervised.ready()).rejects.toThrow('stopped');
});

test('stop while it waits to start again starts nothing more', async () => {
  const { supervised, waits, states } = shell('exit 1', {
    ...up,
    minBackoffMs: 10_000,
    maxBackoffMs: 10_000,
  });
  await vi.waitFor(() => expect(waits()).toHaveLength(1), 5_000);
  await Promise.all([supervised.stop(), supervised.stop()]);
  expect(states.at(-1)).toEqual({ kind: 'stopped' });
});

test('what a child forked does not outlive it, also when it holds its pipes open', async () => {
  const { lines, waits } = shell('sleep 60 & echo $!; exit 1');
  await vi.waitFor(() => expect(waits().length).toBeGreaterThanOrEqual(1), 5_000);
  await gone(Number(lines[0]!.slice('stdout: '.length)));
});

test('signal reaches the child', async () => {
  const { supervised, lines } = shell('trap "echo again" HUP; echo up; while :; do sleep 0.02; done', up);
  await supervised.started;
  expect(supervised.signal('SIGHUP')).toBe(true);
  await vi.waitFor(() => expect(lines).toContain('stdout: again'), 5_000);
  await supervised.stop();
  expect(supervised.signal('SIGHUP')).toBe(false);
});

test('a pid with another start time is another process, and is not killed', async () => {
  const child = spawn('sleep', ['60'], { detached: true });
  const exited = once(child, 'exit');
  const identity = identify(child.pid!)!;
  expect(isSameProcess(identity.pid, identity.startTime)).toBe(true);
  expect(killIfSame({ ...identity, startTime: '1' }, 'SIGKILL')).toBe(false);
  expect(identify(identity.pid)).toEqual(identity);
  expect(killIfSame(identity, 'SIGKILL', { group: true })).toBe(true);
  await exited;
  expect(identify(identity.pid)).toBeUndefined();
  expect(killIfSame(identity, 'SIGKILL')).toBe(false);
});

test('lines come out whole however they were cut; an endless one is cut, garbage is kept readable', async () => {
  const stream = new PassThrough();
  const lines: string[] = [];
  readLines(stream, (line) => lines.push(line));
  for (const piece of ['a', 'b\nc\r\n\n', Buffer.from([0xff, 10]), Buffer.from('ä').subarray(0, 1)])
    stream.write(piece);
  stream.write(Buffer.concat([Buffer.from('ä').subarray(1), Buffer.from('\n')]));
  for (let written = 0; written < 3; written++) stream.write('x'.repeat(maxLineBytes));
  stream.end('\nlast');
  await once(stream, 'end');
  expect(lines.map((line) => (line.length > 100 ? line.slice(maxLineBytes - 1) : line))).toEqual([
    'ab',
    'c',
    '',
    '\ufffd',
    'ä',
    `x [${2 * maxLineBytes} more bytes cut]`,
    'last',
  ]);
});

test('whole lines come as they are, as many as came together; a line over several pieces once it is whole', async () => {
  const stream = new PassThrough();
  const seen: string[] = [];
  readWholeLines(stream, (lines) => seen.push(lines.toString()), 8);
  for (const piece of ['a\nb\n', 'c', 'd', 'e\nf\ng', '\n', '12345', '67890\nh\n', 'last'])
    stream.write(piece);
  stream.end();
  await once(stream, 'end');
  expect(seen).toEqual(['a\nb\n', 'cde\n', 'f\n', 'g\n', '12345678\n', 'h\n', 'last\n']);
});
