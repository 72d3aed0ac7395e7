import { parseAllDocuments } from 'yaml';
import { type Command, defineCommand } from '../command.ts';
import { usageError } from '../failure.ts';
import { note, print, printData } from '../output.ts';
import { installService, serviceFor, unitFolder } from '../service.ts';
import { version } from '../version.ts';

export const command = defineCommand({
  namespaced: false,
  positionals: {
    up: { type: 'string', describe: 'With --systemd: the options of faas up, after --', many: true },
  },
  options: {
    systemd: {
      type: 'boolean',
      default: false,
      describe: 'Write a unit by which systemd runs faas up from the boot on',
    },
    user: {
      type: 'string',
      value: 'NAME',
      describe: 'With --systemd: as whom it runs, and its functions; else who called sudo, else you',
    },
    'unit-dir': {
      type: 'string',
      value: 'DIR',
      default: unitFolder,
      describe: 'With --systemd: where the unit goes',
    },
    print: {
      type: 'boolean',
      describe: 'Print what is to be applied, and which images have to be on the nodes before; or the unit',
    },
    set: { type: 'string', array: true, value: 'KEY=VALUE', describe: "One of the chart's values" },
    values: { type: 'string', array: true, value: 'FILE', describe: "A file of the chart's values" },
  },
  description:
    'What a cluster needs, for a site that reaches nothing outside: one manifest, and above it as comments the images and how to load them. Nothing is applied and nothing is fetched. With --systemd: what a machine needs that runs faas up as a service, a hub or a robot for one. The folder is /var/lib/atoll unless --dir says otherwise after --; a robot gets its file as robot.json there, for its user alone.',
  examples: [
    [
      'install --systemd --user atoll -- --robot robot1 --hub tls://hub --robot-file robot1.json',
      'On a robot, as root',
    ],
    ['install --systemd --print -- --dir /srv/atoll', 'Only see the unit of a site of its own'],
    ['install --print > atoll.yaml', 'Read it, then kubectl apply --server-side -f atoll.yaml'],
    ['install --print --set nats.url=nats://10.0.0.5:4222', 'With values of the chart'],
    ['install --print -o json', 'The list of images, for a script'],
  ],
  async run({ up, systemd, user, unitDir, print: wanted, set = [], values = [], output }) {
    if (systemd) return await service(up, { user, unitDir, printOnly: wanted === true });
    if (up.length > 0) throw usageError(`unexpected argument "${up[0]}"`, 'See "faas install --help".');
    if (!wanted) {
      throw usageError('faas install prints only', 'faas install --print | kubectl apply --server-side -f -');
    }
    const text = await rendered([
      ...values.flatMap((file) => ['--values', file]),
      ...set.flatMap((pair) => ['--set', pair]),
    ]);
    const images = imagesIn(text);
    if (output === 'json' || output === 'yaml') {
      return printData({ version: version(), images, manifest: text }, output);
    }
    print(`${heading(images)}${text.trimEnd()}`);
  },
});

async function service(
  words: readonly string[],
  { user, unitDir, printOnly }: { user: string | undefined; unitDir: string; printOnly: boolean },
): Promise<void> {
  // What reads the options of faas up loads the table of commands, and with it this one.
  const { command: up } = await import('./up.ts');
  const { parse } = await import('../usage.ts');
  const parsed = await parse('up', up as unknown as Command, words);
  if (parsed === undefined) return;
  const made = await serviceFor({
    up: parsed as unknown as Parameters<typeof serviceFor>[0]['up'],
    options: up.options,
    user,
  });
  if (printOnly) return print(made.text.trimEnd());
  const path = await installService(made, unitDir);
  note(`It runs as ${made.user}, with its state in ${made.dir}. Now and at each boot:`);
  note(`  systemctl daemon-reload && systemctl enable --now ${made.name}`);
  print(path);
}

async function rendered(args: readonly string[]): Promise<string> {
  // Only here: it starts Helm, which nothing else of the command line needs.
  const { manifest } = await import('../../charts/manifest.ts');
  try {
    return await manifest(args);
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    if (stderr === undefined) throw error;
    throw usageError(
      `the chart cannot be made with these values: ${stderr.trim()}`,
      'docs/reference/chart.md has them',
    );
  }
}

interface PodOwner {
  readonly spec?: { readonly template?: { readonly spec?: { readonly containers?: { image: string }[] } } };
}

/** Atoll's own first: functions run by it too. */
function imagesIn(text: string): string[] {
  const objects = parseAllDocuments(text).map((document) => document.toJSON() as PodOwner | null);
  const all = objects.flatMap((object) => object?.spec?.template?.spec?.containers ?? []);
  return [...new Set(all.map(({ image }) => image))];
}

function heading(images: readonly string[]): string {
  const [own = '', ...others] = images;
  const archive = `dist/atoll-${version()}.oci.tar`;
  const lines = [
    `Atoll ${version()} for a cluster that reaches nothing outside. Nothing but what is named here is needed.`,
    '',
    '1. On each node these images; no node asks a registry for an image that it has:',
    `     ${own}   (controller, gateway, and every function)`,
    `       node images/build.ts                       # here, without a network: ${archive}`,
    `       ctr -n k8s.io images import ${archive}     # on the node`,
    ...others.flatMap((image) => [
      `     ${image}`,
      `       ctr images pull ${image} && ctr images export image.tar ${image}     # where there is a network`,
      '       ctr -n k8s.io images import image.tar     # on the node',
    ]),
    '   With a registry of the site instead: push them there, and set image.repository.',
    '2. kubectl apply --server-side -f THIS-FILE',
    '3. kubectl -n atoll-system rollout status deployment/atoll-controller deployment/atoll-gateway',
    '',
    'docs/reference/air-gapped.md says more.',
  ];
  return `${lines.map((line) => `# ${line}`.trimEnd()).join('\n')}\n`;
}
