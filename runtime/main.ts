/** Read the config file, start the host, wait for a signal, drain. Nothing else. */
import { flushCompileCache } from 'node:module';
import { openLog } from './log.ts';
import { startHost } from './start.ts';

const [configPath] = process.argv.slice(2);
if (configPath === undefined) {
  process.stderr.write('usage: node runtime/main.ts CONFIG.json\n');
  process.exit(2);
}
const log = openLog();
const host = await startHost(configPath, log);
// By itself Node writes it at a regular exit, and a host may be killed before it ever has one.
flushCompileCache();
process.on('SIGHUP', () => void host.reload());
let stopping: Promise<void> | undefined;
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    log.info({ source: 'platform', signal }, 'draining');
    stopping ??= host.stop().then(() => process.exit(0));
  });
}
