/** Kubernetes' own schemas, of each version that Atoll is made for, by `kubernetes-validate --strict`. */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { temporaryFolder } from './folder.ts';
import { requireTool } from './requirement.ts';

export const kubernetesVersions = ['1.30', '1.31', '1.32', '1.33', '1.34', '1.35', '1.36', '1.37'] as const;

/** Of kinds that are other projects' or our own Kubernetes has no schema. */
const foreign = /^(atoll\.dev|keda\.sh|monitoring\.coreos\.com|gateway\.networking\.k8s\.io)\//;

export interface Verdicts {
  /** How many times an object was taken by a version. */
  readonly taken: number;
  /** What it said of each object that a version does not take. */
  readonly refused: readonly string[];
  /** Those that have a schema. */
  readonly judged: number;
}

export async function judgedBySchemas(
  objects: readonly { readonly apiVersion: string }[],
): Promise<Verdicts> {
  const judged = objects.filter(({ apiVersion }) => !foreign.test(apiVersion));
  const file = join(await temporaryFolder(), 'objects.yaml');
  await writeFile(file, judged.map((object) => JSON.stringify(object)).join('\n---\n'));
  const program = await requireTool('kubernetes-validate');
  const versions = kubernetesVersions.flatMap((version) => ['--kubernetes-version', version]);
  const { stdout } = await promisify(execFile)(program, ['--strict', ...versions, file], {
    maxBuffer: 64 * 1024 * 1024,
  }).catch((error: unknown) => error as { stdout?: string });
  if (stdout === undefined) throw new Error('kubernetes-validate could not be run');
  const lines = stdout.split('\n').filter((line) => line !== '');
  const isTaken = (line: string): boolean =>
    line.startsWith('INFO ') && line.includes(' passed for resource ');
  return {
    judged: judged.length,
    taken: lines.filter(isTaken).length,
    refused: lines.filter((line) => !isTaken(line)).map((line) => line.replace(file, '')),
  };
}
