/**
 * images/Dockerfile, built as it stands by buildah, without a daemon. Its base image is made here of what of Debian and Node
 * its steps use, under the name by which it asks for it: no registry is needed but npm's.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, readlink, realpath, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { rootCertificates } from 'node:tls';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { contentsOf, runConfig } from '../../images/contents.ts';
import { librariesOf, type Arch } from '../../images/elf.ts';
import type { Entry } from '../../images/layer.ts';
import { archiveOf } from '../../images/oci.ts';
import { findOnPath } from '../../tools/command.ts';
import { temporaryFolder } from '../support/folder.ts';
import { missing, requireTool } from '../support/requirement.ts';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');
const arch = process.arch as Arch;
const dockerfile = join(root, 'images/Dockerfile');

const notRoot = process.getuid?.() === 0 ? undefined : 'only root may change into another root folder';
// npm installs all that the image has once more: a minute and a half on a busy machine.
const inGate = process.env['ATOLL_SOAK'] === '1' ? undefined : 'ATOLL_SOAK=1 builds it';
const skipped = inGate ?? notRoot ?? (await missing('buildah'));

test.skipIf(skipped)(
  'the Dockerfile makes an image of the same files as images/build.ts, and its programs start',
  async () => {
    const folder = await temporaryFolder();
    const policy = join(folder, 'policy.json');
    await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
    const program = await requireTool('buildah');
    const store = ['--root', join(folder, 'storage'), '--runroot', join(folder, 'run')];
    const buildah = async (command: string, ...args: string[]): Promise<string> => {
      const options = [...store, '--storage-driver', 'vfs', command, ...args];
      return (await run(program, options, { maxBuffer: 64 * 1024 * 1024 })).stdout.trim();
    };

    const [, base = ''] = /^FROM (\S+) AS build$/m.exec(await readFile(dockerfile, 'utf8')) ?? [];
    await writeFile(join(folder, 'base.tar'), await baseImage(base));
    const id = await buildah('pull', '--signature-policy', policy, `oci-archive:${join(folder, 'base.tar')}`);
    // What was fetched for this checkout need not be fetched again.
    const cache = await npmConfig('cache');
    await mkdir(cache, { recursive: true });
    await buildah('tag', id, `docker.io/library/${base}`);
    await buildah(
      ...(['bud', '--isolation', 'chroot', '--signature-policy', policy, '--pull-never'] as const),
      ...['--volume', `${cache}:/root/.npm`, '-f', dockerfile, '-t', 'atoll:built', root],
    );

    const image = JSON.parse(await buildah('inspect', '--type', 'image', 'atoll:built')) as {
      OCIv1: { architecture: string; config: typeof runConfig };
    };
    expect(image.OCIv1.architecture).toBe(arch === 'x64' ? 'amd64' : 'arm64');
    const { User, WorkingDir, Env, Cmd } = image.OCIv1.config;
    expect({ User, WorkingDir, Env: [...Env].sort(), Cmd }).toEqual({
      ...runConfig,
      Env: [...runConfig.Env].sort(),
    });

    const container = await buildah('from', '--signature-policy', policy, '--pull-never', 'atoll:built');
    const files = await buildah('mount', container);
    const { layers } = await contentsOf(root, { arch, sysroot: '/' });
    expect(await treeOf(files)).toEqual(treeOfEntries(layers.flatMap(({ entries }) => entries)));

    const within = (...command: string[]): Promise<string> =>
      buildah('run', '--isolation', 'chroot', container, '--', ...command);
    expect(await within('node', '-p', '[process.version, process.getuid(), process.cwd()].join()')).toBe(
      `${process.version},65532,/atoll`,
    );
    await expect(within('node', 'runtime/main.js')).rejects.toThrow(/usage: node runtime/);
  },
  600_000,
);

/** What `npm ci` and our build need of an image of Node, and no more; npm asks where this machine's npm asks. */
async function baseImage(name: string): Promise<Buffer> {
  const path = { env: process.env, folders: ['/usr/bin', '/bin'] };
  const find = (program: string): string => {
    const found = findOnPath(program, path.env, path.folders);
    if (found === undefined) throw new Error(`there is no "${program}" on PATH`);
    return found;
  };
  const programs = [
    { path: 'bin/sh', source: await realpath('/bin/sh') },
    { path: 'usr/bin/env', source: find('env') },
    { path: 'usr/bin/dpkg-query', source: find('dpkg-query') },
    { path: 'usr/local/bin/node', source: process.execPath },
  ];
  const libraries = new Map<string, string>();
  for (const { source } of programs)
    for (const library of await librariesOf(source, arch))
      libraries.set(library.path.slice(1), library.source);
  const npm = dirname(dirname(await realpath(find('npm'))));
  // Of Debian's records those of the libraries that Node needs, for the bill of materials.
  const records = '/var/lib/dpkg';
  const lists = (await readdir(`${records}/info`)).filter((file) =>
    /^lib(c6|stdc\+\+6|gcc-s1):.*\.list$/.test(file),
  );
  const status = (await readFile(`${records}/status`, 'utf8'))
    .split('\n\n')
    .filter((one) => /^Package: lib(c6|stdc\+\+6|gcc-s1)$/m.test(one))
    .join('\n\n');
  const entries: Entry[] = [
    ...(await Promise.all(
      [...programs, ...[...libraries].map(([path, source]) => ({ path, source }))].map(async (one) => ({
        path: one.path,
        data: await readFile(one.source),
        mode: 0o755,
      })),
    )),
    ...(await filesBelow(npm, 'usr/local/lib/node_modules/npm')),
    { path: 'usr/local/bin/npm', link: '../lib/node_modules/npm/bin/npm-cli.js' },
    { path: 'var/lib/dpkg/status', data: Buffer.from(`${status}\n`) },
    ...(await Promise.all(
      ['format', ...lists].map(async (file) => ({
        path: `var/lib/dpkg/info/${file}`,
        data: await readFile(`${records}/info/${file}`),
      })),
    )),
    { path: 'etc/passwd', data: Buffer.from('root:x:0:0:root:/root:/bin/sh\n') },
    { path: 'etc/group', data: Buffer.from('root:x:0:\n') },
    { path: 'etc/nsswitch.conf', data: Buffer.from('hosts: files dns\n') },
    {
      path: 'etc/ssl/certs/ca-certificates.crt',
      data: Buffer.from([...rootCertificates, await moreTrusted()].join('\n')),
    },
    { path: 'root', folder: true, mode: 0o700 },
    { path: 'tmp', folder: true, mode: 0o1777 },
  ];
  const config = {
    Env: [
      'PATH=/usr/local/bin:/usr/bin:/bin',
      'NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt',
      `NPM_CONFIG_REGISTRY=${await npmConfig('registry')}`,
      'NPM_CONFIG_PREFER_OFFLINE=true',
      'NPM_CONFIG_UPDATE_NOTIFIER=false',
    ],
  };
  const image = { arch, layers: [{ what: 'base', entries }] };
  return (await archiveOf([image], { name, labels: {}, compress: false, config })).bytes;
}

const npmConfig = async (name: string): Promise<string> =>
  (await run('npm', ['config', 'get', name], { cwd: root })).stdout.trim();

async function moreTrusted(): Promise<string> {
  const file = process.env['NODE_EXTRA_CA_CERTS'];
  return file === undefined ? '' : await readFile(file, 'utf8');
}

async function filesBelow(folder: string, path: string): Promise<Entry[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry) => {
        const file = join(entry.parentPath, entry.name);
        return { path: `${path}${file.slice(folder.length)}`, data: await readFile(file), mode: 0o755 };
      }),
  );
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Digest of each file and target of each link, by path; folders by themselves count where they are empty only. */
async function treeOf(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    const path = file.slice(folder.length + 1);
    if (entry.isSymbolicLink()) found[path] = `-> ${await readlink(file)}`;
    else if (entry.isFile()) found[path] = sha256(await readFile(file));
  }
  return found;
}

function treeOfEntries(entries: readonly Entry[]): Record<string, string> {
  return Object.fromEntries(
    entries.flatMap((entry) => {
      if ('link' in entry) return [[entry.path, `-> ${entry.link}`]];
      return 'data' in entry ? [[entry.path, sha256(entry.data)]] : [];
    }),
  );
}
