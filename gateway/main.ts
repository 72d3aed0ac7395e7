/** Read the config file, start the gateway, wait for a signal, stop. Nothing else. */
import { faultOf } from '../runtime/errors.ts';
import { openLog } from '../runtime/log.ts';
import { readGatewayConfig } from './config.ts';
import { startClusterGateway } from './start-cluster.ts';

const [configPath] = process.argv.slice(2);
if (configPath === undefined) {
  process.stderr.write('usage: node gateway/main.ts CONFIG.yaml\n');
  process.exit(2);
}
const log = openLog();
try {
  const gateway = await startClusterGateway(await readGatewayConfig(configPath), log);
  log.info({ source: 'platform', url: gateway.url }, 'the gateway listens');
  let stopping: Promise<void> | undefined;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      log.info({ source: 'platform', signal }, 'draining');
      stopping ??= gateway.stop().then(() => process.exit(0));
    });
  }
} catch (error) {
  log.fatal({ source: 'platform', error: faultOf(error).message }, 'the gateway cannot start');
  process.exitCode = 1;
}
