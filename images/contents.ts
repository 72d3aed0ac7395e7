/** What is in the image, layer by layer; what changes seldom lies below, so that an update moves only the last. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { type Arch, librariesOf } from './elf.ts';
import type { Entry } from './layer.ts';
import { packageEntries, packagesOf, programEntries, programsOf, type NpmPackage } from './modules.ts';
import { billOfMaterials, systemPackageOf, type Component } from './sbom.ts';

/** Where everything of ours lies; the working directory, so that a command is `node runtime/main.js`. */
export const home = 'atoll';
/** A number, because kubelet can check only a number against `runAsNonRoot`. */
export const user = 65532;
export const sbomPath = 'usr/share/sbom/atoll.cdx.json';

/** What containers of the image get when nobody says otherwise (OCI image configuration, `config`). */
export const runConfig = {
  User: `${user}:${user}`,
  WorkingDir: `/${home}`,
  Env: ['PATH=/usr/local/bin', 'NODE_ENV=production', 'SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt'],
  Cmd: ['node', 'runtime/main.js'],
} as const;

export interface Contents {
  readonly layers: readonly { readonly what: string; readonly entries: readonly Entry[] }[];
  readonly sbom: string;
}

export interface Platform {
  readonly arch: Arch;
  /** Where the libraries that Node needs are found: `/` for this machine's own architecture. */
  readonly sysroot: string;
  /** A folder that holds node-linux-<arch> and node22-linux-<arch>; node_modules by default. */
  readonly nodes?: string;
}

/** Throws when something is missing, and says what. */
export async function contentsOf(root: string, platform: Platform): Promise<Contents> {
  const { arch, sysroot } = platform;
  const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
  const nodes = await nodePackages(root, platform);
  const node = nodes[0]!;
  const libraries = await librariesOf(join(node.folder, 'bin/node'), arch, sysroot);
  const programs = await programsOf(root);
  const packages = await packagesOf(root, programs.imports, arch);
  const system: Entry[] = await Promise.all(
    libraries.map(async ({ path, source }) => ({
      path: path.slice(1),
      data: await readFile(source),
      mode: 0o755,
    })),
  );
  const components: Component[] = [
    ...(await Promise.all(libraries.map((library) => systemPackageOf(library, arch, sysroot)))),
    ...[...nodes.map((node) => node.npm), ...packages].map((one) => ({ kind: 'npm' as const, ...one })),
  ];
  const sbom = billOfMaterials({ version: manifest.version, arch, components });
  return {
    sbom,
    layers: [
      { what: 'shared libraries, certificates, users', entries: [...system, ...systemFiles()] },
      ...(await Promise.all(nodes.map((one, index) => nodeLayer(one, index === 0)))),
      {
        what: 'npm packages',
        entries: await packagesEntries(root, packages, arch),
      },
      {
        what: 'Atoll',
        entries: [
          ...(await programEntries(root, programs, home)),
          { path: sbomPath, data: Buffer.from(sbom) },
        ],
      },
    ],
  };
}

/** One package after the other: all at once would be thousands of open files. */
async function packagesEntries(root: string, packages: readonly NpmPackage[], arch: Arch): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const one of packages) entries.push(...(await packageEntries(root, one, home, arch)));
  return entries;
}

interface NodePackage {
  readonly npm: NpmPackage;
  /** On this machine. */
  readonly folder: string;
}

/** Newest first: it runs Atoll; the others run the functions that ask for them. */
async function nodePackages(
  root: string,
  { arch, nodes = join(root, 'node_modules') }: Platform,
): Promise<NodePackage[]> {
  const names = [`node-linux-${arch}`, `node22-linux-${arch}`];
  return Promise.all(
    names.map(async (name) => {
      const folder = join(nodes, name);
      if (!existsSync(join(folder, 'bin/node'))) {
        throw new Error(
          `${folder} is missing: npm installs it on a machine of that architecture; docs/reference/image.md tells how to get it here`,
        );
      }
      const npm = (await packagesOf(root, [name], arch))[0]!;
      const { version } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as {
        version: string;
      };
      // The bill of materials names what the lock file has.
      if (version !== npm.version) {
        throw new Error(`${folder} is version ${version}; package-lock.json has ${npm.version}`);
      }
      return { npm, folder };
    }),
  );
}

async function nodeLayer({ npm: { path, version }, folder }: NodePackage, main: boolean) {
  const files = ['bin/node', 'package.json', 'LICENSE'];
  const entries: Entry[] = await Promise.all(
    files.map(async (file) => ({
      path: `${home}/${path}/${file}`,
      data: await readFile(join(folder, file)),
      mode: file === 'bin/node' ? 0o755 : 0o644,
    })),
  );
  if (main) entries.push({ path: 'usr/local/bin/node', link: `/${home}/${path}/bin/node` });
  return { what: `Node.js ${version}`, entries };
}

/** The least a C library and kubelet want to find. Certificates are those that the pinned Node trusts. */
function systemFiles(): Entry[] {
  const text = (path: string, ...lines: string[]): Entry => ({
    path,
    data: Buffer.from(`${lines.join('\n')}\n`),
  });
  return [
    text(
      'etc/passwd',
      'root:x:0:0:root:/root:/sbin/nologin',
      `atoll:x:${user}:${user}:Atoll:/tmp:/sbin/nologin`,
    ),
    text('etc/group', 'root:x:0:', `atoll:x:${user}:`),
    text('etc/nsswitch.conf', 'hosts: files dns'),
    text('etc/ssl/certs/ca-certificates.crt', ...rootCertificates),
    { path: 'tmp', folder: true, mode: 0o1777 },
    // Mount points, which a read-only root cannot grow.
    ...['dev', 'etc/atoll', 'proc', 'sys', 'var/cache/atoll'].map(
      (path) => ({ path, folder: true }) as const,
    ),
  ];
}
