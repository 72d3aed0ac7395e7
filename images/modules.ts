/** What of the sources and of node_modules the image holds: what its programs import, and nothing else. */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';
import { toJavaScript } from '../tools/build.ts';
import type { Arch } from './elf.ts';
import type { Entry } from './layer.ts';

/** Controller, gateway and runtime, and below them the Function kind. */
const programFolders = ['crds', 'runtime', 'controller', 'gateway'];

export interface Programs {
  /** Relative to the checkout, TypeScript. */
  readonly files: readonly string[];
  /** Names of npm packages that they import. */
  readonly imports: readonly string[];
}

export interface NpmPackage {
  /** In the checkout and in the image: `node_modules/a/node_modules/b`. */
  readonly path: string;
  readonly name: string;
  readonly version: string;
  readonly license: string | undefined;
  /** As package-lock.json has it: `sha512-…`. */
  readonly integrity: string | undefined;
}

export async function programsOf(root: string): Promise<Programs> {
  const entryPoints = (await Promise.all(programFolders.map((folder) => typeScript(root, folder)))).flat();
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints,
    outdir: 'never-written',
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    write: false,
    metafile: true,
    logLevel: 'error',
  });
  const imports = Object.values(metafile.inputs)
    .flatMap((input) => input.imports)
    .filter(
      ({ external, path }) =>
        external && !path.startsWith('node:') && path !== 'atoll' && !path.startsWith('atoll/'),
    )
    .map(({ path }) =>
      path
        .split('/')
        .slice(0, path.startsWith('@') ? 2 : 1)
        .join('/'),
    );
  return { files: Object.keys(metafile.inputs).sort(), imports: [...new Set(imports)].sort() };
}

async function typeScript(root: string, folder: string): Promise<string[]> {
  const files = await readdir(join(root, folder), { recursive: true });
  return files.filter((file) => file.endsWith('.ts')).map((file) => join(folder, file));
}

/** As JavaScript below `folder`, and the package.json by which 'atoll' and the version are found. */
export async function programEntries(root: string, { files }: Programs, folder: string): Promise<Entry[]> {
  const { name, version, type, license } = JSON.parse(
    await readFile(join(root, 'package.json'), 'utf8'),
  ) as Record<string, unknown>;
  const exports = { '.': './runtime/handler.js', './telemetry': './runtime/telemetry.js' };
  const manifest = { name, version, private: true, license, type, exports };
  const scripts = await Promise.all(
    files.map(async (file) => ({
      path: `${folder}/${file.replace(/\.ts$/, '.js')}`,
      data: Buffer.from(await toJavaScript(await readFile(join(root, file), 'utf8'))),
    })),
  );
  return [
    ...scripts,
    { path: `${folder}/package.json`, data: Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`) },
  ];
}

interface Locked {
  readonly version: string;
  readonly integrity?: string;
  readonly license?: string;
  readonly name?: string;
  readonly dependencies?: Record<string, string>;
  readonly optionalDependencies?: Record<string, string>;
  readonly peerDependencies?: Record<string, string>;
  readonly peerDependenciesMeta?: Record<string, { optional?: boolean }>;
  readonly cpu?: readonly string[];
}

/** The named packages and all that they depend on, as package-lock.json has them. */
export async function packagesOf(root: string, names: readonly string[], arch: Arch): Promise<NpmPackage[]> {
  const { packages: locked } = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>;
  };
  const found = new Map<string, Locked>();
  const add = (name: string, from: string, optional: boolean): void => {
    const path = resolve(locked, name, from);
    const one = path === undefined ? undefined : locked[path];
    if (path === undefined || one === undefined) {
      if (optional) return;
      throw new Error(
        `${from || 'the image'} needs the npm package ${name}, which package-lock.json does not have`,
      );
    }
    if (found.has(path)) return;
    if (optional && ((one.cpu && !one.cpu.includes(arch)) || !existsSync(join(root, path)))) return;
    found.set(path, one);
    for (const dependency of Object.keys(one.dependencies ?? {})) add(dependency, path, false);
    for (const dependency of Object.keys(one.optionalDependencies ?? {})) add(dependency, path, true);
    for (const dependency of Object.keys(one.peerDependencies ?? {}))
      add(dependency, path, one.peerDependenciesMeta?.[dependency]?.optional === true);
  };
  for (const name of names) add(name, '', false);
  return [...found]
    .map(([path, one]) => ({
      path,
      name: one.name ?? path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length),
      version: one.version,
      license: one.license,
      integrity: one.integrity,
    }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Node's own way: the nearest node_modules first. */
function resolve(locked: Record<string, Locked>, name: string, from: string): string | undefined {
  for (let above = from; ;) {
    const path = `${above === '' ? '' : `${above}/`}node_modules/${name}`;
    if (locked[path] !== undefined) return path;
    if (above === '') return undefined;
    const end = above.lastIndexOf('/node_modules/');
    above = end < 0 ? '' : above.slice(0, end);
  }
}

/**
 * Types, source maps and manuals: nothing reads them where programs only run. Licences stay. Folders count only at the
 * top: `dist/doc` of the package yaml is code.
 */
const notRun = /\.(map|md|markdown|ts|mts|cts|flow)$|^(tests?|docs?|examples?|benchmarks?|\.github)\//i;
/** What a package brings ready built for every system at once (prebuildify); `.bare` is for another runtime than Node. */
const prebuilt = /^prebuilds\/([^/]+)\/|\.bare$/;

export async function packageEntries(
  root: string,
  { path }: NpmPackage,
  folder: string,
  arch: Arch,
): Promise<Entry[]> {
  const isOfAnother = (file: string): boolean => {
    const [found, system] = prebuilt.exec(file) ?? [];
    return found !== undefined && (file.endsWith('.bare') || system !== `linux-${arch}`);
  };
  const entries = await readdir(join(root, path), { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(join(root, path, '/').length))
    .filter((file) => !file.startsWith('node_modules/') && !isOfAnother(file))
    .filter((file) => isLicence(file) || !notRun.test(file));
  const found: Entry[] = [];
  for (let at = 0; at < files.length; at += filesAtOnce) {
    const some = files.slice(at, at + filesAtOnce).map(async (file) => ({
      path: `${folder}/${path}/${file}`,
      data: await readFile(join(root, path, file)),
    }));
    found.push(...(await Promise.all(some)));
  }
  return found;
}

/** A container may let a process open 1,024 files and no more. */
const filesAtOnce = 100;

const isLicence = (file: string): boolean => /(^|\/)(licen[cs]e|notice|copying)[^/]*$/i.test(file);
