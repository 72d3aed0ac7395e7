/** What every benchmark needs: its own processes, each ended with it, and sites to measure. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startSite, type Site } from '../../test/e2e/site.ts';
import type { Closing } from '../../test/support/closing.ts';
import { startMosquitto, type MosquittoServer } from '../../test/support/mosquitto.ts';
import { startNats, type NatsServer } from '../../test/support/nats.ts';
import { rosEnvironment } from '../../test/support/ros.ts';

export type HandlerName = 'echo' | 'count' | 'publish' | 'scan' | 'forward';

export interface Bench {
  readonly closing: Closing;
  /** Not the site's own: the CPU of a broker must count for no contender. */
  nats(): Promise<NatsServer>;
  mosquitto(): Promise<MosquittoServer>;
  /** ROS in a domain of its own: what is started after it has this environment, which is the caller's to add to. */
  ros(): Promise<NodeJS.ProcessEnv>;
  site(...args: string[]): Promise<Site>;
  /** Deploys a handler of bench/handlers and waits until it answers. */
  deploy(
    site: Site,
    name: string,
    handler: HandlerName,
    spec?: Readonly<Record<string, unknown>>,
  ): Promise<void>;
  /** A file of bench/baselines, when it has told on its first line that it is ready. */
  baseline<Told = unknown>(file: string, ...args: string[]): Promise<Baseline<Told>>;
  /** Any other, likewise. */
  program<Told = unknown>(command: string, args: readonly string[]): Promise<Baseline<Told>>;
}

export interface Baseline<Told> {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly told: Told;
}

const folder = join(import.meta.dirname, '..');

/** Runs the benchmark and ends what it started, also when it fails or is interrupted. */
export async function bench(run: (bench: Bench) => Promise<void>): Promise<void> {
  const closes: (() => Promise<void>)[] = [];
  const closing: Closing = (close) => closes.push(close);
  const closeAll = async (): Promise<void> => {
    for (let close = closes.pop(); close; close = closes.pop()) await close();
  };
  process.once('SIGINT', () => void closeAll().finally(() => process.exit(130)));
  process.once('SIGTERM', () => void closeAll().finally(() => process.exit(143)));
  let env = process.env;
  async function program<Told>(command: string, args: readonly string[]): Promise<Baseline<Told>> {
    const child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
    closing(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await once(child, 'exit');
    });
    const told = JSON.parse(await firstLine(child)) as Told;
    return { child, pid: child.pid ?? 0, told };
  }
  try {
    await run({
      closing,
      program,
      nats: () => startNats({ closing }),
      mosquitto: () =>
        startMosquitto({
          closing,
          // Its default of 20 would be what is measured; the handshakes of a thousand are its own limit.
          config: 'max_inflight_messages 1000',
        }),
      site: (...args) => startSite({ args: ['--port', '0', ...args], env, closing }),
      async deploy(site, name, handler, spec = {}) {
        const code = await readFile(join(folder, 'handlers', handler, 'index.ts'), 'utf8');
        await site.deploy({ name, code, spec });
      },
      baseline<Told>(file: string, ...args: string[]): Promise<Baseline<Told>> {
        const command = file.endsWith('.py') ? 'python3' : process.execPath;
        return program<Told>(command, [join(folder, 'baselines', file), ...args]);
      },
      ros: async () => (env = await rosEnvironment({ closing })),
    });
  } finally {
    await closeAll();
  }
}

export async function firstLine(child: ChildProcess): Promise<string> {
  let text = '';
  const ended = once(child, 'exit').then(() => {
    throw new Error(`${child.spawnargs.join(' ')} ended before it was ready`);
  });
  ended.catch(() => {});
  while (!text.includes('\n')) {
    const [chunk] = (await Promise.race([once(child.stdout!, 'data'), ended])) as [Buffer];
    text += chunk.toString();
  }
  return text;
}
