import { chown, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeFolder, writeAtomically } from '../../../controller/stores/atomic-file.ts';
import { temporaryFolder } from '../../support/folder.ts';

const nobody = 65534;

test.skipIf(process.getuid?.() !== 0)(
  "what root writes into somebody's folder is theirs alone, with the folders on the way",
  async () => {
    const folder = await temporaryFolder();
    await chown(folder, nobody, nobody);
    const file = join(folder, 'robots', 'more', 'robot1.json');
    await writeAtomically(file, '{}');
    for (const [path, mode] of [
      [file, 0o600],
      [join(folder, 'robots', 'more'), 0o700],
      [join(folder, 'robots'), 0o700],
    ] as const) {
      const { uid, gid, mode: has } = await stat(path);
      expect({ path, uid, gid, mode: has & 0o777 }).toEqual({ path, uid: nobody, gid: nobody, mode });
    }
    await writeAtomically(join(folder, 'ours.json'), '{}', { stays: true });
    expect((await stat(join(folder, 'ours.json'))).uid).toBe(0);
    // What was there before stays as it is.
    await chown(join(folder, 'robots'), 0, 0);
    await makeFolder(join(folder, 'robots'));
    expect((await stat(join(folder, 'robots'))).uid).toBe(0);
  },
);
