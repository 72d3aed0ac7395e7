/** Command lines in, arguments or help out. */
import yargs, { type Options, type PositionalOptions } from 'yargs';
import type { Command, Option, OptionTable, Positional } from './command.ts';
import { commonOptions, flagsOf, usageLine } from './command.ts';
import { commands, commandNames, type CommandName } from './commands/index.ts';
import { usageError } from './failure.ts';
import { print } from './output.ts';
import { defaultNamespace, type Where } from './site.ts';
import { nearest } from './suggest.ts';

/** The arguments; undefined when help was asked for and has been printed. Throws a usage Failure. */
export async function parse(
  name: CommandName,
  command: Command,
  words: readonly string[],
): Promise<Parameters<Command['run']>[0] | undefined> {
  const options: OptionTable = { ...command.options, ...commonOptions };
  // After `--` everything is a word, also what begins with a dash; yargs would not count it as positional.
  const end = words.indexOf('--');
  const literal = end === -1 ? [] : words.slice(end + 1);
  if (end !== -1) words = words.slice(0, end);
  const unknown = unknownFlag(words, options);
  let problem: string | undefined;
  const parser = parserOf(name, command)
    .exitProcess(false)
    .fail((message, error) => {
      problem ??= message ?? error?.message ?? 'the arguments cannot be understood';
    });
  if (words.includes('--help') || words.includes('-h')) {
    print(await helpOf(name, command));
    return undefined;
  }
  // The callback keeps yargs from printing by itself.
  const args = await parser.parse([name, ...words], {}, () => undefined);
  const advice = `See "faas ${name} --help".`;
  if (unknown !== undefined) {
    const near = nearest(unknown, flagsOf(options));
    throw usageError(
      `unknown option ${unknown}`,
      near === undefined ? advice : `Did you mean ${near}? ${advice}`,
    );
  }
  if (problem !== undefined) throw usageError(lowerFirst(problem.split('\n').join(' ').trim()), advice);
  for (const [key, value] of Object.entries(args)) {
    if (Array.isArray(value) && options[key] !== undefined && options[key].array !== true) {
      throw usageError(`--${key} was given ${value.length} times`, advice);
    }
  }
  const many = Object.keys(command.positionals).find((key) => command.positionals[key]?.many === true);
  if (many !== undefined) args[many] = [...((args[many] as string[] | undefined) ?? []), ...literal];
  else if (literal.length > 0) throw usageError(`unexpected argument "${literal[0]}"`, advice);
  // Which site is meant, and whether it can be reached, is the command's to find out, if it needs one at all.
  args['namespace'] ??=
    command.namespaced === false ? 'default' : await defaultNamespace(args as Where).catch(() => 'default');
  return args as unknown as Parameters<Command['run']>[0];
}

/** What `faas NAME --help` prints. */
export async function helpOf(name: CommandName, command: Command): Promise<string> {
  let help = '';
  await parserOf(name, command)
    .exitProcess(false)
    .parse([name, '--help'], {}, (_error, _args, output) => {
      help = output;
    });
  return help;
}

function parserOf(name: CommandName, command: Command): ReturnType<typeof yargs> {
  const words = Object.entries(command.positionals).map(([key, { required, many }]) => {
    const word = many ? `${key}..` : key;
    return required ? `<${word}>` : `[${word}]`;
  });
  const parser = yargs()
    .scriptName('faas')
    .locale('en')
    .parserConfiguration({ 'camel-case-expansion': true, 'boolean-negation': true, 'greedy-arrays': false })
    .command({
      command: [name, ...words].join(' '),
      describe: commands[name].summary,
      builder: (builder) => {
        builder.usage(
          `${usageLine(name, command.positionals)} [options]\n\n${commands[name].summary}` +
            (command.description === undefined ? '' : `\n\n${command.description}`),
        );
        for (const [key, positional] of Object.entries(command.positionals)) {
          builder.positional(key, plain(positional));
        }
        for (const [key, option] of Object.entries(command.options))
          builder.option(key, { ...plain(option), group: 'Options:' });
        for (const [key, option] of Object.entries(commonOptions)) {
          builder.option(key, { ...plain(option), group: 'Common:' });
        }
        for (const [line, purpose] of command.examples) builder.example(`faas ${line}`, purpose);
        return builder;
      },
      handler: () => undefined,
    })
    .strict()
    .version(false)
    .help('help')
    .alias('help', 'h')
    .wrap(Math.min(100, process.stdout.columns ?? 100));
  return parser as ReturnType<typeof yargs>;
}

/** What yargs knows of it; the rest is ours. An option without its value is a mistake, not an empty string. */
function plain(described: Positional | Option): Options & PositionalOptions {
  const known: Record<string, unknown> = { ...described };
  if (known['value'] !== undefined) known['requiresArg'] = true;
  for (const own of ['required', 'many', 'completes', 'value']) delete known[own];
  return known;
}

/** yargs names an unknown flag by its camel-cased key, so it is looked for here. */
function unknownFlag(words: readonly string[], options: OptionTable): string | undefined {
  const known = new Set(['--help', '-h', ...Object.keys(options).map((name) => `--${name}`)]);
  for (const [name, option] of Object.entries(options)) {
    for (const alias of [option.alias ?? []].flat())
      known.add(alias.length === 1 ? `-${alias}` : `--${alias}`);
    if (option.type === 'boolean') known.add(`--no-${name}`);
  }
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index]!;
    if (word === '--') return undefined;
    if (!word.startsWith('--')) continue;
    const flag = word.split('=')[0]!;
    if (!known.has(flag)) return flag;
    const option = options[flag.slice(2)];
    if (option !== undefined && option.type !== 'boolean' && !word.includes('=')) index += 1;
  }
  return undefined;
}

export function unknownCommand(word: string): Error {
  const near = nearest(word, commandNames);
  return usageError(
    `unknown command "${word}"`,
    near === undefined ? 'See "faas --help".' : `Did you mean "faas ${near}"? See "faas --help".`,
  );
}

export function overview(names: readonly CommandName[]): string {
  const width = Math.max(...names.map((name) => name.length));
  return [
    'faas COMMAND [options]',
    '',
    'Lambda for a site with robots and no internet.',
    '',
    'Commands:',
    ...names.map((name) => `  ${name.padEnd(width)}  ${commands[name].summary}`),
    '',
    'Examples:',
    '  faas up                        run a site here',
    '  faas init hello                start a function in the folder hello',
    '  faas deploy hello              build it and run it on the site',
    `  faas invoke hello -d '{}'      call it`,
    '',
    '"faas COMMAND --help" tells more about one.',
  ].join('\n');
}

const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1);
