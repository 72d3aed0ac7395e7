/** The gateway of a cluster: composes the API server's watches, NATS, S3 and the doors, and stops them in reverse. */
import { openPodReader } from '../controller/backends/pod-reader.ts';
import { openCluster } from '../controller/cluster/client.ts';
import { openKubernetesStore } from '../controller/stores/kubernetes.ts';
import { openNats } from '../runtime/clients/nats.ts';
import { openDeadLetters } from '../runtime/dead-letters.ts';
import { openInbox } from '../runtime/inbox.ts';
import type { Log } from '../runtime/log.ts';
import type { GatewayConfig } from './config.ts';
import { openPackageCache } from './packages.ts';
import { openReviews } from './reviews.ts';
import { startGateway, type Gateway } from './start.ts';

/** On top of the longest timeout of a function: then open requests are cut. */
const drainGraceMs = 5_000;

export interface ClusterGateway {
  readonly url: string;
  /** Takes nothing new and lets what runs end, for as long as its functions may take. */
  stop(): Promise<void>;
}

/** Resolves when it listens; everything started until then is stopped when it rejects, or when the signal aborts. */
export async function startClusterGateway(
  config: GatewayConfig,
  options: { readonly log: Log; readonly signal?: AbortSignal; readonly kubeconfig?: string },
): Promise<ClusterGateway> {
  const { log, signal, kubeconfig } = options;
  const { site, namespaces } = config;
  const stops: (() => Promise<void>)[] = [];
  const stopAll = async (): Promise<void> => {
    for (let stop = stops.pop(); stop !== undefined; stop = stops.pop()) await stop();
  };
  try {
    const cluster = await openCluster({
      userAgent: 'atoll-gateway',
      ...(kubeconfig !== undefined && { kubeconfig }),
    });
    stops.push(() => cluster.close());
    const store = openKubernetesStore({ cluster, log, ...(namespaces && { namespaces }) });
    stops.push(() => store.close());
    const pods = openPodReader({ cluster, namespaces, log });
    stops.push(() => pods.close());
    const link = config.nats && openNats(config.nats, { name: `atoll ${site} gateway`, site, log });
    if (link) stops.push(() => link.close());
    const { s3, packages } = config;
    const { openS3 } = await import('../runtime/clients/s3.ts');
    const bucket = s3 && (await openS3(s3));
    if (bucket) stops.push(async () => bucket.close());
    const cache = s3 && bucket && packages && { ...packages, s3: bucket, bucket: s3.bucket, log };
    await Promise.all([store.synced(signal), pods.synced(signal)]);
    const gateway: Gateway = await startGateway({
      host: config.listen.host ?? '0.0.0.0',
      port: config.listen.port,
      requireKeys: true,
      ...(config.keysFile !== undefined && { keysFile: config.keysFile }),
      ...(config.tls && { tls: config.tls }),
      ...(config.allowedOrigins && { allowedOrigins: config.allowedOrigins }),
      reviews: openReviews((path, body) => cluster.request('POST', path, { body })),
      site,
      siteInfo: () => ({
        site,
        ...(config.nats && { nats: { url: config.nats.url } }),
        ...(s3 && { s3: { endpoint: s3.endpoint, region: s3.region, bucket: s3.bucket } }),
      }),
      store,
      backend: pods,
      ...(link && {
        inbox: openInbox(link, { site, log }),
        deadLetters: openDeadLetters(link, { site, log }),
      }),
      ...(cache && { packages: await openPackageCache(cache) }),
      log,
    });
    stops.push(async () => {
      const timeouts = (await store.list().catch(() => [])).map(({ spec }) => spec.timeoutSeconds * 1000);
      await gateway.stop(Date.now() + Math.max(0, ...timeouts) + drainGraceMs);
    });
    return { url: gateway.url, stop: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}
