/** The package 'atoll' as a tarball of npm's kind, for `vendor/` of a handler's project. */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packFiles } from '../../runtime/package/pack.ts';
import { exitCodes } from '../command.ts';
import { Failure } from '../failure.ts';
import { packageRoot, version } from '../version.ts';

/** The same build gives the same bytes, so that a lock file's checksum stays true. */
export async function packAtoll(): Promise<{ fileName: string; bytes: Uint8Array }> {
  const folder = join(packageRoot, 'dist', 'atoll');
  if (!existsSync(join(folder, 'package.json'))) {
    throw new Failure(exitCodes.site, `${folder} is missing`, {
      advice: `Build it with "npm run prepare" in ${packageRoot}.`,
    });
  }
  const names = (await readdir(folder)).sort();
  const files = await Promise.all(
    names.map(async (name) => ({ path: `package/${name}`, data: await readFile(join(folder, name)) })),
  );
  const { bytes } = await packFiles(files);
  return { fileName: `atoll-${version()}.tgz`, bytes };
}
