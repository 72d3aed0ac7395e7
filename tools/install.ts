import { existsSync } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { CommandError, allOnPath, run } from './command.ts';
import type { Environment } from './command.ts';
import { debianFolders, installDebian } from './debian.ts';
import { filesHash, installGo, installGoFiles, installGoModule, sourceHash } from './go.ts';
import { InstallError } from './install-error.ts';
import type { Installation } from './installation.ts';
import { withLock } from './lock.ts';
import { installNpm, lockHash } from './npm.ts';
import { ownedFolder } from './owner.ts';
import { installPypi } from './pypi.ts';
import { installRos, rosSourceHash } from './ros.ts';
import { isAcceptable, isToolName, parseVersion, tools } from './tools.ts';
import type { DebianTool, Tool, ToolName } from './tools.ts';

export { InstallError } from './install-error.ts';
export { tools } from './tools.ts';
export type { Tool, ToolName } from './tools.ts';

export interface ToolOptions {
  /** Gets one line for everything that takes longer than a second; by default written to stderr. */
  log?: (line: string) => void;
  /** Where PATH, ATOLL_TOOLS, XDG_CACHE_HOME and HOME are read from; by default the process's own environment. */
  env?: Environment;
  /** Ends an installation under way and leaves nothing of it. */
  signal?: AbortSignal;
}

const versionAnswerMs = 10_000;
const stillAtItMs = 30_000;

/**
 * The path of the tool's program: the one on PATH if its version will do, else the one in the tool cache, which is
 * installed there first if need be. Rejects with an InstallError that says what to do.
 */
export async function toolPath(name: ToolName, options: ToolOptions = {}): Promise<string> {
  const { log = writeToStderr, env = process.env, signal } = options;
  const found = await findTool(name, { log, env });
  if (found !== undefined) return found;
  const tool: Tool = tools[name];
  try {
    return await install(name, tool, { log, env, signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw new InstallError(name, tool, error);
  }
}

/** Like toolPath, but what is not there is not installed: undefined. */
export async function findTool(
  name: ToolName,
  { log = writeToStderr, env = process.env }: ToolOptions = {},
): Promise<string | undefined> {
  const key = JSON.stringify([name, env['PATH'], cacheFolder(env)]);
  const known = found.get(key);
  if (known !== undefined && existsSync(known)) return known;
  const tool: Tool = tools[name];
  const path = (await acceptableOnPath(name, tool, env, log)) ?? inCache(name, tool, env);
  if (path !== undefined) found.set(key, path);
  return path;
}

/** Asking a program for its version costs up to a second (Python), so each is asked once per process. */
const found = new Map<string, string>();

/** The folder that holds `<name>/<version>/bin/<program>` of every installed tool; see `cacheKey`. */
export function cacheFolder(env: Environment = process.env): string {
  if (env['ATOLL_TOOLS']) return resolve(env['ATOLL_TOOLS']);
  return join(env['XDG_CACHE_HOME'] || join(env['HOME'] || homedir(), '.cache'), 'atoll', 'tools');
}

/** What we build from our own source is told apart by that too: a change of it makes another program. */
function cacheKey(tool: Tool): string {
  if (tool.kind === 'go-module') return `${tool.version}-${sourceHash(tool)}`;
  if (tool.kind === 'go-files') return `${tool.version}-${filesHash(tool)}`;
  if (tool.kind === 'npm') return `${tool.version}-${lockHash(tool)}`;
  if (tool.kind === 'ros') return `${tool.version}-${rosSourceHash(tool)}`;
  return tool.version;
}

async function acceptableOnPath(
  name: ToolName,
  tool: Tool,
  env: Environment,
  log: (line: string) => void,
): Promise<string | undefined> {
  for (const path of allOnPath(tool.binary, env, tool.kind === 'debian' ? debianFolders : [])) {
    const version = parseVersion(tool, await versionAnswer(path, tool, env));
    if (version !== undefined && isAcceptable(tool, version)) return path;
    const flaw =
      version === undefined
        ? 'tells no version that can be read'
        : `is ${version}, older than ${tool.accepted.atLeast}`;
    log(`${name}: ${path} ${flaw}: passed over`);
  }
  return undefined;
}

async function versionAnswer(path: string, tool: Tool, env: Environment): Promise<string> {
  try {
    const signal = AbortSignal.timeout(versionAnswerMs);
    return await run(path, tool.accepted.versionArguments, { env, signal });
  } catch (error) {
    // mosquitto tells its version in its help, which it ends with an error code.
    return error instanceof CommandError ? error.output : '';
  }
}

function inCache(name: ToolName, tool: Tool, env: Environment): string | undefined {
  if (tool.kind === 'debian') return undefined;
  const bin = join(cacheFolder(env), name, cacheKey(tool), 'bin');
  // A virtual environment links to the Python it was made with, which the machine may have replaced since.
  const isVirtual = tool.kind === 'pypi' || tool.kind === 'ros';
  if (isVirtual && !existsSync(join(bin, 'python3'))) return undefined;
  const path = join(bin, tool.binary);
  return existsSync(path) ? path : undefined;
}

interface InstallOptions {
  readonly log: (line: string) => void;
  readonly env: Environment;
  readonly signal: AbortSignal | undefined;
}

async function install(name: ToolName, tool: Tool, options: InstallOptions): Promise<string> {
  const { log, env, signal } = options;
  const cache = cacheFolder(env);
  // All Debian packages share one lock because apt-get does one thing at a time.
  const lock = join(cache, '.locks', tool.kind === 'debian' ? 'debian' : `${name}-${cacheKey(tool)}`);
  const onWait = ({ pid }: { pid: number }): void =>
    log(`${name}: process ${pid} is installing it, waiting for that`);
  const path = await withLock(lock, () => installOnce(name, tool, cache, options), { onWait, signal });
  if (path === undefined)
    throw new Error(`its program "${tool.binary}" is not where it was to be after installing`);
  return path;
}

async function installOnce(
  name: ToolName,
  tool: Tool,
  cache: string,
  { log, env, signal }: InstallOptions,
): Promise<string | undefined> {
  const byAnother = await findTool(name, { log: () => {}, env });
  if (byAnother !== undefined) return byAnother;

  const started = Date.now();
  const seconds = (): number => Math.round((Date.now() - started) / 1000);
  log(`${name} ${tool.version}: ${deeds[tool.kind]}; this usually takes about ${tool.usualSeconds} s`);
  const reminder = setInterval(() => log(`${name}: still at it after ${seconds()} s`), stillAtItMs);
  // On the cache's own file system, so that renaming is one step and a /tmp in memory is not filled with a gigabyte
  // of Go modules.
  const scratch = await ownedFolder(join(cache, '.installing', `${name}.`));
  try {
    const installation: Installation = { result: join(scratch, 'result'), scratch, env, log, signal };
    if (tool.kind === 'debian') await installDebian(tool, installation);
    else await installIntoCache(tool, installation, join(cache, name, cacheKey(tool)));
    const path = await findTool(name, { log: () => {}, env });
    if (path !== undefined) log(`${name}: ready after ${seconds()} s`);
    return path;
  } finally {
    clearInterval(reminder);
    await rm(scratch, { recursive: true, force: true, maxRetries: 3 });
  }
}

async function installIntoCache(
  tool: Exclude<Tool, DebianTool>,
  installation: Installation,
  folder: string,
): Promise<void> {
  const { result, env, signal } = installation;
  if (tool.kind === 'go') await installGo(tool, installation);
  else if (tool.kind === 'go-module') await installGoModule(tool, installation);
  else if (tool.kind === 'go-files') await installGoFiles(tool, installation);
  else if (tool.kind === 'npm') await installNpm(tool, installation);
  else if (tool.kind === 'ros') await installRos(tool, installation);
  else await installPypi(tool, installation);
  // A program that does not even start must not get into the cache, where it would be found for ever.
  await run(join(result, 'bin', tool.binary), tool.accepted.versionArguments, { env, signal });
  await putIntoPlace(result, folder);
}

const deeds: { [K in Tool['kind']]: string } = {
  go: 'building it with Go',
  'go-module': 'building it with Go',
  'go-files': 'downloading its Go modules',
  pypi: 'installing it from PyPI into a virtual environment',
  debian: 'installing its Debian package',
  npm: 'downloading its npm packages',
  ros: 'installing its wheels and building rclnodejs',
};

async function putIntoPlace(result: string, folder: string): Promise<void> {
  await mkdir(join(folder, '..'), { recursive: true });
  // What is there is damaged, or it would have been found: moved aside into the scratch folder, it goes with it.
  if (existsSync(folder)) await rename(folder, `${result}.replaced`);
  try {
    await rename(result, folder);
  } catch (error) {
    // Another process put its own there in the same instant: as good as ours.
    if (!(await stat(folder)).isDirectory()) throw error;
  }
}

function writeToStderr(line: string): void {
  process.stderr.write(`${line}\n`);
}

const usage = `Usage: node tools/install.ts [--list] [name …]

Puts the named outside programs (all of them if none is named) where Atoll finds them, and prints their paths.
A program that is on PATH in a version that will do is taken from there.

  --list   show what is known, which version, and where it was found; install nothing
  --help   show this

The tool cache is $ATOLL_TOOLS, or atoll/tools in $XDG_CACHE_HOME or ~/.cache.
`;

async function main(args: string[], signal: AbortSignal): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { list: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } },
  });
  if (values.help) {
    process.stdout.write(usage);
    return 0;
  }
  const unknown = positionals.find((name) => !isToolName(name));
  if (unknown !== undefined) {
    writeToStderr(`There is no tool "${unknown}". Known are: ${Object.keys(tools).join(', ')}.`);
    return 2;
  }
  const names = (positionals.length > 0 ? positionals : Object.keys(tools)).filter(isToolName);
  return values.list ? await list(names) : await installAll(names, signal);
}

async function list(names: readonly ToolName[]): Promise<number> {
  for (const name of names) {
    const { version, kind, purpose }: Tool = tools[name];
    const where = (await findTool(name)) ?? 'not installed';
    process.stdout.write(`${name} ${version} (${kind})\n  ${purpose}\n  ${where}\n`);
  }
  return 0;
}

/**
 * Builds with Go one after the other, since one already uses all cores, and beside them what mostly waits for a
 * registry. A failure does not keep the others from being tried.
 */
async function installAll(names: readonly ToolName[], signal: AbortSignal): Promise<number> {
  let failures = 0;
  const inOrder = async (some: readonly ToolName[]): Promise<void> => {
    for (const name of some) {
      try {
        process.stdout.write(`${name} ${await toolPath(name, { signal })}\n`);
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof InstallError)) throw error;
        writeToStderr(error.message);
        failures += 1;
      }
    }
  };
  const builtWithGo = (name: ToolName): boolean => ['go', 'go-module', 'go-files'].includes(tools[name].kind);
  await Promise.all([
    inOrder(names.filter(builtWithGo)),
    inOrder(names.filter((name) => !builtWithGo(name))),
  ]);
  return failures === 0 ? 0 : 1;
}

if (import.meta.main) {
  const interrupted = new AbortController();
  const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
  for (const [name, code] of Object.entries(exitCodes)) {
    process.once(name, () => {
      process.exitCode = code;
      interrupted.abort();
    });
  }
  try {
    const code = await main(process.argv.slice(2), interrupted.signal);
    process.exitCode ??= code;
  } catch (error) {
    if (!interrupted.signal.aborted) {
      writeToStderr(error instanceof Error ? error.message : String(error));
      process.exitCode = 2;
    } else {
      writeToStderr('Interrupted: nothing was left half installed.');
    }
  }
}
