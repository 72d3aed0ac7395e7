import { readFile, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { keepSiteName } from '../../../controller/stores/site-name.ts';
import { openSiteFolder } from '../../../controller/stores/site.ts';
import { temporaryFolder } from '../../support/folder.ts';

test.each([
  ['local', 'hub', /a site of its own and cannot become a hub \(--control\).*--dir/],
  ['hub', 'robot1', /a hub \(--control\) and cannot become the robot "robot1".*--dir/],
  ['robot1', 'robot2', /the robot "robot1" and cannot become the robot "robot2".*--dir/],
])('the folder of %s does not become that of %s', async (first, second, refusal) => {
  const paths = await openSiteFolder(await temporaryFolder());
  await keepSiteName(paths, first);
  await keepSiteName(paths, first);
  await expect(keepSiteName(paths, second)).rejects.toMatchObject({
    code: 'InvalidRequest',
    message: expect.stringMatching(refusal) as string,
  });
  expect(await readFile(paths.name, 'utf8')).toBe(`${first}\n`);
});

test('a name that a power cut left empty is written anew', async () => {
  const paths = await openSiteFolder(await temporaryFolder());
  await writeFile(paths.name, '');
  await keepSiteName(paths, 'robot1');
  expect(await readFile(paths.name, 'utf8')).toBe('robot1\n');
});
