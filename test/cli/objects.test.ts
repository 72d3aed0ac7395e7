import { mkdir, readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { FunctionObject } from '../../crds/function.ts';
import { missing } from '../support/requirement.ts';
import { faas, folderWith, manifest, startGreeterSite, type RunOptions, type TestSite } from './run.ts';

describe.skipIf(await missing('nats-server'))('the objects of a site', () => {
  let site: TestSite;
  const run = (args: string[], options?: RunOptions) => site.faas(args, options);
  const ok = (args: string[], options?: RunOptions) => site.ok(args, options);

  beforeAll(async () => {
    site = await startGreeterSite();
  });

  test('a deployed function answers, and a list shows it in the columns of kubectl', async () => {
    expect(JSON.parse(await ok(['invoke', 'greeter', '-d', '{"name":"reef"}']))).toMatchObject({
      hello: 'reef',
    });
    const [header, row] = (await ok(['list'])).split('\n');
    expect(header).toMatch(/^NAME +READY +TRIGGERS +PACKAGE +AGE$/);
    expect(row).toMatch(/^greeter +True +nats +[0-9a-f]{12} +\d+/);
    const [object] = JSON.parse(await ok(['list', '-o', 'json'])) as FunctionObject[];
    expect(object).toMatchObject({
      kind: 'Function',
      metadata: { name: 'greeter' },
      spec: { timeoutSeconds: 30 },
    });
    expect(await ok(['list', '-A', '-o', 'wide'])).toMatch(/^NAMESPACE .* REASON/);
  });

  test('apply: one wrong document, and nothing of the others is applied; every problem is told', async () => {
    const files = await folderWith({
      'a.yaml': `${manifest('fine-one')}---\n${manifest('wrong-one', '  timeoutSeconds: 0\n  surprise: 1\n')}`,
      'b.yaml': manifest('Wrong_Name'),
    });
    const { code, stderr } = await run(['apply', '-f', files]);
    expect(code).toBe(2);
    expect(stderr).toContain('a.yaml');
    expect(stderr).toContain('document 2');
    expect(stderr).toContain('spec.timeoutSeconds');
    expect(stderr).toContain('spec.surprise');
    expect(stderr).toContain('b.yaml');
    expect((await run(['get', 'fine-one'])).code).toBe(3);
  });

  test('apply takes several documents from stdin, says what became of each, and keeps deployed packages', async () => {
    const both = `${manifest('one-of-two')}---\n${manifest('two-of-two')}`;
    expect(await ok(['apply', '-f', '-'], { stdin: both })).toBe(
      'function one-of-two created\nfunction two-of-two created\n',
    );
    expect(await ok(['apply', '-f', '-'], { stdin: both })).toContain('one-of-two unchanged');
    const before = parse(await ok(['get', 'greeter'])) as FunctionObject;
    await ok(['apply', '-f', '-'], {
      stdin: manifest(
        'greeter',
        '  timeoutSeconds: 7\n  triggers: [{ name: in, nats: { subject: greeter } }]\n',
      ),
    });
    const after = parse(await ok(['get', 'greeter'])) as FunctionObject;
    expect(after.spec.timeoutSeconds).toBe(7);
    expect(after.spec.package).toEqual(before.spec.package);
    expect(await ok(['delete', 'one-of-two', 'two-of-two'])).toBe(
      'function one-of-two deleted\nfunction two-of-two deleted\n',
    );
  });

  test('what get printed can be applied again, unless someone changed it meanwhile', async () => {
    await ok(['apply', '-f', '-'], { stdin: manifest('stale') });
    const read = await ok(['get', 'stale']);
    await ok(['apply', '-f', '-'], { stdin: read });
    await ok(['apply', '-f', '-'], { stdin: manifest('stale', '  timeoutSeconds: 9\n') });
    const { code, stderr } = await run(['apply', '-f', '-'], {
      stdin: read.replace('timeoutSeconds: 30', 'timeoutSeconds: 8'),
    });
    expect(code).toBe(3);
    expect(stderr).toContain('Conflict');
  });

  test('a wrong name among several to delete: none is deleted', async () => {
    await ok(['apply', '-f', '-'], { stdin: manifest('stays') });
    expect((await run(['delete', 'stays', 'missing-one'])).code).toBe(3);
    await ok(['get', 'stays']);
    await ok(['delete', 'stays', 'missing-one', '--ignore-not-found']);
  });

  test('completion offers commands, options, choices and the names of functions', async () => {
    const complete = async (...words: string[]) =>
      (await ok(['completion', 'words', '--', ...words])).trim().split('\n');
    expect(await complete('inv')).toEqual(['invoke']);
    expect(await complete('invoke', 'greet')).toEqual(['greeter']);
    expect(await complete('invoke', 'greeter', '--a')).toEqual(['--async']);
    expect(await complete('list', '-o', '')).toEqual(['json', 'yaml', 'wide']);
    expect(await complete('dead', 're')).toEqual(['redrive']);
    for (const shell of ['bash', 'zsh', 'fish'])
      expect(await ok(['completion', shell])).toContain('faas completion words');
  });

  test('the site is found from a folder below it, and through $FAAS_SITE', async () => {
    const below = join(site.dir, '..', 'a', 'b');
    await mkdir(below, { recursive: true });
    expect((await faas(['list'], { cwd: below })).stdout).toContain('greeter');
    expect((await faas(['list'], { cwd: '/', env: { FAAS_SITE: site.dir } })).stdout).toContain('greeter');
  });

  test('what lies in the folder of the site is for its owner alone', async () => {
    expect((await stat(site.dir)).mode & 0o777).toBe(0o700);
    for (const entry of await readdir(site.dir, { recursive: true, withFileTypes: true })) {
      // nats-server keeps its own files; the folder above them lets nobody in.
      const path = join(entry.parentPath, entry.name);
      if (!entry.isFile() || path.includes('/nats/') || path.includes('/cache/')) continue;
      expect({ path, mode: (await stat(path)).mode & 0o077 }).toEqual({ path, mode: 0 });
    }
    expect(await readFile(join(site.dir, 'site.json'), 'utf8')).toContain(site.info.url);
  });
});
