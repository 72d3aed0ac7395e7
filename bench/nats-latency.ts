/** How much later does a NATS request get its answer? One at a time, against a responder with the handler inline. */
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare, percentile, type Contender } from './frame/rounds.ts';

const count = scaled(2_000, { least: 20 });
const payload = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 }, tags: ['a', 'b'] });

await bench(async ({ nats: startNats, site: startSite, deploy, baseline }) => {
  const server = await startNats();
  const nats = await server.connect();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'echo', 'echo', {
    concurrency: 64,
    triggers: [{ name: 'requests', nats: { subject: 'bench.atoll' } }],
  });
  const inline = await baseline('nats.ts', server.url, 'bench.inline', 'echo', 'reply');
  const copy = await baseline('nats.ts', server.url, 'bench.copy', 'echo', 'reply');

  const contender = (name: string, subject: string, pid: number): Contender => ({
    name,
    pids: () => [pid],
    async round() {
      const latencies: number[] = [];
      for (let sent = 0; sent < count; sent++) {
        const started = performance.now();
        const { headers, data } = await nats.request(subject, payload, { timeout: 30_000 });
        latencies.push((performance.now() - started) * 1000);
        if (headers?.hasError || data.length !== payload.length) throw new Error(`${subject}: no answer`);
      }
      latencies.sort((a, b) => a - b);
      return {
        events: count,
        figures: { 'p50 µs': percentile(latencies, 0.5), 'p99 µs': percentile(latencies, 0.99) },
      };
    },
  });

  await report(
    await compare({
      name: 'nats-latency',
      text: `NATS requests, one at a time, ${count} each round.`,
      event: 'request',
      parts: { 'nats-server': server.pid },
      contenders: [
        contender('inline responder', 'bench.inline', inline.pid),
        contender('an identical copy', 'bench.copy', copy.pid),
        contender('Atoll', 'bench.atoll', site.info.pid),
      ],
    }),
  );
});
