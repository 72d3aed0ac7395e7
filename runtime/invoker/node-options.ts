/** NODE_OPTIONS of a function, taken apart. https://nodejs.org/api/cli.html#node_optionsoptions */

export interface Preload {
  readonly kind: 'require' | 'import';
  readonly specifier: string;
}

export interface NodeOptions {
  /** What only Node itself can do, as it starts. */
  readonly atStart: string;
  /** In Node's order: what is required comes before what is imported. */
  readonly preloads: readonly Preload[];
}

const preloadNames: Readonly<Record<string, Preload['kind']>> = {
  '-r': 'require',
  '--require': 'require',
  '--import': 'import',
};

export function parseNodeOptions(text: string): NodeOptions {
  const atStart: string[] = [];
  const preloads: Preload[] = [];
  const words = wordsOf(text);
  for (let at = 0; at < words.length; at++) {
    const { raw, value } = words[at]!;
    const equals = value.indexOf('=');
    const kind = preloadNames[equals < 0 ? value : value.slice(0, equals)];
    const specifier = equals < 0 ? words[at + 1]?.value : value.slice(equals + 1);
    if (kind === undefined || specifier === undefined) {
      atStart.push(raw);
      continue;
    }
    preloads.push({ kind, specifier });
    if (equals < 0) at++;
  }
  return {
    atStart: atStart.join(' '),
    preloads: [
      ...preloads.filter(({ kind }) => kind === 'require'),
      ...preloads.filter(({ kind }) => kind === 'import'),
    ],
  };
}

/** At blanks, except within double quotes, where a backslash takes the next character as it is. */
function wordsOf(text: string): { raw: string; value: string }[] {
  return [...text.matchAll(/(?:"(?:\\.|[^"\\])*"?|[^ "])+/g)].map(([raw]) => ({
    raw,
    value: raw.replace(/"((?:\\.|[^"\\])*)"?/g, (_, quoted: string) => quoted.replace(/\\(.)/g, '$1')),
  }));
}
