import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findOnPath, run } from './command.ts';
import { NotPossible } from './installation.ts';
import type { Installation } from './installation.ts';
import type { PypiTool } from './tools.ts';

/** A virtual environment of its own, of wheels only (so that no package's set-up code runs), each checked by hash. */
export async function installPypi(tool: PypiTool, { result, env, signal }: Installation): Promise<void> {
  const python = findOnPath('python3', env);
  if (python === undefined) {
    throw new NotPossible(
      `it is a Python program, and there is no "python3" on PATH`,
      `install Python 3.10 or later, or put "${tool.binary}" ${tool.accepted.atLeast} or later on PATH`,
    );
  }
  await run(python, ['-m', 'venv', result], { env, signal });
  const requirements = join(import.meta.dirname, tool.requirements);
  await run(
    join(result, 'bin', 'python3'),
    [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--no-cache-dir',
      '--only-binary',
      ':all:',
      '--require-hashes',
      '-r',
      requirements,
    ],
    { env, signal },
  );
  // The scripts that pip writes name the folder they were installed in, and this one is about to be renamed.
  const launcher = `#!/bin/sh\nexec "\${0%/*}/python3" -E -m ${tool.module} "$@"\n`;
  await writeFile(join(result, 'bin', tool.binary), launcher, { mode: 0o755 });
}
