/** Files that are there whole or not at all, also after a power cut. */
import { randomUUID } from 'node:crypto';
import { mkdir, open, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** Only the owner: desired state names secrets, logs quote events. */
export const fileMode = 0o600;
export const folderMode = 0o700;

/**
 * By a name, until it is whole, that no scan of ours takes for an object: hidden, and no known ending. What root writes
 * belongs to the owner of the folder, as whom its site runs, unless it `stays` root's.
 */
export async function writeAtomically(
  path: string,
  content: string | Uint8Array,
  options: { stays?: boolean } = {},
): Promise<void> {
  const folder = dirname(path);
  await makeFolder(folder);
  const temporary = join(folder, `.${randomUUID()}.tmp`);
  try {
    const file = await open(temporary, 'wx', fileMode);
    try {
      if (options.stays !== true) await giveToOwnerOf(folder, file);
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  // The new name is durable only once the folder is.
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** With all above it that is missing. */
export async function makeFolder(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: folderMode });
  if (first === undefined || !isRoot()) return;
  for (let made = path; ; made = dirname(made)) {
    const handle = await open(made, 'r');
    try {
      await giveToOwnerOf(dirname(first), handle);
    } finally {
      await handle.close();
    }
    if (made === first || made === dirname(made)) return;
  }
}

async function giveToOwnerOf(folder: string, file: FileHandle): Promise<void> {
  if (!isRoot()) return;
  const { uid, gid } = await stat(folder);
  if (uid !== 0) await file.chown(uid, gid);
}

const isRoot = (): boolean => process.getuid?.() === 0;

export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}
