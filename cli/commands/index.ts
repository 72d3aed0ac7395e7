/** The table of commands, in the order help shows them. A new one is a file beside this and its line here. */
import type { Command } from '../command.ts';

export interface CommandEntry {
  readonly summary: string;
  /** Only the command that is run is loaded. */
  load(): Promise<Command>;
}

// The cast drops what a command knows of its own arguments: the table only passes on what its tables parsed.
const entry = (summary: string, load: () => Promise<{ command: unknown }>): CommandEntry => ({
  summary,
  load: async () => (await load()).command as Command,
});

export const commands = {
  up: entry(
    'Run a site in the foreground: engine, gateway and, unless told where, broker',
    () => import('./up.ts'),
  ),
  init: entry('Start a new function: a folder that deploys as it stands', () => import('./init.ts')),
  deploy: entry(
    'Build a function, upload it and wait until the new code answers',
    () => import('./deploy.ts'),
  ),
  dev: entry('Run one function and deploy it again whenever a file is saved', () => import('./dev.ts')),
  invoke: entry('Call a function and print what it returns', () => import('./invoke.ts')),
  logs: entry("Show a function's logs", () => import('./logs.ts')),
  list: entry('List the functions', () => import('./list.ts')),
  get: entry('Print a Function object', () => import('./get.ts')),
  describe: entry('Show how a function is: conditions, triggers, last error', () => import('./describe.ts')),
  history: entry('Show the packages that answered', () => import('./history.ts')),
  rollback: entry('Bring back a package that answered before', () => import('./rollback.ts')),
  apply: entry('Create or change Function objects from files', () => import('./apply.ts')),
  delete: entry('Delete functions', () => import('./delete.ts')),
  dead: entry('List, show, redrive or purge dead letters', () => import('./dead.ts')),
  robot: entry('Let a robot come in, give it new keys, or end it', () => import('./robot.ts')),
  robots: entry('Show the robots of a hub and how each is', () => import('./robots.ts')),
  ros: entry('Write the TypeScript of the ROS interfaces that are present', () => import('./ros.ts')),
  doctor: entry(
    'Say of each part of a site whether it is reachable and what is wrong',
    () => import('./doctor.ts'),
  ),
  install: entry(
    'Print what a cluster needs, the manifest and the images; or have systemd run faas up',
    () => import('./install.ts'),
  ),
  completion: entry('Print the completion script of a shell', () => import('./completion.ts')),
  version: entry('Print the version', () => import('./version.ts')),
} as const satisfies Record<string, CommandEntry>;

export type CommandName = keyof typeof commands;
export const commandNames = Object.keys(commands) as CommandName[];
export const isCommandName = (word: string): word is CommandName => Object.hasOwn(commands, word);
