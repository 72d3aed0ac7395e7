import { cp, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { namePattern } from '../../crds/function.ts';
import { packAtoll } from '../build/atoll.ts';
import { defineCommand } from '../command.ts';
import { usageError } from '../failure.ts';
import { print, printData } from '../output.ts';
import { createStreamsAnnotation } from '../streams.ts';
import { packageRoot } from '../version.ts';

const triggers = ['nats', 'jetstream', 'mqtt', 'http', 'schedule'] as const;

export const command = defineCommand({
  namespaced: false,
  positionals: {
    name: { type: 'string', describe: 'The function, and the folder it is put into', required: true },
  },
  options: {
    template: {
      type: 'string',
      value: 'LANGUAGE',
      choices: ['typescript', 'javascript'] as const,
      default: 'typescript' as const,
      describe: 'What it is written in',
    },
    trigger: {
      type: 'string',
      value: 'KIND',
      choices: triggers,
      default: 'nats' as const,
      describe: 'What calls it',
    },
  },
  description:
    'The folder holds a handler, function.yaml, a unit test, package.json and README.md, and in vendor/ the types and fakes of this version. It deploys as it stands, without npm install.',
  examples: [
    ['init hello', 'In TypeScript, called by a NATS subject'],
    ['init door --trigger http --template javascript', 'In JavaScript, called by HTTP requests'],
  ],
  async run({ name, template, trigger, output }) {
    const folder = resolve(name);
    const functionName = name.split('/').filter(Boolean).at(-1) ?? '';
    if (!new RegExp(namePattern).test(functionName)) {
      throw usageError(
        `"${functionName}" cannot be the name of a function`,
        'A name has 1 to 52 lowercase letters, digits and "-", begins with a letter and does not end with "-".',
      );
    }
    await mkdir(folder, { recursive: true });
    if ((await readdir(folder)).length > 0) {
      throw usageError(`the folder ${folder} is not empty`, 'Give another name, or empty it first.');
    }
    const atoll = await packAtoll();
    await mkdir(join(folder, 'vendor'));
    await writeFile(join(folder, 'vendor', atoll.fileName), atoll.bytes);
    await copyTemplate(folder, template, trigger, {
      name: functionName,
      stream: functionName.toUpperCase(),
      main: template === 'typescript' ? 'index.ts' : 'index.js',
      event: trigger === 'http' ? '{"queryStringParameters":{"name":"reef"}}' : '{"name":"reef"}',
      vendor: atoll.fileName,
    });
    const files = (await readdir(folder, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
      .sort();
    if (output === 'json' || output === 'yaml')
      return printData({ name: functionName, folder, files }, output);
    const shown = relative(process.cwd(), folder) || '.';
    print(`${shown}: ${files.join(', ')}`);
    print(
      `\nNext: faas up in a terminal of its own, then\n  faas deploy ${shown}\n  faas invoke ${functionName} -d '{"name":"reef"}'`,
    );
  },
});

async function copyTemplate(
  folder: string,
  template: string,
  trigger: (typeof triggers)[number],
  values: Readonly<Record<string, string>>,
): Promise<void> {
  const templates = join(packageRoot, 'cli', 'templates');
  // Three shapes of event cover the five sources.
  const shape = trigger === 'http' || trigger === 'schedule' ? trigger : 'payload';
  await cp(join(templates, 'common'), folder, { recursive: true });
  const language = join(templates, template);
  await cp(join(language, shape), folder, { recursive: true });
  for (const entry of await readdir(language, { withFileTypes: true })) {
    if (entry.isFile()) await cp(join(language, entry.name), join(folder, entry.name));
  }
  const manifest = join(folder, 'function.yaml');
  const triggerText = await readFile(join(templates, 'triggers', `${trigger}.yaml`), 'utf8');
  const annotations =
    trigger === 'jetstream' ? `  annotations:\n    ${createStreamsAnnotation}: 'true'\n` : '';
  // Needed on a robot, and good style elsewhere: what the handler of that shape publishes.
  const permissions = shape === 'schedule' ? '  permissions:\n    publish: [__name__.ticks]\n' : '';
  const text = (await readFile(manifest, 'utf8'))
    .replace(/^spec:$/m, `${annotations}spec:`)
    .replace(/^ {2}triggers:$/m, `${permissions}  triggers:`);
  await writeFile(manifest, text + triggerText.replaceAll(/^(?=.)/gm, '    '));
  // npm leaves .gitignore out of packages, so it travels under another name.
  await rename(join(folder, 'gitignore'), join(folder, '.gitignore'));
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(folder, entry.name);
    const text = await readFile(path, 'utf8');
    await writeFile(
      path,
      text.replaceAll(/__([a-z]+)__/g, (whole, key: string) => values[key] ?? whole),
    );
  }
}
