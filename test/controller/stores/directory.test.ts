import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openDirectoryStore } from '../../../controller/stores/directory.ts';
import { sitePaths } from '../../../controller/stores/site.ts';
import { UnreadableObjectError, type Store } from '../../../controller/stores/store.ts';
import { manifest, testStore, told } from '../../contracts/store.ts';
import { temporaryFolder } from '../../support/folder.ts';

testStore({ open: async () => openDirectoryStore({ dir: await temporaryFolder() }) });

const hello = { namespace: 'default', name: 'hello' };
const byHand = `# my first function
apiVersion: atoll.dev/v1alpha1
kind: Function
metadata:
  name: hello # as the folder is called
spec:
  package: { inline: "exports.handler = () => 1" }
`;

async function opened(): Promise<{ store: Store; dir: string; file: string }> {
  const dir = await temporaryFolder();
  const store = await openDirectoryStore({ dir });
  return { store, dir, file: sitePaths(dir).functionFile(hello) };
}

async function writeByHand(file: string, text: string): Promise<void> {
  await mkdir(join(file, '..'), { recursive: true });
  await writeFile(file, text);
}

test('only the owner can read what is stored', async () => {
  const { store, dir, file } = await opened();
  await store.put(manifest('hello'));
  await store.writeStatus(hello, { replicas: 1 });
  const mode = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8);
  expect(await mode(file)).toBe('600');
  expect(await mode(sitePaths(dir).statusFile(hello))).toBe('600');
  for (const folder of ['functions', 'functions/default', 'status', 'status/default', 'run']) {
    expect([folder, await mode(join(dir, folder))]).toEqual([folder, '700']);
  }
});

test('a status leaves the resourceVersion as it was', async () => {
  const { store } = await opened();
  const { metadata } = await store.put(manifest('hello'));
  await store.writeStatus(hello, { replicas: 1 });
  expect((await store.get(hello))?.metadata).toEqual(metadata);
});

test('a file written by hand becomes a Function, and its comments stay', async () => {
  const { store, file } = await opened();
  await writeByHand(file, byHand);
  const object = await store.get(hello);
  expect(object?.metadata).toMatchObject({ ...hello, generation: 1 });
  expect(object?.metadata.uid).toMatch(/^[0-9a-f-]{36}$/);
  const text = await readFile(file, 'utf8');
  expect(text).toMatch(/# my first function/);
  expect(text).toMatch(/# as the folder is called/);
  expect(text).toContain(`uid: ${object?.metadata.uid}`);
  expect(await store.get(hello)).toEqual(object);
  expect(await readFile(file, 'utf8')).toBe(text);
});

test('an edit by hand is a new generation of the same Function', async () => {
  const { store, file } = await opened();
  const before = await store.put(manifest('hello'));
  const edited = (await readFile(file, 'utf8')).replace('timeoutSeconds: 30', 'timeoutSeconds: 7');
  await writeFile(file, edited);
  const after = await store.get(hello);
  expect(after?.spec.timeoutSeconds).toBe(7);
  expect(after?.metadata.generation).toBe(2);
  expect(after?.metadata.uid).toBe(before.metadata.uid);
  expect(after?.metadata.resourceVersion).not.toBe(before.metadata.resourceVersion);
});

test('an editor that saves an old buffer without uid does not make a new Function of it', async () => {
  const { store, file } = await opened();
  await writeByHand(file, byHand);
  const before = await store.get(hello);
  await store.writeStatus(hello, { replicas: 1 });
  await writeFile(file, byHand.replace('=> 1', '=> 2'));
  const after = await store.get(hello);
  expect(after?.metadata.uid).toBe(before?.metadata.uid);
  expect(after?.metadata.generation).toBe(2);
  expect(after?.status).toEqual({ replicas: 1 });
});

test.each([
  ['not YAML at all', 'spec: [', /function|YAML|hello\.yaml/i],
  ['an unknown field', byHand.replace('spec:', 'spec:\n  timeout: 3'), /timeout/],
  ['another name', byHand.replace('name: hello', 'name: other'), /"other".*hello\.yaml/],
  ['another namespace', byHand.replace('name: hello', 'namespace: lab\n  name: hello'), /"lab".*default/],
  ['two Functions', `${byHand}---\n${byHand.replace('name: hello', 'name: two')}`, /2 Functions/],
  ['nothing', '', /no document/],
])(
  'a file that holds %s is told as unreadable, with the file and what is wrong',
  async (_what, text, wrong) => {
    const { store, file } = await opened();
    await store.put(manifest('hello'));
    await store.writeStatus(hello, { replicas: 1 });
    await writeFile(file, text);
    const error = await store.get(hello).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnreadableObjectError);
    expect(error).toMatchObject({ code: 'InvalidObject', key: hello, status: { replicas: 1 } });
    expect((error as Error).message).toMatch(wrong);
    expect((error as Error).message).toContain(file);
  },
);

test('one unreadable file takes no other away from the list, and not itself while its last form is known', async () => {
  const { store, dir, file } = await opened();
  await store.put(manifest('hello'));
  await store.put(manifest('other'));
  await store.list();
  await writeFile(file, 'spec: [');
  const names = async (from: Store): Promise<string[]> =>
    (await from.list()).map(({ metadata }) => metadata.name);
  expect(await names(store)).toEqual(['hello', 'other']);
  expect(await names(await openDirectoryStore({ dir }))).toEqual(['other']);
  expect((await store.keys()).map(({ name }) => name)).toEqual(['hello', 'other']);
});

test('what is no file at all takes no other away from the list', async () => {
  const { store, dir, file } = await opened();
  await store.put(manifest('other'));
  await mkdir(file);
  await symlink('loop.yaml', join(dir, 'functions', 'default', 'loop.yaml'));
  expect((await store.list()).map(({ metadata }) => metadata.name)).toEqual(['other']);
  await expect(store.get(hello)).rejects.toBeInstanceOf(UnreadableObjectError);
  await expect(store.get({ ...hello, name: 'loop' })).rejects.toBeInstanceOf(UnreadableObjectError);
});

test('put repairs an unreadable file, and it stays the same Function', async () => {
  const { store, file } = await opened();
  const before = await store.put(manifest('hello'));
  await store.writeStatus(hello, { replicas: 1 });
  await writeFile(file, 'spec: [');
  const after = await store.put(manifest('hello', { timeoutSeconds: 5 }));
  expect(after.metadata).toMatchObject({ uid: before.metadata.uid, generation: 2 });
  expect((await store.get(hello))?.spec.timeoutSeconds).toBe(5);
});

test('a status that was cut off by a power failure is found out anew', async () => {
  const { store, dir } = await opened();
  await store.put(manifest('hello'));
  await writeByHand(sitePaths(dir).statusFile(hello), '{"uid":');
  expect((await store.get(hello))?.status).toBeUndefined();
});

test('a watcher hears an edit in place, an editor that renames, and a file removed by hand', async () => {
  const { store, dir, file } = await opened();
  await store.put(manifest('hello'));
  const [started, edited, renamed, removed] = [0, 1, 2, 3].map(() => Promise.withResolvers<void>());
  const steps = [started, edited, renamed, removed];
  const stop = store.watch(() => steps.shift()?.resolve());
  await started?.promise;
  await writeFile(file, byHand);
  await edited?.promise;
  await writeFile(join(dir, 'draft'), byHand.replace('=> 1', '=> 2'));
  await rename(join(dir, 'draft'), file);
  await renamed?.promise;
  await rm(file);
  await removed?.promise;
  stop();
});

test('a watcher survives that the folders are deleted, and hears what comes into new ones', async () => {
  const { store, dir, file } = await opened();
  await store.put(manifest('hello'));
  const heard: (() => void)[] = [];
  const next = (): Promise<void> => new Promise((resolve) => heard.push(resolve));
  const first = next();
  const stop = store.watch(() => heard.shift()?.());
  await first;
  const gone = next();
  await rm(join(dir, 'functions'), { recursive: true });
  await gone;
  expect(await store.list()).toEqual([]);
  const back = next();
  await writeByHand(file, byHand);
  await back;
  const again = next();
  await writeFile(file, byHand.replace('=> 1', '=> 2'));
  await again;
  stop();
});

test('what fs.watch does not tell is found by looking now and then', async () => {
  const dir = await temporaryFolder();
  const store = await openDirectoryStore({ dir, rescanMs: 20 });
  // A namespace whose folder is a link: changes behind it are no events of ours.
  const elsewhere = await temporaryFolder();
  await writeByHand(join(elsewhere, 'hello.yaml'), byHand);
  await told(await linked(store, dir, elsewhere), hello);
});

async function linked(store: Store, dir: string, elsewhere: string): Promise<Store> {
  await symlink(elsewhere, join(dir, 'functions', 'default'));
  return store;
}

test('two processes that change one Function at once lose no change', async () => {
  const dir = await temporaryFolder();
  const store = await openDirectoryStore({ dir });
  await store.put(manifest('hello', {}, { labels: { count: '0' } }));
  const rounds = 20;
  const children = [1, 2].map(() => fork(join(import.meta.dirname, 'count-up.ts'), [dir, String(rounds)]));
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0] as number));
  expect(codes).toEqual([0, 0]);
  expect((await store.get(hello))?.metadata.labels).toEqual({ count: String(2 * rounds) });
});

test('the folder of a newer Atoll is refused with advice', async () => {
  const dir = await temporaryFolder();
  await writeFile(join(dir, 'version'), '2\n');
  await expect(openDirectoryStore({ dir })).rejects.toMatchObject({
    code: 'SiteTooNew',
    message: expect.stringMatching(/layout version "2".*--dir/) as string,
  });
});
