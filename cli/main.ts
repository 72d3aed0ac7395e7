/** The command `faas`: finds the verb, parses its arguments, runs it, and turns what went wrong into advice and an exit code. */
import { commandNames, commands, isCommandName } from './commands/index.ts';
import { exitCodes } from './command.ts';
import { reportFailure } from './advice.ts';
import { print } from './output.ts';
import { splitVerb } from './verb.ts';

// A reader that has seen enough (`faas logs | head`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  throw error;
});

process.exitCode = await main(process.argv.slice(2));

async function main(words: string[]): Promise<number> {
  try {
    const { verb, rest, flags } = splitVerb(words);
    if (verb === undefined) return await withoutVerb(flags);
    if (!isCommandName(verb)) {
      const { unknownCommand } = await import('./usage.ts');
      throw unknownCommand(verb);
    }
    const command = await commands[verb].load();
    const { parse } = await import('./usage.ts');
    const args = await parse(verb, command, rest);
    if (args === undefined) return exitCodes.ok;
    return (await command.run(args)) ?? exitCodes.ok;
  } catch (error) {
    return await reportFailure(error);
  }
}

async function withoutVerb(flags: readonly string[]): Promise<number> {
  if (flags.includes('--version') || flags.includes('-v')) {
    const { version } = await import('./version.ts');
    print(version());
    return exitCodes.ok;
  }
  const { overview } = await import('./usage.ts');
  const asked = flags.includes('--help') || flags.includes('-h');
  if (asked) print(overview(commandNames));
  else process.stderr.write(`${overview(commandNames)}\n`);
  return asked ? exitCodes.ok : exitCodes.usage;
}
