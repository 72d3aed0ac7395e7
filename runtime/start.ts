/** Composes a host from its config: connections, server, and one RunningFunction for each entry of the list. */
import { setTimeout as pause } from 'node:timers/promises';
import { drainGraceMs, readRuntimeConfig, type FunctionConfig, type RuntimeConfig } from './config.ts';
import type { CallParts } from './calls/calls.ts';
import { openKvCalls } from './calls/kv.ts';
import { openNatsCalls } from './calls/nats.ts';
import { openNats } from './clients/nats.ts';
import { openRos, type RosLink } from './clients/ros.ts';
import { openDeadLetters } from './dead-letters.ts';
import { openMqttPublisher, type DestinationParts } from './destinations.ts';
import { openFunction, type RunningFunction } from './function.ts';
import { openHealth } from './health.ts';
import { openInbox } from './inbox.ts';
import type { Log } from './log.ts';
import { openMetrics } from './metrics.ts';
import { openPackages } from './package/fetch.ts';
import { openServer } from './server.ts';

export interface Host {
  /** Reads the config file again: functions come, change and go without a restart. */
  reload(): Promise<void>;
  /**
   * Takes no more events, answers callers for `goodbyeMs` more, then drains: lets what runs end within its timeout, and
   * closes every connection.
   */
  stop(): Promise<void>;
}

export async function startHost(configPath: string, log: Log): Promise<Host> {
  const config = await readRuntimeConfig(configPath);
  const server = openServer(config.listen, log);
  const metrics = openMetrics();
  const health = openHealth(server, metrics);
  const connections = connect(config, log);
  const mqtt = config.mqtt && openMqttPublisher(config.mqtt, { site: config.site, log });
  const ros = config.ros && openRos(config.ros, { log });
  const destinations = { ...(connections.nats && { nats: connections.nats }), ...(mqtt && { mqtt }) };
  const calls = callParts(config, { ...destinations, ...(ros && { ros }) });
  const packages = openPackages({
    cache: config.packages.cache,
    ...(config.packageFolder !== undefined && { folder: config.packageFolder }),
    ...(config.s3 && { s3: config.s3 }),
    log,
  });
  const functions = new Map<string, { uid: string; running: RunningFunction }>();
  let listed = config.functions;
  let reading = Promise.resolve();
  let stopped = false;

  /** Functions that still drain after they were taken off the list, by key. */
  const leaving = new Map<string, Promise<void>>();

  function apply(list: readonly FunctionConfig[]): void {
    const wanted = new Map(list.map((one) => [`${one.namespace}/${one.name}`, one]));
    for (const [key, { uid, running }] of functions) {
      if (wanted.get(key)?.uid !== uid) leave(key, running);
    }
    for (const [key, one] of wanted) {
      const known = functions.get(key);
      // Its predecessor of the same name may hold what it needs; the others do not wait for that.
      if (known) known.running.update(one);
      else if (!leaving.has(key)) functions.set(key, { uid: one.uid, running: open(one) });
    }
  }

  function leave(key: string, running: RunningFunction): void {
    functions.delete(key);
    const gone = running.close().then(() => {
      leaving.delete(key);
      const [namespace = '', name = ''] = key.split('/');
      health.removed(namespace, name);
      if (!stopped) apply(listed);
    });
    leaving.set(key, gone);
  }

  function open(one: FunctionConfig): RunningFunction {
    return openFunction(one, {
      site: config.site,
      packages,
      ...connections,
      ...(config.mqtt && { mqtt: config.mqtt }),
      ...(ros && { ros }),
      destinations,
      calls,
      server,
      metrics: metrics.of(one.namespace, one.name),
      log,
      changed: (status) => health.changed(status),
    });
  }

  apply(listed);
  const { address } = await server.listen();
  health.started();
  log.info({ source: 'platform', address, site: config.site }, 'host listening');

  return {
    reload() {
      reading = reading
        .then(async () => {
          listed = (await readRuntimeConfig(configPath)).functions;
          if (!stopped) apply(listed);
        })
        .catch((error: unknown) => log.error({ err: error }, 'config could not be read; the old one stays'));
      return reading;
    },
    async stop() {
      const { goodbyeMs = 0 } = config;
      stopped = true;
      if (goodbyeMs > 0) {
        const goodbye = pause(goodbyeMs);
        await reading;
        const leftAll = Promise.all([...functions.values()].map(({ running }) => running.leave()));
        leftAll.then(
          () => health.left(),
          // What it could not leave it closes below; that nobody waits for it must not end the host.
          (error: unknown) => log.error({ err: error }, 'the goodbye was not said to all'),
        );
        await goodbye;
      }
      health.stopping();
      await reading;
      await Promise.all([
        ...[...functions.values()].map(({ running }) => running.close()),
        ...leaving.values(),
      ]);
      await server.close(Date.now() + drainGraceMs);
      await Promise.all([mqtt?.close(), ros?.close(), connections.nats?.close()]);
    },
  };
}

/** What handlers may use is what the host has already. */
function callParts(
  { permissions }: RuntimeConfig,
  { nats: link, mqtt, ros }: DestinationParts & { ros?: RosLink },
): CallParts {
  const nats = link && openNatsCalls(link);
  return {
    ...(nats && { nats, kv: openKvCalls(nats) }),
    ...(mqtt && { mqtt }),
    ...(ros && { ros }),
    permissionsRequired: permissions === 'required',
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
