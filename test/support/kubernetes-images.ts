/** The images that nodes are given, since there is nothing they could pull one from. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildImage } from '../../images/build.ts';
import { librariesOf } from '../../images/elf.ts';
import type { Arch } from '../../images/elf.ts';
import { archiveOf } from '../../images/oci.ts';
import { findOnPath } from '../../tools/command.ts';

const arch = process.arch as Arch;

/** What holds a pod's namespaces open; the name is in containerd's configuration. */
export const sandboxImage = 'atoll.test/pause:1';

/** Of our own image, built from this checkout, as an archive in the folder. */
export async function writeOwnImage(folder: string): Promise<{ name: string; archive: string }> {
  const { name, bytes } = await buildImage({ platforms: [{ arch, sysroot: '/' }], compress: false });
  const archive = join(folder, 'atoll.oci.tar');
  await writeFile(archive, bytes);
  return { name, archive };
}

/** Process 1 of a pod whose containers share their processes buries their orphans: this system's own shell can do that. */
export async function writeSandboxImage(folder: string): Promise<string> {
  const programs = ['sh', 'sleep'].map((name) => {
    const path = findOnPath(name, process.env, ['/bin', '/usr/bin']);
    if (path === undefined) throw new Error(`there is no program "${name}" on PATH`);
    return { path: `bin/${name}`, source: path };
  });
  const libraries = (await Promise.all(programs.map(({ source }) => librariesOf(source, arch)))).flat();
  const files = new Map(
    [...programs, ...libraries].map(({ path, source }) => [path.replace(/^\//, ''), source]),
  );
  const entries = await Promise.all(
    [...files].map(async ([path, source]) => ({ path, data: await readFile(source), mode: 0o755 })),
  );
  const { bytes } = await archiveOf([{ arch, layers: [{ what: 'sh, sleep', entries }] }], {
    name: sandboxImage,
    labels: {},
    compress: false,
    config: {
      Entrypoint: ['/bin/sh', '-c', 'while :; do /bin/sleep infinity & wait; done'],
      User: '65532:65532',
    },
  });
  const archive = join(folder, 'pause.oci.tar');
  await writeFile(archive, bytes);
  return archive;
}
