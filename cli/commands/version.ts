import { defineCommand } from '../command.ts';
import { print, printData } from '../output.ts';
import { version } from '../version.ts';

export const command = defineCommand({
  namespaced: false,
  positionals: {},
  options: {},
  examples: [
    ['version', 'The version of Atoll'],
    ['version -o json', 'With the versions of Node and the platform'],
  ],
  async run({ output }) {
    if (output === undefined) return print(version());
    const versions = {
      atoll: version(),
      node: process.version,
      platform: `${process.platform}-${process.arch}`,
    };
    await printData(versions, output === 'yaml' ? 'yaml' : 'json');
  },
});
