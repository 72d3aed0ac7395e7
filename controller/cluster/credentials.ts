/** What the API server is shown of us: tokens, certificates and what a plug-in gives, read anew whenever they are asked for. */
import { readFile } from 'node:fs/promises';
import { AtollError } from '../../runtime/errors.ts';
import { runExecPlugin, type ExecCredential } from './exec-credential.ts';
import type { Access } from './kubeconfig.ts';

export interface Credentials {
  /** Names are in lower case. */
  readonly headers: Record<string, string | string[]>;
  readonly tls: TlsOptions;
}

/** PEM; as `node:tls` takes it. */
export interface TlsOptions {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
}

/** A plug-in's answer is old this long before it says so: a request takes time to get there. */
const expiryMarginMs = 10_000;

/**
 * The returned function rejects with AtollError ClusterUnavailable. What a plug-in gave is kept until it expires: for a
 * new answer before, as after a 401, credentials are opened anew.
 */
export function openCredentials(access: Access): () => Promise<Credentials> {
  const { cluster, user } = access;
  let given: ExecCredential | undefined;
  let provider: (() => Promise<Record<string, string>>) | undefined;

  async function fromPlugin(): Promise<ExecCredential | undefined> {
    if (!user.exec) return undefined;
    if (!given || (given.expiresAtMs !== undefined && Date.now() > given.expiresAtMs - expiryMarginMs)) {
      given = await runExecPlugin(user.exec, cluster);
    }
    return given;
  }

  /** By what is said first, as kubectl does. */
  async function authorization(plugin: ExecCredential | undefined): Promise<Record<string, string>> {
    const { name, config = {} } = user['auth-provider'] ?? {};
    const tokenFile = user.tokenFile ?? (name === 'tokenFile' ? config['tokenFile'] : undefined);
    // A token file may end in a newline, which no header may have.
    const token = tokenFile !== undefined ? await fileText(tokenFile) : (user.token ?? plugin?.token);
    if (token !== undefined && token !== '') return { authorization: `Bearer ${token.trim()}` };
    if (user.username !== undefined) {
      const both = Buffer.from(`${user.username}:${user.password ?? ''}`).toString('base64');
      return { authorization: `Basic ${both}` };
    }
    if (name !== undefined && name !== 'tokenFile') return (provider ??= openProvider(name, config))();
    return {};
  }

  return async () => {
    const plugin = await fromPlugin();
    const ca = await pem(cluster['certificate-authority-data'], cluster['certificate-authority']);
    const cert =
      (await pem(user['client-certificate-data'], user['client-certificate'])) ?? plugin?.certificate;
    const key = (await pem(user['client-key-data'], user['client-key'])) ?? plugin?.key;
    const servername = cluster['tls-server-name'];
    return {
      headers: { ...(await authorization(plugin)), ...impersonation(access) },
      tls: {
        ...(ca !== undefined && { ca }),
        ...(cert !== undefined && { cert }),
        ...(key !== undefined && { key }),
        ...(servername !== undefined && { servername }),
        ...(cluster['insecure-skip-tls-verify'] === true && { rejectUnauthorized: false }),
      },
    };
  };
}

/** The providers of before there were plug-ins, `oidc` above all: rare, and the library that knows them is large. */
function openProvider(name: string, config: Record<string, string>): () => Promise<Record<string, string>> {
  const loaded = import('@kubernetes/client-node').then(({ KubeConfig }) => {
    const library = new KubeConfig();
    const place = { name: 'cluster', server: 'https://localhost', skipTLSVerify: false };
    library.loadFromClusterAndUser(place, { name: 'user', authProvider: { name, config: { ...config } } });
    return library;
  });
  loaded.catch(() => {});
  return async () => {
    const options: { headers?: Record<string, unknown> } = {};
    try {
      await (await loaded).applyToHTTPSOptions(options as object);
    } catch (error) {
      const why = (error as Error).message;
      throw new AtollError('ClusterUnavailable', `no credentials from auth-provider "${name}": ${why}`, {
        cause: error,
      });
    }
    const found = Object.entries(options.headers ?? {});
    if (found.length === 0) {
      throw new AtollError(
        'ClusterUnavailable',
        `auth-provider "${name}" gave no credentials; known are oidc, azure, gcp and tokenFile`,
      );
    }
    return Object.fromEntries(found.map(([header, value]) => [header.toLowerCase(), String(value).trim()]));
  };
}

/** https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/ */
function impersonation({ user }: Access): Record<string, string | string[]> {
  const extra = Object.entries(user['as-user-extra'] ?? {}).map(([name, values]) => [
    `impersonate-extra-${encodeURIComponent(name.toLowerCase())}`,
    [...values],
  ]);
  return {
    ...(user.as !== undefined && { 'impersonate-user': user.as }),
    ...(user['as-uid'] !== undefined && { 'impersonate-uid': user['as-uid'] }),
    ...(user['as-groups'] !== undefined && { 'impersonate-group': [...user['as-groups']] }),
    ...(Object.fromEntries(extra) as Record<string, string[]>),
  };
}

async function pem(data: string | undefined, file: string | undefined): Promise<string | undefined> {
  if (data !== undefined && data !== '') return Buffer.from(data, 'base64').toString('utf8');
  return file === undefined || file === '' ? undefined : fileText(file);
}

async function fileText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const why = (error as Error).message;
    throw new AtollError('ClusterUnavailable', `no credentials: ${why}`, { cause: error });
  }
}
