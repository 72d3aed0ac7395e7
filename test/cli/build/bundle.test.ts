import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { bundle, type Bundle } from '../../../cli/build/bundle.ts';

const spec = { handler: 'index.handler', runtime: 'nodejs24.x' } as const;

async function folderOf(files: Record<string, string | Uint8Array>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'atoll-bundle-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
  return folder;
}

const digest = ({ files }: Bundle): string => {
  const hash = createHash('sha256');
  for (const { path, data } of files) hash.update(path).update(data);
  return hash.digest('hex');
};

const paths = ({ files }: Bundle): string[] => files.map(({ path }) => path).sort();

const textOf = ({ files }: Bundle, ...names: string[]): string =>
  Buffer.from(files.find(({ path }) => names.includes(path))!.data as Uint8Array).toString();

/** Writes the bundle down and imports it as the handler process would. */
async function load(
  built: Bundle,
  module = 'index.mjs',
): Promise<Record<string, (event?: unknown) => unknown>> {
  const out = await folderOf(Object.fromEntries(built.files.map(({ path, data }) => [path, data])));
  return (await import(pathToFileURL(join(out, module)).href)) as never;
}

test('two folders with the same sources give the same bytes', async () => {
  const files = {
    'index.ts': `import { double } from './src/double.ts';\nexport const handler = async (n: number) => double(n);\n`,
    'src/double.ts': 'export const double = (n: number): number => n * 2;\n',
  };
  const first = await bundle(await folderOf(files), spec);
  const second = await bundle(await folderOf({ 'deep/er/x': '', ...files }), spec);
  expect(digest(second)).toBe(digest(first));
  expect(paths(first)).toEqual(['index.mjs', 'index.mjs.map']);
  const changed = await bundle(
    await folderOf({ ...files, 'src/double.ts': 'export const double = (n: number): number => n * 3;\n' }),
    spec,
  );
  expect(digest(changed)).not.toBe(digest(first));
});

test('a folder reached through a link gives the same bytes', async () => {
  const folder = await folderOf({ 'index.js': 'export const handler = () => 1;\n' });
  const link = `${folder}-link`;
  await symlink(folder, link);
  onTestFinished(() => rm(link));
  expect(digest(await bundle(link, spec))).toBe(digest(await bundle(folder, spec)));
});

test('the source map names the sources relative to the package', async () => {
  const built = await bundle(
    await folderOf({
      'src/index.ts': `import { a } from './a.ts';\nexport const handler = () => a;\n`,
      'src/a.ts': 'export const a = 1;\n',
    }),
    { ...spec, handler: 'src/index.handler' },
  );
  expect(paths(built)).toEqual(['src/index.mjs', 'src/index.mjs.map']);
  const map = JSON.parse(textOf(built, 'index.mjs.map', 'src/index.mjs.map')) as {
    sources: string[];
  };
  expect(map.sources).toEqual(['a.ts', 'index.ts']);
});

test('TypeScript, CommonJS and a dependency in CommonJS all export the handler', async () => {
  const typescript = await bundle(
    await folderOf({
      'index.ts': `import { seps } from 'dep';\nconst __dirname = 'mine';\nexport const handler = () => [...seps(), __dirname];\n`,
      'node_modules/dep/package.json': '{ "name": "dep", "version": "1.0.0" }',
      'node_modules/dep/index.js': `const path = require('path');\nexports.seps = () => [path.sep, typeof __dirname, typeof __filename, require('node:os').EOL];\n`,
    }),
    spec,
  );
  expect((await load(typescript))['handler']!()).toEqual(['/', 'string', 'string', '\n', 'mine']);
  const commonJs = await bundle(await folderOf({ 'index.js': 'exports.handler = () => 7;\n' }), spec);
  expect((await load(commonJs))['handler']!()).toBe(7);
  const assigned = await bundle(
    await folderOf({ 'index.cjs': 'module.exports = { handler() { return 8; } };\n' }),
    spec,
  );
  expect((await load(assigned))['handler']!()).toBe(8);
});

test('a native add-on that is imported by name is copied and loads', async () => {
  const { readFile } = await import('node:fs/promises');
  const require = createRequire(import.meta.url);
  const addon = await readFile(require.resolve(`@rolldown/binding-linux-${process.arch}-gnu`));
  const built = await bundle(
    await folderOf({
      'index.ts': `import addon from './build/addon.node';\nexport const handler = () => typeof addon;\n`,
      'build/addon.node': addon,
    }),
    spec,
  );
  expect(paths(built)).toEqual([
    expect.stringMatching(/^addon-[0-9a-f]{8}\.node$/),
    'index.mjs',
    'index.mjs.map',
  ]);
  expect((await load(built))['handler']!()).toBe('object');
});

test('a package that looks for its add-on at run time is copied whole, with what it depends on', async () => {
  const built = await bundle(
    await folderOf({
      'index.ts': `import { found } from 'native';\nexport const handler = () => found;\n`,
      'node_modules/native/package.json':
        '{ "name": "native", "version": "1.0.0", "dependencies": { "finder": "1" } }',
      'node_modules/native/index.js': `exports.found = require('finder')(__dirname);\n`,
      'node_modules/native/prebuilds/linux-x64/native.node': 'binary',
      'node_modules/finder/package.json': '{ "name": "finder", "version": "1.0.0" }',
      'node_modules/finder/index.js': `module.exports = (d) => require('fs').readdirSync(d + '/prebuilds/linux-x64');\n`,
    }),
    spec,
  );
  expect(paths(built)).toEqual([
    'index.mjs',
    'index.mjs.map',
    'node_modules/finder/index.js',
    'node_modules/finder/package.json',
    'node_modules/native/index.js',
    'node_modules/native/package.json',
    'node_modules/native/prebuilds/linux-x64/native.node',
  ]);
  expect((await load(built))['handler']).toBeTypeOf('function');
  expect((await load(built))['handler']!()).toEqual(['native.node']);
});

test("'atoll' stays an import: the host's own copy answers it", async () => {
  const built = await bundle(
    await folderOf({
      'index.ts': `import { PermanentError } from 'atoll';\nexport const handler = () => PermanentError;\n`,
    }),
    spec,
  );
  expect(textOf(built, 'index.mjs')).toMatch(/from "atoll"/);
});

test('every mistake in the sources is named with file, line and column', async () => {
  const folder = await folderOf({
    'index.ts': `import { missing } from './missing.ts';\nexport const handler = () => missing;\n`,
  });
  await expect(bundle(folder, spec)).rejects.toThrow(
    /^.+does not build \(1 error\)\nindex\.ts:1:25: Could not resolve/,
  );
});

test('a name the module does not export is told before anything is uploaded', async () => {
  const folder = await folderOf({ 'index.ts': 'export const main = () => 1;\n' });
  await expect(bundle(folder, spec)).rejects.toThrow('index.ts does not export "handler": it exports main');
});

test('a handler file that is missing or outside the folder is refused', async () => {
  const folder = await folderOf({ 'other.ts': '' });
  await expect(bundle(folder, spec)).rejects.toThrow(/has no index\.ts or \.js/);
  await expect(bundle(folder, { ...spec, handler: '../other.handler' })).rejects.toThrow(
    /not <file without extension>/,
  );
  await expect(bundle(folder, { ...spec, handler: 'index' })).rejects.toThrow(/not <file without extension>/);
});
