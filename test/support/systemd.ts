/**
 * A systemd that boots for a test: process 1 of namespaces of its own, with units of its own and no others of the machine,
 * under whose control groups it runs. The network is the machine's, or that of a place.
 */
import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { closeLater, type Closing } from './closing.ts';
import { makeControlGroup } from './control-group.ts';
import { temporaryFolder } from './folder.ts';
import type { Place } from './place.ts';
import { startProcess } from './process.ts';

const program = '/lib/systemd/systemd';
const hierarchy = '/sys/fs/cgroup/systemd';
const unitFolder = 'etc/systemd/system';
/** As a boot has them, without what a machine hangs on them. */
const targets = ['sysinit', 'basic', 'multi-user', 'network', 'network-online', 'shutdown'];

export interface MachineOptions {
  /** Commands of a shell before the boot, with `$units` for the folder of units; what they mount is seen only in there. */
  readonly prepare: string;
  /** Of `prepare`, beside what this process has. */
  readonly env?: Readonly<Record<string, string>>;
  /** Whose network it has. */
  readonly place?: Pick<Place, 'enter'>;
  readonly closing?: Closing;
}

export interface Machine extends Pick<Place, 'enter'> {
  /** What the command wrote to stdout, run in there as root. Rejects, with what it wrote, when it failed. */
  run(command: string, ...args: string[]): Promise<string>;
  /** The properties of a unit, by name. */
  show(unit: string): Promise<Record<string, string>>;
}

/** Why there can be none here, or undefined when there can. */
export function missingSystemd(): string | undefined {
  const reason =
    process.getuid?.() !== 0
      ? 'root'
      : !existsSync(program)
        ? `${program} (Debian: systemd)`
        : !existsSync(join(hierarchy, 'cgroup.procs'))
          ? `${hierarchy}, of control groups of version 1`
          : spawnSync('unshare', ['--mount', '--pid', '--fork', '--cgroup', 'true']).status !== 0
            ? 'namespaces ("unshare", util-linux)'
            : undefined;
  if (reason === undefined) return undefined;
  process.stderr.write(`Skipped: booting a systemd needs ${reason}\n`);
  return reason;
}

export async function startMachine({ prepare, env, place, closing }: MachineOptions): Promise<Machine> {
  const folder = await temporaryFolder({ closing });
  const group = await makeControlGroup({ closing });
  const script = join(folder, 'boot.sh');
  await writeFile(script, bootScript(prepare));
  const namespaces = ['--mount', '--pid', '--fork', '--mount-proc', '--uts', '--ipc', '--cgroup'];
  const enter = [
    `echo $$ > ${hierarchy}${group.path}/cgroup.procs`,
    `exec unshare ${namespaces.join(' ')} --propagation private --kill-child sh ${script}`,
  ];
  const launch = { command: 'sh', args: ['-ec', enter.join('\n')] };
  const { command: shell, args: words } = place?.enter(launch) ?? launch;
  const machine = await startProcess(shell, words, {
    name: 'systemd',
    env: { ...process.env, ...env },
    closing,
  });
  // It does not end by a signal that asks it to.
  closeLater(async () => void (await machine.kill()), closing);
  const inside = ['--mount', '--uts', '--ipc', '--net', '--cgroup'].map((kind) => {
    const file = kind === '--mount' ? 'mnt' : kind.slice(2);
    return `${kind}=/proc/${machine.pid}/ns/${file}`;
  });
  const pids = `--pid=/proc/${machine.pid}/ns/pid_for_children`;
  const enterMachine: Machine['enter'] = ({ command, args }) => ({
    command: 'nsenter',
    args: [...inside, pids, command, ...args],
  });
  const run = async (command: string, ...args: string[]): Promise<string> => {
    const inThere = enterMachine({ command, args });
    return (await promisify(execFile)(inThere.command, inThere.args)).stdout;
  };
  await machine.until('it booted', async () => {
    // Until it has a /run of its own, it would be the machine's systemd that answers.
    await run('test', '-d', '/run/machine');
    await run('systemctl', 'is-active', 'multi-user.target');
    return true;
  });
  return {
    enter: enterMachine,
    run,
    show: async (unit) =>
      Object.fromEntries(
        (await run('systemctl', 'show', unit))
          .split('\n')
          .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
      ),
  };
}

const bootScript = (prepare: string): string => `set -e
for place in /run /sys/fs/cgroup /opt /srv; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir ${hierarchy}
mount -t cgroup -o none,name=systemd systemd ${hierarchy}
units=/run/machine/${unitFolder}
mkdir -p $units
for target in ${targets.join(' ')}; do printf '[Unit]\\nDescription=%s\\n' $target > $units/$target.target; done
${prepare}
cd /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=$units \\
  ${program} --system --unit=multi-user.target
`;
