/** One replica of a cluster's controller in this process: composes the real parts, works while it holds the lease. */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { openNats } from '../runtime/clients/nats.ts';
import { openDeadLetters } from '../runtime/dead-letters.ts';
import { AtollError, faultOf } from '../runtime/errors.ts';
import type { Log } from '../runtime/log.ts';
import type { Backend } from './backends/backend.ts';
import type { OperatorKeys } from './broker/account-keys.ts';
import { keepAccounts } from './broker/accounts.ts';
import { startSweep } from './broker/sweep.ts';
import { openCluster, type Cluster } from './cluster/client.ts';
import { openEvents } from './cluster/events.ts';
import type { ControllerConfig } from './config.ts';
import { openControllerMetrics } from './engine/metrics.ts';
import { transitionsOf } from './function/transitions.ts';
import { serveHealth } from './health.ts';
import { holdLease, type Lease, type LeaseTimings } from './lease.ts';
import { startController } from './start.ts';
import { openKubernetesStore } from './stores/kubernetes.ts';

export interface ReplicaOptions {
  readonly config: ControllerConfig;
  /** Whatever it writes goes through the cluster that it is given, which refuses once the lease is lost. */
  readonly openBackend: (cluster: Cluster, config: ControllerConfig, log: Log) => Promise<Backend>;
  /** With them each namespace has a NATS account of its own, at `config.nats`. */
  readonly accounts?: OperatorKeys;
  readonly log: Log;
  readonly leaseTimings?: Partial<LeaseTimings>;
}

export interface Replica {
  /** Of /healthz, /readyz and /metrics. */
  readonly url: string;
  readonly leads: boolean;
  /** Ends what is being reconciled and gives the lease to another. What runs in the cluster goes on running. */
  stop(): Promise<void>;
}

/** Rejects when the configuration leads to no cluster; an API server that is away is waited for. */
export async function startReplica(options: ReplicaOptions): Promise<Replica> {
  const { config, log } = options;
  const stops: (() => Promise<void>)[] = [];
  const stopAll = async (): Promise<void> => {
    for (let stop = stops.pop(); stop !== undefined; stop = stops.pop()) await stop();
  };
  try {
    const cluster = await openCluster({
      ...(config.kubeconfig !== undefined && { kubeconfig: config.kubeconfig }),
      userAgent: 'atoll-controller',
    });
    stops.push(() => cluster.close());
    // Two of one host name, as with hostNetwork, must not take each other for themselves.
    const instance = hostname();
    const holder = `${instance}_${randomUUID().slice(0, 8)}`;
    const role: { lease?: Lease } = {};
    const guarded = cluster.guarded(() => {
      if (!role.lease) throw new AtollError('LeaseLost', 'this controller has not asked for its lease yet');
      role.lease.mayWrite();
    });
    const metrics = openControllerMetrics();
    let synced = false;
    const health = await serveHealth({
      ...config.listen,
      registry: metrics.registry,
      waitsFor: () => (synced ? undefined : 'the Functions have not been listed yet'),
    });
    stops.push(() => health.close());

    const store = openKubernetesStore({
      cluster: guarded,
      ...(config.namespaces && { namespaces: config.namespaces }),
      log,
    });
    stops.push(() => store.close());
    const backend = await options.openBackend(guarded, config, log);
    stops.push(() => backend.close());
    const events = openEvents({ cluster: guarded, instance, log });
    const site = config.site;
    const { nats, mqtt } = config;
    const link =
      nats &&
      !options.accounts &&
      openNats(
        {
          url: nats.url,
          ...(nats.credentialsFile !== undefined && { credentialsFile: nats.credentialsFile }),
          ...(nats.tls && { tls: nats.tls }),
        },
        { name: `atoll ${site} controller`, site, log },
      );
    if (link) stops.push(() => link.close());

    const closing = new AbortController();
    const syncing = store.synced(closing.signal).then(
      () => (synced = true),
      () => false,
    );
    stops.push(async () => {
      closing.abort();
      await syncing;
    });

    /** What only the leader does. Resolves with the way to end it. */
    async function lead(): Promise<() => Promise<void>> {
      await store.synced(closing.signal);
      const id = nats && (await clusterId(cluster, log));
      const controller = await startController({
        store,
        backend,
        log,
        concurrency: config.concurrency,
        metrics,
        lookFirst: false,
        onStatus(object, status) {
          for (const transition of transitionsOf(object.status, status)) events.tell(object, transition);
        },
      });
      const owner = { id: `cluster-${id}`, place: `the cluster at ${cluster.server}` };
      const accounts =
        nats &&
        options.accounts &&
        id !== undefined &&
        keepAccounts({ keys: options.accounts, nats, store, site, owner, log });
      const sweep =
        link &&
        id !== undefined &&
        startSweep({
          store,
          link,
          deadLetters: openDeadLetters(link, { site, log }),
          site,
          owner,
          ...(mqtt && {
            mqtt: {
              url: mqtt.url,
              ...(mqtt.credentialsFile !== undefined && { credentialsFile: mqtt.credentialsFile }),
              ...(mqtt.tls && { tls: mqtt.tls }),
            },
          }),
          log,
        });
      return async () => {
        if (accounts) await accounts.stop();
        if (sweep) await sweep.stop();
        await controller.stop();
        await events.settled();
      };
    }

    /** One change of role at a time, in the order in which they came. */
    let leading: (() => Promise<void>) | undefined;
    let changing: Promise<void> = Promise.resolve();
    const inTurn = (work: () => Promise<void>): void => {
      changing = changing.then(work).catch((error: unknown) => {
        if (!closing.signal.aborted)
          log.error({ error: faultOf(error).message }, 'the role could not be changed');
      });
    };
    const end = async (): Promise<void> => {
      metrics.leading(false);
      await leading?.();
      leading = undefined;
    };

    const lease = (role.lease = holdLease({
      cluster,
      namespace: config.lease.namespace ?? cluster.namespace,
      name: config.lease.name,
      holder,
      log,
      ...(options.leaseTimings && { timings: options.leaseTimings }),
      onHeld() {
        inTurn(async () => {
          if (!lease.held) return;
          log.info({ holder }, 'this controller leads');
          metrics.leading(true);
          leading = await lead();
        });
      },
      onLost(why) {
        log.warn({ holder, why }, 'this controller does not lead any more');
        inTurn(end);
      },
    }));
    stops.push(async () => {
      closing.abort();
      inTurn(end);
      await changing;
      await lease.release();
    });

    return {
      url: health.url,
      get leads() {
        return lease.held;
      },
      stop: stopAll,
    };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

/** By convention: the namespace lives as long as the cluster does. Undefined: it may not be asked. */
async function clusterId(cluster: Cluster, log: Log): Promise<string | undefined> {
  const path = '/api/v1/namespaces/kube-system';
  try {
    return (await cluster.request<{ metadata: { uid: string } }>('GET', path)).metadata.uid;
  } catch (error) {
    log.error(
      { error: faultOf(error).message },
      'no sweep of the broker: the controller needs the right to get the namespace kube-system, whose uid tells clusters apart',
    );
    return undefined;
  }
}
