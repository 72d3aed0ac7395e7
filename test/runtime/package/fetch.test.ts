import { execFile } from 'node:child_process';
import {
  appendFile,
  chmod,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { openLog } from '../../../runtime/log.ts';
import { openPackages, type PackagesOptions } from '../../../runtime/package/fetch.ts';
import { packFiles, type Packed } from '../../../runtime/package/pack.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { missing } from '../../support/requirement.ts';
import { startMinio, startVersitygw } from '../../support/s3.ts';
import { packageOf, sha256Of } from './archives.ts';

const run = promisify(execFile);
const log = openLog({ level: 'silent' });
const handler = 'index.handler';
const source = (answer: number) => `export const handler = async () => ${answer};\n`;
const packed = (answer = 1): Promise<Packed> => packFiles([{ path: 'index.mjs', data: source(answer) }]);

async function site(options: Partial<PackagesOptions> = {}) {
  const root = await temporaryFolder();
  const [cache, folder] = [join(root, 'cache'), join(root, 'packages')];
  await mkdir(folder);
  const open = (more: Partial<PackagesOptions> = {}) =>
    openPackages({ cache, folder, log, ...options, ...more });
  return {
    root,
    cache,
    folder,
    open,
    packages: open(),
    async put(bytes: Uint8Array, name = `${sha256Of(bytes)}.tgz`) {
      await writeFile(join(folder, name), bytes);
      return { uri: pathToFileURL(join(folder, name)).href, sha256: sha256Of(bytes) };
    },
  };
}

/** What lies in the cache besides the boundary that package.json is. */
const cached = async (cache: string) =>
  (await readdir(cache)).filter((name) => name !== 'package.json').sort();

async function answerOf(root: string, file = 'index.mjs'): Promise<unknown> {
  const module = (await import(pathToFileURL(join(root, file)).href)) as {
    handler?: () => unknown;
    default?: { handler: () => unknown };
  };
  return (module.handler ?? module.default?.handler)?.();
}

test('a package in the folder is fetched, verified, unpacked and runs', async () => {
  const { packages, put, cache } = await site();
  const spec = await put((await packed(41)).bytes);
  const fetched = await packages.fetch(spec, handler);
  expect(fetched).toEqual({ root: join(cache, spec.sha256), sha256: spec.sha256 });
  expect(await answerOf(fetched.root)).toBe(41);
  expect(await cached(cache)).toEqual([spec.sha256, `${spec.sha256}.json`]);
});

test('a cached package needs its source no more, also after a restart', async () => {
  const { open, packages, put, folder } = await site();
  const spec = await put((await packed()).bytes);
  const { root } = await packages.fetch(spec, handler);
  await rm(folder, { recursive: true });
  expect(await packages.fetch(spec, handler)).toMatchObject({ root });
  expect(await open().fetch(spec, handler)).toMatchObject({ root });
});

test('another digest than the promised one is refused with both, before anything is unpacked', async () => {
  const { packages, put, cache } = await site();
  const { uri, sha256 } = await put(packageOf({ path: '../evil', data: 'x' }));
  const wanted = 'b'.repeat(64);
  const error: unknown = await packages
    .fetch({ uri, sha256: wanted }, handler)
    .catch((caught: unknown) => caught);
  expect(error).toMatchObject({ code: 'PackageDigestMismatch', retryable: true });
  expect(String(error)).toContain(sha256);
  expect(String(error)).toContain(wanted);
  expect(await cached(cache)).toEqual([]);
});

test('a hostile package with the right digest is refused, naming where it came from', async () => {
  const { packages, put, cache, root } = await site();
  const spec = await put(packageOf({ path: '../evil', data: 'x' }));
  await expect(packages.fetch(spec, handler)).rejects.toMatchObject({
    code: 'PackageInvalid',
    message: expect.stringMatching(/file:.*"..\/evil" leads out/),
  });
  expect(await cached(cache)).toEqual([]);
  expect((await readdir(root)).sort()).toEqual(['cache', 'packages']);
});

test.each([
  [
    'a changed file',
    async (root: string) => {
      await chmod(join(root, 'index.mjs'), 0o600);
      await appendFile(join(root, 'index.mjs'), '// poisoned');
    },
  ],
  [
    'an emptied file',
    async (root: string) => {
      await chmod(join(root, 'index.mjs'), 0o600);
      await writeFile(join(root, 'index.mjs'), '');
    },
  ],
  ['a missing file', (root: string) => rm(join(root, 'index.mjs'))],
  ['a file too many', (root: string) => writeFile(join(root, 'extra.js'), '')],
  [
    'a link in place of the file',
    async (root: string) => {
      await rename(join(root, 'index.mjs'), join(root, '../moved.mjs'));
      await symlink('../moved.mjs', join(root, 'index.mjs'));
    },
  ],
  ['no marker, as a crash leaves it', (root: string) => rm(`${root}.json`)],
  ['a broken marker', (root: string) => writeFile(`${root}.json`, '{')],
  ['a marker without its folder', (root: string) => rm(root, { recursive: true })],
])('a cached package with %s is replaced', async (_, damage) => {
  const { open, packages, put } = await site();
  const spec = await put((await packed(5)).bytes);
  const { root } = await packages.fetch(spec, handler);
  await damage(root);
  await open().fetch(spec, handler);
  expect(await readFile(join(root, 'index.mjs'), 'utf8')).toBe(source(5));
  expect(await readdir(root)).toEqual(['index.mjs']);
});

test('a damaged package whose source is away is an error, not run', async () => {
  const { open, packages, put, folder } = await site();
  const spec = await put((await packed()).bytes);
  const { root } = await packages.fetch(spec, handler);
  await rm(join(root, 'index.mjs'));
  await rm(folder, { recursive: true });
  await expect(open().fetch(spec, handler)).rejects.toMatchObject({ code: 'PackageNotFound' });
});

test('file:// reaches nothing outside the package folder, not by dots and not by links', async () => {
  const { packages, folder, root, cache, open } = await site();
  const { bytes, sha256 } = await packed();
  await writeFile(join(root, 'outside.tgz'), bytes);
  await symlink(join(root, 'outside.tgz'), join(folder, 'link.tgz'));
  await symlink(root, join(folder, 'up'));
  const uris = ['../outside.tgz', '%2e%2e/outside.tgz', 'link.tgz', 'up/outside.tgz', '.'].map(
    (path) => `file://${folder}/${path}`,
  );
  for (const uri of uris) {
    await expect(packages.fetch({ uri, sha256 }, handler), uri).rejects.toMatchObject({
      code: 'PackageForbidden',
    });
  }
  const spec = { uri: `file://${folder}/a.tgz`, sha256 };
  await expect(packages.fetch(spec, handler)).rejects.toMatchObject({ code: 'PackageNotFound' });
  const nowhere = openPackages({ cache, log });
  await expect(nowhere.fetch(spec, handler)).rejects.toMatchObject({ code: 'PackageForbidden' });
  await mkdir(join(folder, 'a.tgz'));
  await expect(open().fetch(spec, handler)).rejects.toMatchObject({ code: 'PackageInvalid' });
});

test.each([
  ['ECMAScript', 'export const handler = () => 7;'],
  ['CommonJS', 'exports.handler = () => 7;'],
])(
  'inline %s code becomes a package, also inside a project that says what its files are',
  async (_, inline) => {
    const { packages, root } = await site();
    await writeFile(join(root, 'package.json'), '{ "type": "module" }');
    const fetched = await packages.fetch({ inline }, 'src/app.handler');
    expect(await readdir(join(fetched.root, 'src'))).toEqual(['app.js']);
    expect(
      (
        await run(process.execPath, [
          '-e',
          `import(${JSON.stringify(`${fetched.root}/src/app.js`)}).then((m) => console.log((m.handler ?? m.default.handler)()))`,
        ])
      ).stdout,
    ).toBe('7\n');
    expect(await packages.fetch({ inline }, 'src/app.other')).toEqual(fetched);
    expect((await packages.fetch({ inline: `${inline} ` }, 'src/app.handler')).sha256).not.toBe(
      fetched.sha256,
    );
  },
);

test('s3:// on a site without S3 is said, not tried', async () => {
  const { packages } = await site();
  const spec = { uri: 's3://packages/a', sha256: 'a'.repeat(64) };
  await expect(packages.fetch(spec, handler)).rejects.toMatchObject({
    code: 'PackageUnavailable',
    message: expect.stringContaining('has no S3'),
  });
});

test('the least recently used packages go first, those in use stay', async () => {
  const { packages, open, put, cache } = await site();
  const specs = await Promise.all([1, 2, 3, 4].map(async (answer) => put((await packed(answer)).bytes)));
  for (const [index, spec] of specs.entries()) {
    await packages.fetch(spec, handler);
    await utimes(join(cache, `${spec.sha256}.json`), 1000 + index, 1000 + index);
  }
  const leftover = join(cache, `${'c'.repeat(64)}.incomplete-1`);
  await mkdir(leftover);
  await utimes(leftover, 1000, 1000);
  // Used again, so the youngest.
  await packages.fetch(specs[0]!, handler);

  const digests = specs.map(({ sha256 }) => sha256);
  const sizes = await Promise.all([1, 2, 3, 4].map(async (answer) => (await packed(answer)).bytes.length));
  const removed = await packages.prune(new Set([digests[1]!]), sizes[0]! + sizes[1]!);
  expect(removed).toEqual([digests[2], digests[3]]);
  const left = [digests[0]!, digests[1]!].flatMap((sha256) => [sha256, `${sha256}.json`]);
  expect(await cached(cache)).toEqual(left.sort());
  expect(await packages.prune(new Set(), 0)).toHaveLength(2);

  // A download makes room by itself, but never of what this process was given.
  const small = open({ maxBytes: 1 });
  await small.fetch(specs[0]!, handler);
  await small.fetch(specs[1]!, handler);
  expect(await cached(cache)).toHaveLength(4);
  await open({ maxBytes: 1 }).fetch(specs[2]!, handler);
  expect(await cached(cache)).toEqual([digests[2], `${digests[2]}.json`]);
});

for (const { name, tool, start } of [
  { name: 'MinIO', tool: 'minio', start: startMinio },
  { name: 'versitygw', tool: 'versitygw', start: startVersitygw },
] as const) {
  describe.skipIf(await missing(tool))(`with ${name}`, () => {
    test('a package is fetched from the bucket, and runs from the cache when the store is away', async () => {
      const server = await start();
      const { endpoint, region, bucket, accessKeyId, secretAccessKey } = server;
      const credentialsFile = join(await temporaryFolder(), 's3.json');
      await writeFile(credentialsFile, JSON.stringify({ accessKeyId, secretAccessKey }), { mode: 0o600 });
      const s3 = { endpoint, region, bucket, credentialsFile };
      const { packages, open, cache } = await site({ s3 });

      const { openS3 } = await import('../../../runtime/clients/s3.ts');
      const client = await openS3(s3);
      closeLater(async () => client.close());
      const [one, two] = [await packed(1), await packed(2)];
      await client.put(`packages/${one.sha256}.tgz`, one.bytes);
      await client.put(`packages/${two.sha256}.tgz`, two.bytes.subarray(0, -5));
      const specOf = ({ sha256 }: Packed) => ({ uri: `s3://${bucket}/packages/${sha256}.tgz`, sha256 });

      const { root } = await packages.fetch(specOf(one), handler);
      expect(await answerOf(root)).toBe(1);
      await expect(packages.fetch(specOf(two), handler)).rejects.toMatchObject({
        code: 'PackageDigestMismatch',
      });
      await expect(
        packages.fetch({ uri: `s3://${bucket}/none`, sha256: 'c'.repeat(64) }, handler),
      ).rejects.toMatchObject({ code: 'PackageNotFound', retryable: true });

      await server.stop();
      expect(await open().fetch(specOf(one), handler)).toMatchObject({ root });
      await expect(open().fetch(specOf(two), handler)).rejects.toMatchObject({
        code: 'PackageUnavailable',
        retryable: true,
      });
      expect(await cached(cache)).toEqual([one.sha256, `${one.sha256}.json`]);
    });
  });
}

describe('over https', () => {
  /** A web server whose certificate this process trusts until the test is over. */
  async function webServer(listener: RequestListener): Promise<string> {
    const folder = await temporaryFolder();
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
    await run('openssl', ['req', '-x509', ...curve, ...subject, '-keyout', key, '-out', cert]);
    const server = createServer({ key: await readFile(key), cert: await readFile(cert) }, listener);
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    closeLater(async () => {
      server.closeAllConnections();
      server.close();
    });
    return `https://127.0.0.1:${(server.address() as { port: number }).port}`;
  }

  function trustAnyone(): void {
    process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0';
    closeLater(async () => void delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']);
  }

  test('a package is fetched, through redirects too, and several who ask at once share one download', async () => {
    const { bytes, sha256 } = await packed(3);
    const requests: string[] = [];
    const url = await webServer((request, response) => {
      requests.push(request.url ?? '');
      if (request.url === '/old.tgz') response.writeHead(302, { location: '/a.tgz' }).end();
      else response.end(bytes);
    });
    trustAnyone();
    const { packages } = await site();
    const spec = { uri: `${url}/old.tgz`, sha256 };
    const all = await Promise.all(Array.from({ length: 5 }, () => packages.fetch(spec, handler)));
    expect(await answerOf(all[4]!.root)).toBe(3);
    expect(requests).toEqual(['/old.tgz', '/a.tgz']);
  });

  test('a server whose certificate is not trusted is not listened to', async () => {
    const { bytes, sha256 } = await packed();
    const url = await webServer((_, response) => response.end(bytes));
    const { packages } = await site();
    await expect(packages.fetch({ uri: `${url}/a`, sha256 }, handler)).rejects.toMatchObject({
      code: 'PackageUnavailable',
      message: expect.stringContaining('SELF_SIGNED'),
    });
  });

  test.each([
    ['404', 'PackageNotFound'],
    ['410', 'PackageNotFound'],
    ['401', 'PackageForbidden'],
    ['403', 'PackageForbidden'],
    ['500', 'PackageUnavailable'],
    ['plain', 'PackageForbidden'],
    ['loop', 'PackageUnavailable'],
    ['cut', 'PackageUnavailable'],
    ['big', 'PackageInvalid'],
  ])('the answer "%s" is %s, and nothing is kept', async (path, code) => {
    const url = await webServer((request, response) => {
      if (request.url === '/plain') response.writeHead(302, { location: 'http://127.0.0.1:9/a' }).end();
      else if (request.url === '/loop') response.writeHead(302, { location: '/loop' }).end();
      else if (request.url === '/big')
        response.writeHead(200, { 'content-length': 300 * 1024 ** 2 }).write('x');
      else if (request.url === '/cut') {
        response.writeHead(200, { 'content-length': 1000 }).write('x', () => response.destroy());
      } else response.writeHead(Number(request.url?.slice(1))).end('no');
    });
    trustAnyone();
    const { packages, cache } = await site();
    const spec = { uri: `${url}/${path}`, sha256: 'a'.repeat(64) };
    await expect(packages.fetch(spec, handler)).rejects.toMatchObject({ code });
    expect(await cached(cache)).toEqual([]);
  });

  test('who gives up gets his own reason; the download goes on for the others and ends with the last', async () => {
    const { bytes, sha256 } = await packed(9);
    const arrived = Promise.withResolvers<void>();
    const closed = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const url = await webServer((request, response) => {
      response.on('close', () => request.url === '/never' && closed.resolve());
      response.writeHead(200).write(bytes.subarray(0, 10));
      arrived.resolve();
      if (request.url === '/a') void go.promise.then(() => response.end(bytes.subarray(10)));
    });
    trustAnyone();
    const { packages, cache } = await site();
    const spec = { uri: `${url}/a`, sha256 };
    const impatient = new AbortController();
    const [left, stayed] = [packages.fetch(spec, handler, impatient.signal), packages.fetch(spec, handler)];
    await arrived.promise;
    const reason = new Error('no longer wanted');
    impatient.abort(reason);
    await expect(left).rejects.toBe(reason);
    go.resolve();
    expect(await stayed).toMatchObject({ sha256 });

    const alone = new AbortController();
    const never = packages.fetch({ uri: `${url}/never`, sha256: 'a'.repeat(64) }, handler, alone.signal);
    never.catch(() => undefined);
    while (!(await cached(cache)).some((name) => name.includes('incomplete')))
      await new Promise(setImmediate);
    alone.abort(reason);
    await expect(never).rejects.toBe(reason);
    await closed.promise;
  });
});
