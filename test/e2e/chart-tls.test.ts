/** A cluster in which no broker speaks plainly: gateway and brokers by TLS, NATS accounts of namespaces; MinIO has the packages. */
import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { connect, credsAuthenticator, type NatsConnection } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { beforeAll, describe, expect, test } from 'vitest';
import { accountsSecret } from '../../charts/accounts.ts';
import {
  newOperatorSeed,
  openOperatorKeys,
  type OperatorKeys,
} from '../../controller/broker/account-keys.ts';
import { faas, functionFolder } from '../cli/run.ts';
import { makeAuthority, type Authority } from '../support/certificates.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { startMosquitto, type MosquittoServer } from '../support/mosquitto.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import { gatewayAddress, installRelease, type Release } from '../support/release.ts';
import { missing } from '../support/requirement.ts';
import { startMinio } from '../support/s3.ts';

const absent =
  (await missingNodes()) ?? (await missing('helm', 'nats-server', 'mosquitto', 'minio', 'openssl'));

describe.skipIf(absent)('a cluster with TLS everywhere', { timeout: 240_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let authority: Authority;
  let operator: OperatorKeys;
  let nats: NatsServer;
  let mosquitto: MosquittoServer;
  let release: Release;
  let namespace: string;
  let gatewayUrl: string;
  let mine: { certificate: string; key: string };

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['node-1'] });
    const { place } = kubernetes;
    authority = await makeAuthority();
    const address = await gatewayAddress(kubernetes);
    gatewayUrl = `https://${address}`;
    const [broker, gateway] = [
      await authority.issue('broker', [place.host]),
      await authority.issue('gateway', [address]),
    ];
    mine = await authority.issue('client');
    const seed = newOperatorSeed();
    operator = openOperatorKeys(seed);
    const accounts = join(await temporaryFolder(), 'accounts');
    const s3 = await startMinio({ place });
    [nats, mosquitto] = await Promise.all([
      startNats({
        place,
        config: `tls { cert_file: "${broker.certificate}", key_file: "${broker.key}" }\n${operator.serverConfig(accounts)}`,
      }),
      startMosquitto({
        place,
        config: `cafile ${authority.ca}\ncertfile ${broker.certificate}\nkeyfile ${broker.key}\nrequire_certificate true`,
      }),
    ]);
    const ca = await readFile(authority.ca, 'utf8');
    const pair = async ({ certificate, key }: typeof mine) => ({
      'tls.crt': await readFile(certificate, 'utf8'),
      'tls.key': await readFile(key, 'utf8'),
    });
    const ofFunctions = {
      'atoll-nats-tls': { 'ca.crt': ca },
      'atoll-mqtt-tls': { 'ca.crt': ca, ...(await pair(mine)) },
    };
    release = await installRelease(kubernetes, {
      s3,
      secrets: {
        ...ofFunctions,
        'atoll-tls': await pair(gateway),
        'atoll-accounts': (accountsSecret(accounts, seed) as { stringData: Record<string, string> })
          .stringData,
      },
      values: {
        gateway: { tlsSecret: 'atoll-tls', service: { port: 443 } },
        nats: {
          url: nats.url.replace('nats:', 'tls:'),
          tls: { secret: 'atoll-nats-tls' },
          accounts: { secret: 'atoll-accounts' },
        },
        mqtt: {
          url: mosquitto.url.replace('mqtt:', 'mqtts:'),
          tls: { secret: 'atoll-mqtt-tls', client: true },
        },
      },
    });
    namespace = await kubernetes.namespace();
    const { accessKeyId, secretAccessKey } = s3;
    const all = {
      ...ofFunctions,
      // The gateway hands packages out by plain HTTP only: here functions fetch them themselves.
      'atoll-s3': { 's3.json': JSON.stringify({ accessKeyId, secretAccessKey }) },
    };
    for (const [name, stringData] of Object.entries(all)) {
      const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace }, stringData };
      await kubernetes.kubectl(['create', '-f', '-'], JSON.stringify(secret));
    }
  }, 360_000);

  async function ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await faas(['--context', 'test', '-n', namespace, ...args], {
      env: { KUBECONFIG: kubernetes.kubeconfigFile },
    });
    if (code === 0) return stdout;
    throw new Error(
      `faas ${args.join(' ')} ended with exit code ${code}:\n${stderr}\n${await release.state()}`,
    );
  }

  async function client(ofNamespace: string): Promise<NatsConnection> {
    const nc = await connect({
      servers: nats.url.replace('nats:', 'tls:'),
      tls: { caFile: authority.ca },
      authenticator: credsAuthenticator(Buffer.from(operator.administrator(ofNamespace, 'test'))),
    });
    closeLater(() => nc.close());
    return nc;
  }

  async function get(path: string): Promise<{ status: number | undefined; text: string }> {
    const { promise, resolve, reject } = Promise.withResolvers<{
      status: number | undefined;
      text: string;
    }>();
    const asked = request(`${gatewayUrl}${path}`, { ca: await readFile(authority.ca), agent: false });
    asked.once('error', reject);
    asked.once('response', (response) => {
      text(response).then((body) => resolve({ status: response.statusCode, text: body }), reject);
    });
    asked.end();
    return promise;
  }

  test('faas comes through the API server to a gateway that speaks TLS, and functions to their brokers', async () => {
    const folder = await functionFolder(
      'greeter',
      `
  triggers:
    - { name: asked, nats: { subject: shop.greet } }
    - { name: web, http: { path: /greet, auth: None } }
    - { name: robots, mqtt: { topic: robots/+/greet, qos: 1 } }
`,
    );
    expect(await ok('deploy', folder, '--timeout', '120')).toMatch(/^function greeter deployed and ready/);
    expect(JSON.parse(await ok('invoke', 'greeter', '-d', '{"name":"reef"}'))).toMatchObject({
      hello: 'reef',
    });
    const nc = await client(namespace);
    const answer = await nc.request('shop.greet', '{"name":"nats"}', { timeout: 10_000 });
    expect(answer.json()).toMatchObject({ hello: 'nats' });
    const mqtt = await connectAsync(mosquitto.url.replace('mqtt:', 'mqtts:'), {
      ca: await readFile(authority.ca),
      cert: await readFile(mine.certificate),
      key: await readFile(mine.key),
    });
    await mqtt.publishAsync('robots/r1/greet', '{"name":"a robot"}', { qos: 1 });
    await mqtt.endAsync();
    expect(await ok('invoke', 'greeter', '--async', '-d', '{"name":"later"}')).toMatch(/^[0-9a-f-]{36}\n$/);
    for (const name of ['reef', 'nats', 'a robot', 'later']) {
      await expect
        .poll(() => ok('logs', 'greeter', '--since', '5m'), { timeout: 60_000 })
        .toContain(`{ name: '${name}' }`);
    }
    expect(JSON.parse(await ok('dead', 'list', 'greeter', '-o', 'json'))).toEqual([]);
    const web = await get('/greet');
    expect(web.status).toBe(200);
    expect(JSON.parse(web.text)).toMatchObject({ hello: 'nobody' });
    await expect(fetch(`${gatewayUrl.replace('https:', 'http:')}:443/greet`)).rejects.toThrow();

    // Another namespace's account is another world.
    const other = await kubernetes.namespace();
    const declared = { apiVersion: 'atoll.dev/v1alpha1', kind: 'Function', metadata: { name: 'none' } };
    await kubernetes.kubectl(
      ['create', '-n', other, '-f', '-'],
      JSON.stringify({ ...declared, spec: { handler: 'index.handler' } }),
    );
    await expect
      .poll(
        async () => {
          const stranger = await client(other);
          return stranger.request('shop.greet', '{}', { timeout: 2_000 }).then(() => 'answered', String);
        },
        { timeout: 30_000, interval: 500 },
      )
      .toMatch(/no responders/i);
    // What functions hold for their brokers is in no object but Secrets.
    const told = await kubernetes.kubectl(['get', 'fn,cm,deploy,pods,events', '-n', namespace, '-o', 'json']);
    expect(told).not.toContain('PRIVATE KEY');
    expect(told).not.toContain('NKEY SEED');
    expect(told).toContain('/etc/atoll/nats-tls/ca.crt');
  });
});
