/** `faas up` as a service of systemd: what it is started with is read and checked as by hand, then written down. */
import { execFile } from 'node:child_process';
import { chmod, chown, mkdir, readFile, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { readRobotFile } from '../controller/broker/robot-file.ts';
import { folderMode, isMissing, writeAtomically } from '../controller/stores/atomic-file.ts';
import { findTool } from '../tools/install.ts';
import type { OptionTable } from './command.ts';
import { exitCodes } from './command.ts';
import { Failure, usageError } from './failure.ts';
import { roleOf, siteOf, type RoleOptions } from './site-role.ts';
import { systemdUnit } from './systemd-unit.ts';
import { packageRoot } from './version.ts';

export const unitFolder = '/etc/systemd/system';
const usualDir = '/var/lib/atoll';
/** Options of `faas up` whose files nobody but the service may read. */
const secretFiles = ['keys', 'robot-file', 'tls-key', 'nats-key', 'nats-creds', 'mqtt-key'];

export interface Service {
  /** Such as `atoll-robot1.service`. */
  readonly name: string;
  readonly text: string;
  readonly user: string;
  readonly dir: string;
  /** What it starts: where each program is now. */
  readonly programs: readonly string[];
  /** Absolute, by the option of `faas up` that names it. */
  readonly files: Readonly<Record<string, string>>;
}

/** What `faas up` would be given. Rejects with a usage Failure as that does. */
export async function serviceFor(given: {
  /** Parsed: by option in camel case. */
  readonly up: Readonly<Record<string, unknown>> & RoleOptions;
  readonly options: OptionTable;
  readonly user?: string | undefined;
}): Promise<Service> {
  const { up, options } = given;
  const role = await roleOf(up);
  const site = role === undefined ? undefined : siteOf(role);
  const dir = resolve((up['dir'] as string | undefined) ?? usualDir);
  const user = given.user ?? usualUser();
  const files: Record<string, string> = {};
  const words = ['up', '--dir', dir];
  for (const [name, option] of Object.entries(options)) {
    const value = up[camel(name)];
    if (name === 'dir' || value === undefined || value === option.default) continue;
    if (option.type === 'boolean') words.push(`--${name}`);
    else {
      const isFile = option.value === 'FILE';
      const shown = isFile ? resolve(String(value)) : String(value);
      if (isFile) files[name] = shown;
      // The robot's own copy: there it is replaced when its keys are exchanged.
      words.push(`--${name}`, name === 'robot-file' ? ownFile(dir) : shown);
    }
  }
  const nats = await findTool('nats-server', { log: () => {} });
  const outside = up.control && !['127.0.0.1', '::1', 'localhost', '0.0.0.0', '::'].includes(up.host);
  return {
    name: `atoll${site === undefined ? '' : `-${site}`}.service`,
    text: systemdUnit({
      title: `Atoll${site === undefined ? '' : `, ${role?.kind === 'control' ? 'hub of robots' : `robot ${site}`}`}`,
      documentation: `file://${join(packageRoot, 'docs', 'reference', 'robots.md')}`,
      user,
      command: [process.execPath, join(packageRoot, 'cli', 'faas.js'), ...words],
      dir,
      path: nats === undefined ? [] : [dirname(nats)],
      needsNetwork: outside,
    }),
    user,
    dir,
    programs: [process.execPath, ...(nats === undefined ? [] : [nats])],
    files,
  };
}

const ownFile = (dir: string): string => join(dir, 'robot.json');
const camel = (name: string): string =>
  name.replace(/-(\w)/g, (_all, letter: string) => letter.toUpperCase());

/** Functions run as that user, so nobody is made root without having said so. */
function usualUser(): string {
  const { SUDO_USER, USER } = process.env;
  const user = SUDO_USER ?? (process.getuid?.() === 0 ? undefined : USER);
  if (user !== undefined && user !== '') return user;
  throw usageError('--user is missing: functions run as that user', 'A user without other rights is best.');
}

/**
 * Makes the folder of the site, copies the robot's file into it, and writes the unit: each for the user alone, but the
 * unit, which holds no secret and which all may read. Returns the unit's path. Rejects with a Failure when something is
 * open to others or belongs to somebody else.
 */
export async function installService(service: Service, folder: string): Promise<string> {
  const { name, text, user, dir, programs, files } = service;
  const owner = await ownerOf(user);
  for (const program of programs) await mustRun(program, user, owner);
  for (const [option, file] of Object.entries(files)) await mustBeFile(option, file, user, owner);
  const made = await mkdir(dir, { recursive: true, mode: folderMode });
  if (made !== undefined) await give(dir, owner);
  else if ((await stat(dir)).uid !== owner.uid) {
    throw new Failure(exitCodes.site, `${dir} does not belong to ${user}, as whom the service runs`, {
      advice: `chown -R ${user}: ${dir}`,
    });
  }
  const robotFile = files['robot-file'];
  if (robotFile !== undefined && robotFile !== ownFile(dir)) {
    await readRobotFile(robotFile);
    await writeAtomically(ownFile(dir), await readFile(robotFile, 'utf8'));
    await give(ownFile(dir), owner);
  }
  const path = join(resolve(folder), name);
  await writeAtomically(path, text);
  // It holds no secret, and systemd complains about one that others cannot read.
  await chmod(path, 0o644);
  return path;
}

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

async function ownerOf(user: string): Promise<Owner> {
  const run = promisify(execFile);
  try {
    const [uid, gid] = await Promise.all(
      ['-u', '-g'].map(async (flag) => (await run('id', [flag, user])).stdout),
    );
    return { uid: Number(uid), gid: Number(gid) };
  } catch {
    throw usageError(
      `--user: there is no user "${user}" on this machine`,
      `Make one: useradd --system ${user}`,
    );
  }
}

async function give(path: string, { uid, gid }: Owner): Promise<void> {
  if ((await stat(path)).uid !== uid) await chown(path, uid, gid);
}

/** A tool cache or a checkout in root's home is closed to a user without other rights. */
async function mustRun(program: string, user: string, { uid, gid }: Owner): Promise<void> {
  if (process.getuid?.() !== 0 || uid === 0) return;
  try {
    await promisify(execFile)('test', ['-x', program], { uid, gid });
  } catch {
    throw new Failure(exitCodes.site, `${user}, as whom the service runs, cannot run ${program}`, {
      advice:
        program === process.execPath
          ? `Put ${packageRoot} where ${user} can read it, such as /opt/atoll.`
          : `install -m 755 ${program} /usr/local/bin`,
    });
  }
}

async function mustBeFile(option: string, file: string, user: string, owner: Owner): Promise<void> {
  const found = await stat(file).catch((error: unknown) => {
    if (isMissing(error)) throw usageError(`--${option}: there is no file ${file}`);
    throw error;
  });
  // Of the robot's file the service gets a copy of its own.
  if (!secretFiles.includes(option) || option === 'robot-file') return;
  if ((found.mode & 0o077) !== 0)
    throw usageError(`--${option}: others may read ${file}`, `chmod 600 ${file}`);
  if (found.uid !== owner.uid) {
    throw usageError(
      `--${option}: ${file} does not belong to ${user}, as whom the service runs`,
      `chown ${user}: ${file}`,
    );
  }
}
