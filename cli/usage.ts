/** Command lines in, arguments or help out. */
import yargs from 'yargs';
import type { Command, OptionTable, Positional } from './command.ts';
import { commonOptions, usageLine } from './command.ts';
import { commands, commandNames, type CommandName } from './commands/index.ts';
import { usageError } from './failure.ts';
import { print } from './output.ts';
import { nearest } from './suggest.ts';

/** The arguments; undefined when help was asked for and has been printed. Throws a usage Failure. */
export async function parse(
  name: CommandName,
  command: Command,
  words: readonly string[],
): Promise<Parameters<Command['run']>[0] | undefined> {
  const options: OptionTable = { ...command.options, ...commonOptions };
  const unknown = unknownFlag(words, options);
  let problem: string | undefined;
  const parser = parserOf(name, command)
    .exitProcess(false)
    .fail((message, error) => {
      problem ??= message ?? error?.message ?? 'the arguments cannot be understood';
    });
  let help: string | undefined;
  const args = await parser.parse([name, ...words], {}, (_error, _args, output) => {
    if (output !== '') help = output;
  });
  if (words.includes('--help') || words.includes('-h')) {
    print(help ?? (await helpOf(name, command)));
    return undefined;
  }
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
  return args as unknown as Parameters<Command['run']>[0];
}

export const helpOf = (name: CommandName, command: Command): Promise<string> =>
  parserOf(name, command).getHelp();

function parserOf(name: CommandName, command: Command): ReturnType<typeof yargs> {
  const words = Object.entries(command.positionals).map(([key, { required, many }]) => {
    const word = many ? `${key}..` : key;
    return required ? `<${word}>` : `[${word}]`;
  });
  const parser = yargs()
    .scriptName('faas')
    .locale('en')
    .parserConfiguration({ 'camel-case-expansion': true, 'boolean-negation': true })
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

/** What yargs knows; the rest is ours. A string option given without a value is a mistake, not an empty string. */
function plain<T extends object>(described: T): T {
  const {
    required: _1,
    many: _2,
    completes: _3,
    value: _4,
    ...known
  } = described as Positional & { value?: string };
  if ('type' in known && (known.type === 'string' || known.type === 'number')) {
    return (_1 === undefined && _4 !== undefined ? { ...known, requiresArg: true } : known) as unknown as T;
  }
  return known as unknown as T;
}

const flagsOf = (options: OptionTable): string[] =>
  ['help', ...Object.keys(options)].flatMap((name) => {
    const option = options[name];
    return option?.type === 'boolean' && option.default === true
      ? [`--${name}`, `--no-${name}`]
      : [`--${name}`];
  });

/** yargs names an unknown flag by its camel-cased key, so it is looked for here. */
function unknownFlag(words: readonly string[], options: OptionTable): string | undefined {
  const known = new Set([...flagsOf(options), '-h']);
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
