import { expect, test } from 'vitest';
import { startKubernetes } from './kubernetes.ts';

const configMap = (name: string, data: Record<string, string> = {}): unknown => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name },
  data,
});

test('a user has the rights that RBAC gives, and a stranger is not let in', async () => {
  const kubernetes = await startKubernetes({ users: { ada: ['developers'] }, audit: true });
  const namespace = await kubernetes.namespace();
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const token = kubernetes.tokenOf('ada');

  expect((await kubernetes.request('GET', path, { token })).status).toBe(403);
  const create = (...args: string[]): Promise<string> =>
    kubernetes.kubectl(['create', '-n', namespace, ...args]);
  await create('role', 'reader', '--verb=list', '--resource=configmaps');
  await create('rolebinding', 'readers', '--role=reader', '--group=developers');
  await expect.poll(async () => (await kubernetes.request('GET', path, { token })).status).toBe(200);
  const refused = await kubernetes.request('POST', path, { token, body: configMap('forbidden') });
  expect(refused.status).toBe(403);
  expect((await kubernetes.request('GET', path, { token: 'guessed' })).status).toBe(401);
  await expect(kubernetes.kubectl(['get', 'unicorns'])).rejects.toThrow(/resource type "unicorns"/);
  expect(() => kubernetes.controllerManager).toThrow('without { controllers: true }');
  expect(() => kubernetes.tokenOf('bob')).toThrow('without { users: { bob: … } }');

  const hers = (await kubernetes.audited()).filter(({ user }) => user.username === 'ada');
  expect(hers.at(-1)).toMatchObject({
    verb: 'create',
    objectRef: { resource: 'configmaps', namespace },
    responseStatus: { code: 403 },
  });
});

test('what is stored outlives a crash of the API server and of etcd, on the same address', async () => {
  const kubernetes = await startKubernetes();
  const namespace = await kubernetes.namespace();
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const { body } = await kubernetes.request('POST', path, { body: configMap('kept', { n: '0' }) });
  await kubernetes.request('PUT', `${path}/kept`, { body: configMap('kept', { n: '1' }) });

  await kubernetes.apiserver.kill();
  await expect(kubernetes.request('GET', `${path}/kept`)).rejects.toThrow('ECONNREFUSED');
  await kubernetes.etcd.kill();
  await kubernetes.etcd.restart();
  await kubernetes.apiserver.restart();
  expect((await kubernetes.request('GET', `${path}/kept`)).body).toMatchObject({ data: { n: '1' } });

  // History from before is gone, as it is after hours without these.
  const { resourceVersion } = (body as { metadata: { resourceVersion: string } }).metadata;
  const old = `${path}?watch=1&timeoutSeconds=5&resourceVersion=${resourceVersion}`;
  await kubernetes.request('PUT', `${path}/kept`, { body: configMap('kept', { n: '2' }) });
  await kubernetes.compact();
  expect(JSON.stringify((await kubernetes.request('GET', old)).body)).toMatch(/"code":410/);
});

test('the controllers make Pods of a Deployment and the scheduler waits for a node', async () => {
  const kubernetes = await startKubernetes({ controllers: true, scheduler: true });
  const namespace = await kubernetes.namespace();
  await kubernetes.kubectl(['create', 'deployment', 'web', '--image=none', '-n', namespace]);
  await expect
    .poll(() =>
      kubernetes.kubectl([
        ...['get', 'pods', '-n', namespace],
        ...['-o', 'jsonpath={.items[*].status.conditions[?(@.type=="PodScheduled")].reason}'],
      ]),
    )
    .toBe('Unschedulable');

  // With its namespace everything in it goes.
  await kubernetes.kubectl(['delete', 'namespace', namespace]);
  expect(await kubernetes.kubectl(['get', 'deployments', '-n', namespace])).toBe('');
});
