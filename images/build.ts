/** Builds the one image that controller, gateway and functions run in: without a base image, a daemon or a network. */
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { contentsOf, type Contents, type Platform } from './contents.ts';
import { archiveOf, type Archive } from './oci.ts';

const root = dirname(import.meta.dirname);

export interface BuildOptions {
  readonly platforms: readonly Platform[];
  readonly name?: string;
  readonly compress?: boolean;
}

/** The archive and, for each platform, its bill of materials. */
export async function buildImage({
  platforms,
  name,
  compress = true,
}: BuildOptions): Promise<
  Archive & { readonly name: string; readonly sboms: readonly { arch: string; text: string }[] }
> {
  const { version, description } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as {
    version: string;
    description: string;
  };
  const image = name ?? `atoll:${version}`;
  const contents: (Contents & Platform)[] = [];
  for (const platform of platforms) contents.push({ ...platform, ...(await contentsOf(root, platform)) });
  const labels = {
    'org.opencontainers.image.title': 'atoll',
    'org.opencontainers.image.description': description,
    'org.opencontainers.image.version': version,
  };
  const archive = await archiveOf(contents, { name: image, labels, compress });
  return { ...archive, name: image, sboms: contents.map(({ arch, sbom }) => ({ arch, text: sbom })) };
}

/** The image's files as a folder, for a build that makes its image another way (images/Dockerfile). */
async function writeFolder(folder: string, { layers }: Contents): Promise<void> {
  for (const entry of layers.flatMap(({ entries }) => entries)) {
    const path = join(folder, entry.path);
    await mkdir('folder' in entry ? path : dirname(path), { recursive: true });
    if ('link' in entry) await symlink(entry.link, path);
    else if ('folder' in entry) await chmod(path, entry.mode ?? 0o755);
    else {
      await writeFile(path, entry.data);
      await chmod(path, entry.mode ?? 0o644);
    }
  }
}

const usage = `Usage: node images/build.ts [--out FILE] [--name NAME:TAG] [--arch x64|arm64]… [--no-compress]
                            [--nodes ARCH=FOLDER]… [--sysroot ARCH=FOLDER]…
       node images/build.ts --folder FOLDER [--arch x64|arm64]

Writes the image as an OCI archive, by default dist/atoll-<version>.oci.tar, and its bill of materials beside it.

  --arch      an architecture to put in, more than once for several; this machine's own if none is named
  --nodes     where the Nodes of an architecture lie (node-linux-ARCH, node22-linux-ARCH), if not in node_modules
  --sysroot   where the C and C++ libraries of another architecture lie: a folder with its lib/
  --folder    write the files into a folder instead, for a Dockerfile
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      out: { type: 'string' },
      name: { type: 'string' },
      arch: { type: 'string', multiple: true, default: [process.arch] },
      nodes: { type: 'string', multiple: true, default: [] },
      sysroot: { type: 'string', multiple: true, default: [] },
      compress: { type: 'boolean', default: true },
      folder: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
    allowNegative: true,
  });
  if (values.help) return void process.stdout.write(usage);
  const [sysroots, nodes] = [byArch(values.sysroot), byArch(values.nodes)];
  const platforms = values.arch.map((arch): Platform => {
    if (arch !== 'x64' && arch !== 'arm64') throw new Error(`--arch ${arch}: it is x64 or arm64`);
    const sysroot = sysroots.get(arch) ?? (arch === process.arch ? '/' : undefined);
    if (sysroot === undefined)
      throw new Error(`--arch ${arch}: say with --sysroot ${arch}=FOLDER where its libraries lie`);
    const folder = nodes.get(arch);
    return { arch, sysroot, ...(folder !== undefined && { nodes: folder }) };
  });
  if (values.folder !== undefined) {
    const [platform] = platforms;
    return writeFolder(resolve(values.folder), await contentsOf(root, platform!));
  }
  const { name, bytes, digest, layers, sboms } = await buildImage({
    platforms,
    compress: values.compress,
    ...(values.name !== undefined && { name: values.name }),
  });
  const out = resolve(values.out ?? join(root, 'dist', `${name.replaceAll(/[/:]/g, '-')}.oci.tar`));
  await mkdir(dirname(out), { recursive: true });
  await writeFile(out, bytes);
  for (const { arch, text } of sboms)
    await writeFile(`${out.replace(/(\.oci)?\.tar$/, '')}-${arch}.cdx.json`, text);
  for (const { arch, what, bytes: unpacked, packedBytes } of layers)
    console.log(`${arch}  ${megabytes(unpacked)} MB, ${megabytes(packedBytes)} MB packed  ${what}`);
  console.log(`${name}@${digest}\n${out}  ${megabytes(bytes.byteLength)} MB`);
}

function byArch(options: readonly string[]): Map<string, string> {
  return new Map(
    options.map((text) => {
      const [arch = '', ...folder] = text.split('=');
      return [arch, resolve(folder.join('='))];
    }),
  );
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1).padStart(6);

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
