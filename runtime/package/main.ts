/**
 * Puts one package into the cache, and ends. In a cluster it runs before the host, in a container of its own: what
 * runs user code then needs no access to the store. A failure ends it with 1, its code and message the last line of
 * stderr: what kubelet keeps of a container that failed.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { PackageConfig } from '../config.ts';
import { AtollError, faultOf } from '../errors.ts';
import { openLog } from '../log.ts';
import { openPackages } from './fetch.ts';

/** A store that is away for a moment costs less here than the backoff between two containers. */
const patienceMs = 30_000;
const retryFloorMs = 250;
const retryCeilingMs = 5_000;

const [configPath] = process.argv.slice(2);
if (configPath === undefined) {
  process.stderr.write('usage: node runtime/package/main.ts CONFIG.json\n');
  process.exit(2);
}
// Nothing to drain: the next one begins anew.
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => process.exit(1));
try {
  await fetchPatiently(JSON.parse(await readFile(configPath, 'utf8')) as PackageConfig);
} catch (error) {
  const { code, message } = faultOf(error);
  process.stderr.write(`${code}: ${message}\n`);
  process.exit(1);
}

async function fetchPatiently({ package: spec, handler, cache, s3, relay }: PackageConfig): Promise<void> {
  const packages = openPackages({ cache, ...(s3 && { s3 }), ...(relay && { relay }), log: openLog() });
  const deadline = performance.now() + patienceMs;
  for (let waitMs = retryFloorMs; ; waitMs = Math.min(retryCeilingMs, waitMs * 2)) {
    try {
      await packages.fetch(spec, handler);
      return;
    } catch (error) {
      const away = error instanceof AtollError && error.code === 'PackageUnavailable';
      if (!away || performance.now() + waitMs > deadline) throw error;
      await pause(waitMs);
    }
  }
}
