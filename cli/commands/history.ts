import { defineCommand } from '../command.ts';
import { age, note, print, printData, shortDigest, table } from '../output.ts';
import { existing, openSite } from '../site.ts';

export const command = defineCommand({
  positionals: {
    name: { type: 'string', describe: 'The function', required: true, completes: 'function' },
  },
  options: {},
  description: 'The last ten packages that answered, the newest first. "faas rollback" brings one back.',
  examples: [
    ['history hello', 'What ran, and since when'],
    ['history hello -o json', 'With whole digests'],
  ],
  async run({ site, context, namespace, name, output }) {
    const { store } = await openSite({ site, context });
    const { status } = await existing(store, { namespace, name });
    const history = [...(status?.history ?? [])].reverse();
    if (output === 'json' || output === 'yaml') return printData(history, output);
    if (history.length === 0) return note(`No package of ${name} has answered yet.`);
    const now = Date.now();
    const digest = output === 'wide' ? (sha256: string) => sha256 : shortDigest;
    print(
      table(
        ['PACKAGE', 'SINCE', 'AGE', ''],
        history.map(({ packageSha256, time }, index) => [
          digest(packageSha256),
          time,
          age(now - Date.parse(time)),
          index === 0 ? 'answers now' : '',
        ]),
      ),
    );
  },
});
