/** What does isolation cost a NATS request? 64 requests in flight against the nats trigger and a raw subscription. */
import type { NatsConnection } from '@nats-io/transport-node';
import { compare, cpuSeconds, report, type Sample } from './rounds.ts';
import { withBench } from './site.ts';

const inFlight = 64;
const requestsPerRound = Number(process.env['BENCH_REQUESTS'] ?? 20_000);
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 6);
const payload = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 }, tags: ['a', 'b'] });

async function requests(nats: NatsConnection, subject: string, pid: number): Promise<Sample> {
  let left = requestsPerRound;
  const cpu = await cpuSeconds(pid);
  const started = performance.now();
  await Promise.all(
    Array.from({ length: inFlight }, async () => {
      while (left-- > 0) {
        const reply = await nats.request(subject, payload, { timeout: 30_000 });
        if (reply.headers?.hasError || reply.data.length === 0)
          throw new Error(`${subject}: ${reply.string()}`);
      }
    }),
  );
  const seconds = (performance.now() - started) / 1000;
  const used = (await cpuSeconds(pid)) - cpu;
  return { 'requests/s': requestsPerRound / seconds, 'CPU µs/request': (used / requestsPerRound) * 1e6 };
}

await withBench(['bench.raw', 'bench.copy'], async ({ site, sitePid, baselinePid }) => {
  const { nats } = site;
  const summaries = await compare(
    [
      { name: 'raw subscription', round: () => requests(nats, 'bench.raw', baselinePid) },
      { name: 'the same again (noise)', round: () => requests(nats, 'bench.copy', baselinePid) },
      { name: 'nats trigger', round: () => requests(nats, 'bench.atoll', sitePid) },
    ],
    rounds,
  );
  report(`NATS requests, ${inFlight} in flight, ${rounds} rounds of ${requestsPerRound}`, summaries);
});
