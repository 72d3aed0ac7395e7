import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { findOnPath, run } from './command.ts';
import { NotPossible } from './installation.ts';
import type { Installation } from './installation.ts';
import type { GoTool } from './tools.ts';

/** Builds the one binary; caches of modules and builds are as throw-away as the scratch folder they lie in. */
export async function installGo(tool: GoTool, { result, scratch, env, signal }: Installation): Promise<void> {
  const go = findOnPath('go', env);
  if (go === undefined) {
    throw new NotPossible(
      `it is built with Go, and there is no "go" on PATH`,
      `install Go, or put a ${tool.binary} of ${tool.accepted.atLeast} or later on PATH`,
    );
  }
  const bin = join(result, 'bin');
  const temporary = join(scratch, 'tmp');
  await mkdir(temporary, { recursive: true });
  await run(go, ['install', '-trimpath', '-ldflags', '-s -w', `${tool.package}@v${tool.version}`], {
    cwd: scratch,
    signal,
    shown: ['CGO_ENABLED', 'GOFLAGS', 'GOTOOLCHAIN'],
    env: {
      ...env,
      CGO_ENABLED: '0',
      // Modules are unpacked read-only otherwise, and could not be deleted afterwards.
      GOFLAGS: '-mod=mod -modcacherw',
      GOTOOLCHAIN: 'local',
      GOWORK: 'off',
      GOBIN: bin,
      GOCACHE: join(scratch, 'build'),
      GOMODCACHE: join(scratch, 'modules'),
      GOTMPDIR: temporary,
      // Set for cross-compiling, they would give a binary that does not run here.
      GOOS: undefined,
      GOARCH: undefined,
    },
  });
}
