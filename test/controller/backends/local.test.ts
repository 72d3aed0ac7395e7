import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { expect, test, vi } from 'vitest';
import type { Backend } from '../../../controller/backends/backend.ts';
import { openLocalBackend, type LocalBackend } from '../../../controller/backends/local.ts';
import { claimSite, openSiteFolder, sitePaths, type SitePaths } from '../../../controller/stores/site.ts';
import type { Key } from '../../../controller/stores/store.ts';
import { openLog } from '../../../runtime/log.ts';
import { identify } from '../../../runtime/process/identity.ts';
import { hello, isReady, testBackend, untilObserved, workload } from '../../contracts/backend.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });

async function open(dir?: string): Promise<{ backend: LocalBackend; paths: SitePaths }> {
  const paths = await openSiteFolder(dir ?? (await temporaryFolder()));
  const backend = await openLocalBackend({ paths, site: 'local', log });
  closeLater(() => backend.close());
  return { backend, paths };
}

async function ask(address: string, path: string, payload?: unknown) {
  const method = payload === undefined ? 'GET' : 'POST';
  const asked = request({ socketPath: address.replace(/^unix:/, ''), path, method, agent: false });
  asked.end(payload === undefined ? undefined : JSON.stringify(payload));
  const [response] = (await once(asked, 'response')) as [import('node:http').IncomingMessage];
  return { status: response.statusCode, headers: response.headers, body: await text(response) };
}

async function invoke(backend: Backend, key: Key, payload: unknown = null) {
  const address = backend.address(key);
  if (address === undefined) throw new Error('it listens nowhere');
  const { headers, body } = await ask(address, `/invoke/${key.namespace}/${key.name}`, payload);
  return { outcome: String(headers['atoll-outcome']), body: JSON.parse(body) as unknown };
}

testBackend({ open: async () => (await open()).backend, invoke });

const env = (...variables: object[]): object => ({ env: variables });
const printing = 'exports.handler = (event) => process.env[event] ?? "not set"';
const secret = (name: string, ref: object): object => ({ name, valueFrom: { secretKeyRef: ref } });
const token = secret('TOKEN', { name: 'robot', key: 'token' });

async function writeSecret(paths: SitePaths, value: string): Promise<string> {
  const file = paths.secretFile('default', 'robot', 'token');
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, value, { mode: 0o600 });
  return file;
}

const hostPid = async (paths: SitePaths): Promise<number> => {
  const marks = (await readdir(paths.run)).filter((entry) => /^\d+-\d+$/.test(entry));
  expect(marks).toHaveLength(1);
  return Number(marks[0]?.split('-')[0]);
};

test('all functions of the site run in one host, which is not restarted for the next one', async () => {
  const { backend, paths } = await open();
  await backend.ensure(workload());
  await untilObserved(backend, hello, isReady());
  const pid = await hostPid(paths);
  const keys = ['a', 'b', 'c', 'd'].map((name) => ({ namespace: 'lab', name }));
  for (const key of keys) await backend.ensure(workload({ key }));
  for (const key of keys) await untilObserved(backend, key, isReady());
  expect(await hostPid(paths)).toBe(pid);
  const addresses = new Set([hello, ...keys].map((key) => backend.address(key)));
  expect([...addresses]).toEqual([backend.hostAddress()]);
});

test('functions that are asked for before the host is up all come to run', async () => {
  const { backend } = await open();
  const keys = Array.from({ length: 5 }, (_, index) => ({ namespace: 'lab', name: `f${index}` }));
  // One per turn of the event loop: some before the host has read its file, some while it starts.
  for (const key of keys) {
    await backend.ensure(workload({ key }));
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  for (const key of keys) await untilObserved(backend, key, isReady());
});

test('a secret reaches the handler, and no file, argument or environment of the host has it', async () => {
  const { backend, paths } = await open();
  await writeSecret(paths, 'hunter2');
  const plain = { name: 'PLAIN', value: 'x' };
  await backend.ensure(workload({ code: printing, spec: env(plain, token) }));
  await untilObserved(backend, hello, isReady());
  expect((await invoke(backend, hello, 'PLAIN')).body).toBe('x');
  expect((await invoke(backend, hello, 'TOKEN')).body).toBe('hunter2');
  const config = join(paths.run, 'host.json');
  expect(await readFile(config, 'utf8')).not.toContain('hunter2');
  expect((await stat(config)).mode & 0o777).toBe(0o600);
  expect(JSON.stringify(await backend.observe(hello))).not.toContain('hunter2');
  const pid = await hostPid(paths);
  for (const what of ['environ', 'cmdline']) {
    expect(await readFile(`/proc/${pid}/${what}`, 'utf8')).not.toContain('hunter2');
  }
});

test('what our environment holds for others does not reach the host', async () => {
  process.env['AWS_SECRET_ACCESS_KEY'] = 'hunter2';
  closeLater(async () => void delete process.env['AWS_SECRET_ACCESS_KEY']);
  const { backend, paths } = await open();
  await backend.ensure(workload());
  await untilObserved(backend, hello, isReady());
  const environment = await readFile(`/proc/${await hostPid(paths)}/environ`, 'utf8');
  expect(environment).toContain('PATH=');
  expect(environment).not.toContain('hunter2');
});

test('a missing secret keeps only its own function from running, names the file, and is found when it comes', async () => {
  const { backend, paths } = await open();
  const other = { namespace: 'default', name: 'other' };
  await backend.ensure(workload({ code: printing, spec: env(token) }));
  await backend.ensure(workload({ key: other }));
  const observation = await untilObserved(backend, hello, (one) => one?.problem !== undefined);
  expect(observation).toMatchObject({ readyReplicas: 0, hosts: [] });
  expect(observation?.problem).toEqual({
    reason: 'SecretNotFound',
    message: expect.stringContaining(paths.secretFile('default', 'robot', 'token')) as string,
  });
  expect(backend.address(hello)).toBeUndefined();
  await untilObserved(backend, other, isReady());
  await writeSecret(paths, 'late');
  await untilObserved(backend, hello, isReady());
  expect((await invoke(backend, hello, 'TOKEN')).body).toBe('late');
});

test('a changed secret is taken up by new processes; what runs ends in the old one, an emptied one changes nothing', async () => {
  const { backend, paths } = await open();
  const file = await writeSecret(paths, 'first');
  const gate = join(await temporaryFolder(), 'gate');
  const code = `exports.handler = async (event) => {
    if (event) while (!require('node:fs').existsSync(event)) await new Promise((go) => setTimeout(go, 20));
    return process.env.TOKEN;
  }`;
  await backend.ensure(workload({ code, spec: { ...env(token), concurrency: 2 } }));
  await untilObserved(backend, hello, isReady());
  const slow = invoke(backend, hello, gate);
  await writeSecret(paths, 'second');
  const token2 = async () => (await invoke(backend, hello)).body;
  await vi.waitFor(async () => expect(await token2()).toBe('second'), { timeout: 60_000, interval: 100 });
  await writeFile(gate, '');
  expect(await slow).toEqual({ outcome: 'returned', body: 'first' });

  await writeFile(file, '');
  const problem = await untilObserved(backend, hello, (one) => one?.problem !== undefined);
  expect(problem?.problem).toMatchObject({ reason: 'SecretNotFound' });
  expect(await token2()).toBe('second');
});

test('a secret that is optional is taken up when it comes', async () => {
  const { backend, paths } = await open();
  const optional = secret('TOKEN', { name: 'robot', key: 'token', optional: true });
  await backend.ensure(workload({ code: printing, spec: env(optional) }));
  await untilObserved(backend, hello, isReady());
  expect((await invoke(backend, hello, 'TOKEN')).body).toBe('not set');
  await writeSecret(paths, 'late');
  await vi.waitFor(async () => expect((await invoke(backend, hello, 'TOKEN')).body).toBe('late'), {
    timeout: 20_000,
    interval: 100,
  });
});

test('logs of a deleted function are removed a week after their last line, those of others never', async () => {
  const dir = await temporaryFolder();
  const paths = await openSiteFolder(dir);
  const logs = { gone: 8, 'gone.1': 9, recent: 6, living: 8 };
  await mkdir(join(paths.logs, 'default'), { recursive: true });
  for (const [name, days] of Object.entries(logs)) {
    const file = join(paths.logs, 'default', `${name}.jsonl`);
    await writeFile(file, '{}\n');
    const time = Date.now() / 1000 - days * 86_400;
    await utimes(file, time, time);
  }
  const living = paths.functionFile({ namespace: 'default', name: 'living' });
  await mkdir(dirname(living), { recursive: true });
  await writeFile(living, '');
  await open(dir);
  await vi.waitFor(async () => {
    expect((await readdir(join(paths.logs, 'default'))).sort()).toEqual(['living.jsonl', 'recent.jsonl']);
  });
});

test('a new generation whose secret is missing leaves the old one answering', async () => {
  const { backend } = await open();
  await backend.ensure(workload({ code: printing }));
  await untilObserved(backend, hello, isReady());
  await backend.ensure(workload({ code: printing, generation: 2, spec: env(token) }));
  const observation = await untilObserved(backend, hello, (one) => one?.problem !== undefined);
  expect(observation?.hosts[0]).toMatchObject({ generation: 1, handler: { ready: true } });
  expect((await invoke(backend, hello, 'TOKEN')).body).toBe('not set');
});

test('what has no meaning on one machine is told', async () => {
  const { backend } = await open();
  const spec = { replicas: 3, placement: { everyNode: true }, pod: { labels: { a: 'b' } } };
  await backend.ensure(workload({ spec }));
  expect((await backend.observe(hello))?.ignored).toEqual([
    'replicas above 1 (3 asked for)',
    'placement',
    'pod',
  ]);
});

test('scaled to zero it does not run', async () => {
  const { backend } = await open();
  await backend.ensure(workload());
  await untilObserved(backend, hello, isReady());
  await backend.ensure(workload({ generation: 2, spec: { replicas: 0 } }));
  const observation = await untilObserved(backend, hello, (one) => one?.hosts.length === 0);
  expect(observation).toMatchObject({ replicas: 0, readyReplicas: 0 });
  expect(backend.address(hello)).toBeUndefined();
});

test('a host that is killed comes back with all functions, and while it is away the status says so', async () => {
  const { backend, paths } = await open();
  await backend.ensure(workload());
  await untilObserved(backend, hello, isReady());
  const killed = await hostPid(paths);
  const away = untilObserved(backend, hello, (one) => one?.problem !== undefined);
  process.kill(killed, 'SIGKILL');
  expect((await away)?.problem).toEqual({
    reason: 'HostUnavailable',
    message: expect.stringContaining('SIGKILL') as string,
  });
  await untilObserved(backend, hello, isReady());
  expect(await hostPid(paths)).not.toBe(killed);
  expect(await invoke(backend, hello, 1)).toMatchObject({ outcome: 'returned' });
});

test('a function that was deleted and made anew is another one for the host', async () => {
  const { backend } = await open();
  await backend.ensure(workload({ uid: 'one', code: 'exports.handler = () => 1' }));
  await untilObserved(backend, hello, isReady());
  await backend.ensure(workload({ uid: 'two', code: 'exports.handler = () => 2' }));
  await untilObserved(backend, hello, (one) => isReady()(one) && one?.hosts[0]?.uid === 'two');
  expect((await invoke(backend, hello)).body).toBe(2);
});

test('a folder too deep for a socket gets one elsewhere that only we can enter, and it goes at the end', async () => {
  const deep = join(await temporaryFolder(), 'd'.repeat(60), 'e'.repeat(60));
  const { backend } = await open(deep);
  await backend.ensure(workload());
  await untilObserved(backend, hello, isReady());
  const socket = backend.hostAddress()?.replace('unix:', '') ?? '';
  expect(Buffer.byteLength(socket)).toBeLessThanOrEqual(100);
  expect(socket.startsWith(tmpdir())).toBe(true);
  expect((await stat(dirname(socket))).mode & 0o777).toBe(0o700);
  await backend.close();
  expect(existsSync(dirname(socket))).toBe(false);
});

test('after a clean stop nothing runs and no mark is left', async () => {
  const { backend, paths } = await open();
  await backend.ensure(workload());
  await untilObserved(backend, hello, isReady());
  const pid = await hostPid(paths);
  await backend.close();
  expect(identify(pid)).toBeUndefined();
  expect((await readdir(paths.run)).filter((entry) => entry !== 'host.json')).toEqual([]);
});

test.each(['with', 'without'])(
  'after a kill -9 nothing is left when the next one starts, %s setpriv',
  async (how) => {
    const dir = await temporaryFolder();
    const bin = await temporaryFolder();
    // One that knows no --pdeathsig, as BusyBox has it.
    await writeFile(join(bin, 'setpriv'), '#!/bin/sh\nexit 1\n');
    await chmod(join(bin, 'setpriv'), 0o755);
    const path = how === 'with' ? process.env['PATH'] : `${bin}:${process.env['PATH']}`;
    const up = fork(join(import.meta.dirname, 'run-backend.ts'), [dir], {
      env: { ...process.env, PATH: path },
    });
    closeLater(async () => void up.kill('SIGKILL'));
    const [{ handlerPid }] = (await once(up, 'message')) as [{ handlerPid: number }];
    const paths = sitePaths(dir);
    const pid = await hostPid(paths);
    up.kill('SIGKILL');
    await once(up, 'exit');
    const site = await claimSite(dir, { log });
    expect(identify(pid)).toBeUndefined();
    // A handler process notices by the end of its socket that its host is gone.
    while (identify(handlerPid)) await new Promise((resolve) => setTimeout(resolve, 20));
    const { backend } = await open(dir);
    await backend.ensure(workload());
    await untilObserved(backend, hello, isReady());
    await site.release();
  },
);
