import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { CommandError, findOnPath, run } from './command.ts';
import type { Environment } from './command.ts';
import { NotPossible } from './installation.ts';
import type { Installation } from './installation.ts';
import type { DebianTool } from './tools.ts';

const policyFile = '/usr/sbin/policy-rc.d';
/** Another package manager may be at work, as on a machine that has just booted. */
const dpkgLockSeconds = 120;

/** Where Debian puts servers and plug-ins, and where a user's PATH seldom looks. */
export const debianFolders: readonly string[] = ['/usr/bin', '/usr/sbin', '/usr/lib/cni'];

/** Installs into the system, as Debian's packages can only be; what it must not do is to start a daemon. */
export async function installDebian(tool: DebianTool, { env, log }: Installation): Promise<void> {
  const packages = tool.packages.join(' ');
  if (findOnPath('apt-get', env, debianFolders) === undefined) {
    throw new NotPossible(
      `it is installed with apt-get, and this system has none`,
      `install ${packages} with the system's own package manager`,
    );
  }
  if (process.getuid?.() !== 0) {
    throw new NotPossible(
      `it is a system package, and only root may install those`,
      `run "sudo apt-get install -y --no-install-recommends ${packages}"`,
    );
  }
  const apt = (...args: string[]): Promise<string> =>
    run('apt-get', ['-o', `DPkg::Lock::Timeout=${dpkgLockSeconds}`, ...args], {
      env: { ...env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' },
      letFinish: true,
    });
  const install = (): Promise<string> => apt('install', '-y', '--no-install-recommends', ...tool.packages);

  await withoutDaemons(async () => {
    if (!(await isListed(tool, env))) {
      log(`${packages}: not in the package list, fetching a new one`);
      await apt('update');
      return install();
    }
    try {
      return await install();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      // An old list names files that the mirror no longer has.
      log(`${packages}: not served as listed, fetching a new package list`);
      await apt('update');
      return install();
    }
  });
  if (existsSync('/run/systemd/system')) {
    log(
      `${packages}: the package's own service was not started; "systemctl disable ${tool.packages[0]}" keeps it so`,
    );
  }
}

async function isListed(tool: DebianTool, env: Environment): Promise<boolean> {
  const answers = await Promise.all(
    tool.packages.map((name) => run('apt-cache', ['policy', name], { env: { ...env, LC_ALL: 'C' } })),
  );
  return answers.every((answer) => /Candidate: (?!\(none\))/.test(answer));
}

/** A machine that already has a policy keeps it: whoever wrote it decided for all packages. */
async function withoutDaemons(work: () => Promise<unknown>): Promise<void> {
  const policy = [
    '#!/bin/sh',
    '# Written by Atoll while it installs a package whose daemon must not start.',
    '# It forbids only as long as that goes on, so a copy that was left behind does no harm.',
    `kill -0 ${process.pid} 2>/dev/null && exit 101`,
    'exit 0',
    '',
  ].join('\n');
  try {
    await writeFile(policyFile, policy, { mode: 0o755, flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    await work();
    return;
  }
  try {
    await work();
  } finally {
    await rm(policyFile, { force: true });
  }
}
