import { execFileSync, spawnSync } from 'node:child_process';
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openRobots } from '../../controller/broker/robots.ts';
import { systemdUnit, type UnitOptions } from '../../cli/systemd-unit.ts';
import { findOnPath } from '../../tools/command.ts';
import { temporaryFolder } from '../support/folder.ts';
import { faas } from './run.ts';

const analyze = findOnPath('systemd-analyze', process.env, ['/usr/bin']);
const user = userInfo().username;

/** The values of a setting, in order; lines that go on are not used. */
const valuesOf = (unit: string, setting: string): string[] =>
  unit.split('\n').flatMap((line) => (line.startsWith(`${setting}=`) ? line.slice(setting.length + 1) : []));

async function robotFile(folder: string): Promise<string> {
  const secrets = await openRobots(folder).add('robot1');
  const file = join(folder, 'carried.json');
  await writeFile(file, JSON.stringify({ ...secrets, hub: 'hub', ports: { leaf: 7422 } }), { mode: 0o600 });
  return file;
}

const unitOf = (more: Partial<UnitOptions> = {}): string =>
  systemdUnit({
    title: 'Atoll, robot robot1',
    documentation: 'file:///opt/atoll/docs/reference/robots.md',
    user,
    command: [process.execPath, '--version'],
    dir: '/var/lib/atoll',
    path: [],
    needsNetwork: false,
    ...more,
  });

test('it is started at boot, again whenever it ended, and may write its folder alone', () => {
  const unit = unitOf();
  const settings: [string, string][] = [
    ['WantedBy', 'multi-user.target'],
    ['Restart', 'always'],
    ['StartLimitIntervalSec', '0'],
    ['KillMode', 'mixed'],
    ['OOMPolicy', 'continue'],
    ['User', user],
    ['UMask', '0077'],
    ['ProtectSystem', 'strict'],
    ['ReadWritePaths', '"/var/lib/atoll"'],
    ['NoNewPrivileges', 'yes'],
    ['CapabilityBoundingSet', ''],
    ['After', 'network.target'],
    ['RequiresMountsFor', '"/var/lib/atoll"'],
  ];
  for (const [setting, value] of settings)
    expect([setting, valuesOf(unit, setting)]).toEqual([setting, [value]]);
  // Node could not compile.
  expect(unit).not.toContain('MemoryDenyWriteExecute');
  // A robot works without a network.
  expect(unit).not.toContain('network-online');
  const outside = unitOf({ needsNetwork: true });
  expect(valuesOf(outside, 'After')).toEqual(['network-online.target']);
  expect(valuesOf(outside, 'Wants')).toEqual(['network-online.target']);
});

test('words with spaces, quotes, % and $ are one argument each, as they are', () => {
  const unit = unitOf({ command: ['/bin/true', 'a b', '100%', '$HOME', 'say "x"\\'], dir: '/srv/my %site' });
  expect(valuesOf(unit, 'ExecStart')).toEqual(['/bin/true "a b" "100%%" "$$HOME" "say \\"x\\"\\\\"']);
  expect(valuesOf(unit, 'ReadWritePaths')).toEqual(['"/srv/my %%site"']);
  expect(valuesOf(unitOf({ title: 'a\nUser=root' }), 'User')).toEqual([user]);
});

test.skipIf(analyze === undefined)(
  'systemd understands all of it, and has no more to say than that it is well locked up',
  async () => {
    const file = join(await temporaryFolder(), 'atoll-robot1.service');
    for (const unit of [
      unitOf(),
      unitOf({ needsNetwork: true, dir: '/srv/my %site', path: ['/opt/my tools'] }),
    ]) {
      await writeFile(file, unit);
      const { status, stdout, stderr } = spawnSync(analyze!, ['verify', '--man=no', file], {
        encoding: 'utf8',
      });
      // What it does not know it only tells.
      expect({ status, told: `${stdout}${stderr}` }).toEqual({ status: 0, told: '' });
    }
    const rated = execFileSync(analyze!, ['security', '--offline=yes', '--threshold=30', file], {
      encoding: 'utf8',
    });
    expect(Number(/exposure level.*: ([\d.]+)/.exec(rated)?.[1])).toBeLessThan(3);
  },
);

test("a robot's unit runs what was given by hand, and its keys are for its user alone", async () => {
  const folder = await temporaryFolder();
  const [file, dir, units] = [await robotFile(folder), join(folder, 'state'), join(folder, 'units')];
  await mkdir(units);
  const up = ['--robot', 'robot1', '--hub', 'tls://hub', '--robot-file', file, '--dir', dir];
  const args = ['install', '--systemd', '--user', user, '--unit-dir', units, '--', ...up];
  const { code, stdout, stderr } = await faas(args);
  expect({ code, stdout: stdout.trim() }).toEqual({ code: 0, stdout: join(units, 'atoll-robot1.service') });
  expect(stderr).toContain('systemctl enable --now atoll-robot1.service');
  const unit = await readFile(stdout.trim(), 'utf8');
  const [command = ''] = valuesOf(unit, 'ExecStart');
  expect(command).toMatch(/^\/\S+\/node \/\S+\/cli\/faas\.js up --dir /);
  expect(command).toContain(`--robot robot1 --hub tls://hub --robot-file ${dir}/robot.json`);
  const secrets = JSON.parse(await readFile(file, 'utf8')) as { link: string };
  expect(unit).not.toContain(secrets.link);
  expect((await stat(stdout.trim())).mode & 0o777).toBe(0o644);
  expect((await stat(dir)).mode & 0o777).toBe(0o700);
  expect((await stat(join(dir, 'robot.json'))).mode & 0o777).toBe(0o600);
  expect(await readFile(join(dir, 'robot.json'), 'utf8')).toBe(await readFile(file, 'utf8'));
  // What it says starts: the same words, by hand.
  const words = command.split(' ').slice(1);
  const shown = await faas([...words.slice(1), '--print-config']);
  expect(shown.stdout).toContain('domain: "robot1"');

  const printed = await faas(['install', '--systemd', '--print', '--user', user, '--', ...up]);
  expect(printed.stdout.trim()).toBe(unit.trim());
});

test('what would not start is refused now, and so are secrets that others may read', async () => {
  const folder = await temporaryFolder();
  const refused = async (...args: string[]): Promise<string> => {
    const { code, stderr } = await faas(['install', '--systemd', '--unit-dir', folder, ...args]);
    expect(code).toBe(2);
    return stderr;
  };
  expect(await refused('--', '--robot', 'robot1')).toContain('--hub URL and --robot-file FILE');
  expect(await refused('--', '--control', '--host', '0.0.0.0')).toContain('--tls-cert');
  expect(await refused('--', '--robots', 'x')).toContain('unknown option --robots');
  const dir = ['--dir', join(folder, 'state')];
  expect(await refused('--user', 'nobody-of-that-name', '--', ...dir)).toContain(
    'no user "nobody-of-that-name"',
  );
  const keys = join(folder, 'keys');
  await writeFile(keys, '', { mode: 0o644 });
  await chmod(keys, 0o644);
  const away = ['--host', '10.0.0.1', '--keys', keys, ...dir];
  expect(await refused('--user', user, '--', ...away)).toContain(`chmod 600 ${keys}`);
  expect(await refused('--user', user, '--', '--keys', `${keys}-missing`, ...dir)).toContain('no file');
});
