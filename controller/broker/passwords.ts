/** Passwords of the users of our own nats-server, made once and kept beside what it stores. */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isMissing, writeAtomically } from '../stores/atomic-file.ts';
import type { SitePaths } from '../stores/site.ts';
import { users, type Passwords } from './configuration.ts';

/** What other programs on the machine log in with: `{ "user", "pass" }`, mode 0600. */
export const programsFile = (paths: SitePaths): string => join(paths.dir, 'programs.json');

/** Another one is made by removing the file `passwords.json` and starting again. */
export async function readPasswords(paths: SitePaths): Promise<Passwords> {
  const file = join(paths.nats, 'passwords.json');
  let known: Partial<Passwords> = {};
  try {
    known = JSON.parse(await readFile(file, 'utf8')) as Partial<Passwords>;
  } catch (error) {
    // A damaged one is as good as none: nobody keeps a copy of them.
    if (!isMissing(error) && !(error instanceof SyntaxError)) throw error;
  }
  const made = (name: keyof Passwords): string => known[name] ?? randomBytes(24).toString('base64url');
  const passwords: Passwords = {
    system: made('system'),
    atoll: made('atoll'),
    programs: made('programs'),
    claim: made('claim'),
  };
  await writeAtomically(file, `${JSON.stringify(passwords)}\n`);
  const programs = { user: users.programs, pass: passwords.programs };
  await writeAtomically(programsFile(paths), `${JSON.stringify(programs)}\n`);
  return passwords;
}
