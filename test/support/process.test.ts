import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startTimeOf } from '../../tools/owner.ts';
import { temporaryFolder } from './folder.ts';
import { startNats } from './nats.ts';
import { freePort } from './ports.ts';
import { startProcess } from './process.ts';
import { startServer } from './server.ts';

const node = process.execPath;
const support = new URL('process.ts', import.meta.url).href;
// Not kill(pid, 0): a killed orphan may wait for ever to be collected where process 1 is no init.
const alive = (pid: number): boolean => startTimeOf(pid) !== undefined;

test('a line is found, whether it was written before or is written later', async () => {
  const child = await startProcess(node, [
    '-e',
    "console.log('now'); setTimeout(() => console.log('later'), 50)",
  ]);
  expect(await child.line(/now/)).toBe('now');
  expect(await child.line(/later/)).toBe('later');
  expect(await child.line(/now/)).toBe('now');
});

test('waiting for a process that ends tells how it ended and what it wrote', async () => {
  const child = await startProcess(node, ['-e', "console.error('no such island'); process.exit(3)"]);
  await expect(child.line(/ready/)).rejects.toThrow(/exit code 3[^]*no such island/);
});

test('waiting in vain ends and tells what was written instead', async () => {
  const child = await startProcess(node, ['-e', "console.log('almost'); setInterval(() => {}, 1000)"]);
  await child.line(/almost/);
  await expect(child.line(/ready/, 50)).rejects.toThrow(/still running[^]*almost/);
});

test('a program that does not exist is said', async () => {
  await expect(startProcess('no-such-program')).rejects.toThrow('no-such-program could not be started');
});

test('a process that ignores SIGTERM is killed after its grace', async () => {
  const script = "process.on('SIGTERM', () => {}); console.log('up'); setInterval(() => {}, 1000)";
  const child = await startProcess(node, ['-e', script], { graceMs: 100 });
  await child.line(/up/);
  expect(await child.stop()).toEqual({ code: null, signal: 'SIGKILL' });
});

test('what a process started is stopped with it', async () => {
  const child = await startProcess('sh', ['-c', 'sleep 1000 & echo grandchild $!; wait']);
  const grandchild = Number((await child.line(/grandchild/)).split(' ')[1]);
  await child.stop();
  await expect.poll(() => alive(grandchild)).toBe(false);
});

test.skipIf(process.platform !== 'linux')('a process does not outlive one that was killed', async () => {
  const script = `
    const { startProcess } = await import('${support}');
    const child = await startProcess('sleep', ['1000']);
    console.log('child', child.pid);`;
  const env = { ...process.env, VITEST: undefined };
  const parent = await startProcess(node, ['--input-type=module', '-e', script], { env });
  const child = Number((await parent.line(/child/)).split(' ')[1]);
  // Until then it is setpriv, which has not yet asked the kernel to be killed with its parent.
  await expect.poll(() => readFileSync(`/proc/${child}/comm`, 'utf8').trim()).toBe('sleep');
  process.kill(parent.pid, 'SIGKILL');
  await expect.poll(() => alive(child)).toBe(false);
});

test('what a test worker started goes when the runner that it reports to is gone', async () => {
  const script = `
    const { startProcess } = await import('${support}');
    const child = await startProcess('sleep', ['1000']);
    process.send(child.pid);`;
  const worker = spawn(node, ['--input-type=module', '-e', script], {
    env: { ...process.env, VITEST: undefined },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const [child] = (await once(worker, 'message')) as [number];
  expect(alive(child)).toBe(true);
  worker.disconnect();
  await once(worker, 'exit');
  await expect.poll(() => alive(child)).toBe(false);
});

let fromThePreviousTest = 0;
test('a server that a test starts …', async () => {
  fromThePreviousTest = (await startNats({ jetstream: false })).pid;
  expect(alive(fromThePreviousTest)).toBe(true);
});
test('… is gone in the next test', () => {
  expect(alive(fromThePreviousTest)).toBe(false);
});

test('a server that lost the race for its port is started on another', async () => {
  const occupied = await freePort();
  const occupant = createServer().listen(occupied, '127.0.0.1');
  await once(occupant, 'listening');
  const free = await freePort();
  const candidates = [occupied, free];
  const server = await startServer<number>({
    name: 'listener',
    choosePorts: async () => candidates.shift() ?? 0,
    prepare: async (port) => {
      const script = `require('net').createServer().listen(${port}, '127.0.0.1', () => console.log('ready'))`;
      return { command: node, args: ['-e', script] };
    },
    ready: async (child) => void (await child.line(/^ready$/)),
  });
  expect(server.ports).toBe(free);
  occupant.close();
});

let folder = '';
test('a temporary folder that a test filled …', async () => {
  folder = await temporaryFolder();
  await writeFile(join(folder, 'file'), 'content');
});
test('… is gone in the next test', () => {
  expect(existsSync(folder)).toBe(false);
});
