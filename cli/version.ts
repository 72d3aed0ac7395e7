import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the package `atoll`: above `cli/`, also when the built JavaScript under `dist/` runs. */
export const packageRoot = ((): string => {
  const above = dirname(dirname(fileURLToPath(import.meta.url)));
  return above.endsWith('/dist') ? dirname(above) : above;
})();

export function version(): string {
  const manifest = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string };
  return manifest.version;
}
