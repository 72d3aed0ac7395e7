/**
 * Packages by their digest: fetched once, verified before they are unpacked, kept in a cache that needs no store.
 *
 * `<cache>/<sha256>/` is a package, `<cache>/<sha256>.json` what lies in it. The latter is written last, so a folder
 * without it was never complete; a folder that does not hold what it says is replaced.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir, readFile, realpath, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import type { PackageSpec } from '../../crds/function.ts';
import type { PackageRelay, S3Settings } from '../config.ts';
import { AtollError } from '../errors.ts';
import type { Log } from '../log.ts';
import { inlineFile, maxPackedBytes, packageRule, packageSha256 } from './format.ts';
import { incomplete, unpack, type Contents } from './unpack.ts';

export interface Packages {
  /**
   * The package's folder, unpacked and verified; without any network when it is in the cache. Rejects with a
   * Package… error, or with the signal's reason.
   */
  fetch(spec: PackageSpec, handler: string, signal?: AbortSignal): Promise<FetchedPackage>;
  /**
   * Removes the least recently used packages until the others have at most `maxBytes`, never one of `keep`.
   * Returns the digests of those that went. After each download this is done for all but what this process got.
   */
  prune(keep: ReadonlySet<string>, maxBytes?: number): Promise<string[]>;
}

export interface FetchedPackage {
  readonly root: string;
  readonly sha256: string;
}

export interface PackagesOptions {
  /** Created when it is not there. */
  readonly cache: string;
  /** What file:// may name; absent: nothing. */
  readonly folder?: string;
  /** The store behind s3://; absent: none. */
  readonly s3?: S3Settings;
  /** Asked before that store, which then is needed only while this one is away. */
  readonly relay?: PackageRelay;
  /** What the cached packages may have together, packed; 2 GiB. */
  readonly maxBytes?: number;
  readonly log: Log;
}

const defaultCacheBytes = 2 * 1024 ** 3;
const maxRedirects = 5;
/** Until a web server's answer begins, and between two pieces of it. */
const webTimeoutMs = 15_000;
const leftoverMs = 3_600_000;

/** What lies beside an unpacked package. */
interface Marker {
  readonly bytes: number;
  readonly contents: Contents;
}

export function openPackages(options: PackagesOptions): Packages {
  const { cache, log } = options;
  const fetching = new Map<string, SharedFetch>();
  /** What this process runs, or ran: it may still import from there. */
  const handedOut = new Set<string>();
  let prepared: Promise<void> | undefined;

  async function prepare(): Promise<void> {
    await mkdir(cache, { recursive: true, mode: 0o700 });
    // Node asks the nearest package.json upwards which kind of module a .js file is; it must not be one of a
    // project that the cache happens to lie in.
    await writeFile(join(cache, 'package.json'), '{}\n', { mode: 0o600 });
  }

  async function obtain(spec: PackageSpec, handler: string, signal: AbortSignal): Promise<FetchedPackage> {
    const sha256 = packageSha256(spec, handler);
    const root = join(cache, sha256);
    const known = await cachedState(cache, sha256, signal);
    if (known === 'good') return { root, sha256 };
    if (known === 'damaged')
      log.warn({ source: 'platform', sha256 }, 'cached package is damaged; replacing it');
    await discard(cache, sha256);

    const file = join(cache, `${sha256}${incomplete}${randomUUID()}.tgz`);
    try {
      const marker =
        spec.inline === undefined
          ? await download(options, spec, sha256, { file, root }, signal)
          : await place(root, inlineFile(handler), spec.inline);
      await writeMarker(cache, sha256, marker);
      await prune(cache, new Set([...handedOut, ...fetching.keys()]), options.maxBytes ?? defaultCacheBytes);
    } catch (error) {
      signal.throwIfAborted();
      throw asAtollError(error, cache);
    } finally {
      await rm(file, { force: true });
    }
    return { root, sha256 };
  }

  return {
    async fetch(spec, handler, signal) {
      signal?.throwIfAborted();
      prepared ??= prepare();
      await prepared.catch((error: unknown) => {
        prepared = undefined;
        throw asAtollError(error, cache);
      });
      const sha256 = packageSha256(spec, handler);
      let shared = fetching.get(sha256);
      if (!shared) {
        shared = shareFetch((stop) => obtain(spec, handler, stop));
        fetching.set(sha256, shared);
        const forget = () => {
          if (fetching.get(sha256) === shared) fetching.delete(sha256);
        };
        shared.result.then(forget, forget);
        shared.abandoned.addEventListener('abort', forget);
      }
      const fetched = await shared.join(signal);
      handedOut.add(sha256);
      return fetched;
    },

    async prune(keep, maxBytes = options.maxBytes ?? defaultCacheBytes) {
      return await prune(cache, new Set([...keep, ...fetching.keys()]), maxBytes);
    },
  };
}

/** One fetch that several wait for: it is given up when the last of them has. */
interface SharedFetch {
  readonly result: Promise<FetchedPackage>;
  /** Aborts when nobody waits any more. */
  readonly abandoned: AbortSignal;
  join(signal?: AbortSignal): Promise<FetchedPackage>;
}

function shareFetch(run: (signal: AbortSignal) => Promise<FetchedPackage>): SharedFetch {
  const abandon = new AbortController();
  const result = run(abandon.signal);
  let waiting = 0;
  return {
    result,
    abandoned: abandon.signal,
    async join(signal) {
      waiting++;
      const left = Promise.withResolvers<never>();
      const leave = () => left.reject(signal?.reason);
      signal?.addEventListener('abort', leave);
      if (signal?.aborted) leave();
      try {
        return await Promise.race([result, left.promise]);
      } finally {
        signal?.removeEventListener('abort', leave);
        if (--waiting === 0) abandon.abort(signal?.reason);
      }
    },
  };
}

// The cache

async function cachedState(
  cache: string,
  sha256: string,
  signal: AbortSignal,
): Promise<'good' | 'missing' | 'damaged'> {
  const markerFile = join(cache, `${sha256}.json`);
  const text = await readFile(markerFile, 'utf8').catch(() => undefined);
  if (text === undefined) return 'missing';
  try {
    const { contents } = JSON.parse(text) as Marker;
    const found = await contentsOf(join(cache, sha256), signal);
    const paths = Object.keys(found);
    const complete = paths.length === Object.keys(contents).length;
    if (!complete || !paths.every((path) => found[path] === contents[path])) return 'damaged';
  } catch {
    signal.throwIfAborted();
    return 'damaged';
  }
  // When it was last used, for prune.
  const now = new Date();
  await utimes(markerFile, now, now).catch(() => undefined);
  return 'good';
}

async function contentsOf(root: string, signal: AbortSignal): Promise<Contents> {
  const contents: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) continue;
    const path = relative(root, join(entry.parentPath, entry.name));
    contents[path] = entry.isFile() ? await digestOf(join(root, path), signal) : 'not a file';
  }
  return contents;
}

async function digestOf(file: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash, { signal });
  return hash.digest('hex');
}

async function writeMarker(cache: string, sha256: string, marker: Marker): Promise<void> {
  const temporary = join(cache, `${sha256}${incomplete}${randomUUID()}.json`);
  await writeFile(temporary, JSON.stringify(marker), { mode: 0o600 });
  await rename(temporary, join(cache, `${sha256}.json`));
}

/** The folder is moved out of the way first: a process that runs from it keeps its open files. */
async function discard(cache: string, sha256: string): Promise<void> {
  await rm(join(cache, `${sha256}.json`), { force: true });
  const aside = join(cache, `${sha256}${incomplete}${randomUUID()}`);
  const moved = await rename(join(cache, sha256), aside).then(
    () => true,
    () => false,
  );
  if (moved) await rm(aside, { recursive: true, force: true });
}

async function prune(cache: string, keep: ReadonlySet<string>, maxBytes: number): Promise<string[]> {
  const names = await readdir(cache).catch(() => []);
  const cached: { sha256: string; bytes: number; usedMs: number }[] = [];
  for (const name of names) {
    const path = join(cache, name);
    const usedMs = await stat(path).then(
      ({ mtimeMs }) => mtimeMs,
      () => Infinity,
    );
    if (name.includes(incomplete)) {
      if (usedMs < Date.now() - leftoverMs) await rm(path, { recursive: true, force: true });
    } else if (/^[0-9a-f]{64}[.]json$/.test(name)) {
      const marker = await readFile(path, 'utf8').then(
        (text) => JSON.parse(text) as Marker,
        () => undefined,
      );
      cached.push({ sha256: name.slice(0, 64), bytes: marker?.bytes ?? 0, usedMs });
    }
  }
  const removed: string[] = [];
  let bytes = cached.reduce((sum, each) => sum + each.bytes, 0);
  for (const each of cached.sort((a, b) => a.usedMs - b.usedMs)) {
    if (bytes <= maxBytes) break;
    if (keep.has(each.sha256)) continue;
    await discard(cache, each.sha256);
    bytes -= each.bytes;
    removed.push(each.sha256);
  }
  return removed;
}

// Where packages come from

/** Inline code is a folder with one file. */
async function place(root: string, name: string, source: string): Promise<Marker> {
  const temporary = `${root}${incomplete}${randomUUID()}`;
  const file = join(temporary, name);
  await mkdir(join(file, '..'), { recursive: true, mode: 0o700 });
  await writeFile(file, source, { mode: 0o444 });
  await rename(temporary, root);
  const sha256 = createHash('sha256').update(source).digest('hex');
  return { bytes: Buffer.byteLength(source), contents: { [name]: sha256 } };
}

/** To a file first: nothing is unpacked before all of it has the digest. */
async function download(
  options: PackagesOptions,
  spec: PackageSpec,
  sha256: string,
  to: { readonly file: string; readonly root: string },
  signal: AbortSignal,
): Promise<Marker> {
  const uri = spec.uri ?? '';
  const source = await openSource(options, uri, sha256, signal);
  const hash = createHash('sha256');
  let bytes = 0;
  try {
    refuseBig(uri, source.bytes ?? 0);
    await pipeline(
      source.body,
      async function* (chunks: AsyncIterable<Uint8Array>) {
        for await (const chunk of chunks) {
          source.progress?.();
          bytes += chunk.byteLength;
          refuseBig(uri, bytes);
          hash.update(chunk);
          yield chunk;
        }
      },
      createWriteStream(to.file, { flags: 'wx', mode: 0o600 }),
      { signal },
    );
  } catch (error) {
    signal.throwIfAborted();
    // What fails here is the wire, or a disk that is full.
    throw error instanceof AtollError
      ? error
      : new AtollError('PackageUnavailable', `${uri}: ${reasonOf(error)} after ${bytes} bytes`, {
          cause: error,
        });
  } finally {
    source.close();
  }
  const actual = hash.digest('hex');
  if (actual !== sha256) {
    throw new AtollError(
      'PackageDigestMismatch',
      `${uri} has the SHA-256 ${actual}, spec.package.sha256 says ${sha256}`,
    );
  }
  try {
    return { bytes, contents: await unpack(to.file, to.root, signal) };
  } catch (error) {
    if (!(error instanceof AtollError)) throw error;
    throw new AtollError(error.code, `${uri}: ${error.message}; ${packageRule}`, { cause: error });
  }
}

function refuseBig(uri: string, bytes: number): void {
  if (bytes <= maxPackedBytes) return;
  throw new AtollError(
    'PackageInvalid',
    `${uri} has more than the ${maxPackedBytes} bytes allowed: leave out what the handler does not need`,
  );
}

interface Source {
  readonly body: Readable;
  readonly bytes?: number;
  /** Called with each piece that came. */
  progress?(): void;
  close(): void;
}

async function openSource(
  options: PackagesOptions,
  uri: string,
  sha256: string,
  signal: AbortSignal,
): Promise<Source> {
  const { protocol } = new URL(uri);
  if (protocol === 's3:') {
    const { relay, s3, log } = options;
    if (!relay) return await openS3Object(s3, uri, signal);
    try {
      return await openRelayed(relay, uri, sha256, signal);
    } catch (error) {
      signal.throwIfAborted();
      // What it says of a package is so; only while it says nothing the store may know more.
      if (!s3 || !(error instanceof AtollError) || error.code !== 'PackageUnavailable') throw error;
      log.warn({ source: 'platform', error: (error as Error).message }, 'asking the store itself');
      return await openS3Object(s3, uri, signal);
    }
  }
  if (protocol === 'file:') return await openFile(options.folder, uri);
  if (protocol === 'https:') return await openWeb(uri, signal);
  throw new AtollError('PackageInvalid', `${uri} is not s3://, file:// or https://`);
}

async function openS3Object(
  settings: S3Settings | undefined,
  uri: string,
  signal: AbortSignal,
): Promise<Source> {
  if (!settings) {
    throw new AtollError(
      'PackageUnavailable',
      `${uri}: this site has no S3; start it with --s3, or deploy again`,
    );
  }
  // Not through URL: a key is taken as it is written, with "%" and "#" as themselves.
  const [, bucket = '', key = ''] = /^s3:[/][/]([^/]+)[/](.+)$/.exec(uri) ?? [];
  // Loaded when first needed: a host whose packages are files does not pay for it.
  const { openS3 } = await import('../clients/s3.ts');
  const client = await openS3(settings);
  try {
    const object = await client.get(key, { bucket, signal });
    return {
      ...object,
      close() {
        object.body.destroy();
        client.close();
      },
    };
  } catch (error) {
    client.close();
    throw error;
  }
}

async function openFile(folder: string | undefined, uri: string): Promise<Source> {
  if (folder === undefined) {
    throw new AtollError('PackageForbidden', `${uri}: file:// packages are taken on single machines only`);
  }
  let file: string;
  try {
    // Links resolved on both sides: a link in the folder must not lead out of it.
    file = await realpath(fileURLToPath(uri));
  } catch (error) {
    throw fileError(error, uri);
  }
  const root = await realpath(folder).catch(() => folder);
  const inside = relative(root, file);
  if (inside === '' || inside.startsWith('..') || basename(file) === '') {
    throw new AtollError('PackageForbidden', `${uri}: is not in the package folder ${folder}`);
  }
  const { size, isFile } = await stat(file).then(
    (stats) => ({ size: stats.size, isFile: stats.isFile() }),
    (error: unknown) => {
      throw fileError(error, uri);
    },
  );
  if (!isFile) throw new AtollError('PackageInvalid', `${uri}: is not a file`);
  const body = createReadStream(file);
  return { body, bytes: size, close: () => body.destroy() };
}

function fileError(error: unknown, uri: string): AtollError {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new AtollError('PackageNotFound', `${uri}: there is no such file`, { cause: error });
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new AtollError('PackageForbidden', `${uri}: may not be read (${code})`, { cause: error });
  }
  return new AtollError('PackageUnavailable', `${uri}: ${reasonOf(error)}`, { cause: error });
}

async function openRelayed(
  { url, tokenFile }: PackageRelay,
  uri: string,
  sha256: string,
  signal: AbortSignal,
): Promise<Source> {
  const token = await readFile(tokenFile, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new AtollError('PackageForbidden', `${uri}: no token for ${url}: ${tokenFile}: ${error.code}`);
  });
  return await openWeb(`${uri} at ${url}`, signal, {
    url: `${url}/packages/${sha256}`,
    headers: { authorization: `Bearer ${token.trim()}` },
  });
}

/** `uri` is what messages call it, and with no `asked` where it lies. Headers are shown to no other server. */
async function openWeb(
  uri: string,
  signal: AbortSignal,
  asked: { url: string; headers?: Record<string, string> } = { url: uri },
): Promise<Source> {
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  const late = () => stop.abort(new Error(`nothing came for ${webTimeoutMs / 1000} s`));
  const watchdog = setTimeout(late, webTimeoutMs);
  const failed = (
    code: 'PackageNotFound' | 'PackageForbidden' | 'PackageUnavailable',
    why: string,
    cause?: unknown,
  ) => new AtollError(code, `${uri}: ${why}`, { cause });
  try {
    const { headers } = asked;
    let url = new URL(asked.url);
    for (let redirects = 0; ; redirects++) {
      const answer = await fetch(url, { redirect: 'manual', signal: both, ...(headers && { headers }) });
      const { status } = answer;
      const location = answer.headers.get('location');
      if (status >= 300 && status < 400 && location !== null && !headers) {
        await answer.body?.cancel();
        url = new URL(location, url);
        if (url.protocol !== 'https:')
          throw failed('PackageForbidden', `redirects to ${url.protocol}, not https:`);
        if (redirects >= maxRedirects)
          throw failed('PackageUnavailable', `redirects more than ${maxRedirects} times`);
        continue;
      }
      if (!answer.ok || !answer.body) {
        await answer.body?.cancel();
        const code = {
          404: 'PackageNotFound',
          410: 'PackageNotFound',
          401: 'PackageForbidden',
          403: 'PackageForbidden',
        };
        throw failed(
          (code as Record<number, 'PackageNotFound' | 'PackageForbidden'>)[status] ?? 'PackageUnavailable',
          `the server answered ${status}`,
        );
      }
      const body = Readable.fromWeb(answer.body as Parameters<typeof Readable.fromWeb>[0]);
      const length = answer.headers.get('content-length');
      return {
        body,
        ...(length !== null && !answer.headers.has('content-encoding') && { bytes: Number(length) }),
        progress: () => watchdog.refresh(),
        close() {
          clearTimeout(watchdog);
          body.destroy();
        },
      };
    }
  } catch (error) {
    clearTimeout(watchdog);
    signal.throwIfAborted();
    throw error instanceof AtollError ? error : failed('PackageUnavailable', reasonOf(error), error);
  }
}

/** fetch() hides what happened in the cause. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  const { code, message: why } = (cause ?? {}) as NodeJS.ErrnoException;
  return code ?? why ?? message;
}

function asAtollError(error: unknown, cache: string): AtollError {
  if (error instanceof AtollError) return error;
  return new AtollError('PackageUnavailable', `the package cache ${cache}: ${reasonOf(error)}`, {
    cause: error,
  });
}
