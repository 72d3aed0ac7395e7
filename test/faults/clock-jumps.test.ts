import { performance } from 'node:perf_hooks';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { openJournal, recordModule } from '../e2e/journal.ts';
import { startSite, until } from '../e2e/site.ts';
import { startClock } from './clock.ts';
import { believes, clockJumps } from './faults.ts';
import { testFault } from './fire.ts';
import { testTimeoutMs } from './scale.ts';

for (const fault of clockJumps) testFault(fault);

const timeoutMs = 6_000;
const worksMs = 4_000;
/** A deadline by the wall clock would be an hour late. */
const lateMs = 10 * timeoutMs;

test.concurrent.for(['+1h', '-1h'])(
  'a timeout is neither early nor late when the clock jumps by %s while handlers run and callers wait for a slot',
  { timeout: testTimeoutMs },
  async (offset, { onTestFinished: closing }) => {
    const clock = await startClock({ closing });
    const site = await startSite({ closing, env: clock.env });
    const journal = await openJournal<{ how: string }>({ closing });
    await site.deploy({
      name: 'waits',
      spec: {
        timeoutSeconds: timeoutMs / 1000,
        concurrency: 2,
        env: [journal.env, ...clock.variables],
        triggers: [{ name: 'web', http: { path: '/waits', methods: ['POST'] } }],
      },
      files: recordModule,
      code: `
        import { setTimeout as pause } from 'node:timers/promises';
        import { record } from './record.ts';
        export const handler = async (event, context) => {
          const how = event.body;
          record({ how });
          if (how === 'works') await pause(${worksMs});
          if (how === 'hangs') await new Promise(() => {});
          return { how, leftMs: context.getRemainingTimeInMillis(), now: Date.now() };
        };`,
    });
    const call = async (how: string) => {
      const started = performance.now();
      const answer = await site.fetch('/waits', { method: 'POST', body: how });
      const body = (await answer.json()) as { how?: string; leftMs?: number; now: number };
      return { status: answer.status, ...body, tookMs: performance.now() - started };
    };
    // Deadlines are looked at when one of them is due: that of this call is, in the middle of the next two.
    await call('ends');
    await pause(timeoutMs - worksMs);
    const [works, hangs] = [call('works'), call('hangs')];
    await until('both run', () => journal.read().length === 3 || undefined);
    const waits = call('waits');
    await clock.jump(offset);
    await believes(site);

    const worked = await works;
    expect(worked).toMatchObject({ status: 200, how: 'works' });
    // The handler's clock jumped as well.
    expect(Math.abs(worked.now - Date.now())).toBeGreaterThan(50 * 60_000);
    expect(worked.tookMs).toBeGreaterThanOrEqual(worksMs - 1);
    expect(worked.leftMs).toBeGreaterThan(0);
    expect(worked.leftMs).toBeLessThanOrEqual(timeoutMs - worksMs);
    // It had no slot until then.
    expect(await waits).toMatchObject({ status: 200, how: 'waits' });
    const hung = await hangs;
    expect(hung.status).toBe(504);
    expect(hung.tookMs).toBeGreaterThanOrEqual(timeoutMs);
    expect(hung.tookMs).toBeLessThan(lateMs);
    process.stdout.write(
      `clock ${offset}: told ${(hung.tookMs - timeoutMs).toFixed(0)} ms after the deadline\n`,
    );
  },
);
