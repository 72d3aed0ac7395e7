import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { manifest } from '../../charts/manifest.ts';
import {
  functionLabel,
  hostContainer,
  managedByLabel,
  manager,
} from '../../controller/backends/manifests.ts';
import { readGatewayConfig } from '../../gateway/config.ts';
import { temporaryFolder } from '../support/folder.ts';
import { functionsPath, installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type AuditEvent, type Kubernetes } from '../support/kubernetes.ts';
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

interface Role {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly rules: readonly {
    readonly apiGroups: readonly string[];
    readonly resources: readonly string[];
    readonly verbs: readonly string[];
  }[];
}

describe.skipIf(await missing('helm', 'kubernetes', 'openssl', 'nats-server'))(
  'the gateway of a cluster',
  () => {
    let kubernetes: Kubernetes;
    /** What the chart grants it. */
    let roles: Role[];
    beforeAll(async () => {
      const users = { gateway: ['gateways'], ada: ['developers'] };
      const [started, text] = await Promise.all([
        // With controllers: a namespace gets what a Pod needs to be made.
        startKubernetes({ users, audit: true, controllers: true }),
        manifest(),
      ]);
      kubernetes = started;
      await installFunctionKind(kubernetes);
      roles = parseAllDocuments(text)
        .map((document) => document.toJSON() as Role)
        .filter(({ kind, metadata }) => kind === 'ClusterRole' && metadata.name.includes('-gateway'));
      for (const role of roles) {
        const binding = {
          apiVersion: 'rbac.authorization.k8s.io/v1',
          kind: 'ClusterRoleBinding',
          metadata: { name: role.metadata.name },
          roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: role.kind, name: role.metadata.name },
          subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'Group', name: 'gateways' }],
        };
        for (const object of [role, binding]) {
          await kubernetes.kubectl(['create', '-f', '-'], JSON.stringify(object));
        }
      }
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
      await expect.poll(async () => (await ask(status, token)).status, { timeout: 60_000 }).toBe(404);

      const spec = {
        runtime: 'nodejs24.x',
        handler: 'index.handler',
        triggers: [{ name: 'web', http: { path: '/hello', auth: 'None' } }],
      };
      const hello = {
        apiVersion: 'atoll.dev/v1alpha1',
        kind: 'Function',
        metadata: { name: 'hello' },
        spec,
      };
      expect((await kubernetes.request('POST', path, { body: hello })).status).toBe(201);
      await expect.poll(async () => (await ask(status, token)).status).toBe(200);

      // What a request needs to know came by the watch, and who asks is remembered: hundreds of them ask nobody.
      const asked = async (): Promise<string[]> =>
        (await kubernetes.audited())
          .filter(({ user, verb }) => user.username === 'gateway' && verb !== 'watch')
          .map(({ verb, objectRef }) => `${verb} ${objectRef?.resource}`);
      const before = await asked();
      const statuses = new Set<number>();
      for (let sent = 0; sent < 100; sent += 1) {
        statuses.add((await ask(status, token)).status);
        statuses.add((await ask('/hello')).status);
      }
      // There is a path, and nobody is ready behind it.
      expect([...statuses]).toEqual([200, 503]);
      const since = (await asked()).slice(before.length);
      expect(since.filter((one) => !/^create (token|subjectaccess)reviews$/.test(one))).toEqual([]);
      expect(since.length).toBeLessThan(20);

      await kubernetes.request('DELETE', `${path}/hello`);
      await expect.poll(async () => (await ask(status, token)).status).toBe(404);

      expect(await process.stop()).toEqual({ code: 0, signal: null });
    });

    test('uses every right that the chart grants it, and is refused none', async () => {
      const nats = await startNats();
      const { process, url } = await start({ nats: { url: nats.url } });
      const namespace = await kubernetes.namespace();
      const hello = {
        apiVersion: 'atoll.dev/v1alpha1',
        kind: 'Function',
        metadata: { name: 'logged' },
        spec: { runtime: 'nodejs24.x', handler: 'index.handler' },
      };
      await kubernetes.kubectl(['create', '-n', namespace, '-f', '-'], JSON.stringify(hello));
      const pod = {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'fn-logged-1', labels: { [managedByLabel]: manager, [functionLabel]: 'logged' } },
        // A node that there is not: nobody runs it, and its logs are asked for all the same.
        spec: { nodeName: 'nowhere', containers: [{ name: hostContainer, image: 'atoll:1' }] },
      };
      await expect
        .poll(async () => {
          const path = `/api/v1/namespaces/${namespace}/pods`;
          return (await kubernetes.request('POST', path, { body: pod })).status;
        })
        .toBe(201);
      const running = { status: { phase: 'Running', podIP: '127.0.0.1', containerStatuses: [started] } };
      const path = `/api/v1/namespaces/${namespace}/pods/fn-logged-1/status`;
      const patched = await kubernetes.request('PATCH', path, {
        body: running,
        contentType: 'application/merge-patch+json',
      });
      expect(patched.status, JSON.stringify(patched.body)).toBe(200);
      const headers = { authorization: `Bearer ${kubernetes.tokenOf('admin')}` };
      const granted = roles.flatMap(({ rules }) =>
        rules.flatMap(({ apiGroups, resources, verbs }) =>
          apiGroups.flatMap((group) =>
            resources.flatMap((resource) => verbs.map((verb) => `${verb} ${resource} ${group}`.trim())),
          ),
        ),
      );
      const ofGateway = async (): Promise<AuditEvent[]> =>
        (await kubernetes.audited()).filter(({ user }) => user.username === 'gateway');
      const used = async (): Promise<string[]> => {
        await fetch(`${url}/atoll/v1/namespaces/${namespace}/functions/logged/logs`, { headers }).then(
          (answer) => answer.text(),
        );
        const texts = (await ofGateway()).flatMap(({ verb, objectRef }) => {
          if (!objectRef) return [];
          const { resource, subresource, apiGroup = '' } = objectRef;
          const name = subresource === undefined ? resource : `${resource}/${subresource}`;
          return [`${verb} ${name} ${apiGroup}`.trim()];
        });
        return [...new Set(texts)].sort();
      };
      await expect.poll(used, { timeout: 60_000, interval: 500 }).toEqual([...new Set(granted)].sort());
      expect((await ofGateway()).filter(({ responseStatus }) => responseStatus?.code === 403)).toEqual([]);
      expect(await process.stop()).toEqual({ code: 0, signal: null });
    });
  },
);

/** As kubelet tells of it. */
const started = {
  name: hostContainer,
  ready: true,
  restartCount: 0,
  image: 'atoll:1',
  imageID: 'atoll:1',
  state: { running: { startedAt: '2026-01-01T00:00:00Z' } },
};
