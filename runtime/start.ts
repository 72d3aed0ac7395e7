/** Composes a host from its config: connections, server, and one RunningFunction for each entry of the list. */
import { readRuntimeConfig, type FunctionConfig, type RuntimeConfig } from './config.ts';
import { openNats } from './clients/nats.ts';
import { openDeadLetters } from './dead-letters.ts';
import { openMqttPublisher } from './destinations.ts';
import { drainGraceMs, openFunction, type RunningFunction } from './function.ts';
import { openHealth } from './health.ts';
import { openInbox } from './inbox.ts';
import type { Log } from './log.ts';
import { openMetrics } from './metrics.ts';
import { openPackages } from './package/fetch.ts';
import { openServer } from './server.ts';

export interface Host {
  /** Reads the config file again: functions come, change and go without a restart. */
  reload(): Promise<void>;
  /** Drains: takes nothing new, lets what runs end within its timeout, closes every connection. */
  stop(): Promise<void>;
}

export async function startHost(configPath: string, log: Log): Promise<Host> {
  const config = await readRuntimeConfig(configPath);
  const server = openServer(config.listen, log);
  const metrics = openMetrics();
  const health = openHealth(server, metrics);
  const connections = connect(config, log);
  const mqtt = config.mqtt && openMqttPublisher(config.mqtt, { site: config.site, log });
  const destinations = { ...(connections.nats && { nats: connections.nats }), ...(mqtt && { mqtt }) };
  const packages = openPackages({
    cache: config.packages.cache,
    ...(config.packageFolder !== undefined && { folder: config.packageFolder }),
    ...(config.s3 && { s3: config.s3 }),
    log,
  });
  const functions = new Map<string, { uid: string; running: RunningFunction }>();
  let applying = Promise.resolve();

  async function apply(list: readonly FunctionConfig[]): Promise<void> {
    const wanted = new Map(list.map((one) => [`${one.namespace}/${one.name}`, one]));
    const gone = [...functions].filter(([key, { uid }]) => wanted.get(key)?.uid !== uid);
    await Promise.all(
      gone.map(async ([key, { running }]) => {
        functions.delete(key);
        await running.close();
        const [namespace = '', name = ''] = key.split('/');
        health.removed(namespace, name);
      }),
    );
    for (const [key, one] of wanted) {
      const known = functions.get(key);
      if (known) {
        known.running.update(one);
        continue;
      }
      const running = openFunction(one, {
        site: config.site,
        packages,
        ...connections,
        ...(config.mqtt && { mqtt: config.mqtt }),
        destinations,
        server,
        metrics: metrics.of(one.namespace, one.name),
        log,
        changed: (status) => health.changed(status),
      });
      functions.set(key, { uid: one.uid, running });
    }
  }

  await apply(config.functions);
  const { address } = await server.listen();
  health.started();
  log.info({ source: 'platform', address, site: config.site }, 'host listening');

  return {
    reload() {
      applying = applying
        .then(async () => apply((await readRuntimeConfig(configPath)).functions))
        .catch((error: unknown) => log.error({ err: error }, 'config could not be read; the old one stays'));
      return applying;
    },
    async stop() {
      health.stopping();
      await applying;
      await Promise.all([...functions.values()].map(({ running }) => running.close()));
      await server.close(Date.now() + drainGraceMs);
      await Promise.all([mqtt?.close(), connections.nats?.close()]);
    },
  };
}

function connect(config: RuntimeConfig, log: Log) {
  if (!config.nats) return {};
  const nats = openNats(config.nats, { name: `atoll ${config.site} host`, site: config.site, log });
  return {
    nats,
    inbox: openInbox(nats, { site: config.site, log }),
    deadLetters: openDeadLetters(nats, { site: config.site, log }),
  };
}
