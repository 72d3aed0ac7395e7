import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseKeys, readKeysFile, sameText } from '../../gateway/keys.ts';
import { temporaryFolder } from '../support/folder.ts';

const line = (id: string, secret: string) => JSON.stringify({ id, secret });

test('one key a line; empty lines and comments are passed over', () => {
  const keys = parseKeys(
    `# operators\n\n${line('ops', 'a'.repeat(16))}\n${line('ci', 'b'.repeat(40))}\n`,
    'keys',
  );
  expect(keys.find('ops')).toEqual({ secret: 'a'.repeat(16), known: true });
  expect(keys.find('ci').known).toBe(true);
  expect(keys.find('other').known).toBe(false);
});

test.each([
  ['no key at all', '# nothing\n', /holds no key/],
  ['no JSON', 'ops secret-secret-secret', /line 1: not a JSON object/],
  ['no object', 'null', /line 1: "id"/],
  ['an id with a dot', line('o.ps', 'a'.repeat(16)), /line 1: "id"/],
  ['a short secret', line('ops', 'a'.repeat(15)), /line 1: "secret" must be 16/],
  ['a secret with a space', line('ops', `${'a'.repeat(16)} b`), /line 1: "secret"/],
  ['an id twice', `${line('ops', 'a'.repeat(16))}\n${line('ops', 'b'.repeat(16))}`, /line 2: this id/],
])('%s is refused, and the message does not repeat the line', (_case, text, message) => {
  expect(() => parseKeys(text, 'keys')).toThrow(message);
  try {
    parseKeys(text, 'keys');
  } catch (error) {
    expect((error as Error).message).not.toMatch(/aaaa|secret-secret/);
  }
});

test('a file that others may read is refused, with what to do', async () => {
  const path = join(await temporaryFolder(), 'keys');
  await writeFile(path, line('ops', 'a'.repeat(16)));
  for (const mode of [0o644, 0o640, 0o604, 0o620]) {
    await chmod(path, mode);
    await expect(readKeysFile(path)).rejects.toMatchObject({
      code: 'KeysRefused',
      message: expect.stringContaining('chmod 600') as string,
    });
  }
  await chmod(path, 0o600);
  expect((await readKeysFile(path)).find('ops').known).toBe(true);
});

test('a file that is not there is refused', async () => {
  await expect(readKeysFile(join(await temporaryFolder(), 'keys'))).rejects.toMatchObject({
    code: 'KeysRefused',
  });
});

test('texts are compared whole, whatever their lengths', () => {
  expect(sameText('abc', 'abc')).toBe(true);
  for (const other of ['', 'ab', 'abd', 'abcd']) expect(sameText('abc', other)).toBe(false);
});
