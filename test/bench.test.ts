/** Every benchmark runs and gives all its figures, at counts that say nothing about speed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { Result } from '../bench/frame/report.ts';
import { temporaryFolder } from './support/folder.ts';
import { missingNodes } from './support/kubernetes-nodes.ts';
import { missing, requireTool } from './support/requirement.ts';

const folder = join(import.meta.dirname, '..', 'bench');
const benchmarks = readdirSync(folder)
  .filter((file) => file.endsWith('.ts') && !['run.ts', 'compare.ts'].includes(file))
  .map((file) => file.slice(0, -'.ts'.length));
/** What it compares with is 300 MB that the gate does not install. */
const installed = existsSync(join(folder, 'peers', 'node_modules'));
/** In CI the benchmark installs it itself, so that there is no gap. */
const natsPy = process.env['CI'] === 'true' || existsSync(join(folder, 'peers', 'python'));
/** The longest starts a cluster with a node, puts the chart in, and makes pods come and go. */
const timeoutMs = 400_000;
let results: string;

beforeAll(async () => {
  results = await temporaryFolder();
});

// Their figures do not count here, so several run at the same time.
test.concurrent.for(benchmarks)(
  'the benchmark %s runs and gives a figure for everything it compares',
  { timeout: timeoutMs },
  async (name, { skip, onTestFinished }) => {
    if (name === 'peers' && !installed)
      skip('bench/peers is not installed: "npm run bench -- peers" does it');
    await requireTool('nats-server');
    if (name === 'cluster') {
      const absent = (await missingNodes()) ?? (await missing('helm', 'versitygw'));
      if (absent !== undefined) skip(absent);
    }
    if (name === 'mqtt') await requireTool('mosquitto');
    if (['ros', 'ros-nats', 'robot'].includes(name)) await requireTool('ros');
    if (name === 'ros-nats' && !natsPy) skip('nats-py is not installed: "npm run bench -- ros-nats" does it');
    // Outside of the runner: what belongs to a test would otherwise be asked of it.
    const { VITEST: _vitest, BENCH_ONLY: _only, ...env } = process.env;
    const child = spawn(process.execPath, [join(folder, `${name}.ts`)], {
      env: { ...env, BENCH_ROUNDS: '1', BENCH_WARMUPS: '0', BENCH_SCALE: '0.001', BENCH_RESULTS: results },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    onTestFinished(() => void child.kill('SIGTERM'));
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    }
    const [code] = (await once(child, 'close')) as [number | null];
    expect(code, output).toBe(0);
    const own = readdirSync(results).filter((file) => file.startsWith(name));
    expect(own.length, output).toBeGreaterThan(0);
    for (const file of own) {
      const { rows, machine } = JSON.parse(readFileSync(join(results, file), 'utf8')) as Result;
      expect(machine.versions['node']).toBe(process.versions.node);
      expect(rows.length).toBeGreaterThan(0);
      for (const { figures } of rows) {
        expect(Object.keys(figures)).toEqual(Object.keys(rows[0]!.figures));
        for (const { value } of Object.values(figures)) expect(value.median).toEqual(expect.any(Number));
      }
    }
  },
);
