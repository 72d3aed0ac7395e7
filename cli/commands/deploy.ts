import { existsSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import type { FunctionObject } from '../../crds/function.ts';
import { buildPackage, type BuiltPackage, type Published } from '../build/publish.ts';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import { readManifests, type Manifest } from '../manifests.ts';
import { note, paint, print, printData, shortDigest } from '../output.ts';
import { withProgress, type Progress } from '../progress.ts';
import { waitUntilReady } from '../rollout.ts';
import { mustAnswer, openSite, type Site } from '../site.ts';
import { createMissingStreams } from '../streams.ts';
import { triggerText } from '../trigger-text.ts';

/** A host has imported a handler and opened its triggers long before, unless something is away. */
const defaultTimeoutSeconds = 60;
const manifestNames = ['function.yaml', 'function.yml', 'function.json'];

export const command = defineCommand({
  positionals: {
    dir: { type: 'string', describe: 'The folder of the handler; else the current one', completes: 'file' },
  },
  options: {
    file: {
      type: 'string',
      alias: 'f',
      value: 'FILE',
      describe: `The manifest; else ${manifestNames[0]} in DIR. Of several Functions each is built from DIR`,
    },
    wait: {
      type: 'boolean',
      default: true,
      describe: 'Wait until the new code answers; --no-wait returns when it is declared',
    },
    'dry-run': { type: 'boolean', default: false, describe: 'Build and check; upload and change nothing' },
    timeout: {
      type: 'number',
      value: 'S',
      default: defaultTimeoutSeconds,
      describe: 'Wait at most so many seconds',
    },
  },
  description:
    'The handler and what it imports become one file with its source map; native add-ons are copied. The package is named by its digest: unchanged code is not uploaded again, and an unchanged Function is not restarted. The handler is never called. If the new code cannot come to run, it ends with the reason (exit code 1) once nothing changes it any more: a handler that does not load with its stack, a pod that finds no place, no image or no quota after 10 s.',
  examples: [
    ['deploy', 'The function of the current folder'],
    ['deploy hello', 'That of the folder hello'],
    ['deploy hello -f hello/production.yaml --timeout 120', 'With another manifest'],
    ['deploy --dry-run', 'See what would be uploaded'],
  ],
  async run({ site: dir, context, namespace, dir: folder = '.', file, wait, dryRun, timeout, output }) {
    if (!(timeout > 0)) throw usageError(`--timeout is ${timeout}; it must be more than 0`);
    const source = resolve(folder);
    const manifests = await readManifests(file ?? manifestOf(source), namespace);
    const site = dryRun
      ? await openSite({ site: dir, context }).catch(() => undefined)
      : await openSite({ site: dir, context });
    if (site === undefined) return await dryBuild(manifests, source);
    if (wait && !dryRun) mustAnswer(site);
    const quiet = output === 'json' || output === 'yaml';
    const results: Deployed[] = [];
    for (const manifest of manifests) {
      const result = await withProgress(`building ${manifest.metadata.name}`, (progress) =>
        deploy(site, manifest, source, { wait, dryRun, timeoutMs: timeout * 1000, progress, quiet }),
      );
      results.push(result);
      if (!quiet) print(summary(result, site.url, dryRun));
    }
    if (output === 'json' || output === 'yaml') await printData(results, output);
  },
});

/** Without a site there is nothing to compare with: what would be uploaded is all there is to tell. */
async function dryBuild(manifests: readonly Manifest[], source: string): Promise<void> {
  for (const { metadata, spec } of manifests) {
    const { sha256, bytes } = await buildPackage(source, spec);
    print(
      `function ${metadata.name} builds: package ${shortDigest(sha256)}, ${kibibytes(bytes.byteLength)} (dry run)`,
    );
  }
}

export interface Deployed {
  readonly name: string;
  readonly namespace: string;
  readonly sha256: string;
  readonly uri: string | undefined;
  readonly bytes: number;
  readonly uploaded: boolean;
  /** False: code and manifest are what the site has already. */
  readonly changed: boolean;
  readonly generation: number | undefined;
  readonly ready: boolean;
  readonly object: Pick<FunctionObject, 'spec'>;
}

export interface DeployOptions {
  readonly wait: boolean;
  readonly dryRun: boolean;
  readonly timeoutMs: number;
  readonly progress: Progress;
  readonly quiet: boolean;
  /** See BundleOptions. */
  readonly prologue?: string;
}

/** Builds, uploads, applies and waits. Throws a Failure with the exact reason why the new code does not answer. */
export async function deploy(
  site: Site,
  manifest: Manifest,
  source: string,
  { wait, dryRun, timeoutMs, progress, quiet, prologue }: DeployOptions,
): Promise<Deployed> {
  const { store } = site;
  const { name, namespace } = manifest.metadata;
  const built = await buildPackage(source, manifest.spec, prologue === undefined ? {} : { prologue });
  if (!quiet)
    for (const warning of built.warnings) note(`${paint('yellow', 'warning', process.stderr)}: ${warning}`);
  const before = await store.get(manifest.metadata).catch(() => undefined);
  progress.update(`uploading ${name}`);
  const published = dryRun ? undefined : await site.publish(built, { namespace, name });
  const object = withPackage(manifest, built, published, before);
  if (!dryRun && site.folder?.info) await createMissingStreams(manifest, site.folder.info, site.folder.paths);
  const after = await store.put(object, { dryRun });
  const common = {
    name,
    namespace,
    sha256: built.sha256,
    uri: after.spec.package?.uri,
    bytes: built.bytes.byteLength,
    uploaded: published?.uploaded ?? false,
    changed: before?.metadata.resourceVersion !== after.metadata.resourceVersion,
    object: { spec: after.spec },
  };
  if (dryRun) return { ...common, generation: undefined, ready: false };
  const { generation } = after.metadata;
  if (!wait) return { ...common, generation, ready: false };
  progress.update(`waiting until ${name} answers`);
  await waitUntilReady(
    site,
    { namespace, name },
    { generation, sha256: built.sha256, repaired: common.uploaded && !common.changed },
    { timeoutMs, progress },
  );
  return { ...common, generation, ready: true };
}

function withPackage(
  manifest: Manifest,
  { sha256 }: BuiltPackage,
  published: Published | undefined,
  before: FunctionObject | undefined,
): Manifest {
  // A dry run has no address: that of the same package before, or where it would lie.
  const known = before?.spec.package?.sha256 === sha256 ? before.spec.package.uri : undefined;
  const uri = published?.uri ?? known ?? `file:///${sha256}.tgz`;
  return { ...manifest, spec: { ...manifest.spec, package: { uri, sha256 } } };
}

function manifestOf(folder: string): string {
  const found = manifestNames.map((name) => join(folder, name)).find((path) => existsSync(path));
  if (found !== undefined) {
    const short = relative(process.cwd(), found);
    return short.startsWith('..') ? found : short;
  }
  throw new Failure(exitCodes.usage, `${folder} has no ${manifestNames[0]}`, { code: 'NoManifest' });
}

function summary(result: Deployed, url: string | undefined, dryRun: boolean): string {
  const { name, sha256, bytes, uploaded, changed, ready } = result;
  const size = kibibytes(bytes);
  if (dryRun) {
    return `function ${name} would be ${changed ? 'deployed' : 'unchanged'}: package ${shortDigest(sha256)}, ${size} (dry run)`;
  }
  const upload = uploaded ? `${size} uploaded` : 'not uploaded again';
  if (!changed)
    return `function ${name} unchanged: package ${shortDigest(sha256)}, ${upload}${ready ? ', ready' : ''}`;
  const lines = [
    `function ${name} ${ready ? 'deployed and ready' : 'deployed, not waited for'}: package ${shortDigest(sha256)}, ${upload}`,
  ];
  for (const trigger of result.object.spec.triggers)
    lines.push(`  ${trigger.name}: ${triggerText(trigger, url)}`);
  return lines.join('\n');
}

const kibibytes = (bytes: number): string => `${Math.ceil(bytes / 1024)} KiB`;
