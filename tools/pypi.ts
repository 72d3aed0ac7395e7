import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import { requiredProgram } from './installation.ts';
import type { Installation } from './installation.ts';
import type { PypiTool } from './tools.ts';

/**
 * A virtual environment of its own, of wheels (so that no package's set-up code runs) but for the few in `sources`, each
 * checked by hash.
 */
export async function installPypi(tool: PypiTool, { result, env, signal }: Installation): Promise<void> {
  const python = requiredProgram(
    'python3',
    env,
    'it is a Python program',
    `install Python 3.10 or later, or put "${tool.binary}" ${tool.accepted.atLeast} or later on PATH`,
  );
  await run(python, ['-m', 'venv', result], { env, signal });
  const pip = (file: string, ...options: string[]): Promise<string> =>
    run(
      join(result, 'bin', 'python3'),
      [
        ...['-m', 'pip', 'install', '--quiet', '--no-cache-dir', ...options, '--require-hashes'],
        ...['-r', join(import.meta.dirname, file)],
      ],
      { env, signal },
    );
  const { requirements, sources } = tool;
  // Where two files name everything, neither is complete.
  const part = sources === undefined ? [] : ['--no-deps'];
  await pip(requirements, ...part, '--only-binary', ':all:');
  if (sources !== undefined) await pip(sources, ...part, '--no-binary', ':all:', '--no-build-isolation');
  // The scripts that pip writes name the folder they were installed in, and this one is about to be renamed.
  const launcher = `#!/bin/sh\nexec "\${0%/*}/python3" -E -m ${tool.module} "$@"\n`;
  await writeFile(join(result, 'bin', tool.binary), launcher, { mode: 0o755 });
}
