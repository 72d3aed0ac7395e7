/** Where the API server is and who we are to it: the kubeconfig files, or the ServiceAccount of the Pod this runs in. */
import { existsSync, readFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { homedir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { parse } from 'yaml';
import { AtollError } from '../../runtime/errors.ts';

/** Of a kubeconfig, with kubectl's own words; paths are absolute. */
export interface ClusterEntry {
  readonly server: string;
  readonly 'certificate-authority'?: string;
  /** base64, and before the file */
  readonly 'certificate-authority-data'?: string;
  readonly 'insecure-skip-tls-verify'?: boolean;
  readonly 'tls-server-name'?: string;
  readonly 'proxy-url'?: string;
  readonly extensions?: readonly { readonly name: string; readonly extension?: unknown }[];
}

export interface UserEntry {
  readonly token?: string;
  readonly tokenFile?: string;
  readonly 'client-certificate'?: string;
  readonly 'client-certificate-data'?: string;
  readonly 'client-key'?: string;
  readonly 'client-key-data'?: string;
  readonly username?: string;
  readonly password?: string;
  readonly as?: string;
  readonly 'as-uid'?: string;
  readonly 'as-groups'?: readonly string[];
  readonly 'as-user-extra'?: Readonly<Record<string, readonly string[]>>;
  readonly exec?: ExecEntry;
  readonly 'auth-provider'?: { readonly name: string; readonly config?: Readonly<Record<string, string>> };
}

/** A program that gives credentials: https://kubernetes.io/docs/reference/config-api/client-authentication.v1/ */
export interface ExecEntry {
  readonly apiVersion: string;
  readonly command: string;
  readonly args?: readonly string[] | null;
  readonly env?: readonly { readonly name: string; readonly value: string }[] | null;
  readonly installHint?: string;
  readonly interactiveMode?: 'Never' | 'IfAvailable' | 'Always';
  readonly provideClusterInfo?: boolean;
}

export interface Access {
  readonly cluster: ClusterEntry;
  readonly user: UserEntry;
  /** Of the context, or the Pod's own; else `default`. */
  readonly namespace: string;
}

export interface AccessOptions {
  /** Absent: the files of $KUBECONFIG, else ~/.kube/config, else the ServiceAccount of the Pod this runs in. */
  readonly kubeconfig?: string;
  /** Of the kubeconfig; absent: its current one. */
  readonly context?: string;
}

interface ContextEntry {
  readonly cluster?: string;
  readonly user?: string;
  readonly namespace?: string;
}

interface Kubeconfig {
  readonly clusters: Map<string, ClusterEntry>;
  readonly users: Map<string, UserEntry>;
  readonly contexts: Map<string, ContextEntry>;
  current: string | undefined;
}

const account = '/var/run/secrets/kubernetes.io/serviceaccount';

/** Throws AtollError ClusterUnavailable that says which file, which entry and what is missing. */
export function readAccess({ kubeconfig, context }: AccessOptions = {}): Access {
  const files = kubeconfig === undefined ? defaultFiles() : [kubeconfig];
  if (files.length === 0) {
    if (context === undefined && existsSync(join(account, 'token'))) return accessOfPod();
    throw unusable(
      'no cluster is configured: set KUBECONFIG, or choose one with "kubectl config use-context"',
    );
  }
  const config: Kubeconfig = {
    clusters: new Map(),
    users: new Map(),
    contexts: new Map(),
    current: undefined,
  };
  for (const file of files) addFile(config, file);
  const name = context ?? config.current;
  if (name === undefined || name === '') {
    throw unusable(
      `no cluster is configured: ${files.join(', ')} has no current-context; choose one with "kubectl config use-context"`,
    );
  }
  const chosen = config.contexts.get(name);
  if (!chosen) {
    const known = [...config.contexts.keys()].join(', ') || 'none';
    throw unusable(`the kubeconfig has no context "${name}"; it has ${known}`);
  }
  const cluster = config.clusters.get(chosen.cluster ?? '');
  if (!cluster) throw unusable(`context "${name}" names cluster "${chosen.cluster}", which no file has`);
  if (!/^https?:\/\//.test(cluster.server)) {
    throw unusable(
      `cluster "${chosen.cluster}": server "${cluster.server}" must begin with https:// or http://`,
    );
  }
  const user = chosen.user === undefined || chosen.user === '' ? {} : config.users.get(chosen.user);
  if (!user) throw unusable(`context "${name}" names user "${chosen.user}", which no file has`);
  return { cluster, user, namespace: chosen.namespace || 'default' };
}

/** Of $KUBECONFIG those that exist, as kubectl takes them. */
function defaultFiles(): string[] {
  const named = (process.env['KUBECONFIG'] ?? '').split(delimiter).filter((file) => file !== '');
  if (named.length === 1) return named;
  const files = named.length > 0 ? named : [join(homedir(), '.kube', 'config')];
  return files.filter((file) => existsSync(file));
}

/** The first file that says something wins, as with kubectl. */
function addFile(config: Kubeconfig, file: string): void {
  let read: unknown;
  try {
    read = parse(readFileSync(file, 'utf8')) ?? {};
  } catch (error) {
    throw unusable(`${file} cannot be read: ${(error as Error).message}`, error);
  }
  if (typeof read !== 'object' || Array.isArray(read)) throw unusable(`${file} is no kubeconfig`);
  const given = read as Record<string, unknown>;
  const folder = dirname(resolve(file));
  const absolute = <T extends object>(entry: T, ...fields: (keyof T & string)[]): T => {
    const paths = fields.flatMap((field) =>
      typeof entry[field] === 'string' && entry[field] !== '' ? [[field, resolve(folder, entry[field])]] : [],
    );
    return { ...entry, ...(Object.fromEntries(paths) as Partial<T>) };
  };
  for (const [name, entry] of named<ClusterEntry>(file, given, 'clusters', 'cluster')) {
    if (typeof entry.server !== 'string') throw unusable(`${file}: cluster "${name}" has no server`);
    if (!config.clusters.has(name)) config.clusters.set(name, absolute(entry, 'certificate-authority'));
  }
  for (const [name, entry] of named<UserEntry>(file, given, 'users', 'user')) {
    if (config.users.has(name)) continue;
    const { exec } = entry;
    const user = absolute(entry, 'tokenFile', 'client-certificate', 'client-key');
    // A name without a slash is looked for on PATH.
    const found = exec?.command?.includes('/') ? { exec: absolute(exec, 'command') } : {};
    config.users.set(name, { ...user, ...found });
  }
  for (const [name, entry] of named<ContextEntry>(file, given, 'contexts', 'context')) {
    if (!config.contexts.has(name)) config.contexts.set(name, entry);
  }
  const current = given['current-context'];
  if (typeof current === 'string' && current !== '') config.current ??= current;
}

function named<T>(
  file: string,
  given: Record<string, unknown>,
  list: string,
  field: string,
): [name: string, entry: T][] {
  const entries = given[list] ?? [];
  if (!Array.isArray(entries)) throw unusable(`${file}: "${list}" must be a list`);
  return entries.map((one: Record<string, unknown> | null): [string, T] => {
    const name = one?.['name'];
    if (typeof name !== 'string') throw unusable(`${file}: an entry of "${list}" has no name`);
    return [name, (one![field] ?? {}) as T];
  });
}

function accessOfPod(): Access {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = process.env;
  if (!host || !port) {
    throw unusable(
      `${account} is there, but KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: where is the API server?`,
    );
  }
  const namespaceFile = join(account, 'namespace');
  return {
    cluster: {
      server: `https://${isIPv6(host) ? `[${host}]` : host}:${port}`,
      'certificate-authority': join(account, 'ca.crt'),
    },
    user: { tokenFile: join(account, 'token') },
    namespace: existsSync(namespaceFile) ? readFileSync(namespaceFile, 'utf8').trim() : 'default',
  };
}

function unusable(message: string, cause?: unknown): AtollError {
  return new AtollError('ClusterUnavailable', message, cause === undefined ? {} : { cause });
}
