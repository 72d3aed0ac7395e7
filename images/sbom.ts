/** The bill of materials, as CycloneDX 1.6: what is in the image, of which version, from where. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Arch, Library } from './elf.ts';
import type { NpmPackage } from './modules.ts';

export type Component =
  | ({ readonly kind: 'npm' } & NpmPackage)
  | {
      readonly kind: 'library';
      readonly path: string;
      readonly sha256: string;
      /** The system's package that it came in, where that is known. */
      readonly from: { readonly name: string; readonly version: string } | undefined;
    };

/** Debian's package of a library, by dpkg's own list; another system's libraries are named by digest alone. */
export async function systemPackageOf(library: Library, arch: Arch, sysroot: string): Promise<Component> {
  const sha256 = createHash('sha256')
    .update(await readFile(library.source))
    .digest('hex');
  return {
    kind: 'library',
    path: library.path,
    sha256,
    from: await debianPackage(library.path, arch, sysroot),
  };
}

const debianNames: Record<Arch, string> = { x64: 'amd64', arm64: 'arm64' };

async function debianPackage(path: string, arch: Arch, sysroot: string) {
  const dpkg = async (...args: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)('dpkg-query', [`--root=${sysroot}`, ...args]);
    return stdout;
  };
  // Debian lists its libraries by /lib or by /usr/lib, the two being one folder.
  for (const listed of [path, path.replace(/^\/lib(64)?\//, '/usr/lib$1/')]) {
    try {
      const name = (await dpkg('--search', listed)).split(': ')[0] ?? '';
      const [owner = ''] = name.split(',');
      const version = await dpkg(
        '--show',
        '--showformat=${Version}',
        owner.includes(':') ? owner : `${owner}:${debianNames[arch]}`,
      );
      return { name: owner.split(':')[0] ?? owner, version };
    } catch {
      // not Debian, or not by this name
    }
  }
  return undefined;
}

/** No time and no random number in it: the same contents give the same text. */
export function billOfMaterials({
  version,
  arch,
  components,
}: {
  version: string;
  arch: Arch;
  components: readonly Component[];
}): string {
  const atoll = { type: 'application', 'bom-ref': `atoll@${version}`, name: 'atoll', version };
  const document = {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: atoll, properties: [{ name: 'atoll:architecture', value: debianNames[arch] }] },
    components: components.map((one) =>
      one.kind === 'npm' ? npmComponent(one) : libraryComponent(one, arch),
    ),
  };
  const digest = createHash('sha256').update(JSON.stringify(document)).digest('hex');
  // RFC 9562 section 5.8: a UUID whose bits are our own choice.
  const serial = `${digest.slice(0, 8)}-${digest.slice(8, 12)}-8${digest.slice(13, 16)}-8${digest.slice(17, 20)}-${digest.slice(20, 32)}`;
  return `${JSON.stringify({ ...document, serialNumber: `urn:uuid:${serial}` }, null, 2)}\n`;
}

function npmComponent({ name, version, license, integrity, path }: NpmPackage) {
  const purl = `pkg:npm/${name.replace(/^@/, '%40')}@${version}`;
  const [algorithm, digest] = integrity?.split('-') ?? [];
  return {
    type: 'library',
    'bom-ref': `${purl}#${path}`,
    name,
    version,
    purl,
    ...(license !== undefined && { licenses: [{ expression: license }] }),
    ...(algorithm === 'sha512' &&
      digest !== undefined && {
        hashes: [{ alg: 'SHA-512', content: Buffer.from(digest, 'base64').toString('hex') }],
      }),
  };
}

function libraryComponent({ path, sha256, from }: Extract<Component, { kind: 'library' }>, arch: Arch) {
  const purl =
    from && `pkg:deb/debian/${from.name}@${encodeURIComponent(from.version)}?arch=${debianNames[arch]}`;
  return {
    type: 'library',
    'bom-ref': `${purl ?? 'file'}#${path}`,
    name: path,
    ...(from && { version: from.version, purl }),
    hashes: [{ alg: 'SHA-256', content: sha256 }],
  };
}
