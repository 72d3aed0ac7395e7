/**
 * The cluster's packages: GET /packages/<sha256> for the Pods that run them, kept on this disk so that a new Pod starts
 * while S3 is away; PUT …/namespaces/{ns}/packages/{sha256} for who deploys, who needs no key of the store then.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { FastifyInstance } from 'fastify';
import type { FunctionObject } from '../crds/function.ts';
import type { S3 } from '../runtime/clients/s3.ts';
import { AtollError } from '../runtime/errors.ts';
import type { Log } from '../runtime/log.ts';
import { maxPackedBytes } from '../runtime/package/format.ts';
import { bodyOf } from './body.ts';
import type { Functions } from './functions.ts';
import { isNamespace } from '../controller/stores/store.ts';

/** What the packages on this disk may have together. */
const defaultMaxBytes = 2 * 1024 ** 3;
/** What a process that died was about to write. */
const leftoverMs = 3_600_000;
const temporaryMark = '.incomplete-';

export interface PackageCache {
  /** The package's file, verified; from S3 where it is not here yet. Rejects with a Package… error. */
  file(sha256: string, from?: { readonly bucket: string; readonly key: string }): Promise<string>;
  /** For spec.package.uri; undefined: S3 does not have it, or not with that digest. Rejects as `file`. */
  uri(sha256: string): Promise<string | undefined>;
  /**
   * Takes a package in: here and in S3. False: S3 had it already. Rejects with PackageDigestMismatch, or a Package…
   * error of the store; nothing is kept then.
   */
  take(sha256: string, body: Readable): Promise<{ readonly uri: string; readonly uploaded: boolean }>;
}

export interface PackageCacheOptions {
  readonly folder: string;
  /** `put` goes to `bucket`. */
  readonly s3: S3;
  readonly bucket: string;
  readonly maxBytes?: number;
  readonly log: Log;
}

export async function openPackageCache(options: PackageCacheOptions): Promise<PackageCache> {
  const { folder, s3, bucket, log, maxBytes = defaultMaxBytes } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const fetching = new Map<string, Promise<string>>();
  const fileOf = (sha256: string): string => join(folder, `${sha256}.tgz`);

  async function keep(sha256: string, body: Readable, what: string): Promise<string> {
    const temporary = join(folder, `${sha256}${temporaryMark}${randomUUID()}`);
    const hash = createHash('sha256');
    try {
      await pipeline(
        body,
        async function* (chunks: AsyncIterable<Uint8Array>) {
          let bytes = 0;
          for await (const chunk of chunks) {
            bytes += chunk.byteLength;
            if (bytes > maxPackedBytes) {
              throw new AtollError(
                'PackageInvalid',
                `${what} has more than the ${maxPackedBytes} bytes allowed`,
              );
            }
            hash.update(chunk);
            yield chunk;
          }
        },
        createWriteStream(temporary, { flags: 'wx', mode: 0o600, flush: true }),
      );
      const actual = hash.digest('hex');
      if (actual !== sha256) {
        throw new AtollError('PackageDigestMismatch', `${what} has the SHA-256 ${actual}, not ${sha256}`);
      }
      await rename(temporary, fileOf(sha256));
    } catch (error) {
      if (error instanceof AtollError) throw error;
      throw new AtollError('PackageUnavailable', `${what}: ${(error as Error).message}`, { cause: error });
    } finally {
      await rm(temporary, { force: true });
    }
    await prune(folder, sha256, maxBytes, log);
    return fileOf(sha256);
  }

  async function fromStore(sha256: string, from: { bucket: string; key: string }): Promise<string> {
    const { body } = await s3.get(from.key, { bucket: from.bucket });
    return await keep(sha256, body, `s3://${from.bucket}/${from.key}`);
  }

  const uriOf = (sha256: string): string => `s3://${bucket}/${keyOf(sha256)}`;

  async function isStored(sha256: string): Promise<boolean> {
    const hash = createHash('sha256');
    try {
      const { body } = await s3.get(keyOf(sha256));
      await pipeline(body, hash);
    } catch (error) {
      if (error instanceof AtollError && error.code === 'PackageNotFound') return false;
      if (error instanceof AtollError) throw error;
      throw new AtollError('PackageUnavailable', `${uriOf(sha256)}: ${(error as Error).message}`, {
        cause: error,
      });
    }
    return hash.digest('hex') === sha256;
  }

  return {
    async file(sha256, from = { bucket, key: keyOf(sha256) }) {
      const path = fileOf(sha256);
      if (await isGood(path, sha256)) return path;
      let shared = fetching.get(sha256);
      if (shared === undefined) {
        shared = fromStore(sha256, from).finally(() => fetching.delete(sha256));
        fetching.set(sha256, shared);
      }
      return await shared;
    },
    async uri(sha256) {
      return (await isStored(sha256)) ? uriOf(sha256) : undefined;
    },
    async take(sha256, body) {
      const path = await keep(sha256, body, 'what was sent');
      try {
        const uploaded = !(await isStored(sha256));
        // Cut short, or changed, under its key: replaced.
        if (uploaded) await s3.put(keyOf(sha256), await readFile(path));
        return { uri: uriOf(sha256), uploaded };
      } catch (error) {
        // A package that only this disk has would be gone with it.
        await rm(path, { force: true });
        throw error;
      }
    },
  };
}

const keyOf = (sha256: string): string => `packages/${sha256}.tgz`;

/** It was whole when it was written; a power cut, or somebody, may have changed that. */
async function isGood(path: string, sha256: string): Promise<boolean> {
  const hash = createHash('sha256');
  try {
    await pipeline(createReadStream(path), hash);
  } catch {
    return false;
  }
  if (hash.digest('hex') !== sha256) return false;
  const now = new Date();
  // When it was last used, for prune.
  await utimes(path, now, now).catch(() => {});
  return true;
}

async function prune(folder: string, newest: string, maxBytes: number, log: Log): Promise<void> {
  const kept: { path: string; bytes: number; usedMs: number }[] = [];
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const facts = await stat(path).catch(() => undefined);
    if (facts === undefined) continue;
    if (name.includes(temporaryMark)) {
      if (facts.mtimeMs < Date.now() - leftoverMs) await rm(path, { force: true });
    } else if (!name.startsWith(newest)) {
      kept.push({ path, bytes: facts.size, usedMs: facts.mtimeMs });
    }
  }
  let bytes = kept.reduce((sum, one) => sum + one.bytes, 0);
  for (const one of kept.sort((a, b) => a.usedMs - b.usedMs)) {
    if (bytes <= maxBytes) return;
    await rm(one.path, { force: true });
    log.info({ source: 'platform', file: one.path }, 'package left the cache: it was used longest ago');
    bytes -= one.bytes;
  }
}

export function packageRoutes(app: FastifyInstance, cache: PackageCache, functions: Functions): void {
  app.get<{ Params: { sha256: string } }>(
    '/packages/:sha256(^[0-9a-f]{64}$)',
    { config: { door: 'package', route: 'package' } },
    async ({ params: { sha256 }, user }, reply) => {
      const users = [...functions.all()].filter((object) => uses(object, sha256));
      const mine = user === undefined ? users[0] : users.find((object) => isPodOf(object, user));
      if (mine === undefined) {
        throw new AtollError('PackageNotFound', `no function of yours has the package ${sha256}`);
      }
      const file = await open(await cache.file(sha256, placeOf(mine, sha256)), 'r');
      const { size } = await file.stat();
      return reply
        .header('content-type', 'application/gzip')
        .header('content-length', size)
        .send(file.createReadStream());
    },
  );
  app.get<{ Params: PackageParams }>(uploadPath, upload, async ({ params }) => {
    const { sha256 } = checked(params);
    const uri = await cache.uri(sha256);
    if (uri !== undefined) return { uri };
    throw new AtollError('PackageNotFound', `the store does not have the package ${sha256}`);
  });
  app.put<{ Params: PackageParams }>(uploadPath, upload, async (request, reply) => {
    const { sha256 } = checked(request.params);
    const body = await bodyOf(request.raw, maxPackedBytes);
    if (body === undefined) throw new AtollError('InvalidRequest', 'the package is missing: send its bytes');
    const taken = await cache.take(sha256, body);
    return reply.code(taken.uploaded ? 201 : 200).send(taken);
  });
}

/** Who deploys is told so, and not that nobody may come in where nothing is. */
export function withoutPackages(app: FastifyInstance): void {
  app.route({
    method: ['GET', 'PUT'],
    url: uploadPath,
    ...upload,
    handler() {
      throw new AtollError('NotFound', 'there is no store for packages here');
    },
  });
}

const uploadPath = '/atoll/v1/namespaces/:namespace/packages/:sha256(^[0-9a-f]{64}$)';
const upload = { config: { door: 'control', route: 'upload' } } as const;

interface PackageParams {
  readonly namespace: string;
  readonly sha256: string;
}

function checked(params: PackageParams): PackageParams {
  if (isNamespace(params.namespace)) return params;
  throw new AtollError('InvalidRequest', `${JSON.stringify(params.namespace)} is not a namespace`);
}

/** Now, or as what a rollback would bring back, or a Pod that was started before still runs. */
function uses({ spec, status }: FunctionObject, sha256: string): boolean {
  return (
    spec.package?.sha256 === sha256 ||
    status?.packageSha256 === sha256 ||
    (status?.history ?? []).some((before) => before.packageSha256 === sha256)
  );
}

/** CONTRACTS 1: what belongs to a function in a cluster is called `fn-<name>`. */
const isPodOf = ({ metadata }: FunctionObject, user: string): boolean =>
  user === `system:serviceaccount:${metadata.namespace}:fn-${metadata.name}`;

/** Where the Function says; an earlier package lies where deploys put them. */
function placeOf({ spec }: FunctionObject, sha256: string): { bucket: string; key: string } | undefined {
  const { uri, sha256: current } = spec.package ?? {};
  const [, bucket, key] = (current === sha256 && /^s3:[/][/]([^/]+)[/](.+)$/.exec(uri ?? '')) || [];
  return bucket !== undefined && key !== undefined ? { bucket, key } : undefined;
}
