import { execFileSync, spawn } from 'node:child_process';
import { chmod, copyFile, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { temporaryFolder } from '../support/folder.ts';
import { faas, faasFile, otherNode, root } from './run.ts';

describe.skipIf(otherNode === undefined)(
  `started by another Node (${otherNode?.major ?? 'none found'})`,
  () => {
    const node = otherNode?.path ?? '';

    test('the pinned Node runs the command', async () => {
      const { code, stdout } = await faas(['version', '-o', 'json'], { node });
      expect(code).toBe(0);
      expect(JSON.parse(stdout)).toMatchObject({ node: process.version });
    });

    test('exit code and both outputs are passed on', async () => {
      const { code, stdout, stderr } = await faas(['nothing-of-that-name'], { node });
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
      expect(stderr).toContain('unknown command');
    });

    test('a link to it works, as npm install -g makes one', async () => {
      const link = join(await temporaryFolder(), 'faas');
      await symlink(faasFile, link);
      const text = execFileSync(node, [link, '--version'], { encoding: 'utf8', cwd: dirname(link) });
      expect(text).toMatch(/^\d+\.\d+\.\d+\n$/);
    });

    test('without the pinned Node it says what is missing and how to get it', async () => {
      const copy = join(await temporaryFolder(), 'cli', 'faas.js');
      await mkdir(dirname(copy), { recursive: true });
      await copyFile(faasFile, copy);
      await writeFile(join(dirname(copy), '..', 'package.json'), '{ "type": "module" }');
      const child = spawn(node, [copy, 'list'], { stdio: ['ignore', 'ignore', 'pipe'] });
      let stderr = '';
      child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
      const code = await new Promise((resolve) => child.once('close', resolve));
      expect(code).toBe(3);
      expect(stderr).toContain(`node-linux-${process.arch}`);
      expect(stderr).toContain('npm ci --include=optional');
    });

    test('a signal reaches the command once, and its end is the end of the wrapper', async () => {
      const folder = await temporaryFolder();
      await mkdir(join(folder, 'cli'));
      await copyFile(faasFile, join(folder, 'cli', 'faas.js'));
      await writeFile(join(folder, 'package.json'), '{ "type": "module" }');
      const pinned = join(folder, 'node_modules', `node-linux-${process.arch}`);
      await mkdir(join(pinned, 'bin'), { recursive: true });
      await writeFile(join(pinned, 'package.json'), '{}');
      await symlink(process.execPath, join(pinned, 'bin', 'node'));
      await writeFile(
        join(folder, 'cli', 'main.ts'),
        `let count = 0; process.on('SIGTERM', () => { count++; setTimeout(() => { console.log('heard ' + count); process.kill(process.pid, 'SIGKILL'); }, 300); });
       setInterval(() => {}, 1000); console.log('up');\n`,
      );
      const child = spawn(node, [join(folder, 'cli', 'faas.js')], { stdio: ['ignore', 'pipe', 'inherit'] });
      let stdout = '';
      child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
        stdout += chunk;
        if (chunk.includes('up')) child.kill('SIGTERM');
      });
      const signal = await new Promise((resolve) => child.once('close', (_code, by) => resolve(by)));
      expect(stdout).toBe('up\nheard 1\n');
      expect(signal).toBe('SIGKILL');
    });
  },
);

test('it is executable, and plain enough for Node 18', async () => {
  const text = await readFile(faasFile, 'utf8');
  expect(text).toMatch(/^#!\/usr\/bin\/env node\n/);
  execFileSync('test', ['-x', faasFile]);
  expect(text).not.toMatch(/import\.meta\.(dirname|filename)/);
});

test('under node_modules the built JavaScript runs', async () => {
  // As a tarball of the package would be unpacked: dist/ beside the sources, which Node does not strip there.
  const atoll = join(await temporaryFolder(), 'node_modules', 'atoll');
  await mkdir(join(atoll, 'cli'), { recursive: true });
  await copyFile(faasFile, join(atoll, 'cli', 'faas.js'));
  await chmod(join(atoll, 'cli', 'faas.js'), 0o755);
  await copyFile(join(root, 'package.json'), join(atoll, 'package.json'));
  await symlink(join(root, 'node_modules'), join(atoll, 'node_modules'));
  const { buildAll } = await import('../../tools/build.ts');
  await buildAll(join(atoll, 'dist'));
  const run = (args: string[]) =>
    execFileSync(process.execPath, [join(atoll, 'cli', 'faas.js'), ...args], { encoding: 'utf8' });
  expect(run(['--version'])).toMatch(/^\d+\.\d+\.\d+\n$/);
  expect(run(['deploy', '--help'])).toContain('faas deploy [DIR]');
});
