import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { extract } from 'tar';
import { expect, test } from 'vitest';
import { bundle } from '../../cli/build/bundle.ts';
import { parseManifests } from '../../crds/manifest.ts';
import { temporaryFolder } from '../support/folder.ts';
import { faas, root } from './run.ts';

const run = promisify(execFile);
const languages = { typescript: 'ts', javascript: 'js' } as const;
const triggers = ['nats', 'jetstream', 'mqtt', 'http', 'schedule'] as const;
const cases = (['typescript', 'javascript'] as const).flatMap((language) =>
  triggers.map((trigger) => [language, trigger] as const),
);

async function init(...args: string[]): Promise<string> {
  const parent = await temporaryFolder();
  const { code, stderr } = await faas(['init', 'sample', ...args], { cwd: parent });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return join(parent, 'sample');
}

/** What `npm install` does with the one dependency, without npm. */
async function install(folder: string): Promise<void> {
  const [vendored] = await readdir(join(folder, 'vendor'));
  const target = join(folder, 'node_modules', 'atoll');
  await mkdir(target, { recursive: true });
  await extract({ file: join(folder, 'vendor', vendored!), cwd: target, strip: 1 });
}

test.each(cases)(
  '%s, called by %s: a valid manifest, a handler that builds, a unit test that passes',
  async (language, trigger) => {
    const folder = await init('--template', language, '--trigger', trigger);
    const extension = languages[language];
    const manifest = await readFile(join(folder, 'function.yaml'), 'utf8');
    const parsed = parseManifests(manifest, 'function.yaml');
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
    const [{ metadata, spec } = parsed.manifests[0]!] = parsed.manifests;
    expect(metadata.name).toBe('sample');
    expect(spec.triggers).toEqual([expect.objectContaining({ [trigger]: expect.any(Object) as object })]);
    expect((await bundle(folder, spec)).warnings).toEqual([]);
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || entry.name.endsWith('.tgz')) continue;
      expect(await readFile(join(entry.parentPath, entry.name), 'utf8')).not.toMatch(/__[a-z]+__/);
    }
    await install(folder);
    await run(process.execPath, ['--test', `index.test.${extension}`], {
      cwd: folder,
      env: { PATH: process.env['PATH'] },
    });
  },
);

test('the unit test of the template fails when the handler is wrong', async () => {
  const folder = await init();
  await install(folder);
  await writeFile(join(folder, 'index.ts'), `export const handler = async () => ({ greeting: 'wrong' });\n`);
  await expect(
    run(process.execPath, ['--test'], { cwd: folder, env: { PATH: process.env['PATH'] } }),
  ).rejects.toThrow();
});

test('the TypeScript templates pass the type checker with the types of the package', async () => {
  for (const trigger of triggers) {
    const folder = await init('--trigger', trigger);
    await install(folder);
    // The test runner's own types come from outside, as in any project that has them.
    await cp(join(root, 'node_modules', '@types', 'node'), join(folder, 'node_modules', '@types', 'node'), {
      recursive: true,
    });
    await cp(join(root, 'node_modules', 'undici-types'), join(folder, 'node_modules', 'undici-types'), {
      recursive: true,
    });
    await run(
      process.execPath,
      [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.', '--types', 'node'],
      { cwd: folder },
    );
  }
}, 120_000);

test('npm installs the dependency without a registry', async () => {
  const folder = await init('--template', 'javascript');
  const env = {
    ...process.env,
    npm_config_registry: 'http://127.0.0.1:1',
    npm_config_cache: join(folder, '.npm'),
  };
  await run('npm', ['install', '--no-audit', '--no-fund', '--fetch-retries=0'], { cwd: folder, env });
  expect(await readdir(join(folder, 'node_modules', 'atoll'))).toContain('index.d.ts');
});

test('two folders get the same package of types', async () => {
  const digests = await Promise.all(
    [await init(), await init('--template', 'javascript')].map(async (folder) => {
      const [name] = await readdir(join(folder, 'vendor'));
      return createHash('sha256')
        .update(await readFile(join(folder, 'vendor', name!)))
        .digest('hex');
    }),
  );
  expect(digests[0]).toBe(digests[1]);
});

test('a folder that holds something is left as it is', async () => {
  const parent = await temporaryFolder();
  await mkdir(join(parent, 'mine'));
  await writeFile(join(parent, 'mine', 'notes'), 'dear');
  const { code, stderr } = await faas(['init', 'mine'], { cwd: parent });
  expect(code).toBe(2);
  expect(stderr).toContain('not empty');
  expect(await readdir(join(parent, 'mine'))).toEqual(['notes']);
});
