import { createHash } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AtollError } from '../../runtime/errors.ts';
import { unpack } from '../../runtime/package/unpack.ts';
import { checksum, packageOf, tarOf, type MadeEntry } from '../runtime/package/archives.ts';
import { temporaryFolder } from '../support/folder.ts';
import { changed, changes, fuzz, fuzzTimeoutMs } from './fuzz.ts';

/** A folder with a neighbour on every side of the place that an archive is unpacked to. */
async function place() {
  const folder = await temporaryFolder();
  const inner = join(folder, 'inner');
  await mkdir(inner);
  await writeFile(join(folder, 'witness'), 'outer');
  await writeFile(join(inner, 'witness'), 'inner');
  return async (bytes: Uint8Array): Promise<void> => {
    const file = join(folder, 'package.tgz');
    await writeFile(file, bytes);
    const out = join(inner, 'out');
    // What an input that failed has left, while it is shrunk.
    await rm(out, { recursive: true, force: true });
    try {
      const contents = await unpack(file, out);
      expect(await filesBelow(out)).toEqual(Object.entries(contents).sort());
      expect((await readdir(inner)).sort()).toEqual(['out', 'witness']);
    } catch (error) {
      if (!(error instanceof AtollError)) throw error;
      expect(error.code).toBe('PackageInvalid');
      expect(error.message).toMatch(/^(it|the entry|the attributes)\b.{8}/s);
      expect(await readdir(inner)).toEqual(['witness']);
    }
    await rm(out, { recursive: true, force: true });
    expect((await readdir(folder)).sort()).toEqual(['inner', 'package.tgz', 'witness']);
    expect(await readFile(join(folder, 'witness'), 'utf8')).toBe('outer');
    expect(await readFile(join(inner, 'witness'), 'utf8')).toBe('inner');
  };
}

/** Each path with its digest, sorted; whatever is neither a file nor a folder, or may be written, is an error. */
async function filesBelow(root: string): Promise<[path: string, sha256: string][]> {
  const found: [string, string][] = [];
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const { mode } = await lstat(path);
    if (entry.isDirectory()) continue;
    expect([entry.name, entry.isFile(), mode & 0o7222]).toEqual([entry.name, true, 0]);
    found.push([
      path.slice(root.length + 1),
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex'),
    ]);
  }
  return found.sort();
}

const valid = tarOf(
  { path: 'index.mjs', data: 'export {}' },
  { path: 'lib/', type: 'Directory' },
  { path: 'lib/long.js', data: 'x'.repeat(700) },
  { path: 'a', data: 'b', pax: { path: `deep/${'n'.repeat(120)}` } },
  { path: 'L', type: 'NextFileHasLongPath', data: 'gnu/name\0' },
  { path: 'short', data: 'y' },
);

/** Check sums made good again, or every change would end there. */
function repaired(tar: Buffer): Buffer {
  for (let at = 0; at + 512 <= tar.length; at += 512) {
    const block = tar.subarray(at, at + 512);
    if (block.toString('latin1', 257, 262) !== 'ustar') continue;
    block.write(`${checksum(block).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  }
  return tar;
}

const names = fc
  .array(
    fc.constantFrom(
      ...[
        '.',
        '..',
        'a',
        'b',
        'A',
        'index.mjs',
        '',
        ' ',
        '\\',
        '\0',
        'C:',
        '\uff0e\uff0e',
        '\uff0f',
        'e\u0301',
        '\u00e9',
      ],
      ...['~', '-rf', 'con', 'node_modules', '__proto__', 'constructor', '\u202e', '*', 'n'.repeat(300)],
    ),
    { minLength: 1, maxLength: 5 },
  )
  .chain((parts) => fc.constantFrom('', '/', '//', './').map((lead) => lead + parts.join('/')));

test(
  'archives that were changed here and there are unpacked inside, or refused whole',
  { timeout: fuzzTimeoutMs },
  async () => {
    const unpacked = await place();
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 16 }),
      names.map((name): Uint8Array => Buffer.from(name)),
      fc.constantFrom<Uint8Array>(valid.subarray(0, 512), valid.subarray(512, 1024), Buffer.alloc(512)),
      fc
        .constantFrom('77777777777', '00000000000', '-1', '\x80\0\0\0\0')
        .map((text): Uint8Array => Buffer.from(text)),
    );
    await fuzz('archives, changed', fc.tuple(changes(piece), fc.boolean()), async ([all, outside]) => {
      // Some of the changes are made to the gzip file, the others to the tar in it.
      await unpacked(outside ? changed(gzipSync(valid), all) : gzipSync(repaired(changed(valid, all))));
    });
  },
);

test(
  'entries of every kind and name are unpacked inside, or refused whole',
  { timeout: fuzzTimeoutMs },
  async () => {
    const unpacked = await place();
    const entry: fc.Arbitrary<MadeEntry> = fc.record({
      path: names,
      data: fc.string({ maxLength: 20 }),
      mode: fc.integer({ min: 0, max: 0o7777 }),
      type: fc.constantFrom(
        'File',
        'File',
        'File',
        'Directory',
        'SymbolicLink',
        'Link',
        'FIFO',
        'CharacterDevice',
        'ContiguousFile',
      ),
      linkpath: fc.constantFrom('', '..', '/etc/passwd', '../witness', 'a'),
    });
    const asPax = fc.boolean();
    await fuzz(
      'archives, of any entries',
      fc.array(fc.tuple(entry, asPax), { maxLength: 6 }),
      async (entries) => {
        await unpacked(
          packageOf(
            ...entries.map(([{ path = 'a', ...one }, pax]): MadeEntry =>
              pax ? { ...one, path: 'x', pax: { path } } : { ...one, path },
            ),
          ),
        );
      },
    );
  },
);
