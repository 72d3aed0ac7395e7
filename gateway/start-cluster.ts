/** A cluster's gateway in this process: composes the real parts, and stops them in the reverse order. */
import { openPodReader } from '../controller/backends/pod-reader.ts';
import { openAccountKeys, readKeyFile } from '../controller/broker/account-keys.ts';
import { openCluster } from '../controller/cluster/client.ts';
import { openKubernetesStore } from '../controller/stores/kubernetes.ts';
import { openNats } from '../runtime/clients/nats.ts';
import { openS3 } from '../runtime/clients/s3.ts';
import { openDeadLetters } from '../runtime/dead-letters.ts';
import { openInbox } from '../runtime/inbox.ts';
import type { Log } from '../runtime/log.ts';
import { openBrokers, type Brokers } from './brokers.ts';
import type { GatewayConfig } from './config.ts';
import { openPackageCache } from './packages.ts';
import { openReviews } from './reviews.ts';
import { drainDeadline, startGateway } from './start.ts';

export interface ClusterGateway {
  readonly url: string;
  /** Takes nothing new, lets open requests end, then cuts what lasts longer than any function may. */
  stop(): Promise<void>;
}

/** Resolves when it knows the Functions and listens. Rejects with AtollError. */
export async function startClusterGateway(config: GatewayConfig, log: Log): Promise<ClusterGateway> {
  const stops: (() => Promise<void>)[] = [];
  const stopAll = async (): Promise<void> => {
    for (let stop = stops.pop(); stop !== undefined; stop = stops.pop()) await stop();
  };
  const { site, namespaces, nats, s3 } = config;
  const within = namespaces && { namespaces };
  try {
    const cluster = await openCluster({
      ...(config.kubeconfig !== undefined && { kubeconfig: config.kubeconfig }),
      userAgent: 'atoll-gateway',
    });
    stops.push(() => cluster.close());
    const store = openKubernetesStore({ cluster, ...within, log });
    stops.push(() => store.close());
    const backend = openPodReader({ cluster, namespaces, log });
    stops.push(() => backend.close());
    const brokers = nats && (await openBroker(nats, { site, log }));
    if (brokers) stops.push(() => brokers.close());
    const bucket = s3 && (await openS3(s3));
    if (bucket) stops.push(async () => bucket.close());
    const packages =
      s3 &&
      bucket &&
      (await openPackageCache({ folder: config.packages.cache, s3: bucket, bucket: s3.bucket, log }));
    await Promise.all([store.synced(), backend.untilSynced()]);
    const gateway = await startGateway({
      ...config.listen,
      ...(config.keysFile !== undefined && { keysFile: config.keysFile }),
      ...(config.tls && { tls: config.tls }),
      ...(config.allowedOrigins && { allowedOrigins: config.allowedOrigins }),
      // Also on loopback: in a Pod that is not one person's machine.
      requireKeys: true,
      reviews: openReviews((path, body) => cluster.request('POST', path, { body })),
      site,
      siteInfo: () => ({ site, ...(nats && { nats: { url: nats.url } }), ...(s3 && { s3: placeOf(s3) }) }),
      store,
      backend,
      ...(brokers && { inbox: brokers.inbox, deadLetters: brokers.deadLetters }),
      ...(packages && { packages }),
      log,
    });
    stops.push(async () => {
      await gateway.stop(await drainDeadline(store));
    });
    return { url: gateway.url, stop: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

/** The one that all share, or accounts. */
async function openBroker(
  nats: NonNullable<GatewayConfig['nats']>,
  options: { site: string; log: Log },
): Promise<Brokers> {
  if (nats.accountsFile !== undefined) {
    return openBrokers(openAccountKeys(await readKeyFile(nats.accountsFile)), nats, options);
  }
  const link = openNats(nats, { name: `atoll ${options.site} gateway`, ...options });
  return {
    inbox: openInbox(link, options),
    deadLetters: openDeadLetters(link, options),
    close: () => link.close(),
  };
}

const placeOf = ({ endpoint, region, bucket }: NonNullable<GatewayConfig['s3']>) => ({
  endpoint,
  region,
  bucket,
});
