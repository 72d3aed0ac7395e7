/** A site with the echo function and the baseline processes, for every benchmark. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startSite, until, type Site } from '../examples/site.ts';
import { toolPath } from '../tools/install.ts';

export interface Bench {
  readonly site: Site;
  /** Process id of `faas up`, whose descendants run the function. */
  readonly sitePid: number;
  readonly baselinePid: number;
  readonly baselineUrl: string;
}

export async function withBench(subjects: string[], use: (bench: Bench) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'atoll-bench-'));
  // Not the site's own: its CPU time would count for one contender and not for the others.
  const natsServer = await startNatsServer(dir);
  const site = await startSite(join(dir, 'site'), { show: false, args: ['--nats', natsServer.url] });
  try {
    await site.faas('deploy', join(import.meta.dirname, 'handlers', 'echo'));
    const { pid, nats } = JSON.parse(await readFile(join(dir, 'site', 'site.json'), 'utf8')) as {
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
    natsServer.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

async function startNatsServer(dir: string): Promise<{ url: string; stop(): void }> {
  const command = await toolPath('nats-server');
  const ports = join(dir, 'ports');
  await mkdir(ports);
  // Port -1: a free one, which the server writes into a file.
  const args = [
    '-a',
    '127.0.0.1',
    '-p',
    '-1',
    '-js',
    '-sd',
    join(dir, 'jetstream'),
    '--ports_file_dir',
    ports,
  ];
  const server = spawn(command, args, { stdio: 'ignore' });
  const [file] = await until(async () => {
    const files = await readdir(ports);
    return files.length > 0 ? files : undefined;
  });
  const { nats } = JSON.parse(await readFile(join(ports, file ?? ''), 'utf8')) as { nats: string[] };
  return { url: nats[0] ?? '', stop: () => server.kill() };
}
