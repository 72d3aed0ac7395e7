/** The ROS process as the local backend runs it, and a link to it. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openRos, type RosLink } from '../../../runtime/clients/ros.ts';
import { openLog } from '../../../runtime/log.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startProcess, type RunningProcess } from '../../support/process.ts';
import { rosEnvironment } from '../../support/ros.ts';

export interface RosMachine {
  readonly env: NodeJS.ProcessEnv;
  readonly socket: string;
  /** The process that runs now. */
  readonly process: RunningProcess;
  start(): Promise<RunningProcess>;
  /** Closed with the test. */
  link(): RosLink;
}

export interface RosMachineOptions {
  readonly namespace?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** False: everything is there but the process. */
  readonly started?: boolean;
}

const main = join(import.meta.dirname, '../../../runtime/ros/main.ts');
const log = openLog({ level: process.env['ATOLL_TEST_LOG'] ?? 'silent' });

export async function rosMachine(options: RosMachineOptions = {}): Promise<RosMachine> {
  const env = options.env ?? (await rosEnvironment());
  const folder = await temporaryFolder();
  const socket = join(folder, 'ros.sock');
  const config = join(folder, 'ros.json');
  const { namespace } = options;
  await writeFile(
    config,
    JSON.stringify({ site: 'local', socket, ...(namespace !== undefined && { namespace }) }),
  );
  let running: RunningProcess | undefined;
  const start = async (): Promise<RunningProcess> => {
    running = await startProcess(process.execPath, [main, config], { name: 'ros', env });
    await running.line(/ROS process ready/);
    return running;
  };
  if (options.started !== false) await start();
  return {
    env,
    socket,
    start,
    get process() {
      if (running === undefined) throw new Error('the ROS process was not started');
      return running;
    },
    link() {
      const link = openRos({ socket }, { log });
      closeLater(() => link.close());
      return link;
    },
  };
}

/** Resolves when the link is as asked for. */
export async function linkIs(link: RosLink, connected: boolean): Promise<void> {
  if (link.state.connected === connected) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const forget = link.onState((state) => state.connected === connected && resolve());
  await promise;
  forget();
}
