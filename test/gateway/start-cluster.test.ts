import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { readGatewayConfig } from '../../gateway/config.ts';
import { temporaryFolder } from '../support/folder.ts';
import { functionsPath, installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { startNats } from '../support/nats.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';

const main = join(import.meta.dirname, '../../gateway/main.ts');

async function configFile(config: object): Promise<string> {
  const file = join(await temporaryFolder(), 'gateway.json');
  await writeFile(file, JSON.stringify(config));
  return file;
}

test('a gateway with its defaults listens on 8700 of every address', async () => {
  expect(await readGatewayConfig(await configFile({}))).toEqual({
    site: 'local',
    listen: { host: '0.0.0.0', port: 8700 },
    packages: { cache: '/var/cache/atoll' },
  });
});

test('what is wrong in the file is told by field, with what is allowed', async () => {
  const file = await configFile({ site: 'Hub', listen: { port: 70_000 }, keys: 'x' });
  const refused = readGatewayConfig(file);
  for (const part of [file, 'site', 'lowercase letters', 'listen.port', '65535', 'keys'])
    await expect(refused).rejects.toThrow(part);
  const process = await startProcess(globalThis.process.execPath, [main, file]);
  expect((await process.exited).code).toBe(1);
  expect(process.stdout()).toContain('the gateway cannot start');
});

describe.skipIf(await missing('kubernetes', 'openssl', 'nats-server'))('the gateway of a cluster', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes({ users: { gateway: ['system:masters'], ada: ['developers'] } });
    await installFunctionKind(kubernetes);
  });

  async function start(more: object = {}): Promise<{ process: RunningProcess; url: string }> {
    const kubeconfig = join(await temporaryFolder(), 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('gateway')), { mode: 0o600 });
    const listen = { host: '127.0.0.1', port: 0 };
    const file = await configFile({ kubeconfig, listen, ...more });
    const process = await startProcess(globalThis.process.execPath, [main, file]);
    const line = JSON.parse(await process.line(/the gateway listens/)) as { url: string };
    return { process, url: line.url };
  }

  test('knows the Functions as they come and go, lets in whom RBAC lets in, and ends when it is asked to', async () => {
    const nats = await startNats();
    const { process, url } = await start({ nats: { url: nats.url } });
    const path = functionsPath.replace('functions', 'namespaces/default/functions');
    const ask = (at: string, token?: string): Promise<Response> =>
      fetch(`${url}${at}`, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });
    const status = '/atoll/v1/namespaces/default/functions/hello/status';
    const token = kubernetes.tokenOf('ada');

    expect((await ask('/healthz')).status).toBe(200);
    expect((await ask(status, 'guessed')).status).toBe(403);
    expect((await ask(status, token)).status).toBe(403);
    const create = (...args: string[]): Promise<string> => kubernetes.kubectl(['create', ...args]);
    await create('role', 'reader', '--verb=get', '--resource=functions.atoll.dev');
    await create('rolebinding', 'readers', '--role=reader', '--group=developers');
    // What was answered before is remembered for ten seconds.
    await expect.poll(async () => (await ask(status, token)).status, { timeout: 20_000 }).toBe(404);

    const spec = { runtime: 'nodejs24.x', handler: 'index.handler' };
    const hello = {
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name: 'hello' },
      spec,
    };
    expect((await kubernetes.request('POST', path, { body: hello })).status).toBe(201);
    await expect.poll(async () => (await ask(status, token)).status).toBe(200);
    await kubernetes.request('DELETE', `${path}/hello`);
    await expect.poll(async () => (await ask(status, token)).status).toBe(404);

    expect(await process.stop()).toEqual({ code: 0, signal: null });
  }, 90_000);
});
