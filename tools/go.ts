import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { copyFile, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import { requiredProgram } from './installation.ts';
import type { Installation } from './installation.ts';
import type { GoFile, GoFilesTool, GoModuleTool, GoTool } from './tools.ts';

/** Builds the one binary; caches of modules and builds are as throw-away as the scratch folder they lie in. */
export async function installGo(tool: GoTool, installation: Installation): Promise<void> {
  const { result, scratch } = installation;
  await runGo(
    ['install', '-trimpath', '-ldflags', '-s -w', `${tool.package}@v${tool.version}`],
    { cwd: scratch, variables: { GOFLAGS: '-mod=mod -modcacherw', GOBIN: join(result, 'bin') } },
    tool,
    installation,
  );
}

/** Builds a module of our own, and gives its program its further names. */
export async function installGoModule(tool: GoModuleTool, installation: Installation): Promise<void> {
  const bin = join(installation.result, 'bin');
  const set = Object.entries(tool.variables).map(([name, value]) => `-X ${name}=${value}`);
  await runGo(
    [
      ...['build', '-trimpath', '-buildvcs=false', '-gcflags=all=-dwarf=false'],
      ...['-ldflags', ['-s -w', ...set].join(' '), '-o', join(bin, tool.binary), '.'],
    ],
    { cwd: sourceFolder(tool), variables: { GOFLAGS: '-mod=readonly -modcacherw' } },
    tool,
    installation,
  );
  for (const name of tool.links) await symlink(tool.binary, join(bin, name));
}

/** Keeps the files and nothing else of their modules. */
export async function installGoFiles(tool: GoFilesTool, installation: Installation): Promise<void> {
  const { result, scratch } = installation;
  const [bin, share] = [join(result, 'bin'), join(result, 'share')];
  for (const folder of [bin, share]) await mkdir(folder, { recursive: true });
  const modules = new Set(Object.values(tool.files).map(moduleText));
  await runGo(
    ['mod', 'download', ...modules],
    { cwd: scratch, variables: { GOFLAGS: '-mod=mod -modcacherw' } },
    tool,
    installation,
  );
  for (const [name, file] of Object.entries(tool.files)) {
    await copyFile(join(moduleCache(installation), moduleText(file), file.path), join(share, name));
  }
  await writeFile(join(bin, tool.binary), printer(tool), { mode: 0o755 });
}

/** As `go mod download` takes it, and as its cache calls the folder (of a path without capitals). */
const moduleText = ({ module, version }: GoFile): string => `${module}@v${version}`;

const printer = ({ binary, version }: GoFilesTool): string => `#!/bin/sh
if [ "$1" = --version ]; then echo "${binary} ${version}"; else exec cat "\${0%/*}/../share/$1"; fi
`;

/** Changes with every file that it has, and with its program. */
export function filesHash(tool: GoFilesTool): string {
  return createHash('sha256')
    .update(JSON.stringify([tool.files, printer(tool)]))
    .digest('hex')
    .slice(0, 12);
}

/** Changes with every byte that the program is built from. */
export function sourceHash(tool: GoModuleTool): string {
  const hash = createHash('sha256');
  for (const file of ['go.mod', 'go.sum', 'main.go'])
    hash.update(readFileSync(join(sourceFolder(tool), file)));
  return hash
    .update(JSON.stringify([tool.variables, tool.links]))
    .digest('hex')
    .slice(0, 12);
}

function sourceFolder(tool: GoModuleTool): string {
  return join(import.meta.dirname, tool.module);
}

const moduleCache = ({ scratch }: Installation): string => join(scratch, 'modules');

async function runGo(
  args: readonly string[],
  { cwd, variables }: { cwd: string; variables: Readonly<Record<string, string>> },
  tool: GoTool | GoModuleTool | GoFilesTool,
  installation: Installation,
): Promise<void> {
  const { scratch, env, signal } = installation;
  const go = requiredProgram(
    'go',
    env,
    `it is ${tool.kind === 'go-files' ? 'downloaded' : 'built'} with Go`,
    `install Go, or put a ${tool.binary} of ${tool.accepted.atLeast} or later on PATH`,
  );
  const temporary = join(scratch, 'tmp');
  await mkdir(temporary, { recursive: true });
  await run(go, args, {
    cwd,
    signal,
    shown: ['CGO_ENABLED', 'GOFLAGS', 'GOTOOLCHAIN'],
    env: {
      ...env,
      CGO_ENABLED: '0',
      GOTOOLCHAIN: 'local',
      GOWORK: 'off',
      // Modules are unpacked read-only unless GOFLAGS has -modcacherw, and could not be deleted afterwards.
      GOCACHE: join(scratch, 'build'),
      GOMODCACHE: moduleCache(installation),
      GOTMPDIR: temporary,
      // Set for cross-compiling, they would give a binary that does not run here.
      GOOS: undefined,
      GOARCH: undefined,
      ...variables,
    },
  });
}
