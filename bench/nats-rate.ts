/** What does isolation cost a NATS event? Events of 100 bytes without an answer, against a subscriber with the handler inline. */
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { receiver, tellEvery } from './frame/progress.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const count = scaled(100_000, { step: tellEvery });
/** Events on their way at most, the same for all. */
const backlog = 2_000;

await bench(async ({ nats: startNats, site: startSite, deploy, baseline, closing }) => {
  const server = await startNats();
  const nats = await server.connect();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'count', 'count', {
    concurrency: 64,
    triggers: [{ name: 'events', nats: { subject: 'bench.atoll', reply: 'Never' } }],
  });
  const inline = await baseline('nats.ts', server.url, 'bench.inline', 'count');
  const copy = await baseline('nats.ts', server.url, 'bench.copy', 'count');

  const contender = (name: string, subject: string, pid: number): Promise<Contender> =>
    receiver({ name, pid, count, backlog, closing, send: (event) => nats.publish(subject, event) });

  await report(
    await compare({
      name: 'nats-rate',
      text: `NATS events, ${count} each round, at most ${backlog} on their way; concurrency 64.`,
      event: 'event',
      parts: { 'nats-server': server.pid },
      contenders: [
        await contender('inline subscriber', 'bench.inline', inline.pid),
        await contender('an identical copy', 'bench.copy', copy.pid),
        await contender('Atoll', 'bench.atoll', site.info.pid),
      ],
    }),
  );
});
