/**
 * How much memory does an idle function take? PSS of the host and its handler processes, for one function and for 20
 * in one host, against a bare node process with the same handler.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { bundle } from '../cli/build/bundle.ts';
import { validate } from '../crds/function.ts';
import { temporaryFolder } from '../test/support/folder.ts';
import { compileCacheFolder } from '../runtime/process/compile-cache.ts';
import { bench } from './frame/bench.ts';
import { pssBytes, treeOf } from './frame/processes.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';
import { scaled } from './frame/options.ts';

const functions = scaled(20, { least: 2 });
/** What was needed for the start only is given back, or is not going to be. */
const idleMs = 2_000;
const mebibyte = 1024 * 1024;

await bench(async ({ closing }) => {
  const folder = await temporaryFolder({ closing });
  const { files } = await bundle(join(import.meta.dirname, 'handlers', 'echo'), {
    handler: 'index.handler',
    runtime: 'nodejs24.x',
  });
  const { path = '', data = '' } = files.find(({ path }) => /^index\.m?js$/.test(path)) ?? {};
  const code = Buffer.from(data as Uint8Array).toString();
  await mkdir(join(folder, 'package'));
  await writeFile(join(folder, 'package', path), code);

  /** PSS of all processes that `start` leads to, when they are idle. */
  const contender = (
    name: string,
    args: () => Promise<string[]>,
    ready?: () => Promise<void>,
  ): Contender => ({
    name,
    async round() {
      const child = spawn(process.execPath, await args(), {
        // As the backend starts a host: what it has compiled it need not compile again.
        env: { ...process.env, NODE_COMPILE_CACHE: compileCacheFolder() },
        stdio: ['pipe', 'pipe', 'inherit'],
        detached: true,
      });
      child.stdout.resume();
      try {
        await (ready?.() ?? pause(500));
        await pause(idleMs);
        return { figures: { 'PSS MiB': pssBytes(treeOf(child.pid ?? 0)) / mebibyte } };
      } finally {
        child.kill('SIGTERM');
        await once(child, 'exit');
      }
    },
  });

  const socket = join(folder, 'host.sock');
  const host = (count: number): Contender =>
    contender(
      `Atoll, ${count} function${count > 1 ? 's' : ''}`,
      async () => {
        const config = join(folder, 'host.json');
        await writeFile(config, JSON.stringify(configOf(count)), { mode: 0o600 });
        return [join(import.meta.dirname, '..', 'runtime', 'main.ts'), config];
      },
      () => ready(socket),
    );

  const configOf = (count: number): object => ({
    site: 'local',
    listen: { path: socket },
    packages: { cache: join(folder, 'cache') },
    functions: Array.from({ length: count }, (_, index) => {
      const verdict = validate({
        apiVersion: 'atoll.dev/v1alpha1',
        kind: 'Function',
        metadata: { name: `echo${index}` },
        spec: { package: { inline: code } },
      });
      if (!verdict.ok) throw new Error(JSON.stringify(verdict.problems));
      const { name } = verdict.object.metadata;
      return { namespace: 'default', name, uid: name, generation: 1, spec: verdict.object.spec, env: [] };
    }),
  });

  const line = join(import.meta.dirname, 'baselines', 'line.js');
  const bare = async (): Promise<string[]> => [line, pathToFileURL(join(folder, 'package', path)).href];
  const answer = await compare({
    name: 'memory',
    text: `Memory of idle functions: the host and all its handler processes, ${idleMs / 1000} s after the start.`,
    event: 'start',
    contenders: [contender('bare node', bare), contender('the same again', bare), host(1), host(functions)],
  });
  const [first, , one, many] = answer.rows.map(({ figures }) => figures['PSS MiB']?.value.median ?? NaN);
  const further = ((many ?? NaN) - (one ?? NaN)) / (functions - 1);
  await report(answer, [
    `each function after the first: ${further.toFixed(1)} MiB, × ${(further / (first ?? NaN)).toFixed(2)} of bare node`,
  ]);
});

/** Every function answers. */
async function ready(socketPath: string): Promise<void> {
  for (;;) {
    const status = await new Promise<number>((resolve) => {
      get({ socketPath, path: '/readyz' }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      }).on('error', () => resolve(0));
    });
    if (status === 200) return;
    await pause(50);
  }
}
