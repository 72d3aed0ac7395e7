/** `npm run check`: the fast part of the gate, two checks at a time. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { delimiter, join } from 'node:path';

/** The longest first. */
const checks = [
  'eslint .',
  'tsc -p .',
  'prettier --check .',
  'vitest run test/architecture.test.ts test/docs.test.ts',
  'node crds/generate.ts --check',
];
const atATime = 2;

const root = join(import.meta.dirname, '..');
const bin = join(root, 'node_modules', '.bin');

/** What it writes is shown when it is over, so that no two are mixed. */
async function passes(check: string): Promise<boolean> {
  const child = spawn(check, {
    shell: true,
    cwd: root,
    env: { ...process.env, PATH: [bin, process.env['PATH']].join(delimiter) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  const [code] = (await once(child, 'close')) as [number | null];
  process.stdout.write(`\n> ${check}\n${output}`);
  return code === 0;
}

const waiting = [...checks];
const failed: string[] = [];
async function work(): Promise<void> {
  for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) {
    if (!(await passes(check))) failed.push(check);
  }
}
await Promise.all(Array.from({ length: atATime }, work));
for (const check of failed) process.stdout.write(`\nfailed: ${check}\n`);
process.exitCode = failed.length === 0 ? 0 : 1;
