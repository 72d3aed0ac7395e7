import { lstat, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createGzip, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { Header } from 'tar';
import { expect, test } from 'vitest';
import { unpack } from '../../../runtime/package/unpack.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { fileOf, packageOf, tarOf, type MadeEntry } from './archives.ts';

const good: MadeEntry = { path: 'index.mjs', data: 'export {}' };

/** Unpacks the bytes into a new folder; the folder next to it shows whether anything was left. */
async function tried(bytes: Uint8Array) {
  const folder = await temporaryFolder();
  const file = await fileOf(folder, bytes);
  const outcome = await unpack(file, join(folder, 'out')).then(
    () => 'unpacked',
    (error: unknown) => error,
  );
  const left = (await readdir(folder)).filter((name) => !name.endsWith('.tgz'));
  return { outcome, left, folder };
}

const huge = Buffer.alloc(512);
new Header({ path: 'huge', size: 300 * 1024 ** 2, type: 'File', mode: 0o644 }).encode(huge);

const hostile: [string, Uint8Array, string][] = [
  ['a path out of the folder', packageOf(good, { path: '../evil', data: 'x' }), '"../evil" leads out'],
  ['a path out of the folder on the way', packageOf({ path: 'a/../../evil', data: 'x' }), 'leads out'],
  ['an absolute path', packageOf({ path: '/tmp/evil', data: 'x' }), '"/tmp/evil" is an absolute path'],
  [
    'a pax header with such a path',
    packageOf({ path: 'a', data: 'x', pax: { path: '../evil' } }),
    'leads out',
  ],
  [
    'a GNU long name with such a path',
    packageOf({ path: 'L', type: 'NextFileHasLongPath', data: '../evil\0' }, { path: 'a', data: 'x' }),
    'leads out',
  ],
  ['a folder outside', packageOf({ path: '../evil/', type: 'Directory' }), 'leads out'],
  ['a symbolic link', packageOf({ path: 'l', type: 'SymbolicLink', linkpath: '/etc' }), '"l" is a link'],
  [
    'a file behind a symbolic link',
    packageOf({ path: 'l', type: 'SymbolicLink', linkpath: '/tmp' }, { path: 'l/evil', data: 'x' }),
    'is a link',
  ],
  ['a hard link', packageOf(good, { path: 'l', type: 'Link', linkpath: 'index.mjs' }), 'is a link'],
  [
    'a device',
    packageOf({ path: 'd', type: 'CharacterDevice', devmaj: 1, devmin: 3 }),
    'neither a file nor a folder',
  ],
  ['a block device', packageOf({ path: 'd', type: 'BlockDevice' }), 'neither'],
  ['a fifo', packageOf({ path: 'f', type: 'FIFO' }), 'neither'],
  ['an entry twice', packageOf(good, good), '"index.mjs" is there twice'],
  ['an entry twice, written differently', packageOf(good, { ...good, path: './/index.mjs' }), 'twice'],
  [
    'a file where a folder is',
    packageOf({ path: 'a/b', data: '' }, { path: 'a', data: '' }),
    'a file and a folder',
  ],
  [
    'a folder where a file is',
    packageOf({ path: 'a', data: '' }, { path: 'a/b', data: '' }),
    'a file and a folder',
  ],
  ['a backslash', packageOf({ path: '..\\evil', data: '' }), 'backslash'],
  [
    'a name that no file system takes',
    packageOf({ path: 'a', data: '', pax: { path: 'n'.repeat(256) } }),
    '255 bytes',
  ],
  [
    'a path of more than 1024 bytes',
    packageOf({ path: 'a', data: '', pax: { path: 'n/'.repeat(600) } }),
    '1024 bytes',
  ],
  [
    'attributes without end',
    packageOf({ path: 'L', type: 'NextFileHasLongPath', data: Buffer.alloc(70_000, 97) }),
    'attributes',
  ],
  [
    'more entries than allowed',
    packageOf(
      ...Array.from({ length: 20_001 }, (_, i) => ({ path: i % 2 ? './' : '.', type: 'Directory' as const })),
    ),
    '20000',
  ],
  [
    'a size beyond the limit',
    gzipSync(Buffer.concat([huge, Buffer.alloc(2048)])),
    '"huge" makes the package bigger',
  ],
  [
    'an archive that is cut off',
    gzipSync(tarOf({ path: 'a', data: 'x'.repeat(2000) }).subarray(0, 1500)),
    'cut off',
  ],
  ['an archive without an end', gzipSync(tarOf(good).subarray(0, 1024)), 'cut off'],
  [
    'a gzip file that is cut off',
    packageOf({ path: 'a', data: Buffer.alloc(9000, 1) }).subarray(0, 60),
    'not a complete gzip',
  ],
  ['a gzip file without its check sum', packageOf(good).subarray(0, -8), 'not a complete gzip'],
  ['a gzip file with a changed byte', changed(packageOf({ path: 'a', data: 'y'.repeat(3000) })), ''],
  ['a tar that is not compressed', tarOf(good), 'not a complete gzip'],
  ['a zip', Buffer.from('PK\x03\x04 and so on'), 'not a complete gzip'],
  ['nothing', Buffer.alloc(0), ''],
  ['text in gzip', gzipSync('hello '.repeat(200)), 'not a tar archive'],
  ['a changed header', gzipSync(changedHeader(tarOf(good))), 'not a tar archive'],
];

function changed(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  const at = copy.length - 12;
  copy[at] = (copy[at] ?? 0) ^ 0xff;
  return copy;
}

function changedHeader(tar: Buffer): Buffer {
  tar[0] = 'X'.charCodeAt(0);
  return tar;
}

test.each(hostile)('%s is refused, and nothing is left behind', async (_, bytes, says) => {
  const { outcome, left } = await tried(bytes);
  expect(outcome).toMatchObject({ code: 'PackageInvalid', message: expect.stringContaining(says) });
  expect(left).toEqual([]);
});

test(
  'a bomb is stopped by the bytes it inflates to, whatever its headers say',
  { timeout: 60_000 },
  async () => {
    const folder = await temporaryFolder();
    const file = join(folder, 'bomb.tgz');
    // One small file, an honest end, and then zeros that would fill the disk if they were kept.
    const zeros = Buffer.alloc(1024 ** 2);
    const bomb = function* () {
      yield tarOf(good);
      for (let i = 0; i < 400; i++) yield zeros;
    };
    await pipeline(Readable.from(bomb()), createGzip({ level: 1 }), createWriteStream(file));
    await expect(unpack(file, join(folder, 'out'))).rejects.toMatchObject({
      code: 'PackageInvalid',
      message: expect.stringContaining('inflates to more'),
    });
    expect(await readdir(folder)).toEqual(['bomb.tgz']);
  },
);

test('a few entries cannot make millions of folders', { timeout: 60_000 }, async () => {
  const entries = Array.from({ length: 12 }, (_, i) => ({
    path: 'a',
    data: '',
    pax: { path: `${i}/${'d/'.repeat(500)}f` },
  }));
  const { outcome, left } = await tried(packageOf(...entries));
  expect(outcome).toMatchObject({
    code: 'PackageInvalid',
    message: expect.stringContaining('folders allowed'),
  });
  expect(left).toEqual([]);
});

test('setuid and write bits are dropped', async () => {
  const { folder } = await tried(
    packageOf(
      { path: 'a', data: '', mode: 0o6777 },
      { path: 'b', data: '', mode: 0o666 },
      { path: 'c/', type: 'Directory', mode: 0o7000 },
    ),
  );
  const modes = await Promise.all(
    ['a', 'b', 'c'].map(async (name) => (await lstat(join(folder, 'out', name))).mode),
  );
  expect(modes.map((mode) => mode & 0o7222)).toEqual([0, 0, 0o200]);
  expect((modes[0] ?? 0) & 0o100).toBe(0o100);
});

test('a folder that exists already is not touched', async () => {
  const { folder } = await tried(packageOf(good));
  const file = await fileOf(folder, packageOf({ path: 'other', data: '' }));
  await expect(unpack(file, join(folder, 'out'))).rejects.toThrow();
  expect(await readdir(join(folder, 'out'))).toEqual(['index.mjs']);
  expect(await readFile(join(folder, 'out/index.mjs'), 'utf8')).toBe('export {}');
});

test(
  'whatever bytes an archive has, it is unpacked inside its folder or refused',
  { timeout: 60_000 },
  async () => {
    const base = tarOf(
      good,
      { path: 'dir/file.txt', data: 'x'.repeat(600) },
      { path: 'a', data: 'b', pax: { path: 'long' } },
    );
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'witness'), '');
    const change = fc.tuple(fc.nat(base.length - 1), fc.nat(255));
    let count = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async (changes) => {
        const tar = Buffer.from(base);
        for (const [at, byte] of changes) tar[at] = byte;
        // Check sums made good again, or every change would end there.
        for (let at = 0; at + 512 <= tar.length; at += 512) repairChecksum(tar, at);
        const file = await fileOf(folder, gzipSync(tar));
        await unpack(file, join(folder, `out-${count++}`)).catch((error: unknown) =>
          expect(error).toMatchObject({ code: 'PackageInvalid' }),
        );
      }),
      { numRuns: 150 },
    );
    const strangers = (await readdir(folder)).filter(
      (name) => !/^(out-[0-9]+|witness|[0-9a-f]{64}[.]tgz)$/.test(name),
    );
    expect(strangers).toEqual([]);
  },
);

function repairChecksum(tar: Buffer, at: number): void {
  if (tar.toString('latin1', at + 257, at + 262) !== 'ustar') return;
  tar.fill(32, at + 148, at + 156);
  const sum = tar.subarray(at, at + 512).reduce((total, byte) => total + byte, 0);
  tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148, 'latin1');
}
