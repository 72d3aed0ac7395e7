/** A site with the echo function and the baseline processes, for every benchmark. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startSite, type Site } from '../examples/site.ts';

export interface Bench {
  readonly site: Site;
  /** Process id of `faas up`, whose descendants run the function. */
  readonly sitePid: number;
  readonly baselinePid: number;
  readonly baselineUrl: string;
}

export async function withBench(subjects: string[], use: (bench: Bench) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'atoll-bench-'));
  const site = await startSite(dir, { show: false });
  try {
    await site.faas('deploy', join(import.meta.dirname, 'handlers', 'echo'));
    const { pid, nats } = JSON.parse(await readFile(join(dir, 'site.json'), 'utf8')) as {
      pid: number;
      nats: { url: string };
    };
    const baseline = spawn(
      process.execPath,
      [join(import.meta.dirname, 'baseline.ts'), nats.url, ...subjects],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    try {
      const [line] = (await once(baseline.stdout, 'data')) as [Buffer];
      const { url } = JSON.parse(line.toString()) as { url: string };
      await use({ site, sitePid: pid, baselinePid: baseline.pid ?? 0, baselineUrl: url });
    } finally {
      baseline.kill();
    }
  } finally {
    await site.stop();
    await rm(dir, { recursive: true, force: true });
  }
}
