/** Our interface package as a site with ROS builds it: in the src of a workspace, by colcon. */
import { execFile } from 'node:child_process';
import { cp, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { temporaryFolder } from '../support/folder.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { rosEnvironment, startRosPeer } from '../support/ros.ts';

const root = join(import.meta.dirname, '..', '..');
const run = promisify(execFile);
/** It compiles for a minute or two. */
const soak = process.env['ATOLL_SOAK'] === '1';

describe.skipIf(!soak || (await missing('ros', 'colcon')))('ros/atoll_interfaces', () => {
  test('builds with colcon, and rclpy speaks it from there with a node that has it from elsewhere', async () => {
    const workspace = await temporaryFolder();
    await cp(join(root, 'ros', 'atoll_interfaces'), join(workspace, 'src', 'atoll_interfaces'), {
      recursive: true,
    });
    const env = await rosEnvironment();
    const python = join(env['AMENT_PREFIX_PATH']!, 'bin', 'python3');
    const colcon = await requireTool('colcon');
    // Its README's command. The wheels are no /opt/ros: which Python is theirs has to be said.
    const { stdout } = await run(
      colcon,
      [
        ...['build', '--packages-select', 'atoll_interfaces'],
        ...['--cmake-args', `-DPython3_EXECUTABLE=${python}`],
      ],
      {
        cwd: workspace,
        env: { ...env, COLCON_LOG_PATH: join(workspace, 'log') },
        maxBuffer: 16 * 1024 * 1024,
      },
    );
    expect(stdout).toContain('Finished <<< atoll_interfaces');
    const install = join(workspace, 'install', 'atoll_interfaces');
    expect(await readdir(join(install, 'share', 'atoll_interfaces'))).toEqual(
      expect.arrayContaining(['msg', 'srv', 'package.xml']),
    );

    // As its user does: the workspace's own set-up, over that of the ROS below.
    const sourced = await run('sh', ['-c', '. install/setup.sh && env -0'], { cwd: workspace, env });
    const built = Object.fromEntries(
      sourced.stdout.split('\0').flatMap((entry) => {
        const at = entry.indexOf('=');
        return at < 1 ? [] : [[entry.slice(0, at), entry.slice(at + 1)]];
      }),
    );
    const where =
      'import atoll_interfaces, atoll_interfaces.srv as s; print(atoll_interfaces.__file__, s.Update)';
    const { stdout: told } = await run(python, ['-c', where], { env: built });
    expect(told).toContain(install);

    const [ours, theirs] = await Promise.all([
      startRosPeer({ env: built, name: 'built' }),
      startRosPeer({ env, name: 'other' }),
    ]);
    const type = 'atoll_interfaces/srv/Update';
    await ours.serve('/update', type, (request: { application: string; version: string }) => ({
      success: true,
      status: 'SUCCEEDED',
      message: `${request.application} is at ${request.version}`,
      version: request.version,
    }));
    const update = { job_id: 'job-1', application: 'navigation', version: '2.0.0' };
    expect(await theirs.call('/update', type, update)).toMatchObject({
      success: true,
      message: 'navigation is at 2.0.0',
    });
    const statistics = 'atoll_interfaces/msg/TelemetryStatistics';
    const heard = await ours.subscribe('/statistics', statistics);
    await theirs.advertise('/statistics', statistics);
    await theirs.matched('/statistics');
    await theirs.publish('/statistics', {
      robot: 'robot1',
      topics: [{ topic: '/scan', received: 2n ** 60n }],
    });
    expect(await heard.next()).toMatchObject({
      robot: 'robot1',
      topics: [{ topic: '/scan', received: 2n ** 60n }],
    });
  }, 900_000);
});
