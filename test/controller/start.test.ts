import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { dirname } from 'node:path';
import { text } from 'node:stream/consumers';
import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { openLocalBackend, type LocalBackend } from '../../controller/backends/local.ts';
import { startController } from '../../controller/start.ts';
import { openDirectoryStore } from '../../controller/stores/directory.ts';
import { openSiteFolder, type SitePaths } from '../../controller/stores/site.ts';
import { keyText, type Key, type Store } from '../../controller/stores/store.ts';
import type { Condition, FunctionStatus } from '../../crds/function.ts';
import { openLog } from '../../runtime/log.ts';
import { manifest } from '../contracts/store.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const hello = { namespace: 'default', name: 'hello' };

interface Site {
  readonly store: Store;
  readonly backend: LocalBackend;
  readonly paths: SitePaths;
  stop(): Promise<void>;
}

/** A site as `faas up` composes it, without broker and gateway. */
async function up(dir?: string): Promise<Site> {
  const paths = await openSiteFolder(dir ?? (await temporaryFolder()));
  const store = await openDirectoryStore({ dir: paths.dir, log });
  const backend = await openLocalBackend({ paths, site: 'local', log });
  const controller = await startController({ store, backend, log });
  const stop = closeLater(async () => {
    await controller.stop();
    await backend.close();
  });
  return { store, backend, paths, stop };
}

/** The first status that fits; the file is read again whenever the store or the backend tells of a change. */
async function untilStatus(
  { paths }: Site,
  key: Key,
  fits: (status: FunctionStatus) => boolean,
): Promise<FunctionStatus> {
  const deadline = Date.now() + 25_000;
  for (;;) {
    const file = await readFile(paths.statusFile(key), 'utf8').catch(() => '{"status":{}}');
    const { status } = JSON.parse(file) as { status: FunctionStatus };
    if (fits(status)) return status;
    if (Date.now() > deadline)
      throw new Error(`${keyText(key)}: the last status was ${JSON.stringify(status)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const condition = (status: FunctionStatus, type: Condition['type']): Condition | undefined =>
  status.conditions?.find((one) => one.type === type);
const readyAt =
  (generation: number) =>
  (status: FunctionStatus): boolean =>
    condition(status, 'Ready')?.status === 'True' && status.observedGeneration === generation;

async function invoke({ backend }: Site, key: Key): Promise<unknown> {
  const socketPath = backend.address(key)?.replace('unix:', '');
  if (socketPath === undefined) throw new Error(`${keyText(key)} listens nowhere`);
  const path = `/invoke/${keyText(key)}`;
  const asked = request({ socketPath, path, method: 'POST', agent: false }).end('null');
  const [response] = (await once(asked, 'response')) as [import('node:http').IncomingMessage];
  return JSON.parse(await text(response));
}

const answering = (value: number): Record<string, unknown> => ({
  package: { inline: `exports.handler = () => ${value}` },
});

test('what is put answers, its status says so, and what is removed is gone', async () => {
  const site = await up();
  await site.store.put(manifest('hello', answering(1)));
  const status = await untilStatus(site, hello, readyAt(1));
  expect(status.packageSha256).toMatch(/^[0-9a-f]{64}$/);
  expect(status.history).toHaveLength(1);
  expect(await invoke(site, hello)).toBe(1);
  await site.store.remove(hello);
  while (await site.backend.observe(hello)) await new Promise((resolve) => setTimeout(resolve, 20));
  await expect(invoke(site, hello)).rejects.toThrow('nowhere');
});

test('a new version answers when the status says so, a broken one never does, and the way back is one put', async () => {
  const site = await up();
  await site.store.put(manifest('hello', answering(1)));
  await untilStatus(site, hello, readyAt(1));
  await site.store.put(manifest('hello', answering(2)));
  const second = await untilStatus(site, hello, readyAt(2));
  expect(await invoke(site, hello)).toBe(2);
  await site.store.put(manifest('hello', { package: { inline: 'syntax error here' } }));
  const broken = await untilStatus(
    site,
    hello,
    (status) => condition(status, 'Ready')?.reason === 'Runtime.UserCodeSyntaxError',
  );
  expect(condition(broken, 'Available')?.status).toBe('True');
  expect(condition(broken, 'Progressing')?.status).toBe('False');
  expect(broken.packageSha256).toBe(second.packageSha256);
  expect(broken.lastError?.code).toBe('Runtime.UserCodeSyntaxError');
  expect(await invoke(site, hello)).toBe(2);
  await site.store.put(manifest('hello', answering(1)));
  const back = await untilStatus(site, hello, readyAt(4));
  expect(back.lastError).toBeUndefined();
  expect(await invoke(site, hello)).toBe(1);
});

test('a file written into the folder by hand is deployed, and an edit that breaks it stops nothing', async () => {
  const site = await up();
  const file = site.paths.functionFile(hello);
  await mkdir(dirname(file), { recursive: true });
  const written = `apiVersion: atoll.dev/v1alpha1
kind: Function
metadata: { name: hello }
spec:
  package: { inline: "exports.handler = () => 1" }
`;
  await writeFile(file, written);
  await untilStatus(site, hello, readyAt(1));
  await writeFile(file, 'spec: [oops');
  const broken = await untilStatus(site, hello, (status) => condition(status, 'Ready')?.status === 'False');
  expect(condition(broken, 'Ready')).toMatchObject({
    reason: 'InvalidObject',
    message: expect.stringContaining('hello.yaml') as string,
  });
  expect(await invoke(site, hello)).toBe(1);
  await writeFile(file, written.replace('=> 1', '=> 2'));
  await untilStatus(site, hello, readyAt(2));
  expect(await invoke(site, hello)).toBe(2);
  await rm(file);
  while (await site.backend.observe(hello)) await new Promise((resolve) => setTimeout(resolve, 20));
});

test('started again with the same folder it brings every function back', async () => {
  const first = await up();
  const keys = ['a', 'b', 'c'].map((name) => ({ namespace: 'lab', name }));
  for (const { name, namespace } of keys) await first.store.put(manifest(name, answering(1), { namespace }));
  for (const key of keys) await untilStatus(first, key, readyAt(1));
  await first.stop();
  const second = await up(first.paths.dir);
  // What the first run wrote into the status is no news of the second.
  for (const key of keys) {
    expect(await untilStatus(second, key, () => true)).toMatchObject({ readyReplicas: 0 });
  }
  const began = Date.now();
  for (const key of keys) {
    await untilStatus(second, key, readyAt(1));
  }
  expect(Date.now() - began).toBeLessThan(20_000);
  for (const key of keys) expect(await invoke(second, key)).toBe(1);
});

test('of two that want one path the older has it; when it goes the younger gets it', async () => {
  const site = await up();
  const serving = (value: number): Record<string, unknown> => ({
    ...answering(value),
    triggers: [{ name: 'web', http: { path: '/x' } }],
  });
  const other = { namespace: 'default', name: 'earlier-by-name' };
  await site.store.put(manifest('hello', serving(1)));
  await untilStatus(site, hello, readyAt(1));
  await site.store.put(manifest(other.name, serving(2)));
  const lost = await untilStatus(
    site,
    other,
    (status) => condition(status, 'Ready')?.reason === 'RouteTaken',
  );
  expect(lost.triggers?.[0]).toMatchObject({ name: 'web', ready: false, reason: 'RouteTaken' });
  expect(lost.triggers?.[0]?.message).toContain('default/hello');
  expect(condition(lost, 'Available')?.status).toBe('True');
  await site.store.remove(hello);
  await untilStatus(site, other, readyAt(1));
});

test('a Function without a package says what to do', async () => {
  const site = await up();
  await site.store.put(JSON.parse(JSON.stringify(manifest('hello', { package: undefined }))));
  const status = await untilStatus(site, hello, ({ conditions }) => conditions !== undefined);
  expect(condition(status, 'PackageReady')).toMatchObject({
    status: 'False',
    reason: 'NoPackage',
    message: expect.stringContaining('faas deploy') as string,
  });
});

test('when all is well nothing is written any more', async () => {
  const site = await up();
  await site.store.put(manifest('hello', answering(1)));
  await untilStatus(site, hello, readyAt(1));
  const before = await readFile(site.paths.statusFile(hello), 'utf8');
  const yaml = await readFile(site.paths.functionFile(hello), 'utf8');
  // Another function comes up meanwhile: plenty of changes for the engine to hear.
  const other = { namespace: 'lab', name: 'other' };
  await site.store.put(manifest('other', answering(2), { namespace: 'lab' }));
  await untilStatus(site, other, readyAt(1));
  expect(await readFile(site.paths.statusFile(hello), 'utf8')).toBe(before);
  expect(await readFile(site.paths.functionFile(hello), 'utf8')).toBe(yaml);
});
