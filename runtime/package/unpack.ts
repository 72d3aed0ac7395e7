/**
 * A package into a folder. The archive is an enemy until it is through: every path, type and size in it is checked
 * before a byte is written, bytes are counted as they are inflated, and the folder appears under its name only when
 * all of it is there.
 */
import { createHash, randomUUID, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { Header, Pax } from 'tar';
import { AtollError } from '../errors.ts';
import {
  alsoCalled,
  entryPath,
  foldedPath,
  invalidEntry,
  maxEntries,
  maxFolders,
  maxUnpackedBytes,
} from './format.ts';

/** What lies in an unpacked package: the SHA-256 of each file by its path. */
export type Contents = Readonly<Record<string, string>>;

const blockBytes = 512;
/** Long names and other attributes of an entry, each kind of them. */
const maxAttributeBytes = 64 * 1024;
/** Files, their headers and padding, attributes: nothing honest inflates to more. */
const maxInflatedBytes = maxUnpackedBytes + maxEntries * 4 * blockBytes;

/** What is looked at in one go behind the end of the archive. */
const zeros = Buffer.alloc(64 * 1024);

/** Temporary folders have this in their names; one that is hours old was left by a process that was killed. */
export const incomplete = '.incomplete-';

/**
 * Unpacks the file and puts the folder in place with one rename; `folder` must not exist. Files become read-only,
 * other modes than "executable" are not kept. Rejects with PackageInvalid, and then nothing is left behind.
 */
export async function unpack(file: string, folder: string, signal?: AbortSignal): Promise<Contents> {
  const temporary = `${folder}${incomplete}${randomUUID()}`;
  await mkdir(temporary, { mode: 0o700 });
  try {
    const contents = await extract(file, temporary, signal);
    await rename(temporary, folder);
    return contents;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

async function extract(file: string, folder: string, signal?: AbortSignal): Promise<Contents> {
  const packed = createReadStream(file);
  const gunzip = createGunzip();
  // Its failure ends `gunzip` with the same error, which reading reports.
  const inflating = pipeline(packed, gunzip, { signal }).catch(() => undefined);
  try {
    const contents = await extractTar(new Blocks(gunzip), folder);
    // Node passes over what follows zeros behind the last member.
    const behind = (await stat(file)).size - gunzip.bytesWritten;
    if (behind > 0) {
      throw new AtollError('PackageInvalid', `it has ${behind} bytes behind the end of its gzip data`);
    }
    return contents;
  } catch (error) {
    throw isZlib(error)
      ? new AtollError('PackageInvalid', `it is not a complete gzip file: ${(error as Error).message}`)
      : error;
  } finally {
    gunzip.destroy();
    packed.destroy();
    await inflating;
  }
}

const isZlib = (error: unknown) => /^Z_/.test(String((error as NodeJS.ErrnoException).code));

async function extractTar(blocks: Blocks, folder: string): Promise<Contents> {
  const contents: Record<string, string> = Object.create(null) as Record<string, string>;
  const folders = new Set(['']);
  /** Files and folders, as a file system without regard to case knows them. */
  const folded = new Map<string, string>();
  const seen = { files: contents, folders, folded };
  let unpackedBytes = 0;
  for (let count = 0; ; count++) {
    const entry = await nextEntry(blocks);
    if (!entry) break;
    if (count >= maxEntries) {
      throw new AtollError('PackageInvalid', `it has more than the ${maxEntries} entries allowed`);
    }
    const path = entryPath(entry.path);
    if (Object.hasOwn(contents, path)) throw invalidEntry(entry.path, 'is there twice');
    if (entry.kind === 'folder') {
      await makeFolder(folder, path, seen);
      continue;
    }
    if (folders.has(path)) throw invalidEntry(entry.path, 'is a file and a folder');
    const other = folded.get(foldedPath(path));
    if (other !== undefined) throw invalidEntry(entry.path, alsoCalled(other));
    folded.set(foldedPath(path), path);
    unpackedBytes += entry.bytes;
    if (unpackedBytes > maxUnpackedBytes) {
      throw invalidEntry(entry.path, `makes the package bigger than the ${maxUnpackedBytes} bytes allowed`);
    }
    await makeFolder(folder, path.split('/').slice(0, -1).join('/'), seen);
    contents[path] = await writeFile(join(folder, path), entry, blocks);
  }
  await blocks.drain();
  return contents;
}

async function makeFolder(
  root: string,
  path: string,
  seen: { files: Contents; folders: Set<string>; folded: Map<string, string> },
): Promise<void> {
  const { files, folders, folded } = seen;
  if (folders.has(path)) return;
  const parent = dirname(path);
  await makeFolder(root, parent === '.' ? '' : parent, seen);
  if (Object.hasOwn(files, path)) throw invalidEntry(path, 'is a file and a folder');
  // Two folders may differ in case alone: what lies in them is looked at by itself.
  const other = folded.get(foldedPath(path)) ?? path;
  if (Object.hasOwn(files, other)) throw invalidEntry(path, alsoCalled(other));
  folded.set(foldedPath(path), path);
  if (folders.size > maxFolders) {
    throw new AtollError('PackageInvalid', `it has more than the ${maxFolders} folders allowed`);
  }
  await mkdir(join(root, path), { mode: 0o700 });
  folders.add(path);
}

/** Returns the SHA-256 of what was written. */
async function writeFile(target: string, entry: Entry, blocks: Blocks): Promise<string> {
  const hash: Hash = createHash('sha256');
  const file = await open(target, 'wx', entry.executable ? 0o555 : 0o444);
  try {
    for await (const chunk of blocks.body(entry)) {
      hash.update(chunk);
      await file.writeFile(chunk);
    }
  } finally {
    await file.close();
  }
  return hash.digest('hex');
}

interface Entry {
  readonly kind: 'file' | 'folder';
  readonly path: string;
  readonly bytes: number;
  readonly executable: boolean;
}

/** The next file or folder, long names resolved; undefined at the end of the archive. */
async function nextEntry(blocks: Blocks): Promise<Entry | undefined> {
  let longPath: string | undefined;
  let pax: Pax | undefined;
  for (;;) {
    const header = headerOf(await blocks.read());
    if (header?.nullBlock) return undefined;
    if (!header?.cksumValid)
      throw new AtollError('PackageInvalid', 'it is not a tar archive, or a damaged one');
    const path = pax?.path ?? longPath ?? header.path ?? '';
    const bytes = pax?.size ?? header.size ?? -1;
    if (!Number.isSafeInteger(bytes) || bytes < 0) throw invalidEntry(path, 'has no valid size');
    const mode = header.mode ?? 0;
    switch (header.type) {
      case 'File':
      case 'OldFile':
      case 'ContiguousFile':
        return { kind: 'file', path, bytes, executable: (mode & 0o111) !== 0 };
      case 'Directory':
        return { kind: 'folder', path, bytes: 0, executable: true };
      case 'ExtendedHeader':
      case 'OldExtendedHeader':
        pax = Pax.parse(await blocks.text(header), pax);
        break;
      case 'NextFileHasLongPath':
      case 'OldGnuLongPath':
        longPath = (await blocks.text(header)).replace(/\0.*$/s, '');
        break;
      // Comments and defaults for all entries; none of them matters here.
      case 'GlobalExtendedHeader':
        await blocks.text(header);
        break;
      case 'SymbolicLink':
      case 'Link':
      case 'NextFileHasLongLinkpath':
        throw invalidEntry(path, 'is a link, which a package may not have');
      default:
        throw invalidEntry(path, 'is neither a file nor a folder');
    }
  }
}

function headerOf(block: Buffer): Header | undefined {
  try {
    return new Header(block);
  } catch {
    // Thrown for numbers that are none, or too big to be right.
    return undefined;
  }
}

/** A tar stream, read block by block. */
class Blocks {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);
  #inflatedBytes = 0;

  constructor(stream: Readable) {
    this.#chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  /** Up to `bytes`, at least one; undefined at the end. */
  async #some(bytes: number): Promise<Buffer | undefined> {
    while (this.#rest.byteLength === 0) {
      const { value, done } = await this.#chunks.next();
      if (done) return undefined;
      this.#inflatedBytes += value.byteLength;
      if (this.#inflatedBytes > maxInflatedBytes) {
        throw new AtollError('PackageInvalid', `it inflates to more than ${maxInflatedBytes} bytes`);
      }
      this.#rest = value;
    }
    const some = this.#rest.subarray(0, bytes);
    this.#rest = this.#rest.subarray(bytes);
    return some;
  }

  async *#exactly(bytes: number): AsyncGenerator<Buffer> {
    for (let left = bytes; left > 0;) {
      const some = await this.#some(left);
      if (!some) throw new AtollError('PackageInvalid', 'it is cut off');
      left -= some.byteLength;
      yield some;
    }
  }

  /** One block. */
  async read(): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const part of this.#exactly(blockBytes)) parts.push(part);
    return Buffer.concat(parts);
  }

  /** The bytes of an entry, past the padding behind them. */
  async *body({ bytes }: { readonly bytes: number }): AsyncGenerator<Buffer> {
    yield* this.#exactly(bytes);
    const padding = (blockBytes - (bytes % blockBytes)) % blockBytes;
    for await (const _ of this.#exactly(padding));
  }

  /** The body of a header about the next entry. */
  async text({ size = 0 }: { readonly size?: number | undefined }): Promise<string> {
    if (size > maxAttributeBytes) {
      throw new AtollError(
        'PackageInvalid',
        `the attributes of an entry have more than ${maxAttributeBytes} bytes`,
      );
    }
    const parts: Buffer[] = [];
    for await (const part of this.body({ bytes: size })) parts.push(part);
    return Buffer.concat(parts).toString();
  }

  /**
   * Reads to the end, so that a gzip file that is cut off behind the archive is noticed too. Other tools would read
   * entries there: only zeros may follow, which fill up a record (POSIX.1-1988 ustar).
   */
  async drain(): Promise<void> {
    for (let some = await this.#some(zeros.byteLength); some; some = await this.#some(zeros.byteLength)) {
      if (!some.equals(zeros.subarray(0, some.byteLength))) {
        throw new AtollError('PackageInvalid', 'it has data behind the end of its archive');
      }
    }
  }
}
