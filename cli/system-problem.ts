/** What the system refused, in words: errors of files that no module foresaw. */
import { statSync } from 'node:fs';
import { dirname } from 'node:path';

export interface SystemProblem {
  /** With the path. */
  readonly message: string;
  readonly advice: string;
}

const elsewhere = 'or give another folder (--dir with "faas up", else --site)';

/** Undefined: not an error of a file, or one that only a report of it can explain. */
export function systemProblem(error: unknown): SystemProblem | undefined {
  const { code, path } = error as NodeJS.ErrnoException;
  const told = (what: string, advice: string): SystemProblem => ({
    message: `${path ?? 'a file'}: ${what} (${code})`,
    advice,
  });
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return told(
      'the disk is full',
      'Make room: logs/, cache/ and nats/ are what grows in the folder of a site.',
    );
  }
  if (code === 'EIO') return told('the disk does not work', 'Look at the log of the system (dmesg).');
  if (path === undefined) return undefined;
  switch (code) {
    case 'EROFS':
      return told('the file system is read-only', `Mount it writable (mount -o remount,rw), ${elsewhere}.`);
    case 'EACCES':
    case 'EPERM':
      return told(
        `not allowed${ownerText(path)}`,
        `Run it as the owner, change the owner (chown -R), ${elsewhere}.`,
      );
    case 'ENOTDIR':
    case 'EEXIST':
      return told('is in the way: a folder is needed there', `Move it away, ${elsewhere}.`);
    case 'EISDIR':
      return told('is a folder, and a file is needed there', 'Move it away.');
    case 'ELOOP':
      return told('links lead in a circle', 'Put the file itself there.');
    default:
      return undefined;
  }
}

/** Of the path, or of the nearest folder above it that can be looked at. */
function ownerText(path: string): string {
  const us = process.getuid?.();
  for (let at = path; ; at = dirname(at)) {
    try {
      const { uid } = statSync(at);
      if (us === undefined || uid === us) return '';
      return `: ${at} belongs to uid ${uid}, this is uid ${us}`;
    } catch {
      if (at === dirname(at)) return '';
    }
  }
}
