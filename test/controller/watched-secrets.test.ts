import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { referencesAnnotation } from '../../controller/backends/manifests.ts';
import { clusterRights, functionRights, leaseRights, secretRights } from '../../controller/rights.ts';
import { grantRights } from '../support/controller-rights.ts';
import { temporaryFolder } from '../support/folder.ts';
import { installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';

const main = join(import.meta.dirname, '../../controller/main.ts');

describe.skipIf(await missing('kubernetes', 'openssl'))('Secrets that are watched', () => {
  let kubernetes: Kubernetes;
  let folder: string;
  beforeAll(async () => {
    folder = await temporaryFolder();
    kubernetes = await startKubernetes({
      audit: true,
      controllers: true,
      users: { controller: ['controllers'] },
    });
    await installFunctionKind(kubernetes);
    await grantRights(kubernetes, { rules: [...functionRights, ...clusterRights] });
    await grantRights(kubernetes, { namespace: 'default', rules: leaseRights });
  });

  async function startController(watchSecretsIn: string[]): Promise<RunningProcess> {
    const kubeconfig = join(folder, 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('controller')), { mode: 0o600 });
    const config = join(folder, 'config.json');
    const listen = { host: '127.0.0.1', port: 0 };
    await writeFile(config, JSON.stringify({ image: 'atoll:1', kubeconfig, listen, watchSecretsIn }));
    const controller = await startProcess(process.execPath, [main, config], {
      name: 'controller',
      env: { PATH: process.env['PATH'], HOME: folder },
    });
    await controller.line(/this controller leads/);
    return controller;
  }

  const declared = (namespace: string, replicas = 0): string =>
    JSON.stringify({
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name: 'hello', namespace },
      spec: {
        replicas,
        package: { inline: 'exports.handler = () => 1' },
        env: [
          { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'robot', key: 'token' } } },
          { name: 'MODE', valueFrom: { configMapKeyRef: { name: 'modes', key: 'mode', optional: true } } },
        ],
      },
    });
  const apply = (text: string): Promise<string> => kubernetes.kubectl(['apply', '-f', '-'], text);
  const content = (kind: 'Secret' | 'ConfigMap', name: string, namespace: string, data: object): string =>
    JSON.stringify({
      apiVersion: 'v1',
      kind,
      metadata: { name, namespace },
      ...(kind === 'Secret' ? { stringData: data } : { data }),
    });

  interface Deployment {
    metadata: { generation: number };
    spec: { replicas: number; template: { metadata: { annotations: Record<string, string> } } };
  }
  async function deployment(namespace: string): Promise<Deployment | undefined> {
    const path = `/apis/apps/v1/namespaces/${namespace}/deployments/fn-hello`;
    const { status, body } = await kubernetes.request('GET', path);
    return status === 200 ? (body as Deployment) : undefined;
  }
  const generation = async (namespace: string): Promise<number | undefined> =>
    (await deployment(namespace))?.metadata.generation;
  const references = async (namespace: string): Promise<string | undefined> =>
    (await deployment(namespace))?.spec.template.metadata.annotations[referencesAnnotation];
  const ofController = async () =>
    (await kubernetes.audited()).filter(({ user }) => user.username === 'controller');

  test('a value that changes gives its functions new pods in the namespaces that are named, and nowhere else', async () => {
    const [lab, yard] = [await kubernetes.namespace(), await kubernetes.namespace()];
    await grantRights(kubernetes, { name: 'atoll-secrets', namespace: lab, rules: secretRights });
    for (const namespace of [lab, yard]) {
      await apply(content('Secret', 'robot', namespace, { token: 'hunter2', other: 'x' }));
    }
    let controller = await startController([lab]);
    for (const namespace of [lab, yard]) {
      await apply(declared(namespace));
      await expect.poll(() => generation(namespace)).toBe(1);
    }
    const first = await references(lab);
    expect(first).toMatch(/^[\w-]{16}$/);

    // What no function takes changes nothing.
    await apply(content('Secret', 'robot', yard, { token: 'changed', other: 'x' }));
    await apply(content('Secret', 'robot', lab, { token: 'hunter2', other: 'y' }));
    await apply(content('Secret', 'nobodys', lab, { token: 'hunter2' }));
    await kubernetes.kubectl(['label', 'secret', 'robot', 'n=1', '-n', lab]);
    await apply(declared(lab, 1));
    await expect.poll(() => generation(lab)).toBe(2);
    expect(await references(lab)).toBe(first);

    await apply(content('Secret', 'robot', lab, { token: 'hunter3', other: 'y' }));
    await expect.poll(() => generation(lab)).toBe(3);
    const second = await references(lab);
    expect(second).not.toBe(first);

    // A ConfigMap that comes only now, and goes again.
    await apply(content('ConfigMap', 'modes', lab, { mode: 'fast' }));
    await expect.poll(() => generation(lab)).toBe(4);
    await kubernetes.kubectl(['delete', 'configmap', 'modes', '-n', lab]);
    await expect.poll(() => generation(lab)).toBe(5);
    expect(await references(lab)).toBe(second);

    await apply(declared(yard, 1));
    await expect.poll(async () => (await deployment(yard))?.spec.replicas).toBe(1);
    expect(await generation(yard)).toBe(2);
    expect(await references(yard)).toBeUndefined();

    // What changes while no controller runs is seen by the next; what did not change is not written again.
    expect(await controller.stop()).toEqual({ code: 0, signal: null });
    const patches = async () =>
      (await ofController()).filter(
        ({ verb, objectRef }) =>
          verb === 'patch' && objectRef?.subresource !== 'status' && objectRef?.resource !== 'events',
      );
    const before = (await patches()).length;
    await apply(content('Secret', 'robot', lab, { token: 'hunter4', other: 'y' }));
    controller = await startController([lab]);
    await expect.poll(() => generation(lab)).toBe(6);
    const written = (await patches()).slice(before);
    expect(written.map(({ objectRef }) => `${objectRef?.resource} ${objectRef?.namespace}`)).toEqual([
      `deployments ${lab}`,
    ]);

    // Its rights were enough, and it looked nowhere else.
    const asked = await ofController();
    expect(asked.filter(({ responseStatus }) => responseStatus?.code === 403)).toEqual([]);
    const secrets = asked.filter(({ objectRef }) => objectRef?.resource === 'secrets');
    const looked = secrets.map(({ verb, objectRef }) => `${verb} ${objectRef?.namespace}`);
    expect([...new Set(looked)].sort()).toEqual([`list ${lab}`, `watch ${lab}`]);

    // Neither a value nor what a value could be guessed by is told.
    const told = [
      controller.output(),
      await kubernetes.kubectl(['get', 'fn,cm,deploy,rs,pods,events', '-A', '-o', 'json']),
      await kubernetes.kubectl(['describe', 'fn,deploy', '-n', lab]),
    ].join('\n');
    for (const value of ['hunter2', 'hunter3', 'hunter4']) {
      const coded = Buffer.from(value).toString('base64');
      const hash = (text: string, encoding: 'hex' | 'base64url'): string =>
        createHash('sha256').update(text).digest(encoding).slice(0, 16);
      const plain = [value, coded].flatMap((text) => [text, hash(text, 'hex'), hash(text, 'base64url')]);
      for (const text of plain) expect(told.includes(text), text).toBe(false);
    }
    expect(await controller.stop()).toEqual({ code: 0, signal: null });
  }, 120_000);

  test('where it may not read them its functions say so, the others go on, and the right is enough to mend it', async () => {
    const [lab, yard] = [await kubernetes.namespace(), await kubernetes.namespace()];
    const controller = await startController([lab]);
    for (const namespace of [lab, yard]) await apply(declared(namespace));
    await expect.poll(() => generation(yard)).toBe(1);
    const ready = (): Promise<string> =>
      kubernetes.kubectl([
        ...['get', 'fn', 'hello', '-n', lab, '-o'],
        'jsonpath={.status.conditions[?(@.type=="Ready")].message}',
      ]);
    await expect.poll(ready).toContain(`Secrets and ConfigMaps of namespace ${lab} could not be listed`);
    expect(await deployment(lab)).toBeUndefined();
    await grantRights(kubernetes, { name: 'atoll-secrets', namespace: lab, rules: secretRights });
    await expect.poll(() => generation(lab), { timeout: 60_000 }).toBe(1);
    expect(await references(lab)).toMatch(/^[\w-]{16}$/);
    expect(await controller.stop()).toEqual({ code: 0, signal: null });
  }, 120_000);
});
