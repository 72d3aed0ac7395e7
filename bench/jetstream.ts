/**
 * What does isolation cost a JetStream message? Each contender consumes a subject of its own in one stream; a round
 * publishes without a pause and ends when the server has every acknowledgement. Acknowledged after the handler, one by
 * one and in batches of 100. (Consumers that were paused between their turns stood still for seconds after they were
 * resumed, the bare ones too: their rates spread from 1,500 to 159,000 a second.)
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
  const { port, close } = await openProgress();
  closing(async () => close());
  const event = eventFor(port);

  for (const name of ['inline', 'copy']) {
    await manager.consumers.add(stream, {
      durable_name: name,
      ack_policy: AckPolicy.Explicit,
      max_ack_pending: 10_000,
      filter_subject: `bench.${name}`,
    });
  }
  const inline = await baseline('jetstream.ts', server.url, stream, 'inline');
  const copy = await baseline('jetstream.ts', server.url, stream, 'copy');
  const site = await startSite('--nats', server.url);
  for (const [name, batchSize, concurrency] of [
    ['single', 1, 64],
    ['batches', 100, 8],
  ] as const) {
    const triggers = [{ name: 'events', jetstream: { stream, subject: `bench.${name}`, batchSize } }];
    await deploy(site, name, 'count', { concurrency, triggers });
  }

  const contender = (name: string, key: string, consumer: string, pid: number): Contender => ({
    name,
    pids: () => [pid],
    async round() {
      const before = await manager.consumers.info(stream, consumer);
      const started = performance.now();
      for (let sent = 0; sent < count; sent++) {
        nats.publish(`bench.${key}`, event);
        if (sent % 1_000 === 0) await nats.flush();
      }
      await nats.flush();
      for (;;) {
        const { num_pending, num_ack_pending, delivered } = await manager.consumers.info(stream, consumer);
        const seen = delivered.consumer_seq - before.delivered.consumer_seq;
        if (num_pending === 0 && num_ack_pending === 0 && seen >= count) break;
        if (performance.now() - started > patienceMs)
          throw new Error(`${name}: ${num_pending} are left, ${seen} seen`);
        await new Promise((resolve) => setTimeout(resolve, pollMs));
      }
      return { events: count, seconds: (performance.now() - started) / 1000 };
    },
  });

  await report(
    await compare({
      name: 'jetstream',
      text: `JetStream messages, ${count} each round, published without a pause; concurrency 64, batches: 8 of up to 100.`,
      event: 'message',
      parts: { 'nats-server': server.pid },
      contenders: [
        contender('inline pull consumer', 'inline', 'inline', inline.pid),
        contender('an identical copy', 'copy', 'copy', copy.pid),
        contender('Atoll', 'single', 'default_single_events', site.info.pid),
        contender('Atoll, batches of 100', 'batches', 'default_batches_events', site.info.pid),
      ],
      async cleanUp() {
        await manager.streams.purge(stream);
      },
    }),
  );
});
