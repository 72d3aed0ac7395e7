import { appendFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { FunctionObject } from '../../crds/function.ts';
import { freePort } from '../support/ports.ts';
import { startProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import {
  faasFile,
  folderWith,
  functionFolder,
  greeterSource,
  startSite,
  type RunOptions,
  type TestSite,
} from './run.ts';

describe.skipIf(await missing('nats-server'))('deploying to a site', () => {
  let site: TestSite;
  let folder: string;
  const run = (args: string[], options?: RunOptions) => site.faas(args, options);
  const ok = (args: string[], options?: RunOptions) => site.ok(args, options);

  beforeAll(async () => {
    site = await startSite();
    folder = await functionFolder('greeter', '  triggers: [{ name: in, nats: { subject: greeter } }]\n');
    await ok(['deploy', folder]);
  });

  test('unchanged code and manifest: nothing is uploaded and nothing restarts', async () => {
    const before = parse(await ok(['get', 'greeter'])) as FunctionObject;
    expect(await ok(['deploy', folder])).toMatch(/^function greeter unchanged: .* not uploaded again/);
    const after = parse(await ok(['get', 'greeter'])) as FunctionObject;
    expect(after.metadata).toEqual(before.metadata);
    expect(after.status?.conditions).toEqual(before.status?.conditions);
  });

  test('a change of the code is deployed and answers; two folders with it share a package', async () => {
    const changed = greeterSource.replace('hello:', 'bye:');
    const first = await functionFolder('changer');
    await ok(['deploy', first]);
    await writeFile(join(first, 'index.ts'), changed);
    const [one] = JSON.parse(await ok(['deploy', first, '-o', 'json'])) as {
      sha256: string;
      uploaded: boolean;
    }[];
    expect(one).toMatchObject({ uploaded: true, changed: true, ready: true });
    expect(JSON.parse(await ok(['invoke', 'changer', '-d', '{"name":"x"}']))).toMatchObject({ bye: 'x' });
    const second = await functionFolder('changer-two', '', changed);
    const [two] = JSON.parse(await ok(['deploy', second, '-o', 'json'])) as {
      sha256: string;
      uploaded: boolean;
    }[];
    expect(two).toMatchObject({ sha256: one?.sha256, uploaded: false, ready: true });
    expect(await readdir(join(site.dir, 'packages'))).toContain(`${one?.sha256}.tgz`);
  });

  test('--dry-run builds and checks, and changes nothing', async () => {
    const fresh = await functionFolder('never-there');
    expect(await ok(['deploy', fresh, '--dry-run'])).toMatch(/would be deployed/);
    expect((await run(['get', 'never-there'])).code).toBe(3);
  });

  test('--no-wait returns before the function is ready', async () => {
    const fresh = await functionFolder('later');
    expect(await ok(['deploy', fresh, '--no-wait'])).toMatch(/not waited for/);
  });

  test('code that does not load: exit code 1 with the exact reason, and the old code goes on', async () => {
    const broken = await functionFolder('breaker');
    await ok(['deploy', broken]);
    await writeFile(
      join(broken, 'index.ts'),
      `const connect = () => {\n  throw new Error('no such robot');\n};\nconnect();\nexport const handler = () => 1;\n`,
    );
    const { code, stderr } = await run(['deploy', broken]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^error: Runtime\.InitError: breaker is not ready: .*Error: no such robot \(index\.ts:2:/m,
    );
    expect(stderr).toMatch(/^ +at connect \(.*index\.ts:2:\d+\)\n +at .*index\.ts:4:\d+/m);
    // What loads modules in Node is nobody's error.
    expect(stderr).not.toContain('node:internal');
    expect(JSON.parse(await ok(['invoke', 'breaker']))).toMatchObject({ hello: 'nobody' });
    expect(await ok(['describe', 'breaker'])).toContain('no such robot');
  });

  test('a rollback brings back the code that answered before, and again what answered in between', async () => {
    const back = await functionFolder('back');
    const answer = async () => JSON.parse(await ok(['invoke', 'back', '-d', '{"name":"x"}'])) as object;
    const deployed = async (): Promise<string> => {
      const [one] = JSON.parse(await ok(['deploy', back, '-o', 'json'])) as { sha256: string }[];
      return one!.sha256;
    };
    const first = await deployed();
    expect(await run(['rollback', 'back'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('no package to go back to') as string,
    });
    await writeFile(join(back, 'index.ts'), greeterSource.replace('hello:', 'bye:'));
    const second = await deployed();
    expect(await answer()).toHaveProperty('bye');
    const history = JSON.parse(await ok(['history', 'back', '-o', 'json'])) as { packageSha256: string }[];
    expect(history.map(({ packageSha256 }) => packageSha256)).toEqual([second, first]);

    expect(await ok(['rollback', 'back'])).toMatch(
      /^function back rolled back to package [0-9a-f]{12}, ready/,
    );
    expect(await answer()).toHaveProperty('hello');
    expect(await ok(['history', 'back'])).toMatch(new RegExp(`${first.slice(0, 12)} .* answers now`));
    await ok(['rollback', 'back', '--to', second.slice(0, 12)]);
    expect(await answer()).toHaveProperty('bye');
    for (const [to, problem] of [
      ['ffffff', 'no package that begins with'],
      ['abc', '6 or more digits'],
      ['../../x', '6 or more digits'],
    ] as const) {
      const refused = await run(['rollback', 'back', '--to', to]);
      expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining(problem) as string });
    }
    await rm(join(site.dir, 'packages', `${first}.tgz`));
    expect(await run(['rollback', 'back'])).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('PackageNotFound') as string,
    });
    await ok(['delete', 'back']);
  });

  test('code that does not build: exit code 1 with file and line, and nothing is applied', async () => {
    const broken = await functionFolder(
      'unbuilt',
      '',
      'export const handler = async () => {\n  return 1 +;\n};\n',
    );
    const { code, stderr } = await run(['deploy', broken]);
    expect(code).toBe(1);
    expect(stderr).toContain('index.ts:2:13');
    expect((await run(['get', 'unbuilt'])).code).toBe(3);
  });

  test('a trigger that cannot work: exit code 1 with its reason and what to do', async () => {
    const lost = await functionFolder(
      'streamless',
      '  triggers: [{ name: in, jetstream: { stream: NOWHERE } }]\n',
    );
    const { code, stderr } = await run(['deploy', lost, '--timeout', '20']);
    expect(code).toBe(1);
    expect(stderr).toContain('StreamNotFound');
    expect(stderr).toContain('NOWHERE');
    await ok(['delete', 'streamless']);
  });

  test('the folder of "faas init" deploys as it stands, whatever calls it', async () => {
    const parent = await folderWith({});
    for (const trigger of ['nats', 'jetstream', 'mqtt', 'http', 'schedule']) {
      const name = `from-${trigger}`;
      await ok(['init', name, '--trigger', trigger], { cwd: parent });
      expect(await ok(['deploy', join(parent, name)])).toMatch(/deployed and ready/);
    }
    const response = await fetch(`${site.info.url}/from-http?name=reef`);
    expect(await response.json()).toEqual({ greeting: 'hello reef' });
  });

  test("dev runs the next event with what was just saved, and keeps the site's own", async () => {
    const hot = await functionFolder('hot');
    const dev = await startProcess(process.execPath, [faasFile, 'dev', hot, '--site', site.dir]);
    await dev.line(/^ready: /);
    expect(JSON.parse(await ok(['invoke', 'hot']))).toMatchObject({ hello: 'nobody' });
    await dev.line(/called/);
    await writeFile(join(hot, 'index.ts'), `export const handler = () => 'saved';\n`);
    await expect
      .poll(async () => (await run(['invoke', 'hot'])).stdout, { timeout: 60_000 })
      .toBe('"saved"\n');
    await appendFile(join(hot, 'index.ts'), `export const oops = ;\n`);
    await dev.line(/BuildFailed/);
    expect(await ok(['invoke', 'hot'])).toBe('"saved"\n');
    dev.signal('SIGINT');
    expect(await dev.exited).toEqual({ code: 0, signal: null });
    await ok(['list']);
  });

  test('dev --inspect opens the debugger in the handler process, on loopback', async () => {
    const debugged = await functionFolder('debugged');
    const port = await freePort();
    const dev = await startProcess(process.execPath, [
      ...[faasFile, 'dev', debugged, '--inspect', String(port), '--site', site.dir],
    ]);
    await dev.line(/^ready: /);
    const targets = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as object[];
    expect(targets).toEqual([expect.objectContaining({ type: 'node' })]);
    const { spec } = JSON.parse(await ok(['get', 'debugged', '-o', 'json'])) as {
      spec: { timeoutSeconds: number };
    };
    expect(spec.timeoutSeconds).toBe(900);
    dev.signal('SIGINT');
    expect(await dev.exited).toEqual({ code: 0, signal: null });
    await ok(['delete', 'debugged']);
  });
});
