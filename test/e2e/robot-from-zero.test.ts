/**
 * docs/robot-from-zero.md as who reads it would do it: its commands, as they stand there, on two machines that boot with
 * systemd, the hub and the robot. The machines are namespaces; hub.site is the other one on the loopback of both.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { root } from '../cli/run.ts';
import { makeAuthority, type Authority } from '../support/certificates.ts';
import { missingNetwork, startNetwork, type Network } from '../support/network.ts';
import { startProcess } from '../support/process.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { missingSystemd, startMachine, type Machine } from '../support/systemd.ts';
import { until } from './fleet.ts';

const skipped = (await missing('nats-server')) ?? missingSystemd() ?? missingNetwork();
const page = await readFile(join(root, 'docs', 'robot-from-zero.md'), 'utf8');

/** Of code blocks each line, of `text` blocks those with a prompt, and `faas …` in the text itself. */
const commands = [
  ...[...page.matchAll(/```sh\n([^]*?)```/g)].flatMap(([, block = '']) =>
    block.replaceAll(/\\\n\s*/g, '').split('\n'),
  ),
  ...[...page.matchAll(/^\$ (.*)$/gm)].map(([, command = '']) => command),
  ...[...page.matchAll(/`((?:faas|bash -c) [^`]+)`/g)].map(([, command = '']) => command),
].flatMap((line) => line.replace(/ +# .*$/, '').trim() || []);

/** What is not run here, and why. */
const left: Readonly<Record<string, string>> = {
  'npm ci && npm start -- --robots 2 --once': 'examples.test.ts starts it',
  'cd /opt/atoll && npm ci && npm install -g .':
    'the checkout that is tested is at /opt/atoll with what npm ci brought, and faas in /usr/local/bin is a link, which is all that npm install -g makes of a folder',
  "bash -c '. /opt/ros/jazzy/setup.bash; env'": 'there is no /opt/ros here',
};
const leftOut = (command: string): boolean =>
  Object.keys(left).some((beginning) => command.startsWith(beginning));

const prepare = [
  // A machine's own /etc, /usr/local/bin and /var/lib, which go away with it.
  'cp -a /etc /run/etc && rm -rf /run/etc/systemd/system && mkdir /run/etc/systemd/system',
  'mount --bind /run/etc /etc',
  'mount --bind "$units" /etc/systemd/system',
  'mount -t tmpfs -o mode=755 tmpfs /usr/local/bin',
  'mount -t tmpfs -o mode=755,size=4g tmpfs /var/lib',
  'mkdir /opt/atoll /srv/work /run/home',
  'mount --bind "$CHECKOUT" /opt/atoll',
  'ln -s /opt/atoll/cli/faas.js /usr/local/bin/faas',
  // As a tool cache in root's home is: closed to others.
  'mkdir -m 700 /run/closed && cp "$NATS_SERVER" /run/closed/nats-server',
  'echo 127.0.0.1 hub.site >> /etc/hosts',
].join('\n');

class Reader {
  readonly #ran: Set<string>;
  readonly machine: Machine;

  constructor(machine: Machine, ran: Set<string>) {
    this.machine = machine;
    this.#ran = ran;
  }

  /** The page's only command of that kind, run in a shell of root; what it wrote to stdout. */
  async does(kind: RegExp): Promise<string> {
    return await this.machine.run('env', ...this.#shell(this.#command(kind)));
  }

  async starts(kind: RegExp) {
    const { command, args } = this.machine.enter({ command: 'env', args: this.#shell(this.#command(kind)) });
    return await startProcess(command, args, { name: String(kind), graceMs: 60_000 });
  }

  #command(kind: RegExp): string {
    const found = [...new Set(commands)].filter((command) => kind.test(command));
    expect(found, `commands of the page that are ${String(kind)}`).toHaveLength(1);
    this.#ran.add(found[0]!);
    return found[0]!;
  }

  #shell(command: string): string[] {
    const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/closed';
    // Commands of the text name no site where it is the only one.
    const env = [`PATH=${path}`, 'HOME=/run/home', 'FAAS_SITE=/var/lib/atoll', 'NO_COLOR=1'];
    const cd = command.startsWith('install ') ? '/opt/atoll' : '/srv/work';
    return ['-i', ...env, 'sh', '-ec', `cd ${cd}; ${command}`];
  }
}

async function machineOf(network: Network): Promise<Machine> {
  const env = { CHECKOUT: root, NATS_SERVER: await requireTool('nats-server') };
  return await startMachine({ prepare, env, place: network.place });
}

/** What "your site's authority" and "a file of keys" are on the page. */
async function giveHubItsFiles(machine: Machine, authority: Authority): Promise<void> {
  const { certificate, key } = await authority.issue('hub', ['hub.site']);
  await machine.run('mkdir', '/etc/atoll');
  await machine.run('cp', authority.ca, '/etc/atoll/ca.pem');
  await machine.run('cp', certificate, '/etc/atoll/hub.crt');
  await machine.run('install', '-m', '600', '-o', 'atoll', key, '/etc/atoll/hub.key');
  await machine.run('sh', '-ec', `echo '{"id":"ops","secret":"4f8Zq0mWb1xJrT6k"}' > /etc/atoll/keys`);
  await machine.run('chmod', '600', '/etc/atoll/keys');
  await machine.run('chown', 'atoll', '/etc/atoll/keys');
}

test.skipIf(skipped)(
  'the commands of "A robot from zero" do what it says, from two bare machines to a robot that is let go',
  async () => {
    const ran = new Set<string>();
    const network = startNetwork();
    const [hub, robot] = (await Promise.all([machineOf(network), machineOf(network)])).map(
      (machine) => new Reader(machine, ran),
    ) as [Reader, Reader];

    const both = (kind: RegExp) => Promise.all([hub.does(kind), robot.does(kind)]);
    await both(/^useradd /);
    await giveHubItsFiles(hub.machine, await makeAuthority());
    // Where only root finds it: what the page's line is for.
    await expect(hub.does(/^faas install .* --control /)).rejects.toThrow(
      /atoll, as whom the service runs, cannot run \/run\/closed\/nats-server[^]*install -m 755 /,
    );
    await both(/^install .*nats-server/);

    await hub.does(/^faas install .* --control /);
    await hub.does(/^systemctl .* atoll-hub$/);
    await until('the hub can be asked', () => hub.does(/^faas robots$/).catch(() => undefined));
    expect(await hub.does(/^faas robot add /)).toBe('/srv/work/robot1.json\n');
    const carried = await hub.machine.run('cat', '/srv/work/robot1.json');
    const put = async (file: string, text: string): Promise<string> =>
      await robot.machine.run('sh', '-ec', 'umask 077; printf %s "$0" > "$1"', text, file);
    await put('/srv/work/robot1.json', carried);

    const row = (state: string): RegExp => new RegExp(`^robot1 +${state} `, 'm');
    const seen = async (state: string): Promise<string> =>
      await until(`robot1 is ${state}`, async () => {
        const table = await hub.does(/^faas robots --site/);
        return row(state).test(table) ? table : undefined;
      });
    const byHand = await robot.starts(/^faas up --robot/);
    await seen('online');
    // In order: then its id is free at once.
    await byHand.stop();
    await robot.does(/^faas install .* --robot /);
    await robot.does(/^systemctl .* atoll-robot1$/);
    const columns = page.match(/^ROBOT +STATE .*$/m)![0].split(/ {2,}/);
    const table = await seen('online');
    expect(table.split('\n')[0]!.trim().split(/ {2,}/)).toEqual(columns);

    // A hub believes for a few seconds that the one before is still there.
    await until('the robot is up', () =>
      robot.machine.run('cat', '/var/lib/atoll/site.json').catch(() => undefined),
    );
    await robot.does(/^faas init .* && faas deploy/);
    await until('its function is seen to be ready', async () =>
      / 1\/1$/m.test(await hub.does(/^faas robots --site/)) ? true : undefined,
    );
    const log = await hub.starts(/^faas logs /);
    await log.line(/version in service/);
    await log.stop();

    await hub.does(/^faas robot rotate /);
    const fresh = await hub.machine.run('cat', '/srv/work/robot1.json');
    expect(fresh).not.toBe(carried);
    await put('/var/lib/atoll/robot.json', fresh);
    expect(await robot.machine.run('stat', '-c', '%U %a', '/var/lib/atoll/robot.json')).toBe('atoll 600\n');
    await robot.machine.run('sh', '-ec', 'test -z "$(find /var/lib/atoll ! -user atoll)"');
    await seen('online');

    await hub.does(/^faas robot remove /);
    expect(await hub.does(/^faas robots$/)).not.toMatch(row('online'));

    // With a unit go the folders that systemd made for it in the /tmp of all.
    await Promise.all([
      robot.machine.run('systemctl', 'stop', 'atoll-robot1'),
      hub.machine.run('systemctl', 'stop', 'atoll-hub'),
    ]);

    process.stderr.write(
      `robot-from-zero.md: ${ran.size} commands ran; not here: ${Object.entries(left)
        .map(([command, why]) => `${command} (${why})`)
        .join('; ')}\n`,
    );
    expect(commands.filter((command) => !ran.has(command) && !leftOut(command))).toEqual([]);
  },
  300_000,
);
