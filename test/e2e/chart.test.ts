/** The chart on a real cluster: what a user does there, with programs that have no rights but the chart's. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { chart } from '../../charts/manifest.ts';
import { temporaryFolder } from '../support/folder.ts';
import { missingNodes, startKubernetesWithNodes } from '../support/kubernetes-nodes.ts';
import { startNats } from '../support/nats.ts';
import { missing, requireTool } from '../support/requirement.ts';

const absent = (await missingNodes()) ?? (await missing('helm', 'nats-server'));

describe.skipIf(absent)('Atoll in a cluster', () => {
  test('a Function that is applied answers by HTTP, NATS and invoke, is scaled, and leaves nothing when it is deleted', async () => {
    const cluster = await startKubernetesWithNodes({ nodes: ['node-1'], audit: true });
    const nats = await startNats({ place: cluster.place });
    const kubectl = (...args: string[]): Promise<string> => cluster.kubectl(args);
    const { stdout } = await promisify(execFile)(
      await requireTool('helm'),
      [
        ...['install', 'atoll', chart, '--kubeconfig', cluster.kubeconfigFile],
        ...['--namespace', 'atoll-system', '--create-namespace', '--wait', '--timeout', '120s'],
        ...['--set', `nats.url=${nats.url}`],
      ],
      { env: { PATH: process.env['PATH'], HOME: await temporaryFolder() } },
    ).catch(async (error: unknown) => {
      const pods = await kubectl('get', 'pods,events', '-n', 'atoll-system');
      const logs = await kubectl('logs', '-n', 'atoll-system', '-l', 'app.kubernetes.io/part-of=atoll');
      throw new Error(`${String(error)}\n${pods}\n${logs}`, { cause: error });
    });
    expect(stdout).toContain('STATUS: deployed');

    const namespace = await cluster.namespace();
    const hello = {
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name: 'hello', namespace },
      spec: {
        runtime: 'nodejs24.x',
        handler: 'index.handler',
        memory: '64Mi',
        package: {
          inline:
            "exports.handler = async (event) => event.rawPath ? { statusCode: 200, body: require('node:os').hostname() } : { got: event };",
        },
        triggers: [
          { name: 'web', http: { path: '/hello', auth: 'None' } },
          { name: 'asked', nats: { subject: 'hello.asked' } },
        ],
      },
    };
    await cluster.kubectl(['apply', '-f', '-'], JSON.stringify(hello));
    await kubectl('wait', '-n', namespace, '--for=condition=Ready', 'fn/hello', '--timeout=90s').catch(
      async (error: unknown) => {
        const seen = await kubectl('get', 'fn,pods,events', '-n', namespace, '-o', 'wide');
        const logs = await kubectl('logs', '-n', 'atoll-system', '-l', 'app.kubernetes.io/part-of=atoll');
        throw new Error(`${String(error)}\n${seen}\n${logs}`, { cause: error });
      },
    );

    const service = await cluster.request('GET', '/api/v1/namespaces/atoll-system/services/atoll-gateway');
    const gateway = `http://${(service.body as { spec: { clusterIP: string } }).spec.clusterIP}`;
    const web = async (): Promise<string> => {
      const answer = await fetch(`${gateway}/hello`, { headers: { connection: 'close' } });
      return answer.ok ? answer.text() : `status ${answer.status}`;
    };
    await expect.poll(web).toMatch(/^fn-hello-/);
    const client = await nats.connect();
    expect((await client.request('hello.asked', '{"n":1}', { timeout: 10_000 })).json()).toEqual({
      got: { n: 1 },
    });
    const invoke = (headers: Record<string, string>): Promise<Response> =>
      fetch(`${gateway}/ns/${namespace}/2015-03-31/functions/hello/invocations`, {
        method: 'POST',
        body: '{"n":2}',
        headers,
      });
    expect((await invoke({})).status).toBe(403);
    const invoked = await invoke({ authorization: `Bearer ${cluster.tokenOf('admin')}` });
    expect(await invoked.json()).toEqual({ got: { n: 2 } });

    await kubectl('scale', '-n', namespace, 'fn/hello', '--replicas=2');
    const answered = new Set<string>();
    await expect.poll(async () => answered.add(await web()).size, { timeout: 60_000 }).toBe(2);

    await kubectl('delete', '-n', namespace, 'fn/hello');
    const kinds =
      'deployments,daemonsets,replicasets,pods,services,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies,horizontalpodautoscalers';
    await expect
      .poll(() => kubectl('get', kinds, '-n', namespace, '-l', 'atoll.dev/function', '-o', 'name'), {
        timeout: 60_000,
      })
      .toBe('');

    const requests = (await cluster.audited()).filter(({ user }) =>
      user.username.startsWith('system:serviceaccount:atoll-system:'),
    );
    expect(requests.length).toBeGreaterThan(20);
    const refused = requests.filter(({ responseStatus }) => responseStatus?.code === 403);
    expect(refused.map(({ verb, requestURI, user }) => `${user.username} ${verb} ${requestURI}`)).toEqual([]);
  }, 300_000);
});
