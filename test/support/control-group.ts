/** A control group for what a test runs in containers: one in every hierarchy of version 1, or the one of version 2. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rmdir, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isAbandoned, ownedName } from '../../tools/owner.ts';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';

export interface ControlGroup {
  /** As container runtimes call it: absolute, in whatever hierarchy. */
  readonly path: string;
  readonly version: 1 | 2;
  /** A group in it, ready for processes and groups of its own; gives its path. */
  child(name: string): Promise<string>;
}

const root = '/sys/fs/cgroup';
const prefix = 'atoll-test-';
/** Linux, magic.h: CGROUP2_SUPER_MAGIC. */
const version2Magic = 0x63677270;
let made = 0;

/**
 * Removed, with all groups below it, when the test or file that asked for it is over: by then its processes have to be
 * dying. What a killed process left is removed by the next that asks for a group.
 */
export async function makeControlGroup(
  options: { closing?: Closing | undefined } = {},
): Promise<ControlGroup> {
  const version = (await statfs(root)).type === version2Magic ? 2 : 1;
  const hierarchies = version === 2 ? [root] : await version1Hierarchies();
  for (const hierarchy of hierarchies) await removeAbandoned(hierarchy);

  const path = `/${prefix}${ownedName()}.${++made}`;
  const make = async (name: string): Promise<void> => {
    for (const hierarchy of hierarchies) {
      await mkdir(join(hierarchy, name), { recursive: true });
      if (version === 1) await inherit(hierarchy, join(hierarchy, name));
    }
  };
  closeLater(async () => {
    for (const hierarchy of hierarchies) await remove(join(hierarchy, path));
  }, options.closing);
  if (version === 2) await handDown(root);
  await make(path);
  if (version === 2) await handDown(join(root, path));
  return {
    path,
    version,
    async child(name) {
      await make(join(path, name));
      if (version === 2) await handDown(join(root, path, name));
      return join(path, name);
    },
  };
}

/** Also where each has a version 2 beside it without controllers ("hybrid"). */
async function version1Hierarchies(): Promise<string[]> {
  const entries = await readdir(root, { withFileTypes: true });
  return entries
    .filter((entry) => entry.isDirectory() && existsSync(join(root, entry.name, 'cgroup.procs')))
    .map((entry) => join(root, entry.name));
}

/** A new group of the cpuset controller has no processor and no memory, and no process can be put into it. */
async function inherit(from: string, to: string): Promise<void> {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    if (!existsSync(join(to, file)) || (await readFile(join(to, file), 'utf8')).trim() !== '') continue;
    await writeFile(join(to, file), await readFile(join(from, file)));
  }
}

/** Groups below get the controllers that the group has itself. */
async function handDown(group: string): Promise<void> {
  const controllers = (await readFile(join(group, 'cgroup.controllers'), 'utf8')).trim().split(' ');
  await writeFile(
    join(group, 'cgroup.subtree_control'),
    controllers.map((controller) => `+${controller}`).join(' '),
  );
}

async function removeAbandoned(hierarchy: string): Promise<void> {
  for (const name of await readdir(hierarchy)) {
    if (name.startsWith(prefix) && isAbandoned(name.slice(prefix.length)))
      await remove(join(hierarchy, name));
  }
}

const dyingMs = 10_000;

async function remove(group: string): Promise<void> {
  const deadline = Date.now() + dyingMs;
  for (;;) {
    try {
      await removeOnce(group);
      return;
    } catch (error) {
      // A process that was killed is a member until it is gone.
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

async function removeOnce(group: string): Promise<void> {
  try {
    for (const entry of await readdir(group, { withFileTypes: true })) {
      if (entry.isDirectory()) await removeOnce(join(group, entry.name));
    }
    await rmdir(group);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
