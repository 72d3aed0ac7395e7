import { execFile } from 'node:child_process';
import { appendFile, cp, mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, expect, test, vi } from 'vitest';
import { temporaryFolder } from '../support/folder.ts';
import { faasFile } from '../cli/run.ts';
import { emptySite, startSite, unready, until, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;

/** A site that ran, was given a secret and a dead broker's credentials never, and was ended as it should be. */
let before: string;
beforeAll(async () => {
  const site = await startSite();
  await mkdir(join(site.dir, 'secrets', 'default', 'door'), { recursive: true, mode: 0o700 });
  await writeFile(join(site.dir, 'secrets', 'default', 'door', 'code'), 'sesame', { mode: 0o600 });
  const env = [{ name: 'CODE', valueFrom: { secretKeyRef: { name: 'door', key: 'code' } } }];
  await site.deploy({
    name: 'plain',
    code: 'export const handler = () => { console.log("ran"); return 1; };',
  });
  await site.deploy({
    name: 'secret',
    spec: { env },
    code: 'export const handler = () => process.env.CODE;',
  });
  expect(await site.invoke('plain')).toBe(1);
  await site.stop();
  before = site.dir;
});

/** A copy of it for each test, which nothing runs in yet: several work at the same time. */
async function copy(): Promise<Site> {
  const site = await emptySite();
  await cp(before, site.dir, { recursive: true });
  for (const name of await readdir(join(site.dir, 'functions', 'default'))) {
    const file = join(site.dir, 'functions', 'default', name);
    await writeFile(file, (await readFile(file, 'utf8')).replaceAll(before, site.dir));
  }
  return site;
}

/** All of them take a minute and more. */
const soak = process.env['ATOLL_SOAK'] === '1';

/** What a power cut leaves of a file: nothing, its first half, a length without its bytes, another file's bytes. */
const damages: [string, (file: string) => Promise<void>][] = [
  ['empty', (file) => truncate(file, 0)],
  ['cut in half', async (file) => truncate(file, Math.floor((await stat(file)).size / 2))],
  ['full of zeros', async (file) => writeFile(file, Buffer.alloc((await stat(file)).size))],
  [
    'full of other bytes',
    async (file) => writeFile(file, Buffer.from(`\u0001\ufffd{[garbage${'x'.repeat(50)}`)),
  ],
];

async function only(folder: string, matching: RegExp): Promise<string> {
  const name = (await readdir(folder)).find((one) => matching.test(one));
  if (name === undefined) throw new Error(`nothing in ${folder} matches ${String(matching)}`);
  return join(folder, name);
}

test.concurrent.each(soak ? damages : damages.slice(1, 3))(
  'files that can be found out anew may be %s: the site starts, and all of its functions answer',
  async (_, damage) => {
    const site = await copy();
    const { dir } = site;
    for (const file of [
      join(dir, 'version'),
      join(dir, 'id'),
      join(dir, 'status', 'default', 'plain.json'),
      join(dir, 'nats', 'ports.json'),
      join(dir, 'nats', 'nats-server.conf'),
      join(dir, 'run', 'host.json'),
      join(dir, 'logs', 'default', 'plain.jsonl'),
      join(dir, 'logs', 'host.jsonl'),
      await only(join(dir, 'cache'), /^[0-9a-f]{64}\.json$/),
    ]) {
      await damage(file);
      // Of a version that is not known nothing may be assumed: that is a case of its own.
      if (file.endsWith('version') && !/^[\0\s1]*$/.test(await readFile(file, 'utf8')))
        await writeFile(file, '');
    }
    // Those that a site removes when it ends are there after a power cut.
    for (const file of [
      join(dir, 'site.json'),
      join(dir, 'run', '999999-12345'),
      join(dir, 'run', 'up.1-1.ab'),
    ]) {
      await writeFile(
        file,
        '{"pid": 999999, "startTime": "12345", "name": "host", "url": "http://127.0.0.1:1"}',
      );
      await damage(file);
    }
    // A package whose own folder was hit, and the line of a log that was being written.
    const index = await only(await only(join(dir, 'cache'), /^[0-9a-f]{64}$/), /^index\./);
    await run('chmod', ['600', index]);
    await damage(index);
    await appendFile(
      join(dir, 'logs', 'default', 'secret.jsonl'),
      '{"time":"2026-01-01T00:00:00.000Z","mess',
    );

    await site.start();
    for (const name of ['plain', 'secret']) await site.ready(name);
    expect(await site.invoke('plain')).toBe(1);
    expect(await site.invoke('secret')).toBe('sesame');
    // The record after the torn line is a line of its own.
    const reports = async (): Promise<number> =>
      (await site.faas('logs', 'secret', '-o', 'json')).stdout.split('"REPORT').length - 1;
    await until('the report of the call is in the log', async () => (await reports()) > 0 || undefined);
    await site.stop();
  },
);

test.concurrent.each(soak ? damages : damages.slice(0, 1))(
  'files that only their owner can restore may be %s: the site starts, and says which file and what to do',
  async (what, damage) => {
    const site = await copy();
    const { dir } = site;
    const manifest = join(dir, 'functions', 'default', 'plain.yaml');
    const packed = /uri: file:\/\/(.*)/.exec(
      await readFile(join(dir, 'functions', 'default', 'secret.yaml'), 'utf8'),
    );
    await damage(manifest);
    // Half a manifest may be one that is valid, which is then taken for an edit: cut inside of a word it is none.
    if (what === 'cut in half') {
      const text = await readFile(manifest, 'utf8');
      await truncate(manifest, Math.max(0, text.lastIndexOf('\n')) + 4);
    }
    await damage(packed![1]!);
    await rm(join(dir, 'cache'), { recursive: true });
    await site.start();

    const listed = await site.run(['describe', 'plain']);
    expect(listed.code).toBe(3);
    expect(listed.stderr).toContain(manifest);
    expect(listed.stderr).toMatch(/is not valid|is not UTF-8|is missing|has the character/);
    await until('the package is told', async () => {
      const { reason, message } = await unready(site, 'secret');
      return (/^Package(DigestMismatch|Invalid)$/.test(reason) && message.includes(packed![1]!)) || undefined;
    });
    const told = await site.run(['doctor']);
    expect(told.stdout).toContain(manifest);
    expect(told.stdout).toContain(packed![1]!);

    // What to do, done: a deploy brings both back.
    for (const name of ['plain', 'secret']) {
      const env = [{ name: 'CODE', valueFrom: { secretKeyRef: { name: 'door', key: 'code' } } }];
      const code =
        name === 'plain'
          ? 'export const handler = () => { console.log("ran"); return 1; };'
          : 'export const handler = () => process.env.CODE;';
      await site.deploy({ name, spec: name === 'plain' ? {} : { env }, code });
    }
    expect(await site.invoke('plain')).toBe(1);
    expect(await site.invoke('secret')).toBe('sesame');
    await site.stop();
  },
);

test.concurrent(
  'a secret that a power cut emptied is told as its file, not handed on as an empty value',
  async () => {
    const site = await copy();
    const file = join(site.dir, 'secrets', 'default', 'door', 'code');
    await writeFile(file, '');
    await site.start();
    const told = await until('it is told', async () => {
      const found = await unready(site, 'secret');
      return found.reason === 'SecretNotFound' ? found : undefined;
    });
    expect(told.message).toMatch(/door\/code is empty: write the value into that file/);
    await writeFile(file, 'sesame');
    await site.ready('secret');
    expect(await site.invoke('secret')).toBe('sesame');
    await site.stop();
  },
);

test.concurrent.each([
  ['keys', ['--host', '0.0.0.0', '--keys', 'keys'], /keys, line 1: not a JSON object/, '{"id":"o'],
  ['version', [], /layout version "x1".*write 1 into .*version/, 'x1'],
  [
    'version',
    [],
    /layout version "2".*run the Atoll that wrote it, or give another folder with --dir/,
    '2\n',
  ],
] as const)(
  'with a damaged %s faas up ends and says which file and what to do',
  async (name, args, says, text) => {
    const site = await copy();
    await writeFile(join(site.dir, name), text, { mode: 0o600 });
    const all = args.map((arg) => (arg === 'keys' ? join(site.dir, 'keys') : arg));
    const { code, stderr } = await site.run(['up', '--dir', site.dir, '--port', '0', ...all]);
    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/\n +at /);
    expect(code).toBe(3);
  },
);

test
  .skipIf(!isRoot)
  .concurrent('a folder on a read-only file system is refused by faas up, and can be read', async () => {
    const dir = before;
    // A mount namespace of its own: nothing of it is left when the shell ends.
    const inside = async (...args: string[]): Promise<{ code: number; stderr: string; stdout: string }> => {
      const script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"';
      const words = ['-m', 'sh', '-c', script, dir, process.execPath, faasFile, ...args];
      return await run('unshare', words).then(
        ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
        (error: unknown) => error as { code: number; stderr: string; stdout: string },
      );
    };
    const up = await inside('up', '--dir', dir);
    expect(up.stderr).toMatch(/is read-only \(EROFS\)\n.*Mount it writable.*--dir/);
    expect(up.stderr).toContain(dir);
    expect(up.stderr).not.toMatch(/\n +at /);
    expect(up.code).toBe(3);
    const list = await inside('list', '--site', dir);
    expect(list.stderr + list.stdout).toMatch(/plain[^]*secret/);
    const doctor = await inside('doctor', '--site', dir);
    expect(doctor.stdout).toMatch(/✗ folder +.*read-only \(EROFS\)/);
  });

test
  .skipIf(!isRoot)
  .concurrent('the folder of another user is refused by each command, which says whose it is', async () => {
    const { dir } = await copy();
    const folder = await temporaryFolder();
    await run('chmod', ['755', folder, join(dir, '..')]);
    const as = async (...args: string[]): Promise<{ code: number; stderr: string; stdout: string }> =>
      await run(
        'setpriv',
        ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath, faasFile, ...args],
        {
          env: { ...process.env, HOME: folder, XDG_CACHE_HOME: folder },
          cwd: '/',
        },
      ).then(
        ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
        (error: unknown) => error as { code: number; stderr: string; stdout: string },
      );
    for (const args of [
      ['up', '--dir', dir],
      ['list', '--site', dir],
    ]) {
      const { code, stderr } = await as(...args);
      expect(stderr).toMatch(
        /not allowed: .* belongs to uid 0, this is uid 65534 \(EACCES\)\nRun it as the owner/,
      );
      expect(stderr).toContain(dir);
      expect(code).toBe(3);
    }
    const doctor = await as('doctor', '--site', dir);
    expect(doctor.stdout).toMatch(/✗ folder +.*belongs to uid 0, this is uid 65534/);
  });

test
  .skipIf(!isRoot)
  .concurrent('on a full disk faas up ends and says so; doctor tells how much is left', async () => {
    const folder = await temporaryFolder();
    const script = `mount -t tmpfs -o size=64k tmpfs "$0" && head -c 1M /dev/zero > "$0/fill" 2>/dev/null
    "$1" "$2" up --dir "$0/.atoll"; echo "code $?" >&2
    rm "$0/fill"; mkdir -p "$0/.atoll"; echo 1 > "$0/.atoll/version"; "$1" "$2" doctor --site "$0/.atoll"; exit 0`;
    const { stdout, stderr } = await run('unshare', [
      '-m',
      'sh',
      '-c',
      script,
      folder,
      process.execPath,
      faasFile,
    ]);
    expect(stderr).toMatch(/the disk is full \(ENOSPC\)\nMake room[^]*code 3/);
    expect(stdout).toMatch(/✗ disk +.* KiB of 64 KiB are free/);
  });

test.concurrent(
  'what a site is told in secret stands in no file of it but those for secrets, in no status and no log',
  async () => {
    const secrets = {
      function: 'fn-s3cr3t-4711',
      mqtt: 'mqtt-s3cr3t-4712',
      s3: 's3-s3cr3t-4713',
      key: 'key-s3cr3t-4714-long',
    };
    const site = await emptySite();
    await mkdir(join(site.dir, 'secrets', 'default', 'door'), { recursive: true, mode: 0o700 });
    await writeFile(join(site.dir, 'secrets', 'default', 'door', 'code'), secrets.function, { mode: 0o600 });
    await writeFile(join(site.dir, 'keys'), `{"id":"ops","secret":"${secrets.key}"}\n`, { mode: 0o600 });
    await site.start({
      args: [
        ...['--host', '0.0.0.0', '--keys', join(site.dir, 'keys')],
        ...['--mqtt', `mqtt://m:${secrets.mqtt}@127.0.0.1:1`, '--s3', 'http://127.0.0.1:1/bucket'],
      ],
      env: { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: secrets.s3 },
    });
    // Used: by a handler that answers with it in part and fails, by triggers that cannot connect, by a refused key.
    const env = [{ name: 'CODE', valueFrom: { secretKeyRef: { name: 'door', key: 'code' } } }];
    const code =
      'export const handler = (event) => { if (event.fail) throw new Error("failed"); return process.env.CODE.length; };';
    const triggers = [{ name: 'in', mqtt: { topic: 'a' } }];
    const file = join(site.dir, '..', 'used.json');
    const spec = {
      env,
      triggers,
      package: { inline: code.replace('export const', 'exports.').replace('exports. ', 'exports.') },
    };
    const object = { apiVersion: 'atoll.dev/v1alpha1', kind: 'Function', metadata: { name: 'used' }, spec };
    await writeFile(file, JSON.stringify(object));
    await site.faas('apply', '-f', file);
    await until('it answers', async () => {
      const { code: ended, stdout } = await site.run(['invoke', 'used', '-d', '{}']);
      return (ended === 0 && stdout.trim() === String(secrets.function.length)) || undefined;
    });
    expect((await site.run(['invoke', 'used', '-d', '{"fail":true}'])).code).toBe(1);
    await site.run(['invoke', 'used'], { env: { FAAS_KEY: `ops.${secrets.key}x` } });
    const failed = await site.run(['deploy', await site.write({ name: 'other', code })]);
    expect(failed.code).toBe(3);
    const outputs = [site.output(), failed.stderr];
    for (const args of [
      ['describe', 'used'],
      ['get', 'used', '-o', 'yaml'],
      ['logs', 'used'],
      ['doctor', '-o', 'json'],
    ]) {
      const { stdout, stderr } = await site.run(args);
      outputs.push(stdout, stderr);
    }
    await site.stop();

    const holders: Record<string, string[]> = {};
    let files = 0;
    for (const entry of await readdir(site.dir, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const text = await readFile(path, 'latin1');
      files += 1;
      for (const [name, secret] of Object.entries(secrets)) {
        if (text.includes(secret)) (holders[name] ??= []).push(path.slice(site.dir.length + 1));
      }
    }
    expect(files).toBeGreaterThan(10);
    expect(holders).toEqual({
      function: ['secrets/default/door/code'],
      key: ['keys'],
      mqtt: ['mqtt.json'],
      s3: ['s3.json'],
    });
    for (const output of outputs) {
      for (const secret of Object.values(secrets)) expect(output).not.toContain(secret);
    }
  },
);
