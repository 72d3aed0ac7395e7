/** Read the config file, start a replica, wait for a signal, stop. Nothing else. */
import { faultOf } from '../runtime/errors.ts';
import { openLog } from '../runtime/log.ts';
import { openKubernetesBackend } from './backends/kubernetes.ts';
import { openOperatorKeys, readKeyFile } from './broker/account-keys.ts';
import { readControllerConfig, settingsOf } from './config.ts';
import { startReplica } from './start-replica.ts';

const [configPath] = process.argv.slice(2);
if (configPath === undefined) {
  process.stderr.write('usage: node controller/main.ts CONFIG.yaml\n');
  process.exit(2);
}
const log = openLog();
try {
  const config = await readControllerConfig(configPath);
  const { namespaces, watchSecretsIn, nats } = config;
  const accounts =
    nats?.operatorFile === undefined ? undefined : openOperatorKeys(await readKeyFile(nats.operatorFile));
  const replica = await startReplica({
    config,
    log,
    ...(accounts && { accounts }),
    openBackend: async (cluster) =>
      openKubernetesBackend({
        cluster,
        settings: settingsOf(config, accounts),
        log,
        watchSecretsIn,
        ...(namespaces && { namespaces }),
      }),
  });
  log.info({ source: 'platform', url: replica.url }, 'the controller serves its health');
  let stopping: Promise<void> | undefined;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      log.info({ source: 'platform', signal }, 'stopping');
      stopping ??= replica.stop().then(() => process.exit(0));
    });
  }
} catch (error) {
  log.fatal({ source: 'platform', error: faultOf(error).message }, 'the controller cannot start');
  process.exitCode = 1;
}
