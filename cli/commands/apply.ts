import type { FunctionObject } from '../../crds/function.ts';
import type { Store } from '../../controller/stores/store.ts';
import { defineCommand } from '../command.ts';
import { readManifests, type Manifest } from '../manifests.ts';
import { note, print, printData } from '../output.ts';
import { openSite } from '../site.ts';

export const command = defineCommand({
  positionals: {},
  options: {
    file: {
      type: 'string',
      alias: 'f',
      value: 'FILE',
      demandOption: true,
      describe: 'A file, a folder of files, or - for stdin',
    },
    'dry-run': { type: 'boolean', default: false, describe: 'Check all of it and change nothing' },
  },
  description:
    'All documents are checked first: if one is wrong, nothing is applied. A Function that says nothing about its package keeps the one that was deployed.',
  examples: [
    ['apply -f function.yaml', 'One file, of one or several documents'],
    ['apply -f functions/ --dry-run', 'Check a folder'],
    ['get hello -o yaml | faas apply -f -', 'From stdin'],
  ],
  async run({ site, context, namespace, file, output, dryRun }) {
    const { store, gateway } = await openSite({ site, context });
    const manifests = await readManifests(file, namespace);
    const wanted = await Promise.all(manifests.map((manifest) => withDeployedPackage(store, manifest)));
    // What only the store can refuse (a stale resourceVersion) is asked of all before the first is changed.
    for (const object of wanted) await store.put(object, { dryRun: true });
    const results: { name: string; namespace: string; result: string; generation: number }[] = [];
    for (const [index, object] of wanted.entries()) {
      const { metadata } = manifests[index]!;
      const before = await store.get(metadata);
      const after = await store.put(object, { dryRun });
      const result = outcomeOf(before, after);
      results.push({ ...nameOf(after), result, generation: after.metadata.generation });
      if (output === undefined || output === 'wide') {
        print(`function ${after.metadata.name} ${result}${dryRun ? ' (dry run)' : ''}`);
      }
    }
    if (output === 'json' || output === 'yaml') await printData(results, output);
    if (gateway === undefined && !dryRun) note('The site does not run: this takes effect when it starts.');
  },
});

const nameOf = ({ metadata: { name, namespace } }: FunctionObject) => ({ name, namespace });

export function outcomeOf(before: FunctionObject | undefined, after: FunctionObject) {
  if (before === undefined) return 'created';
  return before.metadata.resourceVersion === after.metadata.resourceVersion ? 'unchanged' : 'configured';
}

/** `faas deploy` owns spec.package: a manifest that leaves it out does not take it away. */
export async function withDeployedPackage(store: Store, manifest: Manifest): Promise<Manifest> {
  if (manifest.spec.package !== undefined) return manifest;
  const deployed = (await store.get(manifest.metadata).catch(() => undefined))?.spec.package;
  return deployed === undefined ? manifest : { ...manifest, spec: { ...manifest.spec, package: deployed } };
}
