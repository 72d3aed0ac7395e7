/**
 * How long from a package on disk to the first answer? The host's own pool against bare `node` that imports the same
 * bundle and answers a line; and, with a spare process, from the end of a process to the next answer.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { bundle } from '../cli/build/bundle.ts';
import { temporaryFolder } from '../test/support/folder.ts';
import { bench, firstLine } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { invoke, poolOver } from './frame/pool.ts';
import { treeOf } from './frame/processes.ts';
import { report } from './frame/report.ts';
import { compare, spreadOf, type Contender } from './frame/rounds.ts';

/** Starts in one round; the median of them counts. */
const starts = scaled(5);
const payload = '{"robot":"r1"}';
const spareReadyMs = 500;

await bench(async ({ closing }) => {
  const root = join(await temporaryFolder({ closing }), 'package');
  await mkdir(root);
  const spec = { handler: 'index.handler', runtime: 'nodejs24.x' } as const;
  const { files } = await bundle(join(import.meta.dirname, 'handlers', 'echo'), spec);
  for (const { path, data } of files) await writeFile(join(root, path), data);
  const entry = files.map(({ path }) => path).find((path) => /^index\.m?js$/.test(path)) ?? '';

  async function bare(): Promise<number> {
    const started = performance.now();
    const line = join(import.meta.dirname, 'baselines', 'line.js');
    const child: ChildProcess = spawn(process.execPath, [line, pathToFileURL(join(root, entry)).href], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    child.stdin?.write(`${payload}\n`);
    await firstLine(child);
    const ms = performance.now() - started;
    child.kill('SIGKILL');
    await once(child, 'exit');
    return ms;
  }

  async function pooled(): Promise<number> {
    const started = performance.now();
    const pool = poolOver(root);
    await pool.start();
    const { kind } = await invoke(pool, payload);
    const ms = performance.now() - started;
    if (kind !== 'returned') throw new Error(`not answered but ${kind}`);
    await pool.drain(0);
    return ms;
  }

  const rounds = (name: string, once: () => Promise<number>): Contender => ({
    name,
    async round() {
      const times: number[] = [];
      for (let start = 0; start < starts; start++) times.push(await once());
      return { figures: { 'ms to the first answer': spreadOf(times).median } };
    },
  });

  const withPid = join(root, '..', 'with-pid');
  await mkdir(withPid);
  await writeFile(join(withPid, 'index.mjs'), 'export const handler = async () => process.pid;\n');
  const spared = poolOver(withPid, { spareProcesses: 1 });
  closing(() => spared.drain(0));
  await spared.start();

  async function spare(): Promise<number> {
    // Both are there, and the second has had time to get ready.
    while (treeOf(process.pid).length < 3) await pause(20);
    await pause(spareReadyMs);
    const first = await invoke(spared, payload);
    if (first.kind !== 'returned') throw new Error(`not answered but ${first.kind}`);
    const pid = Number(Buffer.from(first.result.data).toString());
    process.kill(pid, 'SIGKILL');
    const started = performance.now();
    // Until the pool has heard of it, invocations still go to the one that is gone.
    for (;;) {
      const { kind } = await invoke(spared, payload);
      if (kind === 'returned') return performance.now() - started;
    }
  }

  await report(
    await compare({
      name: 'cold-start',
      text: `Package on disk to first answer, the median of ${starts} starts each round.`,
      event: 'start',
      contenders: [
        rounds('bare node', bare),
        rounds('the same again', bare),
        rounds('Atoll', pooled),
        rounds('Atoll, a spare takes over', spare),
      ],
    }),
  );
});
