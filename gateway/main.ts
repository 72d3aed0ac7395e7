/** Read the config file, start the gateway of a cluster, wait for a signal, stop. Nothing else. */
import { openLog } from '../runtime/log.ts';
import { startClusterGateway } from './cluster.ts';
import { readGatewayConfig } from './config.ts';

const [configPath] = process.argv.slice(2);
if (configPath === undefined) {
  process.stderr.write('usage: node gateway/main.ts CONFIG.json\n');
  process.exit(2);
}
const log = openLog();
const starting = new AbortController();
const gateway = readGatewayConfig(configPath).then((config) =>
  startClusterGateway(config, { log, signal: starting.signal }),
);
let stopping: Promise<void> | undefined;
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    log.info({ source: 'platform', signal }, 'stopping');
    starting.abort();
    stopping ??= gateway.then(({ stop }) => stop()).then(() => process.exit(0));
  });
}
log.info({ source: 'platform', url: (await gateway).url }, 'listening');
