import { spawn } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, resolve } from 'node:path';

export type Environment = Readonly<Record<string, string | undefined>>;

/** A command that could not be started or did not end well: what was run and what it said last. */
export class CommandError extends Error {
  readonly commandLine: string;
  readonly ending: string;
  readonly output: string;

  constructor(commandLine: string, ending: string, output: string) {
    super(`${commandLine}: ${ending}`);
    this.name = 'CommandError';
    this.commandLine = commandLine;
    this.ending = ending;
    this.output = output;
  }

  lastLines(): string[] {
    return this.output
      .split(/[\r\n]+/)
      .filter((line) => line.trim() !== '')
      .slice(-shownLines);
  }
}

export interface RunOptions {
  /** The whole environment of the command. */
  env: Environment;
  /** Variables of that environment that matter so much that an error shows them. */
  shown?: readonly string[];
  cwd?: string;
  signal?: AbortSignal | undefined;
  /** For package managers: killed halfway they leave the machine in disorder, so this one is let finish. */
  letFinish?: boolean;
}

const keptOutput = 64 * 1024;
const shownLines = 12;

/** Runs a command to its end and gives what it wrote to both outputs; anything but exit code 0 is a CommandError. */
export async function run(command: string, args: readonly string[], options: RunOptions): Promise<string> {
  const { env, signal, letFinish = false } = options;
  if (!letFinish) signal?.throwIfAborted();
  const commandLine = describe(command, args, options);
  const { file, args: all } = letFinish ? { file: command, args } : diesWithUs(command, args, env);
  const finished = Promise.withResolvers<string>();
  // A group of its own: Ctrl-C in a terminal then reaches only us, and we end the command with all that it started.
  const child = spawn(file, all, {
    env,
    cwd: options.cwd,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const keep = (chunk: string): void => {
    output = (output + chunk).slice(-keptOutput);
  };
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);
  const abort = (): void => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      process.kill(-child.pid, 'SIGKILL');
    }
  };
  if (!letFinish) signal?.addEventListener('abort', abort);
  child.once('error', (error: NodeJS.ErrnoException) => {
    const ending = error.code === 'ENOENT' ? 'there is no such program' : error.message;
    finished.reject(new CommandError(commandLine, ending, ''));
  });
  child.once('close', (code, signalName) => {
    if (code === 0) return finished.resolve(output);
    const ending = code === null ? `ended by ${signalName}` : `exit code ${code}`;
    finished.reject(new CommandError(commandLine, ending, output));
  });
  try {
    return await finished.promise;
  } catch (error) {
    if (!letFinish) signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** The executable files of that name, the one that a shell would take first; then those in the further folders. */
export function allOnPath(name: string, env: Environment, furtherFolders: readonly string[] = []): string[] {
  const folders = [...(env['PATH'] ?? '').split(delimiter), ...furtherFolders].filter(
    (folder) => folder !== '',
  );
  return [...new Set(folders)].map((folder) => resolve(folder, name)).filter(isExecutable);
}

export function findOnPath(
  name: string,
  env: Environment,
  furtherFolders?: readonly string[],
): string | undefined {
  return allOnPath(name, env, furtherFolders)[0];
}

/** Has the kernel kill the command when this process dies in a way that leaves it no time to do so itself. */
export function diesWithUs(
  command: string,
  args: readonly string[],
  env: Environment,
): { file: string; args: readonly string[] } {
  const setpriv = findOnPath('setpriv', env, ['/usr/bin']);
  if (setpriv === undefined) return { file: command, args };
  // setpriv reports a missing program with its own exit code; resolving it here keeps ENOENT for the caller.
  const file = command.includes('/') ? command : findOnPath(command, env);
  if (file === undefined) return { file: command, args };
  return { file: setpriv, args: ['--pdeathsig', 'KILL', '--', file, ...args] };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function describe(command: string, args: readonly string[], { env, shown = [] }: RunOptions): string {
  const variables = shown.map((name) => `${name}=${quote(env[name] ?? '')}`);
  return [...variables, ...[command, ...args].map(quote)].join(' ');
}

function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
