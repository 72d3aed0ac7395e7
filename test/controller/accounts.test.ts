import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { credsAuthenticator } from '@nats-io/transport-node';
import { describe, expect, test } from 'vitest';
import { newOperatorSeed, openOperatorKeys } from '../../controller/broker/account-keys.ts';
import { accountRights, clusterRights, functionRights, leaseRights } from '../../controller/rights.ts';
import { inboxPrefix } from '../../runtime/account.ts';
import type { RuntimeConfig } from '../../runtime/config.ts';
import { grantRights } from '../support/controller-rights.ts';
import { temporaryFolder } from '../support/folder.ts';
import { installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import { startNats } from '../support/nats.ts';
import { startProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';

const main = join(import.meta.dirname, '../../controller/main.ts');

describe.skipIf(await missing('kubernetes', 'openssl'))('NATS accounts in a cluster', () => {
  test('each function gets a user of its own in a Secret that nobody else is told of, and it goes with the function', async () => {
    const folder = await temporaryFolder();
    const seed = newOperatorSeed();
    const operator = openOperatorKeys(seed);
    const [kubernetes, nats] = await Promise.all([
      startKubernetes({ audit: true, controllers: true, users: { controller: ['controllers'] } }),
      startNats({ config: operator.serverConfig(join(folder, 'accounts')) }),
    ]);
    await installFunctionKind(kubernetes);
    const post = async (path: string, body: object): Promise<void> => {
      const answer = await kubernetes.request('POST', path, { body });
      expect(answer.status, JSON.stringify(answer.body)).toBe(201);
    };
    await grantRights(kubernetes, { rules: [...functionRights, ...accountRights, ...clusterRights] });
    await grantRights(kubernetes, { namespace: 'default', rules: leaseRights });
    const kubeconfig = join(folder, 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('controller')), { mode: 0o600 });
    const operatorFile = join(folder, 'operator.seed');
    await writeFile(operatorFile, `${seed}\n`, { mode: 0o600 });
    const config = join(folder, 'config.json');
    const listen = { host: '127.0.0.1', port: 0 };
    await writeFile(
      config,
      JSON.stringify({ image: 'atoll:1', kubeconfig, listen, nats: { url: nats.url, operatorFile } }),
    );
    const controller = await startProcess(process.execPath, [main, config], {
      name: 'controller',
      env: { PATH: process.env['PATH'], HOME: folder },
    });
    await controller.line(/this controller leads/);

    const [lab, yard] = [await kubernetes.namespace(), await kubernetes.namespace()];
    const functions = (namespace: string): string =>
      `/apis/atoll.dev/v1alpha1/namespaces/${namespace}/functions`;
    const declared = (subject: string): object => ({
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name: 'hello' },
      spec: {
        replicas: 0,
        package: { inline: 'exports.handler = () => 1' },
        triggers: [{ name: 'asks', nats: { subject } }],
      },
    });
    for (const namespace of [lab, yard]) await post(functions(namespace), declared('lab.ask'));

    interface Secret {
      metadata: { name: string; ownerReferences: { name: string }[] };
      immutable: boolean;
      data: Record<string, string>;
    }
    interface ConfigMap {
      metadata: { name: string };
      data: Record<string, string>;
    }
    const list = async <T>(namespace: string, resource: string): Promise<T[]> =>
      (
        (await kubernetes.request('GET', `/api/v1/namespaces/${namespace}/${resource}`)).body as {
          items: T[];
        }
      ).items;
    const secrets = (namespace: string): Promise<Secret[]> => list<Secret>(namespace, 'secrets');
    const configs = async (namespace: string): Promise<ConfigMap[]> =>
      (await list<ConfigMap>(namespace, 'configmaps')).filter(({ metadata }) =>
        metadata.name.startsWith('fn-'),
      );
    for (const namespace of [lab, yard]) {
      await expect.poll(async () => (await configs(namespace)).length).toBe(1);
    }
    const [secret] = await secrets(lab);
    const [map] = await configs(lab);
    expect(secret!.metadata.name).toBe(map!.metadata.name);
    expect(secret).toMatchObject({ immutable: true, metadata: { ownerReferences: [{ name: 'hello' }] } });
    const host = JSON.parse(map!.data['host.json']!) as RuntimeConfig;
    expect(host.nats).toEqual({
      url: nats.url,
      credentialsFile: '/etc/atoll/nats.json',
      inboxPrefix: inboxPrefix('local', { namespace: lab, name: 'hello' }),
    });
    const credsIn = ({ data }: Secret): string =>
      (JSON.parse(Buffer.from(data['nats.json']!, 'base64').toString()) as { creds: string }).creds;
    const creds = credsIn(secret!);
    expect(credsIn((await secrets(yard))[0]!)).not.toBe(creds);
    const deployment = await kubernetes.kubectl(['get', 'deploy', 'fn-hello', '-n', lab, '-o', 'json']);
    expect(deployment).toContain(`"name": "${secret!.metadata.name}"`);

    // It leads into the account of its namespace.
    const client = (text: string, prefix?: string) =>
      nats.connect({
        authenticator: credsAuthenticator(new TextEncoder().encode(text)),
        ...(prefix !== undefined && { inboxPrefix: prefix }),
      });
    const own = await client(creds, host.nats!.inboxPrefix);
    own.subscribe('lab.ask', {
      queue: `atoll.local.${lab}.hello.asks`,
      callback: (_error, message) => void message.respond(lab),
    });
    await own.flush();
    const ask = async (namespace: string): Promise<string> => {
      const one = await client(operator.administrator(namespace, 'test'));
      return (await one.request('lab.ask', '', { timeout: 2_000 })).string();
    };
    expect(await ask(lab)).toBe(lab);
    await expect(ask(yard)).rejects.toThrow(/no responders/i);

    // Nobody misses a Secret that was deleted by hand; with its ConfigMap it comes back, with the same user.
    await kubernetes.kubectl(['delete', 'secret', secret!.metadata.name, '-n', lab]);
    await kubernetes.kubectl(['delete', 'configmap', map!.metadata.name, '-n', lab]);
    await expect.poll(async () => (await secrets(lab)).map(credsIn), { timeout: 60_000 }).toEqual([creds]);
    await expect
      .poll(async () => (await configs(lab)).map(({ metadata }) => metadata.name))
      .toEqual([map!.metadata.name]);

    // Another trigger is another user; without pods of the old one its Secret goes.
    await kubernetes.kubectl(['apply', '-n', lab, '-f', '-'], JSON.stringify(declared('lab.other')));
    await expect
      .poll(async () => (await secrets(lab)).map(({ metadata }) => metadata.name), { timeout: 60_000 })
      .not.toContain(secret!.metadata.name);
    const [next] = await secrets(lab);
    expect(next!.metadata.name).toBe((await configs(lab))[0]!.metadata.name);

    await kubernetes.kubectl(['delete', 'function', 'hello', '-n', lab]);
    await expect.poll(async () => (await secrets(lab)).length, { timeout: 60_000 }).toBe(0);
    expect(await secrets(yard)).toHaveLength(1);

    // Whoever reads all but Secrets finds no key.
    const texts = [
      controller.output(),
      nats.output(),
      ...(await Promise.all(
        [lab, yard].flatMap((namespace) => [
          kubernetes.kubectl(['get', 'fn,cm,deploy,rs,svc,events', '-n', namespace, '-o', 'json']),
          kubernetes.kubectl(['describe', 'fn,cm,secrets,deploy', '-n', namespace]),
        ]),
      )),
    ].join('\n');
    const lines = [creds, credsIn(next!), seed, operator.accountsSeed].flatMap((text) =>
      text.split('\n').filter((line) => line.length > 40),
    );
    expect(lines.length).toBeGreaterThanOrEqual(6);
    for (const line of lines) expect(texts.includes(line), 'a key is told').toBe(false);
    const asked = (await kubernetes.audited()).filter(({ user }) => user.username === 'controller');
    const verbs = asked.filter(({ objectRef }) => objectRef?.resource === 'secrets').map(({ verb }) => verb);
    expect([...new Set(verbs)].sort()).toEqual(['create', 'delete']);
    expect(asked.filter(({ responseStatus }) => responseStatus?.code === 403)).toEqual([]);
    expect(await controller.stop()).toEqual({ code: 0, signal: null });
  }, 120_000);
});
