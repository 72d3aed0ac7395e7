import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';

/** A new folder, removed with all that is in it when the test or the file that asked for it is over. */
export async function temporaryFolder(options: { closing?: Closing | undefined } = {}): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'atoll-test-'));
  // A process that was just killed may still be writing its last file: removing is tried again.
  closeLater(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }), options.closing);
  return folder;
}
