import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ownedFolder } from '../../tools/owner.ts';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';

/**
 * A new folder, removed with all that is in it when the test or the file that asked for it is over; when the process
 * was killed before that, by the next one that asks for a folder.
 */
export async function temporaryFolder(options: { closing?: Closing | undefined } = {}): Promise<string> {
  const folder = await ownedFolder(join(tmpdir(), 'atoll-test-'));
  // A process that was just killed may still be writing its last file: removing is tried again.
  closeLater(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }), options.closing);
  return folder;
}
