/** What a command is: data that help, completion and the reference page are made from, and a function that runs it. */
import type { InferredOptionTypes, Options, PositionalOptions } from 'yargs';

/** What a command ends with, as scripts see it. */
export const exitCodes = {
  ok: 0,
  /** The user's function failed: it threw, does not build, or does not become ready. */
  functionFailed: 1,
  /** Wrong arguments, or a manifest that is not valid. */
  usage: 2,
  /** The site is not reachable, or refused. */
  site: 3,
} as const;

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

export interface Positional extends PositionalOptions {
  readonly describe: string;
  readonly required?: boolean;
  /** Takes the rest of the words. */
  readonly many?: boolean;
  /** What completion offers. */
  readonly completes?: 'function' | 'file';
}

export interface Option extends Options {
  readonly describe: string;
  /** What the value is called in the reference, such as `DIR`; absent for switches. */
  readonly value?: string;
}

export type Positionals = Readonly<Record<string, Positional>>;
export type OptionTable = Readonly<Record<string, Option>>;

/** Taken by every command. */
export const commonOptions = {
  site: {
    type: 'string',
    value: 'DIR',
    describe: "The site's folder; else $FAAS_SITE, else the nearest .atoll upwards",
  },
  context: {
    type: 'string',
    value: 'NAME',
    describe:
      'A cluster, by its kubeconfig context; else $FAAS_CONTEXT; without any site here, the current context',
  },
  namespace: {
    type: 'string',
    alias: 'n',
    value: 'NAME',
    describe: "The namespace; else that of the cluster's context, else default",
  },
  output: {
    type: 'string',
    alias: 'o',
    value: 'FORMAT',
    choices: ['json', 'yaml', 'wide'],
    describe: 'How the result is printed, instead of the readable form',
  },
} as const satisfies OptionTable;

/** `dry-run` on the command line is `dryRun` in the code. */
type Camel<S extends string> = S extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<Camel<Tail>>}`
  : S;
type OptionTypes<O extends OptionTable> = {
  [K in keyof InferredOptionTypes<O> as Camel<K & string>]: InferredOptionTypes<O>[K];
};

export type Arguments<P extends Positionals, O extends OptionTable> = {
  [K in keyof P]: P[K]['many'] extends true
    ? string[]
    : P[K]['required'] extends true
      ? string
      : string | undefined;
} & OptionTypes<O> &
  Omit<OptionTypes<typeof commonOptions>, 'namespace'> & {
    /** Never absent when a command runs. */
    readonly namespace: string;
  };

export interface Command<P extends Positionals = Positionals, O extends OptionTable = OptionTable> {
  readonly positionals: P;
  readonly options: O;
  /** Command line (without `faas`) and what it is for. At least one. */
  readonly examples: readonly (readonly [string, string])[];
  /** Paragraphs below the summary. */
  readonly description?: string;
  /** It asks no site for Functions, so nobody has to find out which namespace the cluster's context names. */
  readonly namespaced?: false;
  run(args: Arguments<P, O>): Promise<ExitCode | void>;
}

/** Infers a command's argument types from its tables. */
export const defineCommand = <const P extends Positionals, const O extends OptionTable>(
  command: Command<P, O>,
): Command<P, O> => command;

/** `faas deploy [DIR] [options]` without the common ones. */
export function usageLine(name: string, positionals: Positionals): string {
  const words = Object.entries(positionals).map(([key, { required, many }]) => {
    const word = key.toUpperCase() + (many ? '…' : '');
    return required ? word : `[${word}]`;
  });
  return ['faas', name, ...words].join(' ');
}

/** What is offered for typing: a switch that is on by default only as `--no-…`. */
export const flagsOf = (options: OptionTable): string[] => [
  '--help',
  ...Object.entries(options).map(([name, { type, default: preset }]) =>
    type === 'boolean' && preset === true ? `--no-${name}` : `--${name}`,
  ),
];
