/** The site a command speaks to: a folder on this machine, or a cluster. */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { FunctionObject } from '../crds/function.ts';
import { findSite, type SiteInfo, type SitePaths } from '../controller/stores/site.ts';
import { keyText, type Key, type Store } from '../controller/stores/store.ts';
import type { BuiltPackage, Published } from './build/publish.ts';
import { exitCodes } from './command.ts';
import { Failure, usageError } from './failure.ts';
import type { Gateway } from './gateway.ts';
import { nearest } from './suggest.ts';

export interface Site {
  /** In messages: `the site /srv/.atoll`, `the cluster of context lab`. */
  readonly title: string;
  readonly store: Store;
  /** Undefined: nobody runs it. */
  readonly gateway: Gateway | undefined;
  /** What http triggers are below, where that is known. */
  readonly url: string | undefined;
  /** Puts a package where the site's hosts fetch it. */
  publish(built: Pick<BuiltPackage, 'bytes' | 'sha256'>, key: Key): Promise<Published>;
  /** For spec.package.uri; undefined: that package is not there. */
  find(sha256: string, key: Key): Promise<string | undefined>;
  /** A cluster has none. */
  readonly folder?: { readonly paths: SitePaths; readonly info: SiteInfo | undefined };
}

export interface RunningSite extends Site {
  readonly gateway: Gateway;
}

/** The common options that choose one. */
export interface Where {
  readonly site?: string | undefined;
  readonly context?: string | undefined;
}

type Choice =
  | { readonly kind: 'folder'; readonly dir: string }
  | { readonly kind: 'cluster'; readonly context: string | undefined }
  | undefined;

/** What is said on the command line, then in the environment, then the nearest folder, then the current cluster. */
function choose({ site, context }: Where, env: NodeJS.ProcessEnv): Choice {
  if (site !== undefined && context !== undefined) {
    throw usageError('--site and --context name two sites', 'Give one of them.');
  }
  if (context !== undefined) return { kind: 'cluster', context };
  if (site === undefined && !env['FAAS_SITE'] && env['FAAS_CONTEXT']) {
    return { kind: 'cluster', context: env['FAAS_CONTEXT'] };
  }
  const dir = findSite(process.cwd(), env, site);
  if (dir !== undefined) return { kind: 'folder', dir };
  return hasKubeconfig(env) ? { kind: 'cluster', context: undefined } : undefined;
}

/** As kubectl finds it. */
function hasKubeconfig(env: NodeJS.ProcessEnv): boolean {
  const files = env['KUBECONFIG']?.split(delimiter) ?? [join(homedir(), '.kube', 'config')];
  return files.some((file) => file !== '' && existsSync(file));
}

/** Throws NoSite when there is none. */
export async function openSite(where: Where): Promise<Site> {
  const choice = choose(where, process.env);
  if (choice?.kind === 'cluster') {
    const { openClusterSite } = await import('./cluster-site.ts');
    return await openClusterSite(choice.context);
  }
  if (choice?.kind === 'folder') {
    const { openFolderSite } = await import('./folder-site.ts');
    return await openFolderSite(choice.dir);
  }
  throw new Failure(
    exitCodes.site,
    `no site: neither ${process.cwd()} nor a folder above it holds .atoll, and there is no kubeconfig`,
    { code: 'NoSite' },
  );
}

/** Throws SiteNotRunning when nobody runs it. */
export async function openRunningSite(where: Where): Promise<RunningSite> {
  const site = await openSite(where);
  const { gateway, title } = site;
  if (gateway !== undefined) return { ...site, gateway };
  throw new Failure(exitCodes.site, `${title} does not run`, { code: 'SiteNotRunning' });
}

/** Throws SiteNotRunning: who waits for an answer would wait in vain. */
export function mustAnswer({ gateway, title }: Site): void {
  if (gateway !== undefined) return;
  throw new Failure(exitCodes.site, `${title} does not run, so nothing would answer`, {
    code: 'SiteNotRunning',
    advice: 'Start it with "faas up"; or leave the change for its next start with --no-wait.',
  });
}

/** Of commands that were given none: a cluster's context may name one. */
export async function defaultNamespace(where: Where): Promise<string> {
  const choice = choose(where, process.env);
  if (choice?.kind !== 'cluster') return 'default';
  const { namespaceOfContext } = await import('./cluster-site.ts');
  return (await namespaceOfContext(choice.context)) ?? 'default';
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
