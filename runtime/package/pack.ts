/** Files into a package, reproducibly: the same content gives the same bytes, whatever the times, owners and order. */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { Header, Pax } from 'tar';
import { AtollError } from '../errors.ts';
import {
  alsoCalled,
  entryPath,
  foldedPath,
  invalidEntry,
  maxEntries,
  maxFolders,
  maxPackedBytes,
  maxUnpackedBytes,
} from './format.ts';

export interface PackedFile {
  /** Relative, with `/` between names. */
  readonly path: string;
  readonly data: Uint8Array | string;
  /** Only whether it may be executed is kept. */
  readonly mode?: number | undefined;
}

export interface Packed {
  readonly bytes: Buffer;
  readonly sha256: string;
}

const blockBytes = 512;
/** RFC 1952 section 2.3.1: the operating system, "unknown". zlib writes the one it was built for. */
const gzipOsOffset = 9;
const gzipOsUnknown = 255;

/** Throws PackageInvalid for what `unpack` would refuse. */
export async function packFiles(files: readonly PackedFile[]): Promise<Packed> {
  const entries = files
    .map(({ path, data, mode }) => ({
      path: entryPath(path),
      data: typeof data === 'string' ? Buffer.from(data) : data,
      mode: executable(mode) ? 0o755 : 0o644,
    }))
    .sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
  if (entries.length > maxEntries) {
    throw new AtollError('PackageInvalid', `${entries.length} files are more than the ${maxEntries} allowed`);
  }
  const unpackedBytes = entries.reduce((sum, { data }) => sum + data.byteLength, 0);
  if (unpackedBytes > maxUnpackedBytes) {
    throw new AtollError(
      'PackageInvalid',
      `the files have ${unpackedBytes} bytes, more than the ${maxUnpackedBytes} allowed`,
    );
  }
  const folders = new Set(entries.flatMap(({ path }) => foldersAbove(path)));
  if (folders.size > maxFolders) {
    throw new AtollError('PackageInvalid', `${folders.size} folders are more than the ${maxFolders} allowed`);
  }
  const folded = new Map([...folders].map((folder) => [foldedPath(folder), folder]));
  for (const { path } of entries) {
    if (path === '') throw invalidEntry(path, 'is the package itself');
    if (folders.has(path)) throw invalidEntry(path, 'is a file and a folder');
    const other = folded.get(foldedPath(path));
    if (other === path) throw invalidEntry(path, 'is there twice');
    if (other !== undefined) throw invalidEntry(path, alsoCalled(other));
    folded.set(foldedPath(path), path);
  }

  const parts = entries.flatMap(({ path, data, mode }) => [
    head(path, data.byteLength, mode),
    data,
    padding(data),
  ]);
  // POSIX.1-1988 ustar: two empty blocks end an archive.
  const tar = Buffer.concat([...parts, Buffer.alloc(2 * blockBytes)]);
  const bytes = await promisify(gzip)(tar);
  bytes[gzipOsOffset] = gzipOsUnknown;
  if (bytes.byteLength > maxPackedBytes) {
    throw new AtollError(
      'PackageInvalid',
      `the package has ${bytes.byteLength} bytes, more than the ${maxPackedBytes} allowed`,
    );
  }
  return { bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
}

/** Every file below the folder. Links are refused: what they lead to may not be there where the package runs. */
export async function packFolder(folder: string): Promise<Packed> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files: PackedFile[] = [];
  for (const entry of entries) {
    if (entry.isDirectory()) continue;
    const file = join(entry.parentPath, entry.name);
    const path = file.slice(join(folder, '/').length);
    if (!entry.isFile()) throw invalidEntry(path, 'is a link or a special file: put the file itself there');
    files.push({ path, data: await readFile(file), mode: (await stat(file)).mode });
  }
  return await packFiles(files);
}

function foldersAbove(path: string): string[] {
  const names = path.split('/').slice(0, -1);
  return names.map((_, index) => names.slice(0, index + 1).join('/'));
}

const executable = (mode = 0) => (mode & 0o111) !== 0;

function head(path: string, size: number, mode: number): Buffer {
  const fixed = { uid: 0, gid: 0, uname: '', gname: '', mtime: new Date(0) };
  const header = new Header({ ...fixed, path, size, mode, type: 'File' });
  header.encode();
  const pax = header.needPax
    ? new Pax({ path, mtime: fixed.mtime, uid: 0, gid: 0 }).encode()
    : Buffer.alloc(0);
  return Buffer.concat([pax, header.block ?? Buffer.alloc(0)]);
}

function padding(data: Uint8Array): Buffer {
  return Buffer.alloc((blockBytes - (data.byteLength % blockBytes)) % blockBytes);
}
