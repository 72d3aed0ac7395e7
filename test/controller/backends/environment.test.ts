import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { expect, test } from 'vitest';
import { environmentOf } from '../../../controller/backends/environment.ts';
import { sitePaths, type SitePaths } from '../../../controller/stores/site.ts';
import { workload } from '../../contracts/backend.ts';
import { temporaryFolder } from '../../support/folder.ts';

const secret = (ref: object): object => ({ name: 'X', valueFrom: { secretKeyRef: ref } });
const field = (fieldPath: string): object => ({ name: 'X', valueFrom: { fieldRef: { fieldPath } } });

async function site(): Promise<SitePaths> {
  const paths = sitePaths(await temporaryFolder());
  const file = paths.secretFile('default', 'robot', 'token');
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, 'hunter2');
  return paths;
}

interface Found {
  env: { name: string; file?: string; stamp?: string }[];
}

const environment = (paths: SitePaths, ...env: object[]) =>
  environmentOf(workload({ uid: 'u1', spec: { env } }), paths);

test('plain values are values, an empty one too, in their order', async () => {
  const found = await environment(await site(), { name: 'B', value: 'b' }, { name: 'A' });
  expect(found).toEqual({
    env: [
      { name: 'B', value: 'b' },
      { name: 'A', value: '' },
    ],
  });
});

test.each([
  ['metadata.name', 'hello'],
  ['metadata.namespace', 'default'],
  ['metadata.uid', 'u1'],
  ['status.podIP', '127.0.0.1'],
])('the field %s is known', async (fieldPath, value) => {
  expect(await environment(await site(), field(fieldPath))).toEqual({ env: [{ name: 'X', value }] });
});

test('a field that only a pod has is refused with those that are known', async () => {
  expect(await environment(await site(), field('metadata.labels'))).toEqual({
    problem: {
      reason: 'InvalidObject',
      message: expect.stringMatching(/env X.*metadata\.labels.*metadata\.name/) as string,
    },
  });
});

test('a secret is the file it lies in, and so is a key of a ConfigMap', async () => {
  const paths = await site();
  const file = paths.secretFile('default', 'robot', 'token');
  const ref = { name: 'robot', key: 'token' };
  const config = { name: 'Y', valueFrom: { configMapKeyRef: ref } };
  const stamp = expect.any(String) as string;
  expect(await environment(paths, secret(ref), config)).toEqual({
    env: [
      { name: 'X', file, stamp },
      { name: 'Y', file, stamp },
    ],
  });
  const [, before] = ((await environment(paths, secret(ref), config)) as Found).env;
  await writeFile(file, 'hunter3');
  const [, after] = ((await environment(paths, secret(ref), config)) as Found).env;
  expect(after?.stamp).not.toBe(before?.stamp);
});

test('a secret that is missing is named with its file, unless it is optional', async () => {
  const paths = await site();
  const ref = { name: 'robot', key: 'other' };
  expect(await environment(paths, secret(ref))).toEqual({
    problem: {
      reason: 'SecretNotFound',
      message: expect.stringContaining(paths.secretFile('default', 'robot', 'other')) as string,
    },
  });
  expect(await environment(paths, secret({ ...ref, optional: true }))).toEqual({ env: [] });
  expect(await environment(paths, secret({ name: 'none', key: 'x', optional: true }))).toEqual({ env: [] });
});

test.each([
  ['a key with dots', { name: 'robot', key: '..' }],
  ['a path for a key', { name: 'robot', key: '../../../s3.json' }],
  ['a path for a name', { name: '../lab/robot', key: 'token' }],
  ['a link that leads out', { name: 'robot', key: 'link' }],
  ['a folder', { name: '.hidden', key: 'folder' }],
  ['a link to itself', { name: 'robot', key: 'loop' }],
])('%s does not lead out of the secrets of the namespace, optional or not', async (_what, ref) => {
  const paths = await site();
  await writeFile(paths.s3, '{}');
  await symlink(paths.s3, paths.secretFile('default', 'robot', 'link'));
  await symlink('loop', paths.secretFile('default', 'robot', 'loop'));
  await mkdir(paths.secretFile('default', '.hidden', 'folder'), { recursive: true });
  for (const optional of [true, false]) {
    expect(await environment(paths, secret({ ...ref, optional }))).toMatchObject({
      problem: { reason: 'NotAllowed' },
    });
  }
});

test('a link from one key to another of the namespace is fine, as Kubernetes lays secrets out', async () => {
  const paths = await site();
  await symlink('token', paths.secretFile('default', 'robot', 'current'));
  const found = await environment(paths, secret({ name: 'robot', key: 'current' }));
  expect(found).toMatchObject({
    env: [{ name: 'X', file: paths.secretFile('default', 'robot', 'current') }],
  });
});
