/** How many bytes go through an invocation? Payloads of 1 kB to 6 MB, there and back, against a bare node:http server. */
import { bench } from './frame/bench.ts';
import { httpLoad } from './frame/http-load.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const connections = 4;
/** Of 1 kB, 64 kB, 1 MB and 6 MB, each with how many a round sends. */
const sizes = [
  ['1kB', 1_000, scaled(4_000, { least: 20 })],
  ['64kB', 64_000, scaled(1_000, { least: 8 })],
  ['1MB', 1_000_000, scaled(100, { least: 4 })],
  ['6MB', 6_000_000, scaled(24, { least: 4 })],
] as const;

await bench(async ({ nats: startNats, site: startSite, deploy, baseline }) => {
  const server = await startNats();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'echo', 'echo', { concurrency: connections, memory: '512Mi' });
  const first = await baseline<{ port: number }>('http.ts');
  const second = await baseline<{ port: number }>('http.ts');

  for (const [name, bytes, count] of sizes) {
    const body = JSON.stringify({ data: 'x'.repeat(bytes - '{"data":""}'.length) });
    const contender = async (title: string, port: number, path: string, pid: number): Promise<Contender> => {
      const load = httpLoad({ host: '127.0.0.1', port }, { connections, path, body });
      return {
        name: title,
        pids: () => [pid],
        async round() {
          const seconds = await load.run(count);
          return { events: count, seconds, figures: { 'MB/s': (bytes * count) / seconds / 1e6 } };
        },
      };
    };
    await report(
      await compare({
        name: `payloads-${name}`,
        text: `Payloads of ${name}, ${count} each round, ${connections} connections; a payload counts once.`,
        event: 'request',
        contenders: [
          await contender('bare node:http', first.told.port, '/', first.pid),
          await contender('an identical copy', second.told.port, '/', second.pid),
          await contender(
            'Atoll, through the gateway',
            Number(new URL(site.info.url).port),
            '/2015-03-31/functions/echo/invocations',
            site.info.pid,
          ),
        ],
      }),
    );
  }
});
