/** Where and with what figures were taken. */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { relative } from 'node:path';
import { findTool } from '../../tools/install.ts';
import type { ToolName } from '../../tools/tools.ts';

export interface Machine {
  /** ISO 8601, when the benchmark ended. */
  readonly date: string;
  readonly command: string;
  /** Of the checkout, with `+` when files differ from it. */
  readonly commit: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly versions: Readonly<Record<string, string>>;
}

const root = new URL('../..', import.meta.url).pathname;
const require = createRequire(import.meta.url);

export async function machine(): Promise<Machine> {
  const settings = Object.entries(process.env).filter(([name]) =>
    /^BENCH_(ROUNDS|WARMUPS|SCALE)$/.test(name),
  );
  return {
    date: new Date().toISOString(),
    command: [
      ...settings.map(([name, value]) => `${name}=${value}`),
      'node',
      relative(root, process.argv[1] ?? ''),
    ].join(' '),
    commit: commit(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    versions: {
      node: process.versions.node,
      'nats-server': await versionOf('nats-server', ['--version']),
      mosquitto: await versionOf('mosquitto', ['-h']),
      'nats.js': packageVersion('@nats-io/transport-node'),
      'mqtt.js': packageVersion('mqtt'),
    },
  };
}

function commit(): string {
  const git = (...args: string[]) => spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout?.trim();
  const id = git('rev-parse', '--short', 'HEAD');
  return id ? `commit ${id}${git('status', '--porcelain', '-uno') ? '+' : ''}` : 'no git';
}

async function versionOf(tool: ToolName, args: string[]): Promise<string> {
  const path = await findTool(tool, { log: () => {} });
  if (path === undefined) return 'absent';
  const { stdout } = spawnSync(path, args, { encoding: 'utf8' });
  return /\d+\.\d+\.\d+/.exec(stdout)?.[0] ?? 'unknown';
}

function packageVersion(name: string): string {
  return (require(`${root}/node_modules/${name}/package.json`) as { version: string }).version;
}
