/** The images that nodes are given, since there is nothing they could pull one from. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildImage } from '../../images/build.ts';
import { contentsOf } from '../../images/contents.ts';
import { librariesOf } from '../../images/elf.ts';
import type { Arch } from '../../images/elf.ts';
import { archiveOf } from '../../images/oci.ts';
import type { Entry } from '../../images/layer.ts';
import { findOnPath } from '../../tools/command.ts';
import { requireTool } from './requirement.ts';

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

/** Of what our own image could become next: each program of ours is another file, and the version another one. */
export async function writeNextImage(folder: string, name: string): Promise<string> {
  const root = join(import.meta.dirname, '../..');
  const { layers } = await contentsOf(root, { arch, sysroot: '/' });
  const changed = (entry: Entry): Entry => {
    if (!('data' in entry) || entry.path.includes('/node_modules/')) return entry;
    const text = Buffer.from(entry.data).toString();
    if (entry.path.endsWith('.js')) return { ...entry, data: Buffer.from(`${text}// next\n`) };
    if (!entry.path.endsWith('/package.json')) return entry;
    return { ...entry, data: Buffer.from(text.replace(/("version": ")[^"]+/, '$199.0.0')) };
  };
  const next = layers.map(({ what, entries }) => ({ what, entries: entries.map(changed) }));
  const { bytes } = await archiveOf([{ arch, layers: next }], { name, labels: {}, compress: false });
  const archive = join(folder, 'next.oci.tar');
  await writeFile(archive, bytes);
  return archive;
}

/** As NATS' own, which holds the one program. */
export async function writeNatsImage(folder: string, name: string): Promise<string> {
  const program = await requireTool('nats-server');
  const libraries = await librariesOf(program, arch);
  const files = [{ path: '/nats-server', source: program }, ...libraries];
  const entries = await Promise.all(
    files.map(async ({ path, source }) => ({
      path: path.slice(1),
      data: await readFile(source),
      mode: 0o755,
    })),
  );
  const { bytes } = await archiveOf([{ arch, layers: [{ what: 'nats-server', entries }] }], {
    name,
    labels: {},
    compress: false,
    config: { Entrypoint: ['/nats-server'] },
  });
  const archive = join(folder, 'nats.oci.tar');
  await writeFile(archive, bytes);
  return archive;
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
