/** Writes docs/reference/cli.md, the page that is the table of commands: `node cli/reference.ts`. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { commonOptions, usageLine, type Option, type OptionTable } from './command.ts';
import { commandNames, commands } from './commands/index.ts';
import { packageRoot } from './version.ts';

export async function cliPage(): Promise<string> {
  const sections = await Promise.all(commandNames.map(section));
  return `# The command \`faas\`

Generated from \`cli/commands/\` by \`node cli/reference.ts\`. In the checkout it is \`npx faas\`; after
\`npm install -g .\` it is \`faas\`. It runs on the Node version that the package pins, whichever comes first in PATH.

${commandNames.map((name) => `- [\`faas ${name}\`](#faas-${name}): ${commands[name].summary}`).join('\n')}

## For every command

${optionTable(commonOptions)}

A site is found through \`--site\`, \`$FAAS_SITE\`, or the nearest \`.atoll\` upwards. \`-o json\` and \`-o yaml\` print
data on stdout; what is said about it goes to stderr.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | the user's function failed: it threw, does not build, or does not become ready |
| 2 | usage: wrong arguments, or a manifest that is not valid |
| 3 | the site is not reachable, or refused |

| variable | meaning |
|---|---|
| \`FAAS_SITE\` | the folder of the site, as \`--site\` |
| \`FAAS_NATS\`, \`FAAS_MQTT\` | for \`faas up\`: the addresses, as \`--nats\` and \`--mqtt\`; where they hold a password others cannot read it here |
| \`FAAS_KEY\` | \`id.secret\`, where the gateway asks for a key and the folder of the site has none |
| \`AWS_ACCESS_KEY_ID\`, \`AWS_SECRET_ACCESS_KEY\`, \`AWS_SESSION_TOKEN\`, \`AWS_REGION\` | for \`faas up --s3\`; kept in the folder of the site, readable for its owner alone |
| \`NO_COLOR\` | no colours |

${sections.join('\n')}`;
}

async function section(name: (typeof commandNames)[number]): Promise<string> {
  const { positionals, options, description, examples } = await commands[name].load();
  const parts = [
    `## faas ${name}`,
    `${commands[name].summary}.${description === undefined ? '' : ` ${description}`}`,
    `\`\`\`\n${usageLine(name, positionals)} [options]\n\`\`\``,
  ];
  const words = Object.entries(positionals).map(
    ([key, { describe, choices }]) =>
      `| \`${key.toUpperCase()}\` | ${cell(describe)}${choices === undefined ? '' : `: ${choices.map((one) => `\`${String(one)}\``).join(', ')}`} |`,
  );
  if (words.length > 0) parts.push(['| argument | |', '|---|---|', ...words].join('\n'));
  if (Object.keys(options).length > 0) parts.push(optionTable(options));
  const lines = examples.map(([line, purpose]) => `# ${purpose}\n${withProgram(line, name)}`);
  parts.push(`\`\`\`sh\n${lines.join('\n')}\n\`\`\``);
  return `${parts.join('\n\n')}\n`;
}

/** One that begins with a pipe from another command names that one first. */
const withProgram = (line: string, name: string): string =>
  line.startsWith(name) || line.includes('| faas') ? `faas ${line}` : line;

function optionTable(options: OptionTable): string {
  const rows = Object.entries(options).map(([name, option]) => {
    const preset =
      option.default === undefined || option.default === false ? '' : `\`${String(option.default)}\``;
    return `| ${flag(name, option)} | ${preset} | ${cell(option.describe)}${choicesOf(option)} |`;
  });
  return ['| option | default | |', '|---|---|---|', ...rows].join('\n');
}

function flag(name: string, option: Option): string {
  const aliases = [option.alias ?? []].flat().map((alias) => `\`-${alias}\``);
  const shown = option.type === 'boolean' && option.default === true ? `--no-${name}` : `--${name}`;
  return [`\`${shown}${option.value === undefined ? '' : ` ${option.value}`}\``, ...aliases].join(', ');
}

const choicesOf = ({ choices }: Option): string =>
  choices === undefined ? '' : `: ${choices.map((choice) => `\`${String(choice)}\``).join(', ')}`;

const cell = (text: string): string => text.replaceAll('|', '\\|');

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await writeFile(join(packageRoot, 'docs', 'reference', 'cli.md'), await cliPage());
}
