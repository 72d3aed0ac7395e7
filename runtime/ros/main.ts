/** Read the config file, join ROS, wait for a signal, leave it. Nothing else. */
import { readFile } from 'node:fs/promises';
import type { RosProcessConfig } from '../config.ts';
import { openLog } from '../log.ts';
import { startRosProcess } from './process.ts';

const [configPath] = process.argv.slice(2);
if (configPath === undefined) {
  process.stderr.write('usage: node runtime/ros/main.ts CONFIG.json\n');
  process.exit(2);
}
const log = openLog();
const config = JSON.parse(await readFile(configPath, 'utf8')) as RosProcessConfig;
const ros = await startRosProcess(config, log);
let leaving = false;

function leave(exitCode: number): void {
  if (leaving) return;
  leaving = true;
  ros.close().then(
    () => process.exit(exitCode),
    () => process.exit(1),
  );
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => leave(0));
process.on('uncaughtException', (error) => {
  log.fatal({ err: error }, 'the ROS process cannot go on');
  leave(1);
});
log.info({ source: 'platform', ...ros.ready, pid: process.pid }, 'ROS process ready');
