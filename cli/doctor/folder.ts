/** The folder of a site: its version, who may use it, whether it can be written, and how much room is left. */
import { randomUUID } from 'node:crypto';
import { readdir, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { layoutProblem, type SitePaths } from '../../controller/stores/site.ts';
import { isKey, UnreadableObjectError, type Store } from '../../controller/stores/store.ts';
import { readKeysFile } from '../../gateway/keys.ts';
import type { RuntimeConfig } from '../../runtime/config.ts';
import { faultOf } from '../../runtime/errors.ts';
import { systemProblem } from '../system-problem.ts';
import { bytesText, checksOf, type Check } from './check.ts';

/** Below the first a package or a log may fail at any moment; below the second it is time to look. */
const room = { leastBytes: 100 * 1024 ** 2, fewBytes: 1024 ** 3, leastFiles: 1_000 };

export async function folderChecks(paths: SitePaths): Promise<Check[]> {
  return [await folderCheck(paths), await diskCheck(paths), ...(await secretChecks(paths))];
}

async function folderCheck(paths: SitePaths): Promise<Check> {
  const { ok, warning, problem } = checksOf('folder');
  const trial = join(paths.dir, `.${randomUUID()}.tmp`);
  try {
    const written = await readFile(paths.version, 'utf8');
    const layout = layoutProblem(paths, written);
    if (layout !== undefined) return problem(layout.message, layout.advice);
    await writeFile(trial, '', { flag: 'wx', mode: 0o600 });
    await rm(trial);
    const { mode } = await stat(paths.dir);
    if ((mode & 0o077) !== 0) {
      return warning(
        `${paths.dir} has mode ${(mode & 0o777).toString(8)}: others may look into it`,
        `Only its owner should: chmod 700 ${paths.dir}`,
      );
    }
    return ok(`${paths.dir}, layout version ${written.trim()}`);
  } catch (error) {
    const { message, advice } = systemProblem(error) ?? { message: faultOf(error).message };
    return problem(message, advice ?? 'Repair it, or give another folder with --site.');
  }
}

async function diskCheck(paths: SitePaths): Promise<Check> {
  const { ok, warning, problem } = checksOf('disk');
  try {
    const { bavail, bsize, blocks, ffree, files } = await statfs(paths.dir);
    const free = bavail * bsize;
    const text = `${bytesText(free)} of ${bytesText(blocks * bsize)} are free at ${paths.dir}`;
    const advice = 'Make room: packages/, cache/ and logs/ of removed functions, or nats/ with old messages.';
    if (free < room.leastBytes) return problem(text, advice);
    // Some file systems count no files.
    if (files > 0 && ffree < room.leastFiles) return problem(`${text}, but only ${ffree} files`, advice);
    return free < room.fewBytes ? warning(text, advice) : ok(text);
  } catch (error) {
    return problem(faultOf(error).message, 'See whether its disk is there.');
  }
}

/** Who may read what should be known to the owner alone; and whether the keys can be used. */
async function secretChecks(paths: SitePaths): Promise<Check[]> {
  const { ok, problem } = checksOf('secrets');
  const files = ['nats.json', 'mqtt.json', 's3.json'].map((name) => join(paths.dir, name));
  for (const entry of await readdir(paths.secrets, { recursive: true, withFileTypes: true }).catch(
    () => [],
  )) {
    if (!entry.isDirectory()) files.push(join(entry.parentPath, entry.name));
  }
  let count = 0;
  const open: string[] = [];
  for (const file of files) {
    const found = await stat(file).catch(() => undefined);
    if (found === undefined) continue;
    count += 1;
    if ((found.mode & 0o077) !== 0) open.push(file);
  }
  const checks = [
    open.length === 0
      ? ok(count === 0 ? 'none' : `${count} files, for their owner alone`)
      : problem(`others may read ${open.join(', ')}`, `chmod 600 ${open.join(' ')}`),
  ];
  if (await stat(paths.keys).catch(() => undefined)) checks.push(await keysCheck(paths));
  return checks;
}

async function keysCheck(paths: SitePaths): Promise<Check> {
  const { ok, problem } = checksOf('keys');
  try {
    await readKeysFile(paths.keys);
    return ok(paths.keys);
  } catch (error) {
    return problem(faultOf(error).message, 'See docs/reference/doors.md for what the file holds.');
  }
}

/** What the host of the site was last told: addresses and files of credentials, no credentials. */
export async function lastConfig(paths: SitePaths): Promise<Partial<RuntimeConfig>> {
  try {
    return JSON.parse(await readFile(join(paths.run, 'host.json'), 'utf8')) as Partial<RuntimeConfig>;
  } catch {
    return {};
  }
}

/** Whether the NATS server is the one that `faas up` starts; by the port it was given. */
export async function hasOwnBroker(paths: SitePaths, url: string | undefined): Promise<boolean> {
  if (url === undefined) return true;
  try {
    const ports = JSON.parse(await readFile(join(paths.nats, 'ports.json'), 'utf8')) as { nats?: number };
    return url === `nats://127.0.0.1:${ports.nats}`;
  } catch {
    return false;
  }
}

/** Files that are no Functions any more, each by itself; and files that nobody looks at. */
export async function fileChecks(paths: SitePaths, store: Store): Promise<Check[]> {
  const checks: Check[] = [];
  for (const key of await store.keys()) {
    const { problem } = checksOf(`function ${key.namespace}/${key.name}`);
    await store.get(key).catch((error: unknown) => {
      const advice =
        error instanceof UnreadableObjectError
          ? 'Repair the file, or replace it with "faas apply -f" or "faas deploy"; what ran of it goes on running.'
          : 'See whether the file can be read.';
      checks.push(problem(faultOf(error).message, advice, { whose: 'yours' }));
    });
  }
  for (const entry of await readdir(paths.functions, { recursive: true, withFileTypes: true }).catch(
    () => [],
  )) {
    const file = join(entry.parentPath, entry.name);
    const [namespace = '', name, ...deeper] = file.slice(paths.functions.length + 1).split('/');
    if (entry.isDirectory() || entry.name.startsWith('.')) continue;
    if (deeper.length === 0 && name?.endsWith('.yaml') && isKey({ namespace, name: name.slice(0, -5) }))
      continue;
    checks.push(
      checksOf('functions').warning(
        `${file} is not taken for a Function`,
        'A Function is <namespace>/<name>.yaml, with the name in lower case.',
      ),
    );
  }
  return checks;
}
