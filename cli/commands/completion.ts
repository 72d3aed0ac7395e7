import { commandNames, commands, isCommandName } from './index.ts';
import { commonOptions, defineCommand, flagsOf, type OptionTable } from '../command.ts';
import { print } from '../output.ts';
import { openSite, type Where } from '../site.ts';
import { splitVerb } from '../verb.ts';

const shells = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof shells)[number];

export const command = defineCommand({
  positionals: {
    shell: { type: 'string', describe: 'The shell', required: true, choices: [...shells, 'words'] },
    words: {
      type: 'string',
      describe: 'For the scripts: the words so far, of which the last is completed',
      many: true,
    },
  },
  options: {},
  description: 'Completes commands, options and the names of functions.',
  examples: [
    ['completion bash >> ~/.bashrc', 'For bash'],
    ['completion zsh > "${fpath[1]}/_faas"', 'For zsh'],
    ['completion fish > ~/.config/fish/completions/faas.fish', 'For fish'],
  ],
  async run({ shell, words, site, context, namespace }) {
    if (shell !== 'words') return print(scripts[shell as Shell]);
    const candidates = await complete(words, { site, context, namespace });
    const last = words.at(-1) ?? '';
    print(candidates.filter((candidate) => candidate.startsWith(last)).join('\n'));
  },
});

/** Each asks `faas completion words -- WORDS`, so that what is offered is what this version knows. */
const scripts: Record<Shell, string> = {
  bash: `_faas() {
  local IFS=$'\\n'
  COMPREPLY=($(faas completion words -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _faas faas`,
  zsh: `#compdef faas
_faas() {
  local -a found
  found=("\${(@f)$(faas completion words -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  [[ -n "$found" ]] && compadd -- $found || _files
}
if [ "$funcstack[1]" = "_faas" ]; then _faas; else compdef _faas faas; fi`,
  fish: `function __faas_complete
  set -l words (commandline -opc) (commandline -ct)
  faas completion words -- $words[2..-1] 2>/dev/null
end
complete -c faas -a '(__faas_complete)'`,
};

/** What may stand in the place of the last word. */
export async function complete(
  words: readonly string[],
  where: Where & { namespace: string },
): Promise<string[]> {
  const before = words.slice(0, -1);
  const last = words.at(-1) ?? '';
  const { verb, rest } = splitVerb(before);
  if (verb === undefined) return last.startsWith('-') ? ['--help', '--version'] : [...commandNames];
  if (!isCommandName(verb)) return [];
  const { positionals, options } = await commands[verb].load();
  const all: OptionTable = { ...options, ...commonOptions };
  const option = optionBefore(before, all);
  if (option !== undefined) return (option.choices ?? []).map(String);
  if (last.startsWith('-')) return flagsOf(all);
  const given = positionalsIn(rest, all).length;
  const entries = Object.values(positionals);
  const positional = entries[given] ?? (entries.at(-1)?.many === true ? entries.at(-1) : undefined);
  if (positional?.choices !== undefined) return positional.choices.map(String);
  return positional?.completes === 'function' ? await functionNames(flagsIn(before, where)) : [];
}

function optionBefore(before: readonly string[], options: OptionTable) {
  const flag = before.at(-1) ?? '';
  const found = Object.entries(options).find(([name, { alias }]) => isFlagOf(flag, name, alias));
  return found !== undefined && found[1].type !== 'boolean' ? found[1] : undefined;
}

const isFlagOf = (flag: string, name: string, alias: string | readonly string[] | undefined): boolean =>
  flag === `--${name}` || [alias ?? []].flat().some((short) => flag === `-${short}`);

function positionalsIn(words: readonly string[], options: OptionTable): string[] {
  return words.filter((word, index) => {
    const previous = words.slice(0, index);
    return !word.startsWith('-') && (index === 0 || optionBefore(previous, options) === undefined);
  });
}

/** `--site`, `--context` and `-n` of the line that is being typed, not of ours. */
function flagsIn(before: readonly string[], where: Where & { namespace: string }) {
  const valueOf = (name: keyof typeof commonOptions, short?: string): string | undefined => {
    const index = before.findLastIndex((word) => word === `--${name}` || word === `-${short}`);
    return index === -1 ? undefined : before[index + 1];
  };
  return {
    site: valueOf('site') ?? where.site,
    context: valueOf('context') ?? where.context,
    namespace: valueOf('namespace', 'n') ?? where.namespace,
  };
}

async function functionNames(where: { site?: string | undefined; namespace: string }): Promise<string[]> {
  try {
    const { store } = await openSite(where);
    return (await store.list(where.namespace)).map(({ metadata }) => metadata.name).sort();
  } catch {
    // Where there is no site there are no names.
    return [];
  }
}
