import { defineCommand, exitCodes } from '../command.ts';
import { usageError } from '../failure.ts';
import { readManifests } from '../manifests.ts';
import { note, print, printData } from '../output.ts';
import { existing, openSite } from '../site.ts';

export const command = defineCommand({
  positionals: {
    names: { type: 'string', describe: 'The functions', many: true, completes: 'function' },
  },
  options: {
    file: {
      type: 'string',
      alias: 'f',
      value: 'FILE',
      describe: 'Those that a file, a folder or stdin (-) names',
    },
    'ignore-not-found': { type: 'boolean', default: false, describe: 'One that is not there is no error' },
  },
  description:
    'Events that wait in its inbox are dead-lettered (FunctionDeleted); packages and logs stay in the folder of the site.',
  examples: [
    ['delete hello', 'One function'],
    ['delete -f function.yaml', 'The functions of a file'],
  ],
  async run({ site, context, namespace, names, file, output, ignoreNotFound }) {
    if (names.length > 0 === (file !== undefined)) {
      throw usageError('name the functions, or give a file with -f', 'See "faas delete --help".');
    }
    const { store, gateway } = await openSite({ site, context });
    const keys =
      file === undefined
        ? names.map((name) => ({ namespace, name }))
        : (await readManifests(file, namespace)).map(({ metadata }) => metadata);
    // All are looked for first: a slip in the last name must not come after the first is gone.
    if (!ignoreNotFound) for (const key of keys) await existing(store, key);
    const deleted: string[] = [];
    for (const { namespace, name } of keys) {
      if (!(await store.remove({ namespace, name }))) continue;
      deleted.push(name);
      if (output === undefined || output === 'wide') print(`function ${name} deleted`);
    }
    if (output === 'json' || output === 'yaml') await printData({ deleted }, output);
    if (gateway === undefined) note('The site does not run: broker state is swept when it starts.');
    return exitCodes.ok;
  },
});
