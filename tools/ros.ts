import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { cp, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { CommandError, run } from './command.ts';
import { NotPossible, requiredProgram } from './installation.ts';
import type { Installation } from './installation.ts';
import type { RosTool } from './tools.ts';

const root = dirname(import.meta.dirname);
const debianPackages = 'g++ make cmake python3-dev python3-venv';

/**
 * A ROS 2 prefix that is a virtual environment of wheels, our interface packages built into it, and rclnodejs built
 * against it: `rclnodejs/node_modules/rclnodejs`. Its program runs a command in the environment all that needs.
 */
export async function installRos(tool: RosTool, installation: Installation): Promise<void> {
  const { result, env, signal } = installation;
  const programs = await machinePrograms(installation);
  await run(programs.python, ['-m', 'venv', result], { env, signal });
  await writeFile(join(result, 'bin', tool.binary), launcher(tool), { mode: 0o755 });
  await writeFile(join(result, 'bin', 'ros2'), prefixMarker, { mode: 0o755 });

  const failed = new AbortController();
  const site: Site = {
    ...installation,
    tool,
    programs,
    signal: AbortSignal.any([failed.signal, ...(signal === undefined ? [] : [signal])]),
  };
  /** What runs beside a failure is ended before it is told: the folder is about to be removed under it. */
  const together = async (...works: Promise<void>[]): Promise<void> => {
    for (const work of works) work.catch(() => failed.abort());
    const outcomes = await Promise.allSettled(works);
    const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
    if (reasons.length > 0) throw reasons.find((reason) => !isAbort(reason)) ?? reasons[0];
  };
  await together(installWheels(site), fetchClient(site));
  await together(buildInterfaces(site), buildClient(site));
  await generateMessages(site);
}

/** Changes with every byte that is fetched by or built from our own files. */
export function rosSourceHash(tool: RosTool): string {
  const hash = createHash('sha256');
  for (const folder of [join(import.meta.dirname, tool.folder), ...tool.interfaces.map(packageFolder)]) {
    const files = readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort();
    for (const file of files) hash.update(relative(root, file)).update('\0').update(readFileSync(file));
  }
  return hash.update(launcher(tool)).digest('hex').slice(0, 12);
}

interface Site extends Installation {
  readonly tool: RosTool;
  readonly programs: Programs;
}

interface Programs {
  readonly python: string;
  readonly npm: string;
  readonly cmake: string;
  /** What holds `include/node`: of the Node that runs this, so that nothing is asked of nodejs.org. */
  readonly nodeFolder: string;
}

async function machinePrograms({ env, signal }: Installation): Promise<Programs> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new NotPossible(
      `its wheels are for Linux on x86_64, and this is ${process.platform} on ${process.arch}`,
      `on other machines its tests are left out; a site's own ROS is not needed for anything else`,
    );
  }
  const advice = `install it (Debian and Ubuntu: apt-get install --no-install-recommends ${debianPackages})`;
  const program = (name: string, purpose: string): string => requiredProgram(name, env, purpose, advice);
  const python = program('python3', 'it is made of Python packages');
  program('c++', 'rclnodejs is compiled');
  program('make', 'rclnodejs is compiled');
  const cmake = program('cmake', 'interface packages are built with CMake');
  const npm = program('npm', 'rclnodejs comes from npm');
  const question =
    'import os, sys, sysconfig; print(sys.version_info[:2] >= (3, 11), sysconfig.get_path("include"))';
  const [recent, include = ''] = (await run(python, ['-c', question], { env, signal })).trim().split(' ');
  if (recent !== 'True') {
    throw new NotPossible(
      `its wheels need Python 3.11 or later, and ${python} is older`,
      'put a later python3 first on PATH',
    );
  }
  if (!existsSync(join(include, 'Python.h'))) {
    throw new NotPossible(
      `interface packages are built for Python too, and ${join(include, 'Python.h')} is not there`,
      `install Python's headers (Debian and Ubuntu: apt-get install --no-install-recommends ${debianPackages})`,
    );
  }
  const nodeFolder = dirname(dirname(process.execPath));
  if (!existsSync(join(nodeFolder, 'include', 'node', 'node_api.h'))) {
    throw new NotPossible(
      `rclnodejs is compiled with the headers of Node, and ${process.execPath} came without its own`,
      `run this with the Node of this package: npx --no-install node tools/install.ts ros`,
    );
  }
  return { python, npm, cmake, nodeFolder };
}

async function installWheels(site: Site): Promise<void> {
  const { tool, result, env, signal } = site;
  const pip = (file: string, ...options: string[]): Promise<string> =>
    run(
      join(result, 'bin', 'python3'),
      [
        ...['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-cache-dir'],
        // The files name everything: nothing is left to be found out, and nothing comes that they do not name.
        ...['--no-deps', '--require-hashes', ...options],
        ...['-r', join(import.meta.dirname, tool.folder, file)],
      ],
      { env, signal },
    );
  await pip('requirements.txt', '--only-binary', ':all:');
  await pip('sources.txt', '--no-binary', ':all:', '--no-build-isolation');
  await cutPythonEdges(site, await sharedObjects(result));
  await mendExports(result, await pythonIncludes(site));
}

async function sharedObjects(result: string): Promise<string[]> {
  const files = await readdir(join(result, 'lib'));
  return files.filter((file) => file.endsWith('.so')).map((file) => join(result, 'lib', file));
}

/**
 * Some of the C libraries are linked to those of rosidl's Python generator without using them, and those need the
 * symbols of libpython: Node could not load them. Only this edge is cut; Python loads them as before.
 */
async function cutPythonEdges({ result, env, signal }: Site, libraries: readonly string[]): Promise<void> {
  const patchelf = join(result, 'bin', 'patchelf');
  for (const library of libraries) {
    if (isPythonLibrary(library)) continue;
    const needed = (await run(patchelf, ['--print-needed', library], { env, signal })).split('\n');
    const edges = needed.filter(isPythonLibrary).flatMap((name) => ['--remove-needed', name]);
    if (edges.length > 0) await run(patchelf, [...edges, library], { env, signal });
  }
}

const isPythonLibrary = (file: string): boolean => file.endsWith('__rosidl_generator_py.so');

/** The wheels' CMake files name the folders of whoever built them. */
async function mendExports(result: string, { python, numpy }: PythonIncludes): Promise<void> {
  const share = join(result, 'share');
  for (const name of await readdir(share)) {
    const file = join(share, name, 'cmake', `export_${name}__rosidl_generator_pyExport.cmake`);
    if (!existsSync(file)) continue;
    const text = await readFile(file, 'utf8');
    await writeFile(
      file,
      text
        .replaceAll(/\/opt\/python\/[^/;"]+\/include\/python[\d.]+/g, python)
        .replaceAll(
          /\/opt\/python\/[^/;"]+\/lib\/python[\d.]+\/site-packages\/numpy\/_core\/include/g,
          numpy,
        ),
    );
  }
}

interface PythonIncludes {
  readonly python: string;
  readonly numpy: string;
}

async function pythonIncludes({ result, env, signal }: Site): Promise<PythonIncludes> {
  const question =
    'import sysconfig, numpy; print(sysconfig.get_path("include")); print(numpy.get_include())';
  const answer = await run(join(result, 'bin', 'python3'), ['-c', question], { env, signal });
  const [python = '', numpy = ''] = answer.trim().split('\n');
  // The folder is about to be renamed, and CMake knows this variable in the files in question.
  return { python, numpy: numpy.replace(result, '${_IMPORT_PREFIX}') };
}

async function buildInterfaces(site: Site): Promise<void> {
  const { tool, result, scratch, programs } = site;
  for (const path of tool.interfaces) {
    const build = join(scratch, 'build', path);
    const before = new Set(await sharedObjects(result));
    await mkdir(build, { recursive: true });
    await inRos(site, programs.cmake, [
      ...['-S', packageFolder(path), '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF'],
      ...[`-DCMAKE_INSTALL_PREFIX=${result}`, `-DPython3_EXECUTABLE=${join(result, 'bin', 'python3')}`],
    ]);
    await inRos(site, programs.cmake, ['--build', build, `-j${availableParallelism()}`]);
    await inRos(site, programs.cmake, ['--install', build]);
    const made = (await sharedObjects(result)).filter((file) => !before.has(file));
    await cutPythonEdges(site, made);
  }
}

/** Scripts of packages do not run: what they would do is done below, without a look at a network. */
async function fetchClient(site: Site): Promise<void> {
  const { tool, result, env, signal, programs } = site;
  const folder = join(result, 'rclnodejs');
  await mkdir(folder, { recursive: true });
  for (const file of ['package.json', 'package-lock.json']) {
    await cp(join(import.meta.dirname, tool.folder, file), join(folder, file));
  }
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel', 'error'];
  await run(programs.npm, ['ci', ...quiet], { cwd: folder, env: ofItsOwn(env), signal });
}

async function buildClient(site: Site): Promise<void> {
  const { result, programs } = site;
  const folder = clientFolder(result);
  const gyp = join(dirname(folder), 'node-gyp', 'bin', 'node-gyp.js');
  const options = [`--nodedir=${programs.nodeFolder}`, '-j', String(availableParallelism())];
  await inRos(site, process.execPath, [gyp, 'rebuild', ...options], folder);
  // Its loader answers any failure to load with "npm run rebuild", which begins with deleting what was built.
  const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as {
    scripts?: Record<string, string>;
  };
  delete manifest.scripts?.['rebuild'];
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  for (const built of ['build/Release/obj.target', 'build/Release/.deps', 'prebuilds']) {
    await rm(join(folder, built), { recursive: true, force: true });
  }
}

/** JavaScript for every interface in the prefix: rclnodejs makes none at run time. */
async function generateMessages(site: Site): Promise<void> {
  const folder = clientFolder(site.result);
  await inRos(site, process.execPath, [join(folder, 'scripts', 'generate_messages.cjs')], folder);
  const tried = `import(${JSON.stringify(join(folder, 'dist', 'index.js'))}).then(async ({ default: ros }) => { await ros.init(); ros.shutdown(); })`;
  await inRos(site, process.execPath, ['-e', tried], folder);
}

function inRos(site: Site, command: string, args: readonly string[], cwd = site.scratch): Promise<string> {
  const { tool, result, env, signal } = site;
  return run(join(result, 'bin', tool.binary), [command, ...args], { cwd, env: ofItsOwn(env), signal });
}

/** Inside `npm test` the settings of that run are in the environment, and npm would take them for this one too. */
function ofItsOwn(env: Installation['env']): Installation['env'] {
  return Object.fromEntries(
    Object.entries(env).filter(
      ([name]) =>
        !/^npm_(?!config_(registry|cache|userconfig|globalconfig|https?_proxy|noproxy)$)/i.test(name),
    ),
  );
}

const clientFolder = (result: string): string => join(result, 'rclnodejs', 'node_modules', 'rclnodejs');
const packageFolder = (path: string): string => join(root, path);
const isAbort = (reason: unknown): boolean =>
  !(reason instanceof CommandError) && reason instanceof Error && reason.name === 'AbortError';

/** rclnodejs looks for this name to learn where ROS lies, and the wheels have none. */
const prefixMarker = `#!/bin/sh
echo 'There is no ros2 command in these wheels: this file only marks the prefix.' >&2
exit 1
`;

/** Finds its prefix by its own path, since that folder is renamed once it is complete. */
const launcher = ({ distribution }: RosTool): string => `#!/bin/sh
# with-ros COMMAND [ARGUMENT...]: runs it in the environment of the ROS 2 that this file is part of.
prefix=$(CDPATH= cd -- "\${0%/*}/.." && pwd -P) || exit 1
libraries=$prefix/lib
for folder in "$prefix"/lib/python3*/site-packages/ros_*.libs; do libraries=$libraries:$folder; done
export PATH="$prefix/bin:$PATH" AMENT_PREFIX_PATH="$prefix" CMAKE_PREFIX_PATH="$prefix"
export LD_LIBRARY_PATH="$libraries\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export ROS_DISTRO=${distribution} ROS_VERSION=2 ROS_PYTHON_VERSION=3 RMW_IMPLEMENTATION=rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE="\${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
export ATOLL_RCLNODEJS="$prefix/rclnodejs/node_modules/rclnodejs"
# Otherwise the wheels start every Python a second time, to set what is set here.
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
if [ "$1" = --version ]; then
  exec "$prefix/bin/python3" -c \\
    'import importlib.metadata as m, os, rclpy; print("ROS 2", os.environ["ROS_DISTRO"] + ", rclpy", m.version("ros-rclpy"))'
fi
exec "$@"
`;
