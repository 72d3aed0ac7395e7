/**
 * Where hosts and handler processes keep compiled code: halves their start, since our own files need no type
 * stripping again and a large bundle is not compiled anew, and saves the 25 MiB that stripping would keep.
 */
import { lstatSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Every version of a function adds to it; beyond this it is begun anew. */
const maxBytes = 256 * 1024 * 1024;

let folder: string | false | undefined;

/** Undefined where there can be none; then handlers only start more slowly. */
export function compileCacheFolder(): string | undefined {
  folder ??= open();
  return folder === false ? undefined : folder;
}

function open(): string | false {
  const uid = process.getuid?.() ?? 0;
  const path = join(tmpdir(), `atoll-compile-cache-${uid}`);
  try {
    if (bytesIn(path) > maxBytes) rmSync(path, { recursive: true, force: true });
    mkdirSync(path, { mode: 0o700, recursive: true });
    // It holds code that will run: in a shared temp folder only one that is ours alone will do.
    const stat = lstatSync(path);
    return stat.isDirectory() && stat.uid === uid && (stat.mode & 0o077) === 0 ? path : false;
  } catch {
    return false;
  }
}

function bytesIn(path: string): number {
  let bytes = 0;
  try {
    for (const name of readdirSync(path, { recursive: true, encoding: 'utf8' })) {
      bytes += statSync(join(path, name)).size;
    }
  } catch {
    // not there yet, or cleaned away meanwhile
  }
  return bytes;
}
