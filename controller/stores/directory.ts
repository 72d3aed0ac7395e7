/** Functions as files in the site's folder: YAML that a person may edit, and beside it what Atoll found out. */
import { createHash, randomUUID } from 'node:crypto';
import { watch as watchFolder, type FSWatcher } from 'node:fs';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { parseDocument, stringify } from 'yaml';
import {
  apiVersion,
  kind,
  type FunctionManifest,
  type FunctionObject,
  type FunctionStatus,
} from '../../crds/function.ts';
import { manifestProblemText, parseManifests } from '../../crds/manifest.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { checked } from './checked.ts';
import { isMissing, makeFolder, writeAtomically } from './atomic-file.ts';
import { takeLock } from './lock.ts';
import { openSiteFolder, type SitePaths } from './site.ts';
import { isKey, isNamespace, keyText, UnreadableObjectError, type Key, type Store } from './store.ts';

/** A change takes milliseconds under the lock; a holder this slow hangs on its disk. */
const lockWaitMs = 10_000;
/** An editor writes a file in several steps: the key is told when they are over. */
const settleMs = 50;
/** For what fs.watch does not tell: folders that were away, network file systems. */
const defaultRescanMs = 5_000;

export interface DirectoryStoreOptions {
  /** The site's folder (`.atoll`); made if it is not there. */
  readonly dir: string;
  readonly log?: Log;
  readonly rescanMs?: number;
}

/** `<dir>/status/<namespace>/<name>.json` */
interface StatusFile {
  /** Of which Function: one that was deleted and made anew starts without a status. */
  readonly uid: string;
  readonly generation: number;
  readonly status: FunctionStatus;
}

/** What one reading of a file gave, kept while the file's fingerprint stays the same. */
type Reading =
  | { readonly fingerprint: string; readonly object: FunctionManifest }
  | { readonly fingerprint: string; readonly problems: readonly string[] };

const defaultNamespace = 'default';
const unreadableCodes = new Set(['EACCES', 'EPERM', 'EISDIR', 'ELOOP']);

export async function openDirectoryStore(options: DirectoryStoreOptions): Promise<Store> {
  const { log } = options;
  const paths = await openSiteFolder(options.dir);
  for (const folder of [paths.functions, paths.status]) {
    await makeFolder(folder);
  }
  const readings = new Map<string, Reading>();
  /** The last readable form of each Function, for list(): an edit that went wrong must not take routes away. */
  const lastGood = new Map<string, FunctionObject>();
  const watcher = openWatcher(paths, options.rescanMs ?? defaultRescanMs, log);
  let locked: Promise<unknown> = Promise.resolve();

  /** One change at a time, in this process and among all that share the folder. */
  function exclusively<T>(work: () => Promise<T>): Promise<T> {
    const turn = locked.then(async () => {
      const lock = await takeLock(paths.run, 'store', { waitMs: lockWaitMs });
      try {
        return await work();
      } finally {
        await lock.release();
      }
    });
    locked = turn.catch(() => {});
    return turn;
  }

  /** Undefined: there is no such file. Reads it only when it changed. */
  async function read(key: Key): Promise<Reading | undefined> {
    const file = paths.functionFile(key);
    try {
      const fingerprint = await fingerprintOf(file);
      const known = readings.get(keyText(key));
      if (known?.fingerprint === fingerprint) return known;
      const reading = { fingerprint, ...parse(await readFile(file), key) };
      readings.set(keyText(key), reading);
      return reading;
    } catch (error) {
      readings.delete(keyText(key));
      if (isMissing(error)) return undefined;
      // It is this file's fault, which must not keep the others from being listed.
      if (!unreadableCodes.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
      return { fingerprint: '', problems: [(error as Error).message] };
    }
  }

  async function readStatus(key: Key): Promise<StatusFile | undefined> {
    try {
      return JSON.parse(await readFile(paths.statusFile(key), 'utf8')) as StatusFile;
    } catch (error) {
      // A status that cannot be read is found out anew.
      if (isMissing(error) || error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  /** A complete object, without its status. */
  async function readComplete(key: Key): Promise<FunctionObject | undefined> {
    const reading = await read(key);
    if (!reading) {
      lastGood.delete(keyText(key));
      return undefined;
    }
    if ('problems' in reading) {
      const { status } = (await readStatus(key)) ?? {};
      throw new UnreadableObjectError(key, paths.functionFile(key), reading.problems, { status });
    }
    const object = isComplete(reading.object) ? reading.object : await exclusively(() => adopt(key));
    if (object) lastGood.set(keyText(key), object);
    return object;
  }

  /**
   * A file written or edited by hand gets what `put` would have given it. The uid of an earlier edit is kept, so
   * that an editor that saves its old buffer does not make a new Function of it. Comments stay.
   */
  async function adopt(key: Key): Promise<FunctionObject | undefined> {
    const reading = await read(key);
    if (!reading || 'problems' in reading) return undefined;
    const { object } = reading;
    if (isComplete(object)) return object;
    const before = await readStatus(key);
    const { uid, generation, creationTimestamp, resourceVersion } = object.metadata;
    const adopted: FunctionObject = {
      ...object,
      metadata: {
        ...object.metadata,
        namespace: key.namespace,
        uid: uid ?? before?.uid ?? randomUUID(),
        generation: Math.max(generation ?? 0, before?.generation ?? 0) + 1,
        creationTimestamp: creationTimestamp ?? new Date().toISOString(),
        resourceVersion: resourceVersionOf(object, countOf(resourceVersion) + 1),
      },
    };
    const file = paths.functionFile(key);
    const document = parseDocument(await readFile(file, 'utf8'));
    for (const [field, value] of Object.entries(adopted.metadata)) {
      if (value !== undefined && typeof value !== 'object') document.setIn(['metadata', field], value);
    }
    await writeAtomically(file, document.toString());
    log?.info({ ...at(key), generation: adopted.metadata.generation }, 'took over a file edited by hand');
    return adopted;
  }

  async function withStatus(object: FunctionObject): Promise<FunctionObject> {
    const stored = await readStatus(object.metadata);
    const copy = structuredClone(object);
    return stored?.uid === object.metadata.uid ? { ...copy, status: stored.status } : copy;
  }

  async function get(key: Key): Promise<FunctionObject | undefined> {
    if (!isKey(key)) return undefined;
    const object = await readComplete(key);
    return object && withStatus(object);
  }

  async function put(input: unknown, { dryRun = false } = {}): Promise<FunctionObject> {
    const wanted = checked(input);
    const key = { namespace: wanted.metadata.namespace ?? defaultNamespace, name: wanted.metadata.name };
    return exclusively(async () => {
      const reading = await read(key);
      const broken = reading !== undefined && 'problems' in reading;
      const existing =
        !reading || broken ? undefined : isComplete(reading.object) ? reading.object : await adopt(key);
      // A broken file is replaced, yet it stays the same Function.
      const kept = broken ? await readStatus(key) : undefined;
      refuseStale(wanted, existing);
      if (existing && digestOf(existing) === digestOf(wanted)) return withStatus(existing);
      const sameSpec = existing !== undefined && isDeepStrictEqual(existing.spec, wanted.spec);
      const generation = existing?.metadata.generation ?? kept?.generation ?? 0;
      const stored: FunctionObject = {
        apiVersion,
        kind,
        metadata: {
          namespace: key.namespace,
          name: key.name,
          uid: existing?.metadata.uid ?? kept?.uid ?? randomUUID(),
          generation: sameSpec ? generation : generation + 1,
          resourceVersion: resourceVersionOf(wanted, countOf(existing?.metadata.resourceVersion) + 1),
          creationTimestamp: existing?.metadata.creationTimestamp ?? new Date().toISOString(),
          ...(wanted.metadata.labels && { labels: wanted.metadata.labels }),
          ...(wanted.metadata.annotations && { annotations: wanted.metadata.annotations }),
        },
        spec: wanted.spec,
      };
      if (!dryRun) {
        await writeAtomically(paths.functionFile(key), stringify(stored));
        watcher.look();
      }
      return withStatus(stored);
    });
  }

  return {
    get,
    put,
    keys: (namespace) => listKeys(paths, namespace),
    async list(namespace) {
      const keys = await listKeys(paths, namespace);
      const objects = await Promise.all(
        keys.map((key) =>
          get(key).catch((error: unknown) => {
            if (!(error instanceof UnreadableObjectError)) throw error;
            log?.warn({ ...at(key), error: error.message }, 'a Function cannot be read');
            const object = lastGood.get(keyText(key));
            return object && withStatus(object);
          }),
        ),
      );
      return objects.filter((object) => object !== undefined);
    },
    async remove(key) {
      if (!isKey(key)) return false;
      return exclusively(async () => {
        const there = (await read(key)) !== undefined;
        await rm(paths.functionFile(key), { force: true });
        await rm(paths.statusFile(key), { force: true });
        watcher.look();
        return there;
      });
    },
    async writeStatus(key, status) {
      const reading = isKey(key) ? await read(key) : undefined;
      if (!reading) return;
      const before = await readStatus(key);
      const { uid, generation } = 'object' in reading ? reading.object.metadata : (before ?? {});
      if (uid === undefined || generation === undefined) return;
      const after: StatusFile = { uid, generation, status };
      if (isDeepStrictEqual(before, after)) return;
      await writeAtomically(paths.statusFile(key), `${JSON.stringify(after, null, 2)}\n`);
    },
    watch: (listener) => watcher.add(listener),
  };
}

/** Exactly one document that is a valid Function of this place, or every reason why not. */
function parse(content: Uint8Array, key: Key): { object: FunctionManifest } | { problems: string[] } {
  const parsed = parseManifests(content, `${key.name}.yaml`);
  if (!parsed.ok) return { problems: parsed.problems.map(manifestProblemText) };
  const [object, ...more] = parsed.manifests;
  if (!object || more.length > 0) {
    return { problems: [`it holds ${more.length + 1} Functions: each needs a file of its own`] };
  }
  const problems: string[] = [];
  const { name, namespace = key.namespace } = object.metadata;
  if (name !== key.name) {
    problems.push(`metadata.name is "${name}", the file is called ${key.name}.yaml: make them equal`);
  }
  if (namespace !== key.namespace) {
    problems.push(
      `metadata.namespace is "${namespace}", the folder is called ${key.namespace}: make them equal`,
    );
  }
  if (problems.length > 0) return { problems };
  return { object: { ...object, metadata: { ...object.metadata, namespace } } };
}

function refuseStale(wanted: FunctionManifest, existing: FunctionObject | undefined): void {
  const { namespace, name, resourceVersion } = wanted.metadata;
  if (resourceVersion === undefined || resourceVersion === existing?.metadata.resourceVersion) return;
  const now = existing ? `it is at ${existing.metadata.resourceVersion} now` : 'it was deleted since';
  throw new AtollError(
    'Conflict',
    `Function ${namespace}/${name} was read at resourceVersion ${resourceVersion}, ${now}: read it again and change that, or leave metadata.resourceVersion out`,
  );
}

/** False for a file that a person wrote or edited. */
function isComplete(object: FunctionManifest): object is FunctionObject {
  const { namespace, uid, generation, creationTimestamp, resourceVersion } = object.metadata;
  if (
    namespace === undefined ||
    uid === undefined ||
    generation === undefined ||
    creationTimestamp === undefined
  )
    return false;
  return resourceVersion === resourceVersionOf(object, countOf(resourceVersion));
}

/** `<count>-<digest>`: the digest tells an edit by hand from what we wrote. */
function resourceVersionOf(object: FunctionManifest, count: number): string {
  return `${count}-${digestOf(object).slice(0, 12)}`;
}

function countOf(resourceVersion: string | undefined): number {
  return Number(/^(\d{1,15})-/.exec(resourceVersion ?? '')?.[1] ?? 0);
}

/** Over what `put` stores, whatever the order of the fields. */
function digestOf({ metadata, spec }: FunctionManifest): string {
  const { labels = {}, annotations = {} } = metadata;
  const sorted = JSON.stringify({ annotations, labels, spec }, (_field, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
  return createHash('sha256').update(sorted).digest('hex');
}

async function listKeys(paths: SitePaths, only?: string): Promise<Key[]> {
  const namespaces = only === undefined ? await namesIn(paths.functions) : [only];
  const keys = await Promise.all(
    namespaces
      .filter((namespace) => isNamespace(namespace))
      .map(async (namespace) =>
        (await namesIn(join(paths.functions, namespace)))
          .filter((file) => file.endsWith('.yaml'))
          .map((file) => ({ namespace, name: basename(file, '.yaml') })),
      ),
  );
  return keys.flat().filter(isKey);
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

async function fingerprintOf(file: string): Promise<string> {
  const { mtimeNs, size, ino } = await stat(file, { bigint: true });
  return `${mtimeNs} ${size} ${ino}`;
}

const at = ({ namespace, name }: Key): { namespace: string; function: string } => ({
  namespace,
  function: name,
});

interface Watcher {
  add(listener: (key: Key) => void): () => void;
  /** Something may have changed: looks soon. */
  look(): void;
}

/**
 * Compares fingerprints, at each hint of fs.watch and now and then without one: what the hints say is not believed,
 * so a lost or a doubled one does no harm. Folders may come and go.
 */
function openWatcher(paths: SitePaths, rescanMs: number, log: Log | undefined): Watcher {
  const listeners = new Set<(key: Key) => void>();
  const folders = new Map<string, FSWatcher>();
  let seen = new Map<string, { key: Key; fingerprint: string }>();
  let soon: NodeJS.Timeout | undefined;
  let rescan: NodeJS.Timeout | undefined;
  let scanning: Promise<void> | undefined;

  function look(): void {
    if (listeners.size > 0) soon ??= setTimeout(() => void scan(), settleMs);
  }

  function scan(): Promise<void> {
    clearTimeout(soon);
    soon = undefined;
    // Hints that come during a scan ask for another one.
    scanning = (scanning ?? Promise.resolve()).then(compare).catch((error: unknown) => {
      log?.error({ err: error, folder: paths.functions }, 'the folder of Functions cannot be read');
    });
    return scanning;
  }

  async function compare(): Promise<void> {
    if (listeners.size === 0) return;
    // Watched first, listed after: what comes between is found by the listing.
    const namespaces = (await namesIn(paths.functions)).filter((one) => isNamespace(one));
    watchFolders([paths.dir, paths.functions, ...namespaces.map((one) => join(paths.functions, one))]);
    const found = new Map<string, { key: Key; fingerprint: string }>();
    for (const key of await listKeys(paths)) {
      const fingerprint = await fingerprintOf(paths.functionFile(key)).catch(() => undefined);
      if (fingerprint !== undefined) found.set(keyText(key), { key, fingerprint });
    }
    const before = seen;
    seen = found;
    for (const [text, { key, fingerprint }] of found) {
      if (before.get(text)?.fingerprint !== fingerprint) tell(key);
    }
    for (const [text, { key }] of before) if (!found.has(text)) tell(key);
  }

  function tell(key: Key): void {
    for (const listener of listeners) listener(key);
  }

  function watchFolders(wanted: readonly string[]): void {
    for (const [folder, watcher] of folders) {
      if (wanted.includes(folder)) continue;
      watcher.close();
      folders.delete(folder);
    }
    for (const folder of wanted) {
      if (folders.has(folder)) continue;
      try {
        const forget = (): void => {
          watcher.close();
          if (folders.get(folder) === watcher) folders.delete(folder);
        };
        const watcher = watchFolder(folder, { persistent: false }, (event, file) => {
          // It was itself moved or removed: what takes its place must be watched anew.
          if (event === 'rename' && file === basename(folder)) forget();
          look();
        });
        watcher.on('error', forget);
        folders.set(folder, watcher);
      } catch {
        // Not there, or no watches left: the rescan finds changes, only later.
      }
    }
  }

  return {
    look,
    add(listener) {
      listeners.add(listener);
      rescan ??= setInterval(look, rescanMs).unref();
      // The first listener's scan tells all keys; a later one is told what is known, and the scan tells the rest.
      for (const { key } of [...seen.values()])
        queueMicrotask(() => listeners.has(listener) && listener(key));
      void scan();
      return () => {
        listeners.delete(listener);
        if (listeners.size > 0) return;
        clearInterval(rescan);
        clearTimeout(soon);
        rescan = soon = undefined;
        for (const watcher of folders.values()) watcher.close();
        folders.clear();
        seen = new Map();
      };
    },
  };
}
