/** Files as a layer of an image: a tar in which only path, content and mode count. */
import { dirname } from 'node:path';
import { Header, Pax } from 'tar';

/** In the root of the image, without a leading slash. */
export type Entry =
  | { readonly path: string; readonly data: Uint8Array; readonly mode?: number }
  | { readonly path: string; readonly link: string }
  | { readonly path: string; readonly folder: true; readonly mode?: number };

const blockBytes = 512;

/** Folders above an entry are added. The same entries give the same bytes, in whatever order they come. */
export function layerOf(entries: readonly Entry[]): Buffer {
  const all = new Map<string, Entry>();
  for (const entry of entries) {
    if (all.has(entry.path)) throw new Error(`${entry.path} is in the image twice`);
    all.set(entry.path, entry);
  }
  for (const { path } of entries) {
    for (let above = dirname(path); above !== '.' && !all.has(above); above = dirname(above)) {
      all.set(above, { path: above, folder: true });
    }
  }
  const sorted = [...all.values()].sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
  // POSIX.1-1988 ustar: two empty blocks end an archive.
  return Buffer.concat([...sorted.flatMap(blocksOf), Buffer.alloc(2 * blockBytes)]);
}

function blocksOf(entry: Entry): Uint8Array[] {
  if ('link' in entry)
    return [head({ path: entry.path, type: 'SymbolicLink', linkpath: entry.link, mode: 0o777 })];
  if ('folder' in entry)
    return [head({ path: `${entry.path}/`, type: 'Directory', mode: entry.mode ?? 0o755 })];
  const { path, data, mode = 0o644 } = entry;
  const padding = Buffer.alloc((blockBytes - (data.byteLength % blockBytes)) % blockBytes);
  return [head({ path, type: 'File', size: data.byteLength, mode }), data, padding];
}

function head(fields: {
  path: string;
  type: 'File' | 'Directory' | 'SymbolicLink';
  mode: number;
  size?: number;
  linkpath?: string;
}): Buffer {
  const header = new Header({ uid: 0, gid: 0, uname: '', gname: '', mtime: new Date(0), size: 0, ...fields });
  header.encode();
  const pax = header.needPax
    ? new Pax({ ...fields, mtime: new Date(0), uid: 0, gid: 0 }).encode()
    : Buffer.alloc(0);
  return Buffer.concat([pax, header.block ?? Buffer.alloc(0)]);
}
