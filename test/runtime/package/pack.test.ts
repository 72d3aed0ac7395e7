import { execFile } from 'node:child_process';
import { chmod, mkdir, readdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { packFiles, packFolder, type PackedFile } from '../../../runtime/package/pack.ts';
import { unpack } from '../../../runtime/package/unpack.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { fileOf } from './archives.ts';

const run = promisify(execFile);

async function write(folder: string, files: readonly PackedFile[]): Promise<void> {
  for (const { path, data, mode } of files) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), data);
    await chmod(join(folder, path), mode ?? 0o644);
  }
}

async function read(folder: string): Promise<Record<string, [string, boolean]>> {
  const found: Record<string, [string, boolean]> = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    const { mode } = await stat(file);
    found[relative(folder, file)] = [(await readFile(file)).toString('base64'), (mode & 0o111) !== 0];
  }
  return found;
}

const files: PackedFile[] = [
  { path: 'index.mjs', data: 'export const handler = () => 1;\n' },
  { path: 'native/addon.node', data: Buffer.from([0, 1, 2, 255]), mode: 0o755 },
  { path: `${'deep/'.repeat(40)}${'long'.repeat(30)}.json`, data: '{}' },
  { path: 'naïve/日本.txt', data: '' },
  { path: 'block.bin', data: Buffer.alloc(512, 7) },
];

test('the same files give the same digest, whatever their order, times and exact modes', async () => {
  const once = await packFiles(files);
  const again = await packFiles(files.toReversed().map((file) => ({ ...file, mode: file.mode && 0o700 })));
  expect(again.sha256).toBe(once.sha256);

  const folder = await temporaryFolder();
  await write(folder, files.toReversed());
  expect((await packFolder(folder)).sha256).toBe(once.sha256);
  await utimes(join(folder, 'index.mjs'), 1, 1);
  expect((await packFolder(folder)).sha256).toBe(once.sha256);

  await writeFile(join(folder, 'index.mjs'), 'other');
  expect((await packFolder(folder)).sha256).not.toBe(once.sha256);
});

test('the gzip header names neither time nor system', async () => {
  const { bytes } = await packFiles(files);
  expect([...bytes.subarray(0, 10)]).toEqual([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, expect.any(Number), 255]);
});

test('what was packed is what is unpacked, and is read-only', async () => {
  const folder = await temporaryFolder();
  const { bytes } = await packFiles(files);
  await unpack(await fileOf(folder, bytes), join(folder, 'out'));
  const expected = files.map(({ path, data, mode }) => [
    path,
    [Buffer.from(data as Buffer).toString('base64'), mode === 0o755],
  ]);
  expect(await read(join(folder, 'out'))).toEqual(Object.fromEntries(expected));
  expect((await stat(join(folder, 'out/index.mjs'))).mode & 0o222).toBe(0);
});

test('the tar of the system reads what we packed, and we read what it packed', async () => {
  const folder = await temporaryFolder();
  const packed = await packFiles(files);
  const theirs = join(folder, 'theirs');
  await mkdir(theirs);
  await run('tar', ['-xzf', await fileOf(folder, packed.bytes), '-C', theirs]);
  const expected = await read(theirs);
  expect(Object.keys(expected)).toHaveLength(files.length);

  for (const format of ['gnu', 'pax', 'ustar']) {
    const archive = join(folder, `${format}.tgz`);
    const fitting = format === 'ustar' ? ['index.mjs', 'native', 'block.bin'] : ['.'];
    await run('tar', [`--format=${format}`, '-czf', archive, '-C', theirs, ...fitting]);
    await unpack(archive, join(folder, format));
    expect(expected).toMatchObject(await read(join(folder, format)));
    expect(Object.keys(await read(join(folder, format)))).toHaveLength(format === 'ustar' ? 3 : files.length);
  }
});

test('any tree of files comes back as it was', async () => {
  const name = fc.stringMatching(/^[a-z0-9 ._@é-]{1,60}$/).filter((text) => !/^[.]{1,2}$/.test(text));
  const file = fc.record({
    path: fc.array(name, { minLength: 1, maxLength: 8 }).map((names) => names.join('/')),
    data: fc.uint8Array({ maxLength: 2000 }),
    mode: fc.constantFrom(0o644, 0o755),
  });
  const tree = fc
    .uniqueArray(file, { selector: ({ path }) => path, maxLength: 12 })
    .filter((all) => !all.some((a) => all.some((b) => b.path.startsWith(`${a.path}/`))));
  await fc.assert(
    fc.asyncProperty(tree, async (all) => {
      const folder = await temporaryFolder();
      const packed = await packFiles(all);
      await unpack(await fileOf(folder, packed.bytes), join(folder, 'out'));
      expect(await read(join(folder, 'out'))).toEqual(
        Object.fromEntries(
          all.map(({ path, data, mode }) => [path, [Buffer.from(data).toString('base64'), mode === 0o755]]),
        ),
      );
      expect((await packFolder(join(folder, 'out'))).sha256).toBe(packed.sha256);
    }),
    { numRuns: 40 },
  );
});

test.each([
  ['../a', 'leads out'],
  ['/a', 'absolute'],
  ['a\nb', 'control character'],
  ['', 'no name'],
])('a file called %j is not packed', async (path, says) => {
  await expect(packFiles([{ path, data: '' }])).rejects.toMatchObject({
    code: 'PackageInvalid',
    message: expect.stringContaining(says),
  });
});

test('a file that is there twice, one that is a folder too, and a link are not packed', async () => {
  const twice = [
    { path: 'a', data: '1' },
    { path: './a', data: '2' },
  ];
  await expect(packFiles(twice)).rejects.toMatchObject({ message: expect.stringContaining('twice') });
  const both = [
    { path: 'a', data: '1' },
    { path: 'a/b', data: '2' },
  ];
  await expect(packFiles(both)).rejects.toMatchObject({ message: expect.stringContaining('a folder') });
  const folder = await temporaryFolder();
  await symlink('/etc/passwd', join(folder, 'link'));
  await expect(packFolder(folder)).rejects.toMatchObject({ message: expect.stringContaining('"link"') });
});
