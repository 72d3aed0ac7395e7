/** A handler's package: built, and put where the site's hosts fetch it. */
import { readFile } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { FunctionSpec } from '../../crds/function.ts';
import { writeAtomically } from '../../controller/stores/atomic-file.ts';
import type { SitePaths } from '../../controller/stores/site.ts';
import { bundle, type BundleOptions } from './bundle.ts';
import type { S3 } from '../../runtime/clients/s3.ts';
import type { S3Settings } from '../../runtime/config.ts';

export interface BuiltPackage {
  readonly bytes: Uint8Array;
  readonly sha256: string;
  readonly files: readonly { readonly path: string; readonly bytes: number }[];
  readonly warnings: readonly string[];
}

export async function buildPackage(
  folder: string,
  spec: Pick<FunctionSpec, 'handler' | 'runtime'>,
  options?: BundleOptions,
): Promise<BuiltPackage> {
  const { files, warnings } = await bundle(folder, spec, options);
  const { packFiles } = await import('../../runtime/package/pack.ts');
  return {
    ...(await packFiles(files)),
    files: files.map(({ path, data }) => ({ path, bytes: Buffer.byteLength(data) })),
    warnings,
  };
}

export interface Published {
  /** For spec.package.uri. */
  readonly uri: string;
  /** False: it was there already, under its digest. */
  readonly uploaded: boolean;
}

/** Into the site's S3 bucket where it has one, else into its package folder. */
export async function publish(
  { bytes, sha256 }: Pick<BuiltPackage, 'bytes' | 'sha256'>,
  site: { readonly paths: SitePaths; readonly s3?: S3Settings | undefined },
): Promise<Published> {
  return site.s3 === undefined
    ? await intoFolder(bytes, sha256, site.paths.packages)
    : await intoBucket(bytes, sha256, site.s3);
}

/** Where `publish` would have put it; undefined: it is not there. */
export async function findPublished(
  sha256: string,
  site: { readonly paths: SitePaths; readonly s3?: S3Settings | undefined },
): Promise<string | undefined> {
  if (site.s3 === undefined) {
    const path = fileOf(sha256, site.paths.packages);
    return existsSync(path) ? pathToFileURL(path).href : undefined;
  }
  const { openS3 } = await import('../../runtime/clients/s3.ts');
  const client = await openS3(site.s3);
  try {
    return (await client.head(keyOf(sha256))) && `s3://${site.s3.bucket}/${keyOf(sha256)}`;
  } finally {
    client.close();
  }
}

const keyOf = (sha256: string): string => `packages/${sha256}.tgz`;
const fileOf = (sha256: string, folder: string): string => join(folder, `${sha256}.tgz`);

async function intoBucket(bytes: Uint8Array, sha256: string, s3: S3Settings): Promise<Published> {
  const { openS3 } = await import('../../runtime/clients/s3.ts');
  const key = keyOf(sha256);
  const uri = `s3://${s3.bucket}/${key}`;
  const client = await openS3(s3);
  try {
    const there = await client.head(key);
    if (there === undefined) {
      // Somebody else may still be faster.
      return { uri, uploaded: await client.putIfAbsent(key, bytes) };
    }
    // Unchanged code is not sent again. An object that was changed or cut short under its key is replaced.
    const uploaded = there.bytes !== bytes.byteLength || (await digestIn(client, key)) !== sha256;
    if (uploaded) await client.put(key, bytes);
    return { uri, uploaded };
  } finally {
    client.close();
  }
}

async function digestIn(client: S3, key: string): Promise<string> {
  const { body } = await client.get(key);
  const hash = createHash('sha256');
  for await (const chunk of body) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}

const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function intoFolder(bytes: Uint8Array, sha256: string, folder: string): Promise<Published> {
  const path = fileOf(sha256, folder);
  const uri = pathToFileURL(path).href;
  const there = await readFile(path).catch(() => undefined);
  // What a power cut left half written, or somebody changed, is replaced.
  if (there !== undefined && sha256Of(there) === sha256) return { uri, uploaded: false };
  await writeAtomically(path, bytes);
  return { uri, uploaded: true };
}
