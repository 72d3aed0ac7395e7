import { defineCommand } from '../command.ts';
import { printData } from '../output.ts';
import { existing, openSite } from '../site.ts';

export const command = defineCommand({
  positionals: {
    name: { type: 'string', describe: 'The function', required: true, completes: 'function' },
  },
  options: {},
  examples: [
    ['get hello', 'The object as YAML, with defaults and status'],
    ['get hello -o json', 'As JSON'],
  ],
  async run({ site, context, namespace, name, output }) {
    const { store } = await openSite({ site, context });
    const object = await existing(store, { namespace, name });
    await printData(object, output === 'json' ? 'json' : 'yaml');
  },
});
