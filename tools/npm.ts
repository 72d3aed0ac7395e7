import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { run } from './command.ts';
import { requiredProgram } from './installation.ts';
import type { Installation } from './installation.ts';
import type { NpmTool } from './tools.ts';

const lockFile = join(dirname(import.meta.dirname), 'package-lock.json');

interface Locked {
  readonly name?: string;
  readonly version: string;
  readonly integrity: string;
}

/** Each below `node_modules/` of the result, by the name that the lock file has for it. */
export async function installNpm(tool: NpmTool, installation: Installation): Promise<void> {
  const { result, scratch, env, signal } = installation;
  const npm = programOf('npm', tool, installation);
  const tar = programOf('tar', tool, installation);
  for (const name of tool.packages) {
    const { name: published = name, version, integrity } = lockedPackage(name);
    const packed = join(scratch, name);
    await mkdir(packed, { recursive: true });
    await run(npm, ['pack', '--ignore-scripts', '--pack-destination', packed, `${published}@${version}`], {
      cwd: packed,
      env,
      signal,
    });
    const [file = ''] = await readdir(packed);
    const archive = join(packed, file);
    const found = `sha512-${createHash('sha512')
      .update(await readFile(archive))
      .digest('base64')}`;
    if (found !== integrity) {
      throw new Error(`${published} ${version} has the hash ${found}, package-lock.json says ${integrity}`);
    }
    const folder = join(result, 'node_modules', name);
    await mkdir(folder, { recursive: true });
    await run(tar, ['-xzf', archive, '--strip-components', '1', '--no-same-owner', '-C', folder], {
      env,
      signal,
    });
    await rm(packed, { recursive: true, force: true });
  }
  await mkdir(join(result, 'bin'), { recursive: true });
  await writeFile(join(result, 'bin', tool.binary), printer(tool), { mode: 0o755 });
}

/** Changes with every byte that is fetched, and with its program. */
export function lockHash(tool: NpmTool): string {
  return createHash('sha256')
    .update(JSON.stringify([tool.packages.map((name) => lockedPackage(name).integrity), printer(tool)]))
    .digest('hex')
    .slice(0, 12);
}

function lockedPackage(name: string): Locked {
  const { packages } = JSON.parse(readFileSync(lockFile, 'utf8')) as { packages: Record<string, Locked> };
  const locked = packages[`node_modules/${name}`];
  if (locked === undefined) throw new Error(`package-lock.json has no node_modules/${name}`);
  return locked;
}

function programOf(name: string, tool: NpmTool, { env }: Installation): string {
  return requiredProgram(
    name,
    env,
    'it is fetched with npm and unpacked with tar',
    `put ${name} on PATH, or have ${tool.packages.join(' and ')} in node_modules by another way`,
  );
}

const printer = ({ binary, version }: NpmTool): string => `#!/bin/sh
if [ "$1" = --version ]; then echo "${binary} ${version}"; else cd "\${0%/*}/../node_modules" && pwd; fi
`;
