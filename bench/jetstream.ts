/**
 * What does isolation cost a JetStream message? All contenders consume the same stream, one after the other; a round
 * ends when the server has every acknowledgement. Acknowledged after the handler, one by one and in batches of 100.
 */
import { AckPolicy, jetstreamManager } from '@nats-io/jetstream';
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { eventFor, openProgress, tellEvery } from './frame/progress.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const count = scaled(20_000, { step: tellEvery });
const stream = 'BENCH';
const pollMs = 5;
/** So long without an end: messages were lost. */
const patienceMs = 120_000;

await bench(async ({ nats: startNats, site: startSite, deploy, baseline, closing }) => {
  const server = await startNats();
  const nats = await server.connect();
  const manager = await jetstreamManager(nats);
  await manager.streams.add({ name: stream, subjects: ['bench.>'] });
  const progress = await openProgress();
  closing(async () => progress.close());
  const event = eventFor(progress);

  for (const name of ['inline', 'copy']) {
    await manager.consumers.add(stream, {
      durable_name: name,
      ack_policy: AckPolicy.Explicit,
      max_ack_pending: 10_000,
    });
  }
  const inline = await baseline('jetstream.ts', server.url, stream, 'inline');
  const copy = await baseline('jetstream.ts', server.url, stream, 'copy');
  const site = await startSite('--nats', server.url);
  for (const [name, batchSize, concurrency] of [
    ['single', 1, 64],
    ['batches', 100, 8],
  ] as const) {
    const triggers = [{ name: 'events', jetstream: { stream, batchSize } }];
    await deploy(site, name, 'count', { concurrency, triggers });
  }

  const pause = async (consumer: string): Promise<void> => {
    await manager.consumers.pause(stream, consumer, new Date(Date.now() + 24 * 3600 * 1000));
  };

  /** All wait but the one whose turn it is. */
  async function contender(name: string, consumer: string, pid: number): Promise<Contender> {
    await pause(consumer);
    return {
      name,
      pids: () => [pid],
      async round() {
        const started = performance.now();
        await manager.consumers.resume(stream, consumer);
        for (;;) {
          const { num_pending, num_ack_pending } = await manager.consumers.info(stream, consumer);
          if (num_pending === 0 && num_ack_pending === 0) break;
          if (performance.now() - started > patienceMs) throw new Error(`${name}: ${num_pending} are left`);
          await new Promise((resolve) => setTimeout(resolve, pollMs));
        }
        const seconds = (performance.now() - started) / 1000;
        await pause(consumer);
        return { events: count, seconds };
      },
    };
  }

  await report(
    await compare({
      name: 'jetstream',
      text: `JetStream messages, ${count} waiting in one stream for all; concurrency 64, batches: 8 of up to 100.`,
      event: 'message',
      parts: { 'nats-server': server.pid },
      contenders: [
        await contender('inline pull consumer', 'inline', inline.pid),
        await contender('an identical copy', 'copy', copy.pid),
        await contender('Atoll', 'default_single_events', site.info.pid),
        await contender('Atoll, batches of 100', 'default_batches_events', site.info.pid),
      ],
      async prepare() {
        for (let sent = 0; sent < count; sent++) {
          nats.publish('bench.events', event);
          if (sent % 1_000 === 0) await nats.flush();
        }
        await nats.flush();
      },
      async cleanUp() {
        await manager.streams.purge(stream);
      },
    }),
  );
});
