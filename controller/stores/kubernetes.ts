/** Functions as objects of a cluster: kubectl, Helm and Flux write them, Atoll answers in their status. */
import { setTimeout as pause } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import {
  apiVersion,
  FunctionStatusSchema,
  kind,
  problemText,
  validate,
  type FunctionManifest,
  type FunctionObject,
  type FunctionStatus,
} from '../../crds/function.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { ClusterError, resourcePath, type Cluster } from '../cluster/client.ts';
import {
  openInformer,
  type ClusterObject,
  type Informer,
  type InformerTimings,
} from '../cluster/informer.ts';
import { checked } from './checked.ts';
import { InvalidObjectError, isKey, keyText, UnreadableObjectError, type Key, type Store } from './store.ts';

const [group, version] = apiVersion.split('/') as [string, string];
export const functionResource = { group, version, plural: 'functions' } as const;
/** Whose fields the API server says these are (`kubectl get --show-managed-fields`). */
export const fieldManager = 'atoll';
/** Of a `put` that asked for no certain version, among others that write the same Function. */
const putAttempts = 20;
const pageSize = 250;
const statusFields = Object.keys(FunctionStatusSchema.properties);

export interface KubernetesStoreOptions {
  readonly cluster: Cluster;
  /** Absent: all of them. */
  readonly namespaces?: readonly string[];
  readonly log?: Log;
  readonly timings?: Partial<InformerTimings>;
}

export interface KubernetesStore extends Store {
  /**
   * From here on what is read comes from what the watch keeps up to date, also while the API server is away; before,
   * and without this call or `watch`, each reading asks the server.
   */
  synced(signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

interface RawFunction extends ClusterObject {
  readonly spec?: unknown;
  readonly status?: FunctionStatus;
}

export function openKubernetesStore(options: KubernetesStoreOptions): KubernetesStore {
  const { cluster, namespaces, log, timings } = options;
  let informer: Informer<RawFunction> | undefined;

  function follow(): Informer<RawFunction> {
    informer ??= openInformer<RawFunction>({
      cluster,
      resource: functionResource,
      namespaces,
      keep: keptFunction,
      log,
      ...(timings && { timings }),
    });
    return informer;
  }
  const cache = (): Informer<RawFunction> | undefined => (informer?.synced ? informer : undefined);
  const isOurs = (namespace: string): boolean => namespaces?.includes(namespace) ?? true;

  async function ask(key: Key): Promise<RawFunction | undefined> {
    return cluster.request<RawFunction>('GET', pathOf(key)).catch(unlessMissing);
  }

  async function all(namespace: string | undefined): Promise<RawFunction[]> {
    const known = cache()?.all();
    const scopes = namespace === undefined ? (namespaces ?? [undefined]) : [namespace].filter(isOurs);
    const found = known ?? (await Promise.all(scopes.map((scope) => listAll(cluster, scope)))).flat();
    return found
      .filter(({ metadata }) => namespace === undefined || metadata.namespace === namespace)
      .filter(isThere)
      .sort((a, b) => (keyText(keyOf(a)) < keyText(keyOf(b)) ? -1 : 1));
  }

  /** Throws UnreadableObjectError. */
  function read(raw: RawFunction): FunctionObject {
    const verdict = verdictOf(raw);
    if ('problems' in verdict) {
      const what = `Function ${keyText(keyOf(raw))} in the cluster`;
      const { uid, resourceVersion } = raw.metadata;
      const facts = { status: raw.status, identity: { uid, resourceVersion } };
      throw new UnreadableObjectError(keyOf(raw), what, verdict.problems, facts);
    }
    return withMetadata(raw, verdict.object);
  }

  async function put(input: unknown, { dryRun = false } = {}): Promise<FunctionObject> {
    const wanted = checked(input);
    const { name, namespace = cluster.namespace, resourceVersion } = wanted.metadata;
    const key = { namespace, name };
    for (let attempt = 1; ; attempt++) {
      const existing = await ask(key);
      refuseStale(key, resourceVersion, existing);
      if (existing && isSame(existing, wanted)) return read(existing);
      try {
        const stored = await write(key, bodyOf(key, input, wanted, existing), existing !== undefined, dryRun);
        if (!dryRun) informer?.learn(stored);
        return read(stored);
      } catch (error) {
        const raced = error instanceof ClusterError && error.status === 409 && resourceVersion === undefined;
        if (!raced || attempt === putAttempts) throw problemOf(error, key);
        await pause(Math.random() * 20 * attempt);
      }
    }
  }

  function write(key: Key, body: object, exists: boolean, dryRun: boolean): Promise<RawFunction> {
    const query = { fieldManager, fieldValidation: 'Strict', dryRun: dryRun ? 'All' : undefined };
    return exists
      ? cluster.request('PUT', pathOf(key), { query, body })
      : cluster.request('POST', resourcePath(functionResource, { namespace: key.namespace }), {
          query,
          body,
        });
  }

  return {
    async get(key) {
      if (!isKey(key) || !isOurs(key.namespace)) return undefined;
      const known = cache();
      const raw = known ? known.get(key) : await ask(key);
      return raw && isThere(raw) ? read(raw) : undefined;
    },
    async list(namespace) {
      return (await all(namespace)).flatMap((raw) => {
        try {
          return [read(raw)];
        } catch (error) {
          if (!(error instanceof UnreadableObjectError)) throw error;
          log?.warn(
            { namespace: error.key.namespace, function: error.key.name, error: error.message },
            'a Function cannot be read',
          );
          const { last } = verdictOf(raw) as Unreadable;
          return last ? [last] : [];
        }
      });
    },
    keys: async (namespace) => (await all(namespace)).map(keyOf),
    put,
    async remove(key) {
      if (!isKey(key)) return false;
      const answer = await cluster
        .request<RawFunction | Deleted>('DELETE', pathOf(key), { query: { propagationPolicy: 'Background' } })
        .catch(unlessMissing);
      if (answer === undefined) return false;
      if ('metadata' in answer && 'uid' in answer.metadata) informer?.learn(answer as RawFunction);
      else if ('details' in answer) informer?.forget(key, answer.details.uid);
      return true;
    },
    async writeStatus(key, status) {
      if (!isKey(key)) return;
      const known = cache();
      const raw = known ? known.get(key) : await ask(key);
      if (!raw || isDeepStrictEqual(raw.status, status)) return;
      // A merge patch leaves alone what it does not name: what the status has no more is named with null.
      const gone = [...statusFields, ...Object.keys(raw.status ?? {})].filter((field) => !(field in status));
      const answer = await cluster
        .request<RawFunction>('PATCH', pathOf(key, 'status'), {
          query: { fieldManager },
          contentType: 'application/merge-patch+json',
          body: {
            // The status speaks of what was read: a newer spec, or another Function of the name, has one of its own.
            metadata: { resourceVersion: raw.metadata.resourceVersion },
            status: { ...Object.fromEntries(gone.map((field) => [field, null])), ...status },
          },
        })
        .catch(unlessMissing)
        .catch((error: unknown) => {
          throw problemOf(error, key);
        });
      if (answer) informer?.learn(answer, { quiet: true });
    },
    watch(listener) {
      const followed = follow();
      let stopped = false;
      const stop = followed.watch((key) => listener(key));
      // Those of before the first list come with it.
      if (followed.synced) {
        for (const key of followed.all().map(keyOf)) queueMicrotask(() => stopped || listener(key));
      }
      return () => {
        stopped = true;
        stop();
      };
    },
    synced: (signal) => follow().untilSynced(signal),
    close: async () => informer?.close(),
  };
}

const keyOf = ({ metadata }: RawFunction): Key => ({
  namespace: metadata.namespace ?? '',
  name: metadata.name,
});

const pathOf = ({ namespace, name }: Key, subresource?: string): string =>
  resourcePath(functionResource, { namespace, name, ...(subresource !== undefined && { subresource }) });

/** What is being deleted counts as gone: only a finalizer of somebody else keeps it. */
const isThere = ({ metadata }: RawFunction): boolean => metadata.deletionTimestamp === undefined;

/** kubectl's own copy of the whole object, as text. */
const appliedByKubectl = 'kubectl.kubernetes.io/last-applied-configuration';

/** Of thousands of Functions each part is kept once: the spec as it was read, and nothing that nobody here reads. */
function keptFunction(raw: RawFunction, before: RawFunction | undefined): RawFunction {
  const { spec: _spec, status } = raw;
  const { managedFields: _, annotations, ...metadata } = raw.metadata;
  const { [appliedByKubectl]: _copy, ...rest } = annotations ?? {};
  const kept: RawFunction = {
    metadata: { ...metadata, ...(Object.keys(rest).length > 0 && { annotations: rest }) },
    ...(status && { status }),
  };
  const same = before?.metadata.uid === metadata.uid ? before : undefined;
  const known = same && verdicts.get(same);
  if (known && isSameMeaning(same, kept)) {
    verdicts.set(kept, known);
    return kept;
  }
  const verdict = judge({ ...raw, metadata: kept.metadata });
  // One that was edited into something unreadable must not take its routes away.
  const last =
    known === undefined ? undefined : 'object' in known ? withMetadata(same!, known.object) : known.last;
  verdicts.set(kept, 'problems' in verdict && last ? { ...verdict, last } : verdict);
  return kept;
}

/** The API server counts each change of the spec. */
function isSameMeaning({ metadata: one }: RawFunction, { metadata: other }: RawFunction): boolean {
  return (
    one.generation !== undefined &&
    one.generation === other.generation &&
    isDeepStrictEqual(one.labels, other.labels) &&
    isDeepStrictEqual(one.annotations, other.annotations)
  );
}

interface Deleted {
  readonly details: { readonly uid: string };
}

async function listAll(cluster: Cluster, namespace: string | undefined): Promise<RawFunction[]> {
  interface Page {
    readonly metadata: { readonly continue?: string };
    readonly items: RawFunction[];
  }
  const found: RawFunction[] = [];
  let next: string | undefined;
  do {
    const page = await cluster
      .request<Page>('GET', resourcePath(functionResource, { namespace }), {
        query: { limit: pageSize, continue: next },
      })
      .catch((error: unknown) => {
        throw withoutKind(error);
      });
    found.push(...page.items);
    next = page.metadata.continue || undefined;
  } while (next !== undefined);
  return found;
}

interface Unreadable {
  readonly problems: readonly string[];
  /** What it was when it could be read. */
  readonly last?: FunctionObject;
}

type Verdict = { readonly object: FunctionManifest } | Unreadable;
/** Of what an informer keeps, which has no spec any more; and of what was just read. */
const verdicts = new WeakMap<RawFunction, Verdict>();

function verdictOf(raw: RawFunction): Verdict {
  const known = verdicts.get(raw);
  if (known) return known;
  const verdict = judge(raw);
  verdicts.set(raw, verdict);
  return verdict;
}

/** The API server judged it by the definition it had then; a newer one, or a write by hand into etcd, may differ. */
function judge(raw: RawFunction): Verdict {
  const { name, namespace, labels, annotations } = raw.metadata;
  const judged = validate({
    apiVersion,
    kind,
    metadata: { name, namespace, ...(labels && { labels }), ...(annotations && { annotations }) },
    spec: raw.spec,
  });
  return judged.ok ? { object: frozen(judged.object) } : { problems: judged.problems.map(problemText) };
}

/** One form serves all who read it: a thousand Functions are listed for each that has a path. */
function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const part of Object.values(value)) frozen(part);
  }
  return value;
}

function withMetadata(raw: RawFunction, { metadata, spec }: FunctionManifest): FunctionObject {
  const { uid, resourceVersion, creationTimestamp, generation = 1 } = raw.metadata;
  return {
    apiVersion,
    kind,
    metadata: {
      ...metadata,
      ...keyOf(raw),
      uid,
      generation,
      resourceVersion,
      ...(creationTimestamp !== undefined && { creationTimestamp }),
    },
    spec,
    ...(raw.status && { status: frozen(raw.status) }),
  };
}

function isSame(existing: RawFunction, wanted: FunctionManifest): boolean {
  const { labels = {}, annotations = {} } = existing.metadata;
  return (
    isThere(existing) &&
    isDeepStrictEqual(existing.spec, wanted.spec) &&
    isDeepStrictEqual(labels, wanted.metadata.labels ?? {}) &&
    isDeepStrictEqual(annotations, wanted.metadata.annotations ?? {})
  );
}

/** The spec goes out as it was given: defaults are the server's, and so not ours to keep when they change. */
function bodyOf(
  { namespace, name }: Key,
  input: unknown,
  { metadata }: FunctionManifest,
  existing: RawFunction | undefined,
): object {
  const { labels = {}, annotations = {} } = metadata;
  return {
    apiVersion,
    kind,
    metadata: { ...existing?.metadata, namespace, name, labels, annotations },
    spec: (input as { spec: unknown }).spec,
  };
}

function refuseStale(
  { namespace, name }: Key,
  wanted: string | undefined,
  existing: RawFunction | undefined,
): void {
  if (existing && !isThere(existing)) {
    throw new AtollError(
      'Conflict',
      `Function ${namespace}/${name} is being deleted; finalizers keep it: ${JSON.stringify(existing.metadata['finalizers'] ?? [])}. Wait until it is gone`,
    );
  }
  if (wanted === undefined || wanted === existing?.metadata.resourceVersion) return;
  const now = existing ? `it is at ${existing.metadata.resourceVersion} now` : 'it was deleted since';
  throw new AtollError(
    'Conflict',
    `Function ${namespace}/${name} was read at resourceVersion ${wanted}, ${now}: read it again and change that, or leave metadata.resourceVersion out`,
  );
}

function unlessMissing(error: unknown): undefined {
  // Not a Status: the cluster has no such kind.
  if (error instanceof ClusterError && error.status === 404 && error.reason !== undefined) return undefined;
  throw withoutKind(error);
}

function problemOf(error: unknown, { namespace, name }: Key): unknown {
  if (!(error instanceof ClusterError)) return error;
  if (error.status === 422) {
    const problems = error.causes.map(({ field, message }) => `${field}: ${message}`);
    return new InvalidObjectError(`Function "${name}"`, problems.length > 0 ? problems : [error.message]);
  }
  if (error.status === 400) return new InvalidObjectError(`Function "${name}"`, [error.message]);
  if (error.status === 409) {
    return new AtollError('Conflict', `Function ${namespace}/${name}: ${error.message}`, { cause: error });
  }
  return withoutKind(error);
}

function withoutKind(error: unknown): unknown {
  if (!(error instanceof ClusterError) || error.status !== 404 || error.reason !== undefined) return error;
  return new AtollError(
    'NotFound',
    'this cluster does not know the kind Function: install it with "kubectl apply -f crds/function.yaml"',
    { cause: error },
  );
}
