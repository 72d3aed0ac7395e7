import { expect, test } from 'vitest';
import { parseNodeOptions } from '../../../runtime/invoker/node-options.ts';

test.each([
  ['', '', []],
  ['--title=a  --no-warnings', '--title=a --no-warnings', []],
  ['--import ./a.mjs', '', ['import ./a.mjs']],
  [
    '--import=./a.mjs --title=b -r ./c.cjs --require=d',
    '--title=b',
    ['require ./c.cjs', 'require d', 'import ./a.mjs'],
  ],
  ['--title="a b" --require "./my \\"c\\".cjs"', '--title="a b"', ['require ./my "c".cjs']],
  // Node refuses it, with its own words.
  ['--title=a --require', '--title=a --require', []],
])('NODE_OPTIONS %j are %j for Node and %j before the handler', (text, atStart, preloads) => {
  const found = parseNodeOptions(text);
  expect(found.atStart).toBe(atStart);
  expect(found.preloads.map(({ kind, specifier }) => `${kind} ${specifier}`)).toEqual(preloads);
});
