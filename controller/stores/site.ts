/** The folder of a site: its layout (CONTRACTS 6), who runs it, and how it is found. */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { AtollError } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { isSameProcess } from '../../runtime/process/identity.ts';
import { isMissing, makeFolder, writeAtomically } from './atomic-file.ts';
import { LockedError, takeLock } from './lock.ts';
import { endMarkedProcesses } from './process-marks.ts';
import type { Key } from './store.ts';

/** Raised when an older Atoll could no longer read the folder. */
const layoutVersion = 1;
export const siteFolderName = '.atoll';
/** Two that start in one instant see each other; one of them wins within this. */
const claimWaitMs = 500;

export interface SitePaths {
  readonly dir: string;
  readonly version: string;
  /** Made once: by it the site's folder is known to a broker that it shares. */
  readonly id: string;
  /** What the site is called since its first start. */
  readonly name: string;
  /** Who runs the site now (SiteInfo); absent while nobody does. */
  readonly site: string;
  /** Keys of the control doors. */
  readonly keys: string;
  /** Credentials of the package store that `faas up` was given. */
  readonly s3: string;
  readonly functions: string;
  readonly status: string;
  readonly secrets: string;
  /** `<sha256>.tgz`: the package folder of `file://` packages. */
  readonly packages: string;
  /** Unpacked packages by digest. */
  readonly cache: string;
  readonly logs: string;
  readonly nats: string;
  /** Locks, marks of child processes, sockets: nothing that must survive a reboot. */
  readonly run: string;
  functionFile(key: Key): string;
  statusFile(key: Key): string;
  secretFile(namespace: string, name: string, key: string): string;
  logFile(key: Key): string;
}

export function sitePaths(dir: string): SitePaths {
  const root = resolve(dir);
  const at = (...names: string[]): string => join(root, ...names);
  return {
    dir: root,
    version: at('version'),
    id: at('id'),
    name: at('name'),
    site: at('site.json'),
    keys: at('keys'),
    s3: at('s3.json'),
    functions: at('functions'),
    status: at('status'),
    secrets: at('secrets'),
    packages: at('packages'),
    cache: at('cache'),
    logs: at('logs'),
    nats: at('nats'),
    run: at('run'),
    functionFile: ({ namespace, name }) => at('functions', namespace, `${name}.yaml`),
    statusFile: ({ namespace, name }) => at('status', namespace, `${name}.json`),
    secretFile: (namespace, name, key) => at('secrets', namespace, name, key),
    logFile: ({ namespace, name }) => at('logs', namespace, `${name}.jsonl`),
  };
}

/** site.json: what the CLI needs to reach the running site. No secret is in it. */
export interface SiteInfo {
  readonly version: string;
  readonly site: string;
  readonly pid: number;
  /** With pid: which process, see runtime/process/identity.ts. */
  readonly startTime: string;
  readonly url: string;
  readonly nats: { readonly url: string };
  readonly mqtt?: { readonly url: string };
  readonly s3?: { readonly endpoint: string; readonly region: string; readonly bucket: string };
  readonly websocket?: { readonly url: string };
  /** Of a hub: where robots come in. */
  readonly leaf?: { readonly url: string };
}

export interface ClaimedSite {
  /** The folder's own, the same at each start. */
  readonly id: string;
  readonly paths: SitePaths;
  /** Writes site.json. */
  publish(info: SiteInfo): Promise<void>;
  /** Removes site.json and lets the next one have the folder. */
  release(): Promise<void>;
}

/** Makes the folder if need be; rejects with SiteTooNew when a newer Atoll wrote it. */
export async function openSiteFolder(dir: string): Promise<SitePaths> {
  const paths = sitePaths(dir);
  await makeFolder(paths.dir);
  const written = await readFile(paths.version, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return '';
    throw error;
  });
  // Two processes may do this at once: both write the same. Empty: the power went before it was on the disk.
  if (isBlank(written)) await writeAtomically(paths.version, `${layoutVersion}\n`);
  const problem = layoutProblem(paths, written);
  if (problem !== undefined) throw new AtollError('SiteTooNew', `${problem.message}: ${problem.advice}`);
  return paths;
}

/** Why this Atoll may not touch a folder whose file `version` holds that; undefined: it may. */
export function layoutProblem(
  paths: SitePaths,
  written: string,
): { message: string; advice: string } | undefined {
  if (isBlank(written) || Number(written) <= layoutVersion) return undefined;
  const damaged = Number.isNaN(Number(written))
    ? `; if that file was damaged, write ${layoutVersion} into ${paths.version}`
    : '';
  return {
    message: `${paths.dir} has layout version ${JSON.stringify(written.trim().slice(0, 40))}, this Atoll knows ${layoutVersion}`,
    advice: `run the Atoll that wrote it, or give another folder with --dir${damaged}`,
  };
}

/** What a power cut leaves of a file that was just written: nothing, or a length without its bytes. */
const isBlank = (text: string): boolean => /^[\0\s]*$/.test(text);

/**
 * For `faas up`: nobody else can run the folder until `release`, or until this process is gone. Ends the
 * processes that a killed predecessor left. Rejects with SiteInUse, SiteTooNew.
 */
export async function claimSite(dir: string, options: { log: Log }): Promise<ClaimedSite> {
  const paths = await openSiteFolder(dir);
  const lock = await takeLock(paths.run, 'up', { waitMs: claimWaitMs }).catch(async (error: unknown) => {
    if (!(error instanceof LockedError)) throw error;
    const running = await readSite(paths.dir);
    const { pid, hidden } = error.holder;
    const where = running?.pid === pid ? ` at ${running.url}` : '';
    const unless =
      hidden === undefined
        ? ''
        : ` (it is another user's and cannot be looked at: if it is none of Atoll's, remove ${hidden})`;
    throw new AtollError(
      'SiteInUse',
      `process ${pid} runs the site ${paths.dir}${where}: use that one, stop it, or give another folder with --dir${unless}`,
    );
  });
  let id: string;
  try {
    id = await idOf(paths, options.log);
    // What a killed predecessor left would send clients to a dead address.
    await rm(paths.site, { force: true });
    await endMarkedProcesses(paths.run, options.log);
  } catch (error) {
    await lock.release();
    throw error;
  }
  return {
    id,
    paths,
    publish: (info) => writeAtomically(paths.site, `${JSON.stringify(info, null, 2)}\n`),
    async release() {
      await rm(paths.site, { force: true });
      await lock.release();
    },
  };
}

async function idOf(paths: SitePaths, log: Log): Promise<string> {
  const written = await readFile(paths.id, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (written !== undefined && uuid.test(written.trim())) return written.trim();
  if (written !== undefined) {
    // A NATS server that the site shares with others then says whose its state is, and how to take it over.
    log.warn({ file: paths.id }, 'the id of the site was damaged; it was given a new one');
  }
  const id = randomUUID();
  await writeAtomically(paths.id, `${id}\n`);
  return id;
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Who runs the site now. Undefined: nobody, also when the last one was killed and left its site.json. */
export async function readSite(dir: string): Promise<SiteInfo | undefined> {
  let info: SiteInfo;
  try {
    info = JSON.parse(await readFile(sitePaths(dir).site, 'utf8')) as SiteInfo;
  } catch (error) {
    // Written whole or not at all while a site runs: a damaged one was left by a power cut, and nobody runs.
    if (isMissing(error) || error instanceof SyntaxError) return undefined;
    throw error;
  }
  return isSameProcess(info?.pid, info?.startTime) ? info : undefined;
}

/**
 * The site's folder for a command: `explicit` (--site), else $FAAS_SITE, else the nearest `.atoll` from `from`
 * upwards. The first two may name the folder itself or the one that holds it. Undefined: there is none.
 */
export function findSite(
  from: string,
  env: { readonly FAAS_SITE?: string | undefined },
  explicit?: string,
): string | undefined {
  const named = explicit ?? (env.FAAS_SITE || undefined);
  if (named !== undefined) {
    const folder = resolve(from, named);
    const inside = join(folder, siteFolderName);
    return !isSite(folder) && isSite(inside) ? inside : folder;
  }
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    const candidate = join(folder, siteFolderName);
    if (isSite(candidate)) return candidate;
    if (folder === dirname(folder)) return undefined;
  }
}

function isSite(folder: string): boolean {
  return existsSync(sitePaths(folder).version);
}
