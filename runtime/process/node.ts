/** Which Node binary runs a function: spec.runtime → the pinned npm package, or our own when it fits. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { FunctionSpec } from '../../crds/function.ts';
import { AtollError } from '../errors.ts';

const packagePrefix: Record<FunctionSpec['runtime'], { name: string; major: string }> = {
  'nodejs24.x': { name: 'node-linux', major: '24' },
  'nodejs22.x': { name: 'node22-linux', major: '22' },
};

/** Throws AtollError Runtime.StartError, which names the package to install. */
export function nodeBinary(runtime: FunctionSpec['runtime']): string {
  const { name, major } = packagePrefix[runtime];
  const wanted = `${name}-${process.arch}`;
  try {
    const require = createRequire(import.meta.url);
    const binary = join(dirname(require.resolve(`${wanted}/package.json`)), 'bin', 'node');
    if (existsSync(binary)) return binary;
  } catch {
    // not installed; what follows says so
  }
  if (process.versions.node.startsWith(`${major}.`)) return process.execPath;
  throw new AtollError(
    'Runtime.StartError',
    `runtime ${runtime} needs Node.js ${major}: the npm package ${wanted} is not installed, and this host runs ${process.version}`,
  );
}
