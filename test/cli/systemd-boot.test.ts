/** The unit as a robot has it: written by faas install, enabled, and started by a systemd that boots. */
import { expect, test } from 'vitest';
import { online, startHub, until } from '../e2e/fleet.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { missingSystemd, startMachine } from '../support/systemd.ts';
import { functionFolder, root } from './run.ts';

const skipped = (await missing('nats-server')) ?? missingSystemd();
const unit = 'atoll-robot1.service';

test.skipIf(skipped)(
  'a robot that is installed comes up with the boot, again when it was killed, and ends in order; what root deploys is its own',
  async () => {
    const hub = await startHub();
    const file = await hub.add('robot1');
    const machine = await startMachine({
      // As the docs have it, but that here the folder of state is in a file system that goes away with the test.
      prepare: [
        'mkdir /opt/atoll /opt/bin',
        `mount --bind "$CHECKOUT" /opt/atoll`,
        'install -m 755 "$NATS_SERVER" /opt/bin/nats-server',
        'install -m 600 "$ROBOT_FILE" /srv/carried.json',
        'export PATH=/opt/bin:$PATH',
        'cd /srv',
        '/opt/atoll/node_modules/.bin/node /opt/atoll/cli/faas.js install --systemd --user nobody --unit-dir $units \\',
        '  -- --robot robot1 --hub "$HUB" --robot-file carried.json --dir /srv/atoll --port 0',
        `systemctl --root=/run/machine enable ${unit}`,
      ].join('\n'),
      env: {
        CHECKOUT: root,
        NATS_SERVER: await requireTool('nats-server'),
        ROBOT_FILE: file,
        HUB: hub.url,
      },
    });
    await online(hub, 'robot1');
    const first = await machine.show(unit);
    expect(first).toMatchObject({ ActiveState: 'active', NRestarts: '0', User: 'nobody' });
    const faas = (...args: string[]): Promise<string> =>
      machine.run(
        '/opt/atoll/node_modules/.bin/node',
        '/opt/atoll/cli/faas.js',
        ...args,
        '--site',
        '/srv/atoll',
      );
    await faas('deploy', await functionFolder('greeter'));
    expect(JSON.parse(await faas('invoke', 'greeter', '-d', '{"name":"reef"}'))).toMatchObject({
      hello: 'reef',
    });
    expect(await machine.run('find', '/srv/atoll', '!', '-user', 'nobody')).toBe('');

    await machine.run('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', unit);
    const again = await until('it was started again', async () => {
      const now = await machine.show(unit);
      return now['ActiveState'] === 'active' && now['MainPID'] !== first['MainPID'] ? now : undefined;
    });
    expect(again).toMatchObject({ NRestarts: '1' });
    const answer = await until('its function is there again', async () => {
      try {
        return await faas('invoke', 'greeter', '-d', '{"name":"again"}');
      } catch {
        // Its gateway is not there yet.
        return undefined;
      }
    });
    expect(JSON.parse(answer)).toMatchObject({ hello: 'again' });
    await online(hub, 'robot1');

    await machine.run('systemctl', 'stop', unit);
    expect(await machine.show(unit)).toMatchObject({
      ActiveState: 'inactive',
      Result: 'success',
      ExecMainStatus: '0',
    });
    await until('the hub sees it go', async () => {
      const now = (await hub.presence()).find(({ robot }) => robot === 'robot1');
      return now?.online === false || undefined;
    });
  },
  180_000,
);
