/** A folder's site keeps its name: streams, inbox, dead letters and the claims of a robot carry it. */
import { readFile } from 'node:fs/promises';
import { AtollError } from '../../runtime/errors.ts';
import { isMissing, writeAtomically } from './atomic-file.ts';
import type { SitePaths } from './site.ts';

/** Rejects with InvalidRequest when the folder is that of another site. The first name it is given it keeps. */
export async function keepSiteName(paths: SitePaths, name: string): Promise<void> {
  const written = await readFile(paths.name, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return '';
    throw error;
  });
  const known = written.trim();
  // Empty also after a power cut, before it was on the disk.
  if (known === '') return await writeAtomically(paths.name, `${name}\n`);
  if (known === name) return;
  throw new AtollError(
    'InvalidRequest',
    `${paths.dir} is the folder of ${titleOf(known)} and cannot become ${titleOf(name)}: what it keeps carries that name. ` +
      `Start it as before, or give another folder with --dir and deploy the functions there`,
  );
}

function titleOf(name: string): string {
  if (name === 'local') return 'a site of its own';
  return name === 'hub' ? 'a hub (--control)' : `the robot "${name}"`;
}
