import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readControllerConfig, settingsOf } from '../../controller/config.ts';
import { temporaryFolder } from '../support/folder.ts';

test('what the backend acts on reaches it, and no credentials of the controller do', async () => {
  const credentials = { name: 'atoll', key: 'credentials.json' };
  const tlsSecret = { name: 'atoll-tls', ca: true, client: true };
  const nats = { url: 'nats://nats.atoll:4222', credentials, tlsSecret };
  const mqtt = { url: 'mqtt://mqtt.atoll:1883', credentials };
  const settings = {
    site: 'hub',
    image: 'atoll:1',
    nats,
    mqtt,
    s3: { endpoint: 'http://s3.atoll:7070', region: 'us-east-1', bucket: 'packages', credentials },
    packages: 'http://gateway.atoll',
    callers: [{ namespace: 'atoll', labels: { app: 'gateway' } }],
    keda: { natsMonitoring: 'nats.atoll:8222', prometheus: 'http://prometheus:9090' },
  };
  const own = { credentialsFile: '/etc/atoll/own.json', tls: { ca: '/etc/atoll/own.crt' } };
  const file = join(await temporaryFolder(), 'config.json');
  await writeFile(
    file,
    JSON.stringify({ ...settings, nats: { ...nats, ...own }, mqtt: { ...mqtt, ...own } }),
  );
  expect(settingsOf(await readControllerConfig(file))).toEqual(settings);
});
