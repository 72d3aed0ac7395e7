/** A site that lives in a folder of this machine: its directory store, and the gateway of whoever runs it. */
import { readFile } from 'node:fs/promises';
import { isMissing } from '../controller/stores/atomic-file.ts';
import { openLater } from '../controller/stores/later.ts';
import { readSite, sitePaths, type SiteInfo, type SitePaths } from '../controller/stores/site.ts';
import type { S3Settings } from '../runtime/config.ts';
import { exitCodes } from './command.ts';
import { Failure } from './failure.ts';
import { Gateway } from './gateway.ts';
import type { Site } from './site.ts';

export type FolderSite = Site & Required<Pick<Site, 'folder'>>;

/** Throws NoSite when the folder is none of a site. */
export async function openFolderSite(dir: string): Promise<FolderSite> {
  const paths = sitePaths(dir);
  const version = await readFile(paths.version, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (version === undefined) {
    throw new Failure(exitCodes.site, `no site: ${paths.dir} is not the folder of one`, { code: 'NoSite' });
  }
  const info = await readSite(dir);
  return {
    title: `the site ${paths.dir}`,
    store: openLater(async () => {
      const { openDirectoryStore } = await import('../controller/stores/directory.ts');
      return await openDirectoryStore({ dir });
    }),
    gateway: await gatewayOf({ info, paths }),
    url: info?.url,
    async publish(built) {
      // Only a deploy needs it, and loads much for it.
      const { publish } = await import('./build/publish.ts');
      return await publish(built, { paths, s3: packageStoreOf(info, paths) });
    },
    async find(sha256) {
      const { findPublished } = await import('./build/publish.ts');
      return await findPublished(sha256, { paths, s3: packageStoreOf(info, paths) });
    },
    folder: { paths, info },
  };
}

/** Undefined: nobody runs the site. */
export async function gatewayOf(folder: {
  readonly info: SiteInfo | undefined;
  readonly paths: SitePaths;
}): Promise<Gateway | undefined> {
  const { info, paths } = folder;
  return info === undefined ? undefined : new Gateway(info.url, { key: await gatewayKey(paths) });
}

/** `$FAAS_KEY`, else the first key of the site's own file: who can read that may use it. */
async function gatewayKey(paths: SitePaths): Promise<string | undefined> {
  const given = process.env['FAAS_KEY'];
  if (given) return given;
  const text = await readFile(paths.keys, 'utf8').catch(() => '');
  const first = text.split('\n').find((line) => line.trimStart().startsWith('{'));
  if (first === undefined) return undefined;
  try {
    const { id, secret } = JSON.parse(first) as { id?: string; secret?: string };
    return id !== undefined && secret !== undefined ? `${id}.${secret}` : undefined;
  } catch {
    return undefined;
  }
}

/** Where packages of the running site go; undefined: into its package folder. */
const packageStoreOf = (info: SiteInfo | undefined, paths: SitePaths): S3Settings | undefined =>
  info?.s3 === undefined ? undefined : { ...info.s3, credentialsFile: paths.s3 };
