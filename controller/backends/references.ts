/**
 * The Secrets and ConfigMaps that functions take variables from, in namespaces where they may be watched. Nothing of what
 * is in them is kept but digests.
 */
import { createHash, createHmac } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { EnvVarSpec } from '../../crds/function.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import type { Cluster, Resource } from '../cluster/client.ts';
import {
  openInformer,
  type ClusterObject,
  type Informer,
  type InformerTimings,
} from '../cluster/informer.ts';
import { keyText, type Key } from '../stores/store.ts';
import type { Workload } from './backend.ts';
import { managedByLabel, manager } from './manifests.ts';

export interface References {
  /**
   * Changes with each value that a variable of the function comes from, and with nothing else. Undefined: none of them is
   * watched. Rejects with AtollError ClusterUnavailable when what there is could not be listed yet.
   */
  digestOf(workload: Pick<Workload, 'key' | 'spec'>): Promise<string | undefined>;
  /** Nothing more is told of the function. */
  forget(key: Key): void;
  /** Told of each function whose digest may be another now. Returns the way to stop. */
  watch(listener: (key: Key) => void): () => void;
  close(): Promise<void>;
}

export interface ReferencesOptions {
  readonly cluster: Cluster;
  readonly namespaces: readonly string[];
  readonly log: Log;
  readonly timings?: Partial<InformerTimings> | undefined;
}

const resources = {
  Secret: { group: '', version: 'v1', plural: 'secrets' },
  ConfigMap: { group: '', version: 'v1', plural: 'configmaps' },
} as const satisfies Record<string, Resource>;

type Kind = keyof typeof resources;

interface Reference {
  readonly kind: Kind;
  readonly name: string;
  readonly key: string;
}

interface Source extends ClusterObject {
  /** Of each key's value. */
  readonly digests: Readonly<Record<string, string>>;
}

/** A namespace that cannot be listed must not hold up all functions: whoever comes later is told at once. */
const patienceMs = 5_000;

export function openReferences({ cluster, namespaces, log, timings }: ReferencesOptions): References {
  const listeners = new Set<(key: Key) => void>();
  const users = new Map<string, { readonly key: Key; readonly references: readonly Reference[] }>();
  const closing = new AbortController();
  const patience = pause(patienceMs, undefined, { signal: closing.signal, ref: false }).catch(() => {});

  function tell(namespace: string, isMeant: (reference: Reference) => boolean = () => true): void {
    for (const { key, references } of users.values()) {
      if (key.namespace !== namespace || !references.some(isMeant)) continue;
      for (const listener of listeners) listener(key);
    }
  }

  function follow(namespace: string, kind: Kind): Informer<Source> {
    const informer = openInformer<Source>({
      cluster,
      resource: resources[kind],
      namespaces: [namespace],
      // What Atoll itself makes, a ConfigMap for each version among it, is nobody's variable.
      labelSelector: `${managedByLabel}!=${manager}`,
      keep: kept,
      log,
      ...(timings && { timings }),
    });
    informer.watch(({ name }, before, after) => {
      const changed = (key: string): boolean => before?.digests[key] !== after?.digests[key];
      tell(namespace, (one) => one.kind === kind && one.name === name && changed(one.key));
    });
    // Where nothing of that kind is, no change tells it.
    informer.untilSynced(closing.signal).then(
      () => tell(namespace),
      () => {},
    );
    return informer;
  }

  const watched = new Map(
    namespaces.map((namespace) => [
      namespace,
      { Secret: follow(namespace, 'Secret'), ConfigMap: follow(namespace, 'ConfigMap') },
    ]),
  );

  return {
    async digestOf({ key, spec }) {
      const there = watched.get(key.namespace);
      const references = there ? referencesOf(spec.env) : [];
      if (!there || references.length === 0) {
        users.delete(keyText(key));
        return undefined;
      }
      users.set(keyText(key), { key, references });
      const informers = Object.values(there);
      const synced = Promise.all(informers.map((informer) => informer.untilSynced()));
      await Promise.race([synced, patience]);
      if (!informers.every((informer) => informer.synced)) {
        throw new AtollError(
          'ClusterUnavailable',
          `Secrets and ConfigMaps of namespace ${key.namespace} could not be listed: it is in watchSecretsIn, so the controller needs the right to list and watch them there`,
        );
      }
      const values = references.map(({ kind, name, key: item }) => {
        const source = there[kind].get({ namespace: key.namespace, name });
        return [kind, name, item, source?.digests[item] ?? null];
      });
      return createHash('sha256').update(JSON.stringify(values)).digest('base64url').slice(0, 16);
    },
    forget: (key) => void users.delete(keyText(key)),
    watch(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async close() {
      closing.abort();
      const informers = [...watched.values()].flatMap((kinds) => Object.values(kinds));
      await Promise.all(informers.map((informer) => informer.close()));
    },
  };
}

function referencesOf(env: readonly EnvVarSpec[]): Reference[] {
  return env.flatMap(({ valueFrom = {} }): Reference[] => {
    const { secretKeyRef, configMapKeyRef } = valueFrom;
    if (secretKeyRef) return [{ kind: 'Secret', name: secretKeyRef.name, key: secretKeyRef.key }];
    if (configMapKeyRef) return [{ kind: 'ConfigMap', name: configMapKeyRef.name, key: configMapKeyRef.key }];
    return [];
  });
}

type Content = Readonly<Record<string, string>>;

/**
 * By the object's uid, which only its readers know: a digest stands on pods, where a short password could otherwise be
 * found by trying. An object that was made anew counts as changed.
 */
function kept(object: Source & { readonly data?: Content; readonly binaryData?: Content }): Source {
  const { name, namespace, uid, resourceVersion } = object.metadata;
  const content = Object.entries({ ...object.data, ...object.binaryData });
  const digestOf = (value: string): string => createHmac('sha256', uid).update(value).digest('base64url');
  return {
    metadata: { name, ...(namespace !== undefined && { namespace }), uid, resourceVersion },
    digests: Object.fromEntries(content.map(([key, value]) => [key, digestOf(value)])),
  };
}
