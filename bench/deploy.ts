/**
 * How long from a changed line to the new code's first answer? `faas deploy` of a one-line change, step by step, as the
 * files and the log of the site tell when each was done.
 */
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LogRecord } from '../runtime/log.ts';
import { bench } from './frame/bench.ts';
import { report } from './frame/report.ts';
import { compare } from './frame/rounds.ts';

const pollMs = 2;

await bench(async ({ nats: startNats, site: startSite }) => {
  const server = await startNats();
  const site = await startSite('--nats', server.url);
  const source = join(site.work, 'versions');
  await mkdir(source, { recursive: true });
  await writeFile(
    join(source, 'function.yaml'),
    'apiVersion: atoll.dev/v1alpha1\nkind: Function\nmetadata: { name: versions }\nspec: { handler: index.handler, concurrency: 4 }\n',
  );
  let version = 0;

  async function change(): Promise<void> {
    version += 1;
    await writeFile(
      join(source, 'index.ts'),
      `export const handler = async () => ({ version: ${version} });\n`,
    );
  }

  async function answers(): Promise<number> {
    const response = await site.fetch('/2015-03-31/functions/versions/invocations', {
      method: 'POST',
      body: '{}',
    });
    const text = await response.text();
    return response.ok ? (JSON.parse(text) as { version: number }).version : 0;
  }

  /** ms since the epoch when this file was last written. */
  const written = async (path: string): Promise<number> => (await stat(path)).mtimeMs;

  async function deploy(): Promise<Record<string, number>> {
    await change();
    const started = Date.now();
    const deployed = site.faas('deploy', source, '-o', 'json').then(({ stdout }) => ({
      sha256: (JSON.parse(stdout) as { sha256: string }[])[0]?.sha256 ?? '',
      ended: Date.now(),
    }));
    let answered = 0;
    while (answered === 0) {
      if ((await answers()) === version) answered = Date.now();
      else await new Promise((resolve) => setTimeout(resolve, pollMs));
    }
    const { sha256, ended } = await deployed;
    const packed = await written(join(site.dir, 'packages', `${sha256}.tgz`));
    const object = await written(join(site.dir, 'functions', 'default', 'versions.yaml'));
    const told = await written(join(site.dir, 'run', 'host.json'));
    const inService = await timeInService(sha256);
    return {
      'ms in all': answered - started,
      'command, build, pack': packed - started,
      'object stored': object - packed,
      'host told': told - object,
      'fetch, new process': inService - told,
      'first answer': answered - inService,
      'ms until the command ends': ended - started,
    };
  }

  async function timeInService(sha256: string): Promise<number> {
    const path = join(site.dir, 'logs', 'default', 'versions.jsonl');
    for (;;) {
      const lines = (await readFile(path, 'utf8').catch(() => ''))
        .split('\n')
        .filter((line) => line.includes(sha256));
      const record = lines
        .map((line) => JSON.parse(line) as LogRecord)
        .find(({ message, packageSha256 }) => message === 'version in service' && packageSha256 === sha256);
      if (record) return Date.parse(record.time);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  await deploy();
  await report(
    await compare({
      name: 'deploy',
      text: 'Deploy of a one-line change into a running site; all in milliseconds.',
      event: 'deploy',
      contenders: [{ name: 'Atoll', round: async () => ({ figures: await deploy() }) }],
    }),
  );
});
