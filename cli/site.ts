/** The site a command speaks to: its folder's store, and the gateway of whoever runs it. */
import { readFile } from 'node:fs/promises';
import type { FunctionObject } from '../crds/function.ts';
import { isMissing } from '../controller/stores/atomic-file.ts';
import { openDirectoryStore } from '../controller/stores/directory.ts';
import { findSite, readSite, sitePaths, type SiteInfo, type SitePaths } from '../controller/stores/site.ts';
import { keyText, type Key, type Store } from '../controller/stores/store.ts';
import type { S3Settings } from '../runtime/config.ts';
import { exitCodes } from './command.ts';
import { Failure } from './failure.ts';
import { Gateway } from './gateway.ts';
import { nearest } from './suggest.ts';

export interface Site {
  readonly paths: SitePaths;
  readonly store: Store;
  /** Who runs it now; undefined: nobody. */
  readonly info: SiteInfo | undefined;
}

export interface RunningSite extends Site {
  readonly info: SiteInfo;
  readonly gateway: Gateway;
}

/** Throws NoSite when there is none. */
export async function openSite(args: { site?: string | undefined }): Promise<Site> {
  const dir = findSite(process.cwd(), process.env, args.site);
  if (dir === undefined) {
    throw new Failure(
      exitCodes.site,
      `no site: neither ${process.cwd()} nor a folder above it holds .atoll`,
      {
        code: 'NoSite',
      },
    );
  }
  const paths = sitePaths(dir);
  const version = await readFile(paths.version).catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (version === undefined) {
    throw new Failure(exitCodes.site, `no site: ${paths.dir} is not the folder of one`, { code: 'NoSite' });
  }
  return { paths, store: await openDirectoryStore({ dir }), info: await readSite(dir) };
}

/** Throws SiteNotRunning when nobody runs it. */
export async function openRunningSite(args: { site?: string | undefined }): Promise<RunningSite> {
  const site = await openSite(args);
  const { info } = site;
  const gateway = await gatewayOf(site);
  if (info !== undefined && gateway !== undefined) return { ...site, info, gateway };
  throw new Failure(exitCodes.site, `the site ${site.paths.dir} does not run`, { code: 'SiteNotRunning' });
}

/** Undefined: nobody runs the site. */
export async function gatewayOf({ info, paths }: Site): Promise<Gateway | undefined> {
  return info === undefined ? undefined : new Gateway(info.url, await gatewayKey(paths));
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

/** Throws FunctionNotFound, with the name that was probably meant. */
export async function existing(store: Store, key: Key): Promise<FunctionObject> {
  const object = await store.get(key);
  if (object !== undefined) return object;
  const names = (await store.list(key.namespace)).map(({ metadata }) => metadata.name);
  const near = nearest(key.name, names);
  throw new Failure(exitCodes.site, `there is no function ${keyText(key)}`, {
    code: 'FunctionNotFound',
    ...(near !== undefined && { advice: `Did you mean "${near}"? See "faas list".` }),
  });
}

/** Where packages of the running site go; undefined: into its package folder. */
export function packageStoreOf({ info, paths }: Site): S3Settings | undefined {
  return info?.s3 === undefined ? undefined : { ...info.s3, credentialsFile: paths.s3 };
}
