import { commonOptions } from './command.ts';

/** Finds the verb among the words: the first that is neither a flag nor the value of a common one. */
export function splitVerb(words: readonly string[]): {
  verb: string | undefined;
  /** Everything but the verb, in order. */
  rest: string[];
  flags: string[];
} {
  const takeValue = new Set(
    Object.entries(commonOptions).flatMap(([name, option]) => [
      `--${name}`,
      ...('alias' in option ? [`-${option.alias}`] : []),
    ]),
  );
  const flags: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index]!;
    if (!word.startsWith('-')) {
      return { verb: word, rest: [...words.slice(0, index), ...words.slice(index + 1)], flags };
    }
    flags.push(word);
    if (takeValue.has(word)) index += 1;
  }
  return { verb: undefined, rest: [...words], flags };
}
