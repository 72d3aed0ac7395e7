/** All objects of one resource, kept here and up to date: listed once, then followed by a watch that is never given up. */
import { setTimeout as pause } from 'node:timers/promises';
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { keyText, type Key } from '../stores/store.ts';
import { ClusterError, errorOfWatch, resourcePath, type Cluster, type Resource } from './client.ts';

export interface ClusterObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly generation?: number;
    readonly creationTimestamp?: string;
    readonly deletionTimestamp?: string;
    readonly labels?: Record<string, string>;
    readonly annotations?: Record<string, string>;
    readonly [field: string]: unknown;
  };
}

export interface InformerOptions<T extends ClusterObject> {
  readonly cluster: Cluster;
  readonly resource: Resource;
  /** Absent: all of them. */
  readonly namespaces?: readonly string[] | undefined;
  readonly labelSelector?: string;
  /** What is kept of an object: less memory for large ones. `metadata` has to stay. `before` is what is known of its key. */
  readonly keep?: (object: T, before: T | undefined) => T;
  readonly log?: Log | undefined;
  readonly timings?: Partial<InformerTimings>;
  /** In [0, 1): jitter, so that replicas which lost a server together do not come back together. */
  readonly random?: () => number;
}

export interface InformerTimings {
  /** How long a watch is asked for: from one to two times this. The server ends it, and it is resumed. */
  readonly watchMs: number;
  /**
   * A watch without a word for so long is dead. Default: longer than any is asked for, since of a resource that nobody
   * changed since the API server started it sends not even bookmarks.
   */
  readonly silentMs: number;
  /** Everything is listed anew after this long, whatever the watch told. */
  readonly relistMs: number;
  readonly minBackoffMs: number;
  readonly maxBackoffMs: number;
}

const defaults: Omit<InformerTimings, 'silentMs'> = {
  watchMs: 40_000,
  relistMs: 30 * 60_000,
  minBackoffMs: 200,
  maxBackoffMs: 15_000,
};
/** What the server may take to end a watch that is over. */
const endingMs = 10_000;
/** To take in a page is work in one piece, and of the largest objects a megabyte. */
const pageSize = 100;
/** A watch that lives this long works: the next failure is a first one. */
const steadyMs = 5_000;

/** `before` is undefined for a new object, `after` for one that is gone. */
export type Changed<T> = (key: Key, before: T | undefined, after: T | undefined) => void;

export interface Informer<T extends ClusterObject> {
  /** Whether all that there is has been listed once. Stays true while the server is away. */
  readonly synced: boolean;
  /** Resolves when `synced` is true. Rejects when the signal aborts before. */
  untilSynced(signal?: AbortSignal): Promise<void>;
  get(key: Key): T | undefined;
  all(): T[];
  /** Each change from now on. Returns the way to stop. */
  watch(changed: Changed<T>): () => void;
  /** What a write gave as answer: known from here on, and no news when the watch brings it. Nobody is told if `quiet`. */
  learn(object: T, options?: { quiet?: boolean }): void;
  /** The object of this uid was deleted: what the watch still brings of it is old. */
  forget(key: Key, uid: string): void;
  close(): Promise<void>;
}

/** Starts at once, and tries again until `close`, whatever happens. */
export function openInformer<T extends ClusterObject>(options: InformerOptions<T>): Informer<T> {
  const { cluster, resource, labelSelector, log } = options;
  const { keep = (object) => object, random = Math.random } = options;
  const timings = { ...defaults, ...options.timings };
  const { silentMs = 2 * timings.watchMs + endingMs } = timings;
  const closing = new AbortController();
  const listeners = new Set<Changed<T>>();
  const known = new Map<string, T>();
  /** Uid and namespace of objects that a write of ours deleted, until the server's own word of it came. */
  const deleted = new Map<string, string>();
  const synced = Promise.withResolvers<void>();
  let isSynced = false;
  /** For each list under way: the keys of our own writes since it began, which may be newer than what it brings. */
  const learning = new Set<Set<string>>();

  function tell(key: Key, before: T | undefined, after: T | undefined): void {
    for (const listener of listeners) listener(key, before, after);
  }

  const kept = (object: T): T => keep(object, known.get(keyText(keyOf(object))));

  /** `after` is what is kept. */
  function set(after: T, quiet = false): void {
    const key = keyOf(after);
    const before = known.get(keyText(key));
    known.set(keyText(key), after);
    if (!quiet) tell(key, before, after);
  }

  function drop(key: Key): void {
    const before = known.get(keyText(key));
    if (!before) return;
    known.delete(keyText(key));
    tell(key, before, undefined);
  }

  function learn(object: T, { quiet = false } = {}): void {
    const text = keyText(keyOf(object));
    const before = known.get(text);
    if (deleted.has(object.metadata.uid) || (before && !isNewer(object, before))) return;
    for (const texts of learning) texts.add(text);
    set(kept(object), quiet);
  }

  /** The server's word on all objects of a scope. It is the last one, also when it went back in time (a restored backup). */
  function replace(namespace: string | undefined, listed: readonly T[], learnedSince: Set<string>): void {
    const uids = new Set(listed.map(({ metadata }) => metadata.uid));
    for (const [uid, where] of deleted) {
      if (isWithin(where, namespace) && !uids.has(uid)) deleted.delete(uid);
    }
    const found = new Set<string>();
    for (const object of listed) {
      const text = keyText(keyOf(object));
      found.add(text);
      if (deleted.has(object.metadata.uid) || learnedSince.has(text)) continue;
      const { resourceVersion, uid } = known.get(text)?.metadata ?? {};
      if (uid !== object.metadata.uid || resourceVersion !== object.metadata.resourceVersion) set(object);
    }
    for (const key of [...known.values()].map(keyOf)) {
      const text = keyText(key);
      if (isWithin(key.namespace, namespace) && !found.has(text) && !learnedSince.has(text)) drop(key);
    }
  }

  /** Returns the resourceVersion that a watch goes on from. */
  async function list(namespace: string | undefined): Promise<string> {
    const learnedSince = new Set<string>();
    learning.add(learnedSince);
    try {
      const { items, version } = await listPages(namespace, pageSize).catch((error: unknown) => {
        // The next page is of a time that the server has forgotten: all in one then.
        if (isGone(error)) return listPages(namespace, undefined);
        throw error;
      });
      replace(namespace, items, learnedSince);
      return version;
    } finally {
      learning.delete(learnedSince);
    }
  }

  async function listPages(
    namespace: string | undefined,
    limit: number | undefined,
  ): Promise<{ items: T[]; version: string }> {
    const path = resourcePath(resource, { namespace });
    const items: T[] = [];
    let next: string | undefined;
    for (;;) {
      const page: Page<T> = await cluster.request('GET', path, {
        query: { limit, continue: next, labelSelector },
        signal: closing.signal,
      });
      // At once: thousands of whole objects are more than the process has room for.
      for (const item of page.items) items.push(kept(item));
      next = page.metadata.continue || undefined;
      if (next === undefined) return { items, version: page.metadata.resourceVersion };
    }
  }

  /** Resolves when the server ends the watch; `seen` is told each version on the way. */
  async function watch(
    namespace: string | undefined,
    from: string,
    forMs: number,
    seen: (version: string) => void,
  ): Promise<void> {
    const path = resourcePath(resource, { namespace });
    const lines = cluster.lines(path, {
      query: {
        watch: true,
        allowWatchBookmarks: true,
        resourceVersion: from,
        timeoutSeconds: Math.max(1, Math.ceil(forMs / 1000)),
        labelSelector,
      },
      signal: closing.signal,
      silentMs,
    });
    for await (const line of lines) {
      if (line === '') continue;
      const { type, object } = JSON.parse(line) as { type: string; object: T };
      if (type === 'ERROR') throw errorOfWatch(`watch of ${path}`, object);
      const { uid, resourceVersion } = object.metadata;
      if (type === 'DELETED') {
        const before = known.get(keyText(keyOf(object)));
        deleted.delete(uid);
        // Made anew meanwhile by a write of ours: that one stays.
        if (before?.metadata.uid === uid) drop(keyOf(object));
      } else if (type !== 'BOOKMARK' && !deleted.has(uid)) {
        const before = known.get(keyText(keyOf(object)));
        if (!before || isNewer(object, before)) set(kept(object));
      }
      seen(resourceVersion);
    }
  }

  /** List, watch, and again. Only `close` ends it. */
  async function follow(namespace: string | undefined, listedOnce: () => void): Promise<void> {
    let version: string | undefined;
    let relistAtMs = 0;
    let failures = 0;
    while (!closing.signal.aborted) {
      let beganMs = performance.now();
      try {
        if (version === undefined || performance.now() >= relistAtMs) {
          version = await list(namespace);
          relistAtMs = performance.now() + timings.relistMs * (0.75 + random() / 2);
          listedOnce();
        }
        beganMs = performance.now();
        const forMs = Math.min(timings.watchMs * (1 + random()), relistAtMs - performance.now());
        await watch(namespace, version, forMs, (seen) => (version = seen));
        if (performance.now() - beganMs >= Math.min(steadyMs, forMs)) failures = 0;
        else failures += 1;
      } catch (error) {
        if (closing.signal.aborted) return;
        if (version !== undefined && performance.now() - beganMs >= steadyMs) failures = 0;
        failures += 1;
        // What only cut the connection lost nothing: the watch goes on where it was. Anything else starts anew.
        const { status, retryAfterMs = 0 } = error instanceof ClusterError ? error : ({} as ClusterError);
        if (status !== undefined && status !== 429) version = undefined;
        const afterMs = Math.max(backoffMs(failures), retryAfterMs);
        const what = resourcePath(resource, { namespace });
        log?.warn(
          { what, error: faultOf(error).message, afterMs },
          'a watch of the cluster is started again',
        );
        await wait(afterMs);
        continue;
      }
      if (failures > 0) await wait(backoffMs(failures));
    }
  }

  function backoffMs(failures: number): number {
    const step = Math.min(timings.maxBackoffMs, timings.minBackoffMs * 2 ** Math.min(20, failures - 1));
    return Math.round(step * (0.5 + random() / 2));
  }

  const wait = (ms: number): Promise<void> =>
    pause(ms, undefined, { signal: closing.signal }).catch(() => {});

  const scopes = options.namespaces ?? [undefined];
  const unlisted = new Set(scopes);
  const following = scopes.map((namespace) =>
    follow(namespace, () => {
      unlisted.delete(namespace);
      if (unlisted.size > 0) return;
      isSynced = true;
      synced.resolve();
    }),
  );

  return {
    get synced() {
      return isSynced;
    },
    async untilSynced(signal) {
      if (!signal) return synced.promise;
      signal.throwIfAborted();
      const aborted = Promise.withResolvers<never>();
      const abort = (): void => aborted.reject(signal.reason);
      signal.addEventListener('abort', abort, { once: true });
      await Promise.race([synced.promise, aborted.promise]).finally(() =>
        signal.removeEventListener('abort', abort),
      );
    },
    get: (key) => known.get(keyText(key)),
    all: () => [...known.values()],
    watch(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    learn,
    forget(key, uid) {
      deleted.set(uid, key.namespace);
      if (known.get(keyText(key))?.metadata.uid === uid) drop(key);
    },
    async close() {
      closing.abort();
      await Promise.all(following);
    },
  };
}

interface Page<T> {
  readonly metadata: { readonly resourceVersion: string; readonly continue?: string };
  readonly items: T[];
}

const keyOf = ({ metadata }: ClusterObject): Key => ({
  // Cluster-wide objects have no namespace; their keys have none either.
  namespace: metadata.namespace ?? '',
  name: metadata.name,
});

const isWithin = (namespace: string, scope: string | undefined): boolean =>
  scope === undefined || namespace === scope;

/** Versions are decimal numbers that only grow, too big for a float. */
function isNewer(one: ClusterObject, other: ClusterObject): boolean {
  const [a, b] = [one.metadata.resourceVersion, other.metadata.resourceVersion];
  return a.length === b.length ? a > b : a.length > b.length;
}

const isGone = (error: unknown): boolean => error instanceof ClusterError && error.status === 410;
