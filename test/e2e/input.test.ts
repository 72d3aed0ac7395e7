import { existsSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { packageOf, sha256Of, type MadeEntry } from '../runtime/package/archives.ts';
import { describes, startSite, unready, until, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

let site: Site;
beforeAll(async () => {
  site = await startSite();
  await mkdir(site.work, { recursive: true });
});

const functionWith = (spec: object, name = 'probe'): object => ({
  apiVersion: 'atoll.dev/v1alpha1',
  kind: 'Function',
  metadata: { name },
  spec,
});
const trigger = (source: object): object => ({ triggers: [{ name: 'one', ...source }] });

let files = 0;
async function fileOf(...objects: object[]): Promise<string> {
  const file = join(site.work, `manifest-${(files += 1)}.yaml`);
  // JSON is YAML.
  await writeFile(file, objects.map((object) => JSON.stringify(object, null, 2)).join('\n---\n'));
  return file;
}

async function names(): Promise<string[]> {
  const { stdout } = await site.faas('list', '-o', 'json');
  const found = JSON.parse(stdout) as { metadata?: { name: string }; name?: string }[];
  return found.map(({ metadata, name }) => metadata?.name ?? name ?? '');
}

const bad: [what: string, spec: object, path: string, says: RegExp][] = [
  ['an unknown field', { timeout: 3 }, 'spec.timeout', /unknown|not known|timeoutSeconds/],
  ['an unknown field far inside', trigger({ nats: { subjct: 'a' } }), 'subjct', /unknown|not known|subject/],
  ['a wrong type', { timeoutSeconds: 'ten' }, 'spec.timeoutSeconds', /ten/],
  [
    'two sources in one trigger',
    trigger({ nats: { subject: 'a' }, mqtt: { topic: 'a' } }),
    'triggers',
    /one/,
  ],
  ['no source in a trigger', trigger({}), 'triggers', /one/],
  ['a bad cron', trigger({ schedule: { cron: '61 * * * *' } }), 'cron', /61/],
  ['a bad subject', trigger({ nats: { subject: 'a..b' } }), 'subject', /a\.\.b/],
  ['an MQTT topic with # in the middle', trigger({ mqtt: { topic: 'a/#/b' } }), 'topic', /#/],
  ['timeout 0', { timeoutSeconds: 0 }, 'spec.timeoutSeconds', /0/],
  [
    'duplicate trigger names',
    { triggers: [0, 1].map((n) => ({ name: 'same', nats: { subject: `a.${n}` } })) },
    'triggers',
    /same/,
  ],
  ['a trigger called invoke', { triggers: [{ name: 'invoke', nats: { subject: 'a' } }] }, 'name', /invoke/],
  ['a reserved variable', { env: [{ name: 'AWS_LAMBDA_FUNCTION_NAME', value: 'x' }] }, 'env', /AWS_LAMBDA/],
  ['a package without its digest', { package: { uri: 's3://a/b.tgz' } }, 'package', /sha256/],
];

test.each(bad)(
  'a manifest with %s is refused by apply and deploy with path and value',
  async (_what, spec, path, says) => {
    const file = await fileOf(functionWith(spec));
    const source = await site.write({ name: 'source', code: 'export const handler = () => 1;' });
    for (const args of [
      ['apply', '-f', file],
      ['deploy', source, '-f', file],
    ]) {
      const { code, stdout, stderr } = await site.run(args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
      expect(stderr).toContain(file);
      expect(stderr).toContain(path);
      expect(stderr).toMatch(says);
    }
    expect(await names()).not.toContain('probe');
  },
);

test('of several documents one is wrong: none is applied, and every mistake is told', async () => {
  const file = await fileOf(
    functionWith({}, 'first'),
    functionWith({ timeoutSeconds: -1, concurrency: 'many' }, 'second'),
    functionWith({ nothing: true }, 'third'),
  );
  const { code, stderr } = await site.run(['apply', '-f', file]);
  expect(code).toBe(2);
  for (const part of ['spec.timeoutSeconds', 'spec.concurrency', 'spec.nothing', '3 problems']) {
    expect(stderr).toContain(part);
  }
  expect(await names()).toEqual([]);
});

test('what is no YAML, no Function or empty is refused with the file and what is wrong', async () => {
  for (const [text, says] of [
    ['kind: [Function', /line|flow/i],
    ['apiVersion: v1\nkind: Pod\nmetadata: {name: a}', /kind|apiVersion/],
    ['', /no document|empty|no Function/i],
  ] as const) {
    const file = join(site.work, `manifest-${(files += 1)}.yaml`);
    await writeFile(file, text);
    const { code, stderr } = await site.run(['apply', '-f', file]);
    expect(code).toBe(2);
    expect(stderr).toContain(file);
    expect(stderr).toMatch(says);
  }
});

test('sources without the file that the handler names are not deployed', async () => {
  const folder = await site.write({ name: 'nofile', spec: { handler: 'main.handler' }, code: '' });
  const { code, stderr } = await site.run(['deploy', folder]);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/main\.(ts|handler)/);
  expect(await names()).not.toContain('nofile');
});

const good: MadeEntry = { path: 'index.mjs', data: 'export const handler = () => "fine";' };
const goodBytes = packageOf(good);
/** 10 GB of zeros behind an honest archive. */
const bomb = Buffer.concat([
  goodBytes,
  ...Array.from({ length: 640 }).fill(gzipSync(Buffer.alloc(16 * 1024 ** 2))),
] as Buffer[]);
const truncated = goodBytes.subarray(0, goodBytes.length - 40);

const packages: [what: string, bytes: Buffer, sha256: string, reason: string, says: RegExp][] = [
  ['another digest', goodBytes, 'a'.repeat(64), 'PackageDigestMismatch', new RegExp(sha256Of(goodBytes))],
  [
    'its end cut off',
    truncated,
    sha256Of(truncated),
    'PackageInvalid',
    /truncated|unexpected end|cut|incomplete/i,
  ],
  [
    'text behind its end',
    Buffer.concat([goodBytes, Buffer.from('trailing')]),
    sha256Of(Buffer.concat([goodBytes, Buffer.from('trailing')])),
    'PackageInvalid',
    /gzip/,
  ],
  ['10 GB of zeros', bomb, sha256Of(bomb), 'PackageInvalid', /inflates to more than 303104000 bytes/],
  ['no archive in it', Buffer.from('hello'), sha256Of(Buffer.from('hello')), 'PackageInvalid', /gzip|tar/i],
  ...(
    [
      ['a path that leaves it', { path: '../escaped.mjs', data: 'x' }, /escaped\.mjs.*leads out/],
      ['an absolute path', { path: '/tmp/atoll-escaped', data: 'x' }, /absolute/],
      ['a symbolic link', { path: 'link', type: 'SymbolicLink', linkpath: '../..' }, /link/i],
      ['a hard link', { path: 'link', type: 'Link', linkpath: '/etc/passwd' }, /link/i],
      ['a device', { path: 'device', type: 'CharacterDevice' }, /"device" is neither a file nor a folder/],
      ['a FIFO', { path: 'pipe', type: 'FIFO' }, /"pipe" is neither a file nor a folder/],
      ['a Windows path', { path: 'C:/evil.mjs', data: 'x' }, /"C:\/evil\.mjs" is an absolute path/],
      ['dots of full width', { path: 'a', pax: { path: '\uff0e\uff0e/evil' } }, /Unicode form/],
      ['an entry twice', good, /"index\.mjs" is there twice/],
      ['names that differ in case', { path: 'INDEX.mjs', data: 'x' }, /"INDEX\.mjs" differs.*"index\.mjs"/],
      ['a path of 4 kB', { path: 'a', pax: { path: 'n/'.repeat(2048) } }, /more than 1024 bytes/],
    ] as [string, MadeEntry, RegExp][]
  ).map(([what, entry, says]): [string, Buffer, string, string, RegExp] => {
    const bytes = packageOf(good, entry);
    return [what, bytes, sha256Of(bytes), 'PackageInvalid', says];
  }),
];

/** Functions of those packages, as somebody else's tool would declare them. */
async function declare(...all: { name: string; bytes: Buffer; sha256: string }[]): Promise<void> {
  const objects: object[] = [];
  for (const { name, bytes, sha256 } of all) {
    const file = join(site.dir, 'packages', `${sha256}.tgz`);
    await writeFile(file, bytes);
    objects.push(functionWith({ package: { uri: `file://${file}`, sha256 } }, name));
  }
  await site.faas('apply', '-f', await fileOf(...objects));
}

describe('bad packages', () => {
  const nameOf = (sha256: string): string => `pack-${sha256.slice(0, 8)}`;
  beforeAll(() => declare(...packages.map(([, bytes, sha256]) => ({ name: nameOf(sha256), bytes, sha256 }))));
  afterAll(() => site.faas('delete', ...packages.map(([, , sha256]) => nameOf(sha256))));

  test.each(packages)(
    'a package with %s: refused with the reason, nothing of it is put in place',
    async (_what, _bytes, sha256, reason, says) => {
      const name = nameOf(sha256);
      const told = await until(`${reason} is told`, async () => {
        const found = await unready(site, name);
        return found.reason === reason ? found : undefined;
      });
      expect(told.message).toMatch(says);
      if (reason === 'PackageInvalid') {
        expect(told.message).toMatch(/a package is a tar.gz of regular files .*deploy/);
      }
      const cached = await readdir(join(site.dir, 'cache'));
      expect(cached.filter((entry) => entry.includes(sha256))).toEqual([]);
      expect(existsSync(join(site.dir, 'cache', 'escaped.mjs'))).toBe(false);
      expect(existsSync('/tmp/atoll-escaped')).toBe(false);
    },
  );

  test('describe shows the condition, and what to do', async () => {
    const link = packages.find(([what]) => what === 'a symbolic link')!;
    await describes(site, nameOf(link[2]), /PackageReady +False .*PackageInvalid.*"link" is a link/);
  });
});

test('the same archive with the right digest is taken; without the file of the handler it takes no place', async () => {
  await declare({ name: 'fine', bytes: goodBytes, sha256: sha256Of(goodBytes) });
  await site.ready('fine');
  expect(await site.invoke('fine')).toBe('fine');
  const headless = packageOf({ path: 'other.mjs', data: good.data ?? '' });
  await declare({ name: 'fine', bytes: headless, sha256: sha256Of(headless) });
  await until('it is told what was looked for', async () => {
    const { reason, message } = await unready(site, 'fine');
    return (reason === 'Runtime.ImportModuleError' && /index\.mjs/.test(message)) || undefined;
  });
  expect(await site.invoke('fine')).toBe('fine');
});
