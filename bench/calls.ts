/** What does a nats.publish of a handler cost, through its host? Against a process with a nats.js client of its own. */
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

await bench(async ({ nats: startNats, site: startSite, deploy, baseline }) => {
  const server = await startNats();
  const nats = await server.connect();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'publish', 'publish', {
    timeoutSeconds: 300,
    triggers: [{ name: 'rounds', nats: { subject: 'bench.atoll' } }],
  });
  const inline = await baseline('publish.ts', server.url, 'bench.inline');
  const copy = await baseline('publish.ts', server.url, 'bench.copy');

  for (const { name, atATime, count } of [
    { name: 'calls-one', atATime: 1, count: scaled(5_000, { least: 20 }) },
    { name: 'calls-many', atATime: 100, count: scaled(50_000, { step: 100 }) },
  ]) {
    const contender = (shown: string, subject: string, pid: number): Contender => ({
      name: shown,
      pids: () => [pid],
      async round() {
        const started = performance.now();
        const answer = await nats.request(subject, JSON.stringify({ count, atATime }), { timeout: 300_000 });
        if (answer.json() !== count) throw new Error(`${subject} answered ${answer.string()}`);
        return { events: count, seconds: (performance.now() - started) / 1000 };
      },
    });
    await report(
      await compare({
        name,
        text: `nats.publish of 100 bytes, ${atATime} at a time until the server has them, ${count} each round.`,
        event: 'message',
        parts: { 'nats-server': server.pid },
        contenders: [
          contender('nats.js', 'bench.inline', inline.pid),
          contender('an identical copy', 'bench.copy', copy.pid),
          contender('Atoll', 'bench.atoll', site.info.pid),
        ],
      }),
    );
  }
});
