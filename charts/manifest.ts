/**
 * The chart as one plain manifest, for those who install with `kubectl apply -f`: `node charts/manifest.ts` writes
 * dist/atoll.yaml. Further arguments are Helm's: `--set nats.url=nats://…`, `--values FILE`.
 */
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { parseAllDocuments, stringify } from 'yaml';
import { toolPath } from '../tools/install.ts';

export const chart = join(import.meta.dirname, 'atoll');
const release = 'atoll';
const namespace = 'atoll-system';

/** The namespace, then every object in the order in which it can be applied. */
export async function manifest(args: readonly string[] = []): Promise<string> {
  const helm = await toolPath('helm');
  const { stdout } = await promisify(execFile)(
    helm,
    ['template', release, chart, '--namespace', namespace, ...args],
    { maxBuffer: 64 * 1024 * 1024 },
  );
  const objects = parseAllDocuments(stdout)
    .map((document) => document.toJSON() as { metadata?: { labels?: Record<string, string> } } | null)
    .filter((object) => object !== null);
  for (const { metadata } of objects) {
    // Nobody who applies it with kubectl has a Helm that manages it.
    if (metadata?.labels) metadata.labels['app.kubernetes.io/managed-by'] = 'kubectl';
  }
  const first = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } };
  return [first, ...objects].map((object) => `---\n${stringify(object, { lineWidth: 0 })}`).join('');
}

if (import.meta.main) {
  const out = join(import.meta.dirname, '../dist/atoll.yaml');
  const text = await manifest(process.argv.slice(2));
  await mkdir(dirname(out), { recursive: true });
  await writeFile(out, text);
  console.log(out);
}
