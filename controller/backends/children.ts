/**
 * The objects that a function consists of in a cluster: applied, kept as they were applied, pruned, removed. Never one
 * that the Function does not own.
 */
import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { AtollError } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { ClusterError, resourcePath, type Cluster, type Resource } from '../cluster/client.ts';
import {
  openInformer,
  type ClusterObject,
  type Informer,
  type InformerTimings,
} from '../cluster/informer.ts';
import { keyText, type Key } from '../stores/store.ts';
import { apiVersion as functionVersion, kind as functionKind } from '../../crds/function.ts';
import {
  childSelector,
  configAnnotation,
  functionLabel,
  generationAnnotation,
  manager,
  type Manifest,
} from './manifests.ts';

/** What is kept of an object: whose it is, which fields are ours, and how it goes. */
export interface Child extends ClusterObject {
  readonly kind: string;
  /** Which fields are ours: it changes when somebody else takes or removes one. */
  readonly fields: OwnFields | undefined;
  /** Digest of the manifest that was applied last, as the object itself tells. */
  readonly applied: string | undefined;
  readonly owners: readonly {
    readonly apiVersion: string;
    readonly kind: string;
    readonly name: string;
    readonly uid: string;
  }[];
  readonly spec: Readonly<Record<string, unknown>>;
  readonly status: Readonly<Record<string, unknown>>;
  /** Which ConfigMap its pods run: of a Deployment, DaemonSet, or a ReplicaSet, which is not ours but our Deployment's. */
  readonly config: string | undefined;
}

interface OwnFields {
  readonly digest: string;
  readonly replicas: boolean;
  /**
   * Our part of managedFields, with `ownerMark` where the owner's uid stands: so that those of one form share it, of a
   * Deployment 3.5 KB. Undefined once all that the manifest says was found in it.
   */
  text: string | undefined;
}

const ownerMark = '<owner>';
/** How many forms are shared at a time. */
const maxForms = 1_000;

const resources: Readonly<Record<string, Resource>> = {
  ServiceAccount: { group: '', version: 'v1', plural: 'serviceaccounts' },
  ConfigMap: { group: '', version: 'v1', plural: 'configmaps' },
  Service: { group: '', version: 'v1', plural: 'services' },
  NetworkPolicy: { group: 'networking.k8s.io', version: 'v1', plural: 'networkpolicies' },
  Deployment: { group: 'apps', version: 'v1', plural: 'deployments' },
  ReplicaSet: { group: 'apps', version: 'v1', plural: 'replicasets' },
  DaemonSet: { group: 'apps', version: 'v1', plural: 'daemonsets' },
  PodDisruptionBudget: { group: 'policy', version: 'v1', plural: 'poddisruptionbudgets' },
  HorizontalPodAutoscaler: { group: 'autoscaling', version: 'v2', plural: 'horizontalpodautoscalers' },
  ScaledObject: { group: 'keda.sh', version: 'v1alpha1', plural: 'scaledobjects' },
};

/**
 * Written and never read: no controller may read Secrets. Each is the companion of the ConfigMap of its name, which is
 * made after it and removed after it.
 */
const secrets: Resource = { group: '', version: 'v1', plural: 'secrets' };

/** Of each object only this is looked at again: there may be tens of thousands. */
const specKept = ['replicas', 'clusterIP'];
const statusKept = [
  ...['observedGeneration', 'replicas', 'updatedReplicas'],
  ...['desiredNumberScheduled', 'updatedNumberScheduled', 'currentNumberScheduled', 'numberMisscheduled'],
];
/** Digest of the manifest: a controller that starts knows by it what it need not apply. */
const appliedAnnotation = 'atoll.dev/applied';

/** Holds replicas between us, who do not say them any more, and the autoscaler, which has not said them yet. */
const handoverManager = 'atoll-scaling';

export interface Owner {
  readonly key: Key;
  readonly uid: string;
}

export interface Children {
  /** Resolves when all kinds of Kubernetes' own were listed once. */
  untilSynced(): Promise<void>;
  /** Of the function, whatever Function owned them. */
  of(key: Key): Child[];
  keys(): Key[];
  /** Told of each change that is not of our own making. */
  watch(listener: (key: Key) => void): () => void;
  /**
   * Makes the object be as the manifest says, in the fields that the manifest has; nothing is sent when it is.
   * Rejects with AtollError NameTaken for an object that the Function does not own, and with what the server refused.
   */
  apply(manifest: Manifest, owner: Owner): Promise<void>;
  /** Whether applying the manifest that was applied as this would send nothing. */
  isApplied(part: Part, owner: Owner): boolean;
  /** What a ConfigMap holds, read anew. Undefined: it is gone. */
  config(child: Child): Promise<Readonly<Record<string, string>> | undefined>;
  /** Also when it is gone already. What belongs to it goes with it. */
  remove(child: Child): Promise<void>;
  close(): Promise<void>;
}

export interface ChildrenOptions {
  readonly cluster: Cluster;
  readonly namespaces?: readonly string[] | undefined;
  /** Whether ScaledObjects can be there. */
  readonly keda: boolean;
  /** Whether ConfigMaps have Secrets of their names. */
  readonly secrets?: boolean;
  readonly log: Log;
  readonly timings?: Partial<InformerTimings> | undefined;
}

/** What is remembered of a manifest. */
export interface Part {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly digest: string;
}

export function partOf(manifest: Manifest): Part {
  const { kind, metadata } = manifest;
  const { namespace, name } = metadata;
  return { kind, namespace, name, digest: digestOf(JSON.stringify(manifest)) };
}

export function openChildren(options: ChildrenOptions): Children {
  const { cluster, namespaces, keda, log, timings } = options;
  const listeners = new Set<(key: Key) => void>();
  /** By function. */
  const index = new Map<string, readonly Child[]>();
  const forms = new Map<string, string>();

  const informers = new Map<string, Informer<Child>>();
  for (const [kind, resource] of Object.entries(resources)) {
    if (kind === 'ScaledObject' && !keda) continue;
    const informer = openInformer<Child>({
      cluster,
      resource,
      namespaces,
      labelSelector: childSelector,
      keep: (object, before) => kept(kind, object, before),
      log,
      ...(timings && { timings }),
    });
    informer.watch((_key, before, after) => {
      const key = note(before, after);
      if (key) for (const listener of listeners) listener(key);
    });
    informers.set(kind, informer);
  }

  /** Brings the index up to date, and gives the function it was about. */
  function note(before: Child | undefined, after: Child | undefined): Key | undefined {
    const object = after ?? before;
    const key = object && functionOf(object);
    if (!key) return undefined;
    const others = (index.get(keyText(key)) ?? []).filter((one) => !isSameObject(one, object));
    const now = after ? [...others, after] : others;
    if (now.length > 0) index.set(keyText(key), now);
    else index.delete(keyText(key));
    return key;
  }

  /** Also of an object that was kept before: an informer keeps what it is given to learn. */
  function kept(kind: string, object: Child, before?: Child): Child {
    if (object.owners !== undefined) return object;
    const child = keptChild(kind, object, (text, digest) =>
      before?.metadata.uid === object.metadata.uid && before.fields?.digest === digest
        ? before.fields.text
        : formOf(text),
    );
    const key = functionOf(child);
    return key ? likeSiblings(child, index.get(keyText(key)) ?? []) : child;
  }

  /** The one string for all that are equal. */
  function formOf(text: string): string {
    const known = forms.get(text);
    if (known !== undefined) return known;
    if (forms.size >= maxForms) forms.clear();
    forms.set(text, text);
    return text;
  }

  function informerOf(kind: string): Informer<Child> {
    const informer = informers.get(kind);
    if (!informer) throw new Error(`no informer for ${kind}`);
    return informer;
  }

  function pathOf(kind: string, namespace: string, name: string): string {
    return resourcePath(resources[kind]!, { namespace, name });
  }

  async function read(kind: string, namespace: string, name: string): Promise<Child | undefined> {
    try {
      return kept(kind, await cluster.request<Child>('GET', pathOf(kind, namespace, name)));
    } catch (error) {
      if (error instanceof ClusterError && error.status === 404) return undefined;
      throw error;
    }
  }

  async function patch(manifest: object, path: string, fieldManager: string): Promise<Child> {
    return cluster.request<Child>('PATCH', path, {
      query: { fieldManager, force: true, fieldValidation: 'Strict' },
      contentType: 'application/apply-patch+yaml',
      body: manifest,
    });
  }

  function isSecretThere(key: Key, { uid }: Owner): boolean {
    const companion = informerOf('ConfigMap').get(key);
    return companion !== undefined && isOwnedBy(companion, uid);
  }

  /** Its name is a digest of what it holds, so one that is there already is it. */
  async function createSecret(manifest: Manifest, owner: Owner): Promise<void> {
    const { namespace, name } = manifest.metadata;
    if (isSecretThere({ namespace, name }, owner)) return;
    try {
      await cluster.request('POST', resourcePath(secrets, { namespace }), {
        query: { fieldManager: manager, fieldValidation: 'Strict' },
        body: manifest,
      });
    } catch (error) {
      if (!(error instanceof ClusterError && error.status === 409)) throw error;
    }
  }

  async function removeSecret(namespace: string, name: string): Promise<void> {
    try {
      await cluster.request('DELETE', resourcePath(secrets, { namespace, name }));
    } catch (error) {
      if (!(error instanceof ClusterError && error.status === 404)) throw error;
    }
  }

  async function remove({ kind, metadata }: Child): Promise<void> {
    const namespace = metadata.namespace ?? '';
    if (kind === 'ConfigMap' && options.secrets) await removeSecret(namespace, metadata.name);
    try {
      await cluster.request('DELETE', pathOf(kind, namespace, metadata.name), {
        body: {
          kind: 'DeleteOptions',
          apiVersion: 'v1',
          propagationPolicy: 'Background',
          // One of the same name that came since is another's.
          preconditions: { uid: metadata.uid },
        },
      });
    } catch (error) {
      if (!(error instanceof ClusterError && (error.status === 404 || error.status === 409))) throw error;
    }
    const informer = informerOf(kind);
    const key = { namespace, name: metadata.name };
    const known = informer.get(key);
    informer.forget(key, metadata.uid);
    if (known?.metadata.uid === metadata.uid) note(known, undefined);
  }

  function isApplied(part: Part, owner: Owner): boolean {
    const { kind, namespace, name, digest } = part;
    if (kind === 'Secret') return isSecretThere({ namespace, name }, owner);
    const child = informerOf(kind).get({ namespace, name });
    if (!child || child.applied !== digest || !isOwnedBy(child, owner.uid)) return false;
    if (child.metadata.deletionTimestamp !== undefined || !child.fields) return false;
    return child.fields.text === undefined;
  }

  /** It says that it was applied so, by a controller of before: whether nobody changed it since is to be seen. */
  function isFirstLook(child: Child, { digest }: Part, owner: Owner): boolean {
    return (
      child.applied === digest &&
      child.fields?.text !== undefined &&
      child.metadata.deletionTimestamp === undefined &&
      isOwnedBy(child, owner.uid)
    );
  }

  return {
    async untilSynced() {
      // Where KEDA went away nothing of it will ever be listed.
      const awaited = [...informers].filter(([kind]) => kind !== 'ScaledObject');
      await Promise.all(awaited.map(([, informer]) => informer.untilSynced()));
    },
    of: (key) => [...(index.get(keyText(key)) ?? [])],
    keys: () =>
      [...index.keys()].map((text) => {
        const [namespace = '', name = ''] = text.split('/');
        return { namespace, name };
      }),
    watch(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async apply(manifest, owner) {
      const { kind } = manifest;
      if (kind === 'Secret') return createSecret(manifest, owner);
      const { namespace, name } = manifest.metadata;
      const part = partOf(manifest);
      const cached = informerOf(kind).get({ namespace, name });
      if (isApplied(part, owner)) return;
      if (cached && isFirstLook(cached, part, owner)) {
        const fields = JSON.parse(cached.fields!.text!.replaceAll(ownerMark, owner.uid)) as OwnedTree;
        if (owns(fields, withAnnotation(manifest, part.digest), true)) {
          cached.fields!.text = undefined;
          return;
        }
      }
      // What is not ours has none of our labels, so no informer knows it.
      const live = cached ?? (await read(kind, namespace, name));
      if (live && !isOwnedBy(live, owner.uid)) {
        if (!isLeftover(live, owner)) throw nameTaken(kind, namespace, name);
        await remove(live);
        throw stillGoing(kind, namespace, name);
      }
      if (live?.metadata.deletionTimestamp !== undefined) throw stillGoing(kind, namespace, name);
      const path = pathOf(kind, namespace, name);
      // What we looked at, and nothing that took its name meanwhile.
      const identity = live ? { uid: live.metadata.uid } : {};
      if (live && handsOverReplicas(manifest, live)) {
        const { replicas } = live.spec;
        const part = { metadata: { name, namespace, ...identity }, spec: { replicas } };
        await patch({ apiVersion: manifest.apiVersion, kind, ...part }, path, handoverManager);
      }
      const marked = withAnnotation(manifest, part.digest);
      const metadata = { ...marked.metadata, ...identity };
      const child = kept(kind, await patch({ ...marked, metadata }, path, manager));
      if (child.fields) child.fields.text = undefined;
      informerOf(kind).learn(child, { quiet: true });
      note(undefined, child);
    },
    isApplied,
    async config({ kind, metadata: { namespace = '', name, uid } }) {
      try {
        const path = pathOf(kind, namespace, name);
        const { metadata, data } = await cluster.request<ClusterObject & { data?: Record<string, string> }>(
          'GET',
          path,
        );
        return metadata.uid === uid ? data : undefined;
      } catch (error) {
        if (error instanceof ClusterError && error.status === 404) return undefined;
        throw error;
      }
    },
    remove,
    async close() {
      await Promise.all([...informers.values()].map((informer) => informer.close()));
    },
  };
}

/** Whose it is, by its label. */
function functionOf({ metadata }: Child): Key | undefined {
  const name = metadata.labels?.[functionLabel];
  return name === undefined ? undefined : { namespace: metadata.namespace ?? '', name };
}

/** What a function's objects have in common is kept once: for thousands of functions that is some megabytes. */
function likeSiblings(child: Child, siblings: readonly Child[]): Child {
  const [first] = siblings;
  if (!first) return child;
  const { namespace, labels } = first.metadata;
  const alike = siblings.find(({ owners }) => isDeepStrictEqual(owners, child.owners));
  return {
    ...child,
    metadata: { ...child.metadata, ...(namespace !== undefined && { namespace }), ...(labels && { labels }) },
    owners: alike?.owners ?? child.owners,
  };
}

function isSameObject(one: Child, other: Child): boolean {
  return one.kind === other.kind && one.metadata.name === other.metadata.name;
}

/** `form`: what is kept of the text of our fields, by the digest of what the server says. */
function keptChild(
  kind: string,
  object: Child,
  form: (text: string, digest: string) => string | undefined,
): Child {
  const { managedFields, ownerReferences = [], labels, annotations } = object.metadata;
  const ours = (managedFields as ManagedFields[] | undefined)?.find(
    (one) => one.manager === manager && one.operation === 'Apply' && one.subresource === undefined,
  );
  const owners = (ownerReferences as Child['owners']).map(({ apiVersion, kind, name, uid }) => ({
    apiVersion,
    kind,
    name,
    uid,
  }));
  const spec = (object.spec ?? {}) as Record<string, unknown>;
  const of = labels?.[functionLabel];
  const generation = annotations?.[generationAnnotation];
  return {
    kind,
    metadata: {
      ...only(object.metadata, metadataKept),
      ...(of !== undefined && { labels: { [functionLabel]: of } }),
      ...(generation !== undefined && { annotations: { [generationAnnotation]: generation } }),
    } as Child['metadata'],
    fields: ours && fieldsOf(JSON.stringify(ours.fieldsV1), owners[0]?.uid, form),
    applied: annotations?.[appliedAnnotation],
    owners,
    spec: specKept.some((name) => name in spec) ? only(spec, specKept) : nothing,
    status: keptStatus(object.status ?? {}),
    config: (spec['template'] as Template | undefined)?.metadata?.annotations?.[configAnnotation],
  };
}

function fieldsOf(
  text: string,
  ownerUid: string | undefined,
  form: (text: string, digest: string) => string | undefined,
): OwnFields {
  const digest = digestOf(text);
  const shared = ownerUid === undefined ? text : text.replaceAll(ownerUid, ownerMark);
  return { digest, replicas: text.includes('"f:replicas":'), text: form(shared, digest) };
}

/** Of conditions only the one that tells why pods are not made. */
function keptStatus(status: Readonly<Record<string, unknown>>): Child['status'] {
  const conditions = status['conditions'] as readonly { type: string }[] | undefined;
  const failures = conditions?.filter(({ type }) => type === 'ReplicaFailure') ?? [];
  const kept = only(status, statusKept);
  if (failures.length > 0) return { ...kept, conditions: failures };
  return Object.keys(kept).length > 0 ? kept : nothing;
}

/** The one for all that have none. */
const nothing: Readonly<Record<string, unknown>> = Object.freeze({});

const metadataKept = ['name', 'namespace', 'uid', 'resourceVersion', 'generation', 'deletionTimestamp'];

function only<T extends object>(whole: T, names: readonly string[]): T {
  return Object.fromEntries(Object.entries(whole).filter(([name]) => names.includes(name))) as T;
}

/** 96 bits: enough to tell a manifest from the one before it. */
const digestOf = (text: string): string =>
  createHash('sha256').update(text).digest().toString('base64url', 0, 12);

function withAnnotation(manifest: Manifest, digest: string): Manifest {
  const { metadata } = manifest;
  const annotations = { ...metadata.annotations, [appliedAnnotation]: digest };
  return { ...manifest, metadata: { ...metadata, annotations } };
}

/** https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/: fieldsV1 */
interface OwnedTree {
  readonly [step: string]: OwnedTree;
}

/**
 * Whether every field that the value has is among the owned ones. Who changes a field takes it from us; so does who
 * removes it.
 */
function owns(owned: OwnedTree, value: unknown, isObject = false): boolean {
  // A leaf: the value as a whole.
  if (Object.keys(owned).length === 0) return true;
  if (Array.isArray(value)) {
    return value.every((item) => {
      const step = Object.keys(owned).find((one) => isStepTo(one, item));
      return step !== undefined && owns(owned[step]!, item);
    });
  }
  if (typeof value !== 'object' || value === null) return true;
  return Object.entries(value).every(([name, part]) => {
    // Nothing of these is kept, so nobody owns it.
    if (part === undefined || part === null || (Array.isArray(part) && part.length === 0)) return true;
    if (isObject && (name === 'apiVersion' || name === 'kind')) return true;
    if (isObject && name === 'metadata') {
      const { name: _name, namespace: _namespace, ...rest } = part as Record<string, unknown>;
      return owned['f:metadata'] !== undefined && owns(owned['f:metadata'], rest);
    }
    const next = owned[`f:${name}`];
    return next !== undefined && owns(next, part);
  });
}

/** `k:{"name":"host"}` of a list of objects, `v:"a"` of a set. What the key names and the item leaves out is a default. */
function isStepTo(step: string, item: unknown): boolean {
  if (step.startsWith('v:')) return step.slice(2) === JSON.stringify(item);
  if (!step.startsWith('k:') || typeof item !== 'object' || item === null) return false;
  const given = item as Record<string, unknown>;
  const keys = Object.entries(JSON.parse(step.slice(2)) as Record<string, unknown>);
  return keys.every(([name, value]) => given[name] === undefined || given[name] === value);
}

interface Template {
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> };
}

interface ManagedFields {
  readonly manager: string;
  readonly operation: string;
  readonly subresource?: string;
  readonly fieldsV1: unknown;
}

export const isOwnedBy = ({ owners }: Child, uid: string): boolean =>
  owners.some((owner) => owner.uid === uid);

/** Of a Function of the same name that is deleted: nobody else's, and on its way out. */
function isLeftover({ owners }: Child, { key }: Owner): boolean {
  const [group] = functionVersion.split('/');
  return owners.some(
    ({ apiVersion, kind, name }) =>
      apiVersion.startsWith(`${group}/`) && kind === functionKind && name === key.name,
  );
}

function nameTaken(kind: string, namespace: string, name: string): AtollError {
  return new AtollError(
    'NameTaken',
    `${kind} ${namespace}/${name} exists and does not belong to this Function: delete or rename it, or give the Function another name`,
  );
}

/** The watch tells when it is gone. */
function stillGoing(kind: string, namespace: string, name: string): AtollError {
  return new AtollError('Conflict', `${kind} ${namespace}/${name} of before is still being deleted`);
}

function handsOverReplicas(manifest: Manifest, live: Child): boolean {
  const spec = (manifest['spec'] ?? {}) as object;
  return (
    manifest.kind === 'Deployment' &&
    !('replicas' in spec) &&
    live.spec['replicas'] !== undefined &&
    live.fields?.replicas === true
  );
}
