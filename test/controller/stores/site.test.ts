import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import {
  claimSite,
  findSite,
  openSiteFolder,
  readSite,
  sitePaths,
  type SiteInfo,
} from '../../../controller/stores/site.ts';
import { openLog } from '../../../runtime/log.ts';
import { identify } from '../../../runtime/process/identity.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { closeLater } from '../../support/closing.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const url = 'http://127.0.0.1:8700';

function infoOf(pid: number): SiteInfo {
  const { startTime } = identify(pid) as { startTime: string };
  return { version: '0.1.0', site: 'local', pid, startTime, url, nats: { url: 'nats://127.0.0.1:4222' } };
}

/** A process that runs the site, as `faas up` does; with a child of its own that would survive it. */
async function startUp(dir: string): Promise<{ child: ChildProcess; grandchild: number }> {
  const child = fork(join(import.meta.dirname, 'run-site.ts'), [dir]);
  closeLater(async () => void child.kill('SIGKILL'));
  const [message] = (await once(child, 'message')) as [{ grandchild: number }];
  closeLater(async () => {
    if (identify(message.grandchild)) process.kill(message.grandchild, 'SIGKILL');
  });
  return { child, ...message };
}

test('the second "faas up" on a folder is refused and told who runs it and where', async () => {
  const dir = await temporaryFolder();
  const { child } = await startUp(dir);
  await expect(claimSite(dir, { log })).rejects.toMatchObject({
    code: 'SiteInUse',
    message: expect.stringMatching(new RegExp(`process ${child.pid} .* at ${url}.*--dir`)) as string,
  });
  expect((await readSite(dir))?.pid).toBe(child.pid);
});

test('two that start in one instant do not both run the site', async () => {
  const dir = await temporaryFolder();
  const claims = await Promise.allSettled([claimSite(dir, { log }), claimSite(dir, { log })]);
  expect(claims.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

test('after a kill -9 the site can be claimed, nobody runs it, and what was left of it is ended', async () => {
  const dir = await temporaryFolder();
  const { child, grandchild } = await startUp(dir);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(existsSync(sitePaths(dir).site)).toBe(true);
  expect(await readSite(dir)).toBeUndefined();
  expect(identify(grandchild)).toBeDefined();
  await claimSite(dir, { log });
  expect(identify(grandchild)).toBeUndefined();
  expect(existsSync(sitePaths(dir).site)).toBe(false);
  expect((await readdir(sitePaths(dir).run)).filter((entry) => /^\d/.test(entry))).toEqual([]);
});

test('a living process that got the pid of a marked one is left alone', async () => {
  const dir = await temporaryFolder();
  const { run } = sitePaths(dir);
  await mkdir(run);
  const other = identify(process.pid) as { pid: number; startTime: string };
  const mark = join(run, `${other.pid}-${Number(other.startTime) - 1}`);
  await writeFile(mark, '{"name":"host"}');
  await claimSite(dir, { log });
  expect(existsSync(mark)).toBe(false);
});

test('site.json is there while the site runs, readable only for its owner, and gone after a clean stop', async () => {
  const dir = await temporaryFolder();
  const site = await claimSite(dir, { log });
  await site.publish(infoOf(process.pid));
  expect(await readSite(dir)).toEqual(infoOf(process.pid));
  expect((await stat(site.paths.site)).mode & 0o777).toBe(0o600);
  await site.release();
  expect(await readSite(dir)).toBeUndefined();
  await (await claimSite(dir, { log })).release();
});

test('a folder that is made is only for its owner and says its version', async () => {
  const dir = join(await temporaryFolder(), 'deep', '.atoll');
  await openSiteFolder(dir);
  expect((await stat(dir)).mode & 0o777).toBe(0o700);
  expect(await readFile(join(dir, 'version'), 'utf8')).toBe('1\n');
});

test.each(['2', '99', 'x'])('a folder of version "%s" is refused', async (version) => {
  const dir = await temporaryFolder();
  await writeFile(join(dir, 'version'), version);
  await expect(claimSite(dir, { log })).rejects.toMatchObject({ code: 'SiteTooNew' });
});

test('a site is found through --site, $FAAS_SITE, or the nearest .atoll upwards, in this order', async () => {
  const root = await temporaryFolder();
  const project = join(root, 'project');
  const deep = join(project, 'src', 'deep');
  await mkdir(deep, { recursive: true });
  expect(findSite(deep, {})).toBeUndefined();
  await openSiteFolder(join(root, '.atoll'));
  expect(findSite(deep, {})).toBe(join(root, '.atoll'));
  await openSiteFolder(join(project, '.atoll'));
  expect(findSite(deep, {})).toBe(join(project, '.atoll'));
  const other = join(root, 'other');
  await openSiteFolder(other);
  expect(findSite(deep, { FAAS_SITE: other })).toBe(other);
  expect(findSite(deep, { FAAS_SITE: other }, project)).toBe(join(project, '.atoll'));
  expect(findSite(deep, { FAAS_SITE: '' }, '../..')).toBe(join(project, '.atoll'));
});
