import { CommandError } from './command.ts';
import { NotPossible } from './installation.ts';
import type { Tool } from './tools.ts';

/** A tool is not there and could not be installed. The message says why, with what words, and what to do. */
export class InstallError extends Error {
  readonly tool: string;

  constructor(name: string, tool: Tool, cause: unknown) {
    super(`${name} ${tool.version} could not be installed: ${explain(tool, cause)}`, { cause });
    this.name = 'InstallError';
    this.tool = name;
  }
}

function explain(tool: Tool, cause: unknown): string {
  if (cause instanceof NotPossible) return `${cause.message}.\nWhat to do: ${cause.advice}.`;
  if (!(cause instanceof CommandError)) return cause instanceof Error ? cause.message : String(cause);
  const said = cause.lastLines().map((line) => `\n    ${line}`);
  return (
    `a command failed (${cause.ending}).\n  ${cause.commandLine}` +
    (said.length > 0 ? `\n  Its last lines:${said.join('')}` : '') +
    `\nWhat to do: ${advice(tool)}.`
  );
}

function advice(tool: Tool): string {
  const or = `or put a ${tool.binary} of ${tool.accepted.atLeast} or later on PATH`;
  switch (tool.kind) {
    case 'go':
    case 'go-module':
    case 'go-files':
      return `see that Go reaches its module proxy ("go env GOPROXY") and is new enough for this version, ${or}`;
    case 'pypi':
      return `see that pip reaches its index ("python3 -m pip config list"), ${or}`;
    case 'ros':
      return (
        'see that pip and npm reach their registries ("python3 -m pip config list", "npm config get registry"), ' +
        `and that the compiler, CMake and Python's headers are complete`
      );
    case 'npm':
      return 'see that npm reaches its registry ("npm config get registry")';
    case 'debian':
      return `run "apt-get install ${tool.packages.join(' ')}" by hand and see what it asks for, ${or}`;
  }
}
