/** How long a silence goes unnoticed, and how soon another has what a dead host had: figures of docs/reference/delivery.md. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connectAsync } from 'mqtt';
import { expect, test } from 'vitest';
import { openJournal, recordModule } from '../e2e/journal.ts';
import { liveStatus, processNamed, startSite, until, type Site } from '../e2e/site.ts';
import { closeLater, type Closing } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startMosquitto } from '../support/mosquitto.ts';
import { startNats } from '../support/nats.ts';
import { missingNetwork, startNetwork } from '../support/network.ts';
import { testTimeoutMs } from './scale.ts';

/** The docs say 30 s at most; a busy machine gets more. */
const noticedMs = 90_000;
const startBroker = { nats: startNats, mqtt: startMosquitto };
type Kind = keyof typeof startBroker;

const triggers: Record<Kind, object> = {
  nats: { name: 'in', nats: { subject: 'detect' } },
  mqtt: { name: 'in', mqtt: { topic: 'detect', qos: 1 } },
};

const seconds = (sinceMs: number): number => (performance.now() - sinceMs) / 1000;

function print(what: string, after: number): void {
  process.stdout.write(`${what}: ${after.toFixed(1)} s\n`);
}

/** A site on a broker apart; `reached` is how the site calls it. */
async function listening(kind: Kind, url: string, closing: Closing): Promise<Site> {
  const site = await startSite({ closing, args: [`--${kind}`, url] });
  await site.deploy({
    name: 'listens',
    spec: { triggers: [triggers[kind]] },
    code: 'export const handler = async () => {};',
  });
  return site;
}

async function isNoticed(site: Site, reason: string): Promise<number> {
  const since = performance.now();
  await until(
    `the trigger says ${reason}`,
    async () => {
      const [trigger] = (await liveStatus(site.info.url, 'listens')).triggers ?? [];
      return (trigger?.ready === false && trigger.reason === reason) || undefined;
    },
    noticedMs,
  );
  return seconds(since);
}

const silent = [
  ['nats', 'NatsUnavailable'],
  ['mqtt', 'MqttUnavailable'],
] as const;

const noNetwork = missingNetwork();

test.concurrent.for(silent)(
  'a half-open link to %s is noticed, and the link comes back by itself',
  { timeout: testTimeoutMs },
  async ([kind, reason], { onTestFinished: closing, skip }) => {
    skip(noNetwork !== undefined, noNetwork);
    const network = startNetwork({ closing });
    const { place } = network;
    const broker = await startBroker[kind]({ closing, place });
    const site = await listening(kind, broker.url.replace(place.host, place.siteHost), closing);
    network.cut();
    print(`half-open link to ${kind}`, await isNoticed(site, reason));
    network.heal();
    await site.ready('listens');
  },
);

test.concurrent.for(silent)(
  'a %s broker that stands still is noticed, and the link comes back by itself',
  { timeout: testTimeoutMs },
  async ([kind, reason], { onTestFinished: closing }) => {
    const broker = await startBroker[kind]({ closing });
    const site = await listening(kind, broker.url, closing);
    await broker.pause();
    print(`${kind} broker that stands still`, await isNoticed(site, reason));
    broker.resume();
    await site.ready('listens');
  },
);

test.concurrent(
  'what a killed host was running comes again, and its MQTT session is taken over',
  { timeout: testTimeoutMs },
  async ({ onTestFinished: closing }) => {
    const mosquitto = await startMosquitto({ closing });
    const site = await startSite({ closing, args: ['--mqtt', mosquitto.url] });
    const nats = await site.nats();
    await (await jetstreamManager(nats)).streams.add({ name: 'DETECT', subjects: ['detect.stream'] });
    const journal = await openJournal<{ kind: string; n: number }>({ closing });
    const gate = join(await temporaryFolder({ closing }), 'gate');
    await site.deploy({
      name: 'runs',
      spec: {
        timeoutSeconds: 120,
        concurrency: 4,
        env: [journal.env],
        triggers: [
          { name: 'stream', jetstream: { stream: 'DETECT', startAt: 'All' } },
          { name: 'topic', mqtt: { topic: 'detect', qos: 1 } },
        ],
      },
      files: recordModule,
      code: `
        import { existsSync } from 'node:fs';
        import { setTimeout as pause } from 'node:timers/promises';
        import { record } from './record.ts';
        export const handler = async ({ n }, { trigger }) => {
          record({ kind: trigger.kind, n });
          if (trigger.kind === 'mqtt') return;
          while (!existsSync(${JSON.stringify(gate)})) await pause(50);
          record({ kind: 'done', n });
        };`,
    });
    const device = await connectAsync(mosquitto.url);
    closeLater(() => device.endAsync(), closing);
    await jetstream(nats).publish('detect.stream', '{"n":1}');
    const runs = (kind: string): number => journal.read().filter((entry) => entry.kind === kind).length;
    await until('the event runs', () => runs('jetstream') === 1 || undefined);

    process.kill(processNamed(site, 'runtime/main').pid, 'SIGKILL');
    const killed = performance.now();
    await device.publishAsync('detect', '{"n":2}', { qos: 1 });
    const heard = until('the message came', () => runs('mqtt') === 1 || undefined, noticedMs).then(() =>
      seconds(killed),
    );
    const again = until('the event came again', () => runs('jetstream') === 2 || undefined, noticedMs).then(
      () => seconds(killed),
    );
    print('MQTT session of a killed host', await heard);
    print('event that a killed host was running', await again);
    await writeFile(gate, '');
    await until('it ended', () => runs('done') === 1 || undefined);
    expect(runs('jetstream')).toBe(2);
  },
);
