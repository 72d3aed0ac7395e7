import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..', '..');

/** The packages of node_modules that these files load before they are asked for anything. */
function packagesOf(...files: string[]): string[] {
  const program = `
    import { registerHooks } from 'node:module';
    const found = new Set();
    registerHooks({
      load(url, context, next) {
        const [, name] = /.*\\/node_modules\\/((?:@[^/]+\\/)?[^/]+)/.exec(url) ?? [];
        if (name) found.add(name);
        return next(url, context);
      },
    });
    for (const file of ${JSON.stringify(files)}) await import(file);
    console.log(JSON.stringify([...found]));`;
  const output = execFileSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: root,
    encoding: 'utf8',
  });
  return JSON.parse(output) as string[];
}

test.each(['invoke', 'logs', 'dead'])(
  'faas %s loads neither the schema of a Function nor what checks it',
  (command) => {
    const packages = packagesOf('./cli/usage.ts', './cli/folder-site.ts', `./cli/commands/${command}.ts`);
    expect(packages).toContain('yargs');
    expect(packages.filter((name) => /^(typebox|ajv|yaml|@kubernetes|esbuild|pino)/.test(name))).toEqual([]);
  },
);
