/**
 * Native add-ons cannot be bundled. A `.node` file that is imported by name is copied and loaded from
 * beside the bundle; an npm package that looks for its add-on at run time is copied whole, with what it needs.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import type { Plugin } from 'esbuild';
import type { PackedFile } from '../../runtime/package/pack.ts';

export interface NativeAddons {
  readonly plugin: Plugin;
  files(): Promise<PackedFile[]>;
}

/** `outputFolder`: where in the package the bundle lies; paths in it are relative to that. */
export function nativeAddons(outputFolder: string): NativeAddons {
  const addons = new Map<string, PackedFile>();
  const packages = new Set<string>();
  const plugin: Plugin = {
    name: 'native-addons',
    setup(build) {
      build.onLoad({ filter: /\.node$/ }, async ({ path }) => {
        const data = await readFile(path);
        const digest = createHash('sha256').update(data).digest('hex').slice(0, 8);
        const name = `${basename(path, '.node')}-${digest}.node`;
        const file = join(outputFolder, name);
        addons.set(file, { path: file, data, mode: 0o755 });
        return { contents: `module.exports = require(${JSON.stringify(`./${name}`)});`, loader: 'js' };
      });
      build.onResolve({ filter: /\.node$/ }, ({ importer, path }) =>
        importer.endsWith('.node') ? { path, external: true } : undefined,
      );
      build.onResolve({ filter: /^[^./]/ }, async (args) => {
        if (args.pluginData === resolving || args.path.startsWith('node:')) return undefined;
        const { path, errors } = await build.resolve(args.path, {
          kind: args.kind,
          importer: args.importer,
          resolveDir: args.resolveDir,
          pluginData: resolving,
        });
        if (errors.length > 0) return undefined;
        const folder = packageFolder(path);
        if (folder === undefined || !looksForAddon(folder)) return undefined;
        packages.add(folder);
        return { path: args.path, external: true };
      });
    },
  };
  return {
    plugin,
    async files() {
      const copied = new Map(addons);
      for (const folder of await withDependencies(packages)) {
        for (const file of await filesOf(folder)) {
          const path = join('node_modules', nameInModules(folder), relative(folder, file.path));
          copied.set(path, { ...file, path });
        }
      }
      return [...copied.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
    },
  };
}

const resolving = Symbol('resolving');

/** The npm package a file belongs to: the folder below the innermost node_modules. */
function packageFolder(path: string): string | undefined {
  const parts = path.split(sep);
  const modules = parts.lastIndexOf('node_modules');
  if (modules === -1) return undefined;
  const depth = parts[modules + 1]?.startsWith('@') ? 3 : 2;
  return parts.slice(0, modules + depth).join(sep);
}

const nameInModules = (folder: string): string => folder.split(`${sep}node_modules${sep}`).at(-1)!;

const looksForAddon = (folder: string): boolean =>
  ['binding.gyp', 'prebuilds', join('build', 'Release')].some((name) => existsSync(join(folder, name)));

/** The packages and all they depend on, found as Node would find them. */
async function withDependencies(packages: Iterable<string>): Promise<string[]> {
  const all = new Set<string>();
  const waiting = [...packages];
  for (let folder = waiting.pop(); folder !== undefined; folder = waiting.pop()) {
    if (all.has(folder)) continue;
    all.add(folder);
    const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>;
      optionalDependencies?: Record<string, string>;
    };
    for (const name of Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies })) {
      const found = findUpwards(folder, name);
      if (found !== undefined) waiting.push(found);
    }
  }
  return [...all].sort();
}

function findUpwards(folder: string, name: string): string | undefined {
  for (let at = folder; ; at = dirname(at)) {
    const candidate = join(at, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
    if (at === dirname(at)) return undefined;
  }
}

async function filesOf(folder: string): Promise<PackedFile[]> {
  const files: PackedFile[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory() && entry.name !== 'node_modules') files.push(...(await filesOf(path)));
    if (entry.isFile()) {
      files.push({ path, data: await readFile(path), mode: (await stat(path)).mode });
    }
  }
  return files;
}
