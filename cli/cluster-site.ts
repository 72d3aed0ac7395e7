/**
 * A site in a cluster: its Functions are asked of the API server, everything else of the gateway, which is reached
 * through the API server's service proxy: who can use kubectl needs no other way in.
 */
import { Readable } from 'node:stream';
import { openCluster, type Cluster } from '../controller/cluster/client.ts';
import { openKubernetesStore } from '../controller/stores/kubernetes.ts';
import { exitCodes } from './command.ts';
import { Failure } from './failure.ts';
import { Gateway, type Answer, type Send } from './gateway.ts';
import type { Site } from './site.ts';

/** As the chart installs it. */
const gatewayService = 'atoll-gateway';
const systemNamespace = (): string => process.env['FAAS_SYSTEM_NAMESPACE'] || 'atoll-system';

export async function openClusterSite(context: string | undefined): Promise<Site> {
  const cluster = await openCluster({ ...(context !== undefined && { context }), userAgent: 'faas' });
  const title = `the cluster ${cluster.server}`;
  const gateway = new Gateway(`the gateway of ${title}`, { send: throughProxy(cluster) });
  const packageUri = (namespace: string, sha256: string): Promise<string | undefined> =>
    gateway.packageUri(namespace, sha256).catch((error: unknown) => {
      // PackageNotFound is that of a store without this package.
      throw error instanceof Failure && error.code === 'NotFound' ? noStore(title) : error;
    });
  return {
    title,
    store: openKubernetesStore({ cluster }),
    gateway,
    url: undefined,
    async publish({ bytes, sha256 }, { namespace }) {
      const there = await packageUri(namespace, sha256);
      return there === undefined
        ? await gateway.upload(namespace, sha256, bytes)
        : { uri: there, uploaded: false };
    },
    find: (sha256, { namespace }) => packageUri(namespace, sha256),
  };
}

const noStore = (title: string): Failure =>
  new Failure(exitCodes.site, `${title} has no store for packages`, {
    code: 'NoPackageStore',
    advice:
      'Install the chart with s3.endpoint; a handler of one file may stand in its manifest (spec.package.inline), for kubectl or "faas apply".',
  });

export async function namespaceOfContext(context: string | undefined): Promise<string> {
  const cluster = await openCluster(context === undefined ? {} : { context });
  await cluster.close();
  return cluster.namespace;
}

function throughProxy(cluster: Cluster): Send {
  const namespace = systemNamespace();
  const services = `/api/v1/namespaces/${encodeURIComponent(namespace)}/services`;
  /** The port of the gateway's Service has the name of what it speaks; which one it is the first answer tells. */
  let schemes: readonly string[] = ['http', 'https'];
  return async (path, { method = 'GET', body, headers = {}, signal }) => {
    // The API server takes Authorization for itself.
    const token = process.env['FAAS_KEY'] || (await cluster.bearer());
    const request = {
      headers: { ...headers, ...(token !== undefined && { 'atoll-authorization': `Bearer ${token}` }) },
      body,
      signal,
    };
    let refusal: Refusal | undefined;
    for (const scheme of schemes) {
      const at = `${services}/${scheme}:${gatewayService}:${scheme}/proxy${path}`;
      const answer = await cluster.exchange(method, at, request);
      const said = answer.statusCode < 400 ? answer : await ofTheGateway(answer);
      if (!('message' in said)) {
        schemes = [scheme];
        return said;
      }
      refusal ??= said;
      // Whether the gateway is away or has no port of that name, the API server says the same.
      if (said.status !== 503) break;
    }
    throw failureOf(refusal!, namespace);
  };
}

/** Of the API server, on the way to the gateway. */
interface Refusal {
  readonly status: number;
  readonly message: string;
}

/** Errors of the API server on the way are told apart from the gateway's own: theirs are a Status. */
async function ofTheGateway({ statusCode, headers, body }: Answer): Promise<Answer | Refusal> {
  const chunks: Buffer[] = [];
  for await (const chunk of body) chunks.push(chunk as Buffer);
  const bytes = Buffer.concat(chunks);
  const message = statusIn(bytes);
  return message === undefined
    ? { statusCode, headers, body: Readable.from([bytes]) }
    : { status: statusCode, message };
}

function failureOf({ status, message }: Refusal, namespace: string): Failure {
  if (status === 404) {
    return new Failure(
      exitCodes.site,
      `Atoll is not installed in this cluster: namespace ${namespace} has no service ${gatewayService}`,
      {
        code: 'NoSite',
        advice: 'Install it with its chart, or name its namespace with $FAAS_SYSTEM_NAMESPACE.',
      },
    );
  }
  if (status === 401 || status === 403) {
    return new Failure(exitCodes.site, message, { code: 'ClusterForbidden' });
  }
  return new Failure(exitCodes.site, `the gateway cannot be reached: ${message}`, {
    code: 'SiteNotReachable',
    advice: `See "kubectl get pods -n ${namespace}".`,
  });
}

/** The message of a Kubernetes Status; undefined for anything else. */
function statusIn(bytes: Buffer): string | undefined {
  try {
    const { kind, message } = JSON.parse(bytes.toString('utf8')) as { kind?: string; message?: string };
    return kind === 'Status' ? (message ?? 'it was refused') : undefined;
  } catch {
    return undefined;
  }
}
