/** How late is a timeout told? 50 invocations at a time that never end, against setTimeout in a bare process; never early. */
import { join } from 'node:path';
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { invoke, poolOver } from './frame/pool.ts';
import { report } from './frame/report.ts';
import { compare, percentile, type Round } from './frame/rounds.ts';

const atOnce = scaled(50, { least: 5 });
const timeoutMs = 1_000;
/** They begin within this, so that each has a deadline of its own. */
const spreadMs = 500;

/** Milliseconds after the limit, of `atOnce` that `wait` for it. */
async function lateness(wait: () => Promise<void>): Promise<Round> {
  const late = await Promise.all(
    Array.from({ length: atOnce }, async (_, index) => {
      await new Promise((resolve) => setTimeout(resolve, (index * spreadMs) / atOnce));
      const started = performance.now();
      await wait();
      return performance.now() - started - timeoutMs;
    }),
  );
  late.sort((a, b) => a - b);
  return {
    figures: {
      'p50 ms': percentile(late, 0.5),
      'p99 ms': percentile(late, 0.99),
      'least ms': late[0] ?? NaN,
    },
  };
}

await bench(async ({ closing }) => {
  const pool = poolOver(join(import.meta.dirname, '..', 'test', 'handlers', 'never-returns'), {
    timeoutMs,
    concurrency: atOnce,
    // The neighbours are to time out too, not to be killed with the first.
    graceMs: 10_000,
  });
  closing(() => pool.drain(0));
  await pool.start();

  async function timedOut(): Promise<void> {
    const outcome = await invoke(pool, '{}', timeoutMs);
    if (outcome.kind !== 'timedOut') throw new Error(`not timed out but ${JSON.stringify(outcome)}`);
  }

  const timer = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, timeoutMs));
  await report(
    await compare({
      name: 'timeout-lateness',
      text: `Timeouts of ${timeoutMs} ms, ${atOnce} within ${spreadMs} ms each round: milliseconds after the limit.`,
      event: 'timeout',
      contenders: [
        { name: 'setTimeout', round: () => lateness(timer) },
        { name: 'the same again', round: () => lateness(timer) },
        {
          name: 'Atoll',
          async round() {
            const round = await lateness(timedOut);
            // The process was given up with the first; the next round begins when its successor is there.
            while (!pool.state.ready) await new Promise((resolve) => setTimeout(resolve, 50));
            return round;
          },
        },
      ],
    }),
  );
});
