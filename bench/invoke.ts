/** How long does one invocation take through the gateway? One by one, against a raw HTTP server with the handler inline. */
import { Pool } from 'undici';
import { compare, percentile, report, type Sample } from './rounds.ts';
import { withBench } from './site.ts';

const requestsPerRound = Number(process.env['BENCH_REQUESTS'] ?? 2_000);
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 6);
const payload = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 } });

async function requests(pool: Pool, path: string): Promise<Sample> {
  const latencies: number[] = [];
  for (let sent = 0; sent < requestsPerRound; sent++) {
    const started = performance.now();
    const { statusCode, body } = await pool.request({ method: 'POST', path, body: payload });
    const answer = await body.text();
    latencies.push(performance.now() - started);
    if (statusCode !== 200 || answer !== payload) throw new Error(`${path}: ${statusCode} ${answer}`);
  }
  return { 'p50 ms': percentile(latencies, 0.5), 'p99 ms': percentile(latencies, 0.99) };
}

await withBench([], async ({ site, baselineUrl }) => {
  const raw = new Pool(baselineUrl, { connections: 1 });
  const copy = new Pool(baselineUrl, { connections: 1 });
  const gateway = new Pool(site.url, { connections: 1 });
  const summaries = await compare(
    [
      { name: 'raw HTTP server', round: () => requests(raw, '/') },
      { name: 'the same again (noise)', round: () => requests(copy, '/') },
      {
        name: "Lambda's Invoke",
        round: () => requests(gateway, '/2015-03-31/functions/bench-echo/invocations'),
      },
    ],
    rounds,
  );
  report(`Invocations one by one, ${rounds} rounds of ${requestsPerRound}`, summaries);
  await Promise.all([raw.close(), copy.close(), gateway.close()]);
});
