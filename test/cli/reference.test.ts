import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cliPage } from '../../cli/reference.ts';
import { root } from './run.ts';

test('the page of the command line is what its table makes (else: node cli/reference.ts)', async () => {
  expect(await readFile(join(root, 'docs', 'reference', 'cli.md'), 'utf8')).toBe(await cliPage());
});
