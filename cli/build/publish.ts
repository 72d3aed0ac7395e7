/** A handler's package: built, and put where the site's hosts fetch it. */
import { access, mkdir, open, rename, rm } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { FunctionSpec } from '../../crds/function.ts';
import type { SitePaths } from '../../controller/stores/site.ts';
import { bundle, type BundleOptions } from './bundle.ts';
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

async function intoBucket(bytes: Uint8Array, sha256: string, s3: S3Settings): Promise<Published> {
  const { openS3 } = await import('../../runtime/clients/s3.ts');
  const key = `packages/${sha256}.tgz`;
  const client = await openS3(s3);
  try {
    // Asked first, so that unchanged code is not sent; somebody else may still be faster.
    const uploaded = (await client.head(key)) === undefined && (await client.putIfAbsent(key, bytes));
    return { uri: `s3://${s3.bucket}/${key}`, uploaded };
  } finally {
    client.close();
  }
}

async function intoFolder(bytes: Uint8Array, sha256: string, folder: string): Promise<Published> {
  const path = join(folder, `${sha256}.tgz`);
  const uri = pathToFileURL(path).href;
  const isThere = await access(path).then(
    () => true,
    () => false,
  );
  if (isThere) return { uri, uploaded: false };
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const temporary = join(folder, `.${randomUUID()}.tmp`);
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
  return { uri, uploaded: true };
}
