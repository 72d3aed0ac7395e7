import { expect, test } from 'vitest';
import { entryPath, packageSha256 } from '../../../runtime/package/format.ts';

test.each([
  ['./index.mjs', 'index.mjs'],
  ['a//b/./c', 'a/b/c'],
  ['dir/', 'dir'],
  ['./', ''],
  ['..a/b..', '..a/b..'],
])('the entry %s is %s in the package', (path, expected) => expect(entryPath(path)).toBe(expected));

test('the digest of a package is the given one, that of inline code covers text and file name', () => {
  const sha256 = 'a'.repeat(64);
  expect(packageSha256({ uri: 's3://b/k', sha256 }, 'index.handler')).toBe(sha256);
  const one = packageSha256({ inline: 'x' }, 'index.handler');
  expect(one).toMatch(/^[0-9a-f]{64}$/);
  expect(packageSha256({ inline: 'x' }, 'index.other')).toBe(one);
  expect(packageSha256({ inline: 'x' }, 'app.handler')).not.toBe(one);
  expect(packageSha256({ inline: 'y' }, 'index.handler')).not.toBe(one);
});
