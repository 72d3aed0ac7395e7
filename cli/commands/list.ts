import { sourceOf, type FunctionObject } from '../../crds/function.ts';
import { defineCommand } from '../command.ts';
import { age, note, print, printData, shortDigest, table } from '../output.ts';
import { openSite } from '../site.ts';

export const command = defineCommand({
  positionals: {},
  options: {
    'all-namespaces': { type: 'boolean', alias: 'A', describe: 'Those of every namespace', default: false },
  },
  examples: [
    ['list', 'The functions of the namespace default'],
    ['list -A -o wide', 'All functions, with what keeps one from being ready'],
    ['list -o json', 'The whole objects, for programs'],
  ],
  async run({ site, context, namespace, output, allNamespaces }) {
    const { store } = await openSite({ site, context });
    const functions = (await store.list(allNamespaces ? undefined : namespace)).sort(byKey);
    if (output === 'json' || output === 'yaml') return printData(functions, output);
    if (functions.length === 0) {
      note(
        allNamespaces ? 'There are no functions.' : `There are no functions in the namespace ${namespace}.`,
      );
      return;
    }
    const wide = output === 'wide';
    const header = [
      ...(allNamespaces ? ['NAMESPACE'] : []),
      ...['NAME', 'READY', 'TRIGGERS', 'PACKAGE', 'AGE'],
      ...(wide ? ['RUNTIME', 'GENERATION', 'REASON', 'MESSAGE'] : []),
    ];
    const now = Date.now();
    const rows = functions.map((object) => {
      const ready = readyOf(object);
      return [
        ...(allNamespaces ? [object.metadata.namespace] : []),
        object.metadata.name,
        ready?.status ?? 'Unknown',
        triggersOf(object),
        shortDigest(object.status?.packageSha256),
        age(now - Date.parse(object.metadata.creationTimestamp ?? '')),
        ...(wide
          ? [
              object.spec.runtime,
              String(object.metadata.generation),
              ready?.reason ?? '',
              ready?.message ?? '',
            ]
          : []),
      ];
    });
    print(table(header, rows));
  },
});

/** What is known of another generation says nothing about this one. */
export function readyOf(object: FunctionObject) {
  const ready = object.status?.conditions?.find(({ type }) => type === 'Ready');
  return ready?.observedGeneration === object.metadata.generation ? ready : undefined;
}

const triggersOf = ({ spec }: FunctionObject): string =>
  [...new Set(spec.triggers.map((trigger) => sourceOf(trigger).kind))].join(',') || '<none>';

function byKey(a: FunctionObject, b: FunctionObject): number {
  const [left, right] = [a, b].map(({ metadata }) => `${metadata.namespace}/${metadata.name}`);
  return left! < right! ? -1 : 1;
}
