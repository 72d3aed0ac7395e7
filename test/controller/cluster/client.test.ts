import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { ClusterError, openCluster, resourcePath, type Cluster } from '../../../controller/cluster/client.ts';
import { AtollError } from '../../../runtime/errors.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startKubernetes, type Kubernetes } from '../../support/kubernetes.ts';
import { missing } from '../../support/requirement.ts';
import { startWire } from '../../support/wire.ts';

const configMaps = '/api/v1/namespaces/default/configmaps';
const configMap = (name: string): object => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name } });

test('paths are those of the API', () => {
  const functions = { group: 'atoll.dev', version: 'v1alpha1', plural: 'functions' };
  expect(resourcePath(functions)).toBe('/apis/atoll.dev/v1alpha1/functions');
  expect(resourcePath(functions, { namespace: 'lab', name: 'hello', subresource: 'status' })).toBe(
    '/apis/atoll.dev/v1alpha1/namespaces/lab/functions/hello/status',
  );
  expect(resourcePath({ group: '', version: 'v1', plural: 'pods' }, { namespace: '../x' })).toBe(
    '/api/v1/namespaces/..%2Fx/pods',
  );
});

describe.skipIf(await missing('kubernetes', 'openssl'))('with a real API server', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes({ audit: true, users: { ada: [] } });
  });

  async function opened(
    text: string,
    options: { context?: string; answerMs?: number } = {},
  ): Promise<Cluster> {
    const kubeconfig = join(await temporaryFolder(), 'kubeconfig');
    await writeFile(kubeconfig, text, { mode: 0o600 });
    const cluster = await openCluster({ kubeconfig, ...options });
    closeLater(() => cluster.close());
    return cluster;
  }
  const asAdmin = (): Promise<Cluster> => opened(kubernetes.kubeconfig(kubernetes.tokenOf('admin')));
  const failure = (work: Promise<unknown>): Promise<ClusterError> =>
    work.then(
      () => {
        throw new Error('it did not fail');
      },
      (error: unknown) => error as ClusterError,
    );

  test('what is refused is told in the words of the server, with a code of ours', async () => {
    const cluster = await asAdmin();
    const post = (body: unknown): Promise<unknown> => cluster.request('POST', configMaps, { body });
    await post(configMap('once'));
    expect(await failure(post(configMap('once')))).toMatchObject({
      code: 'Conflict',
      status: 409,
      reason: 'AlreadyExists',
      message: 'configmaps "once" already exists',
    });
    expect(await failure(post(configMap('No_Name')))).toMatchObject({
      code: 'InvalidObject',
      causes: [{ field: 'metadata.name' }],
    });
    expect(await failure(cluster.request('GET', `${configMaps}/none`))).toMatchObject({
      code: 'NotFound',
      reason: 'NotFound',
    });
    expect(await failure(cluster.request('GET', '/apis/unicorns.dev/v1/unicorns'))).toMatchObject({
      code: 'NotFound',
      reason: undefined,
    });
    const ada = await opened(kubernetes.kubeconfig(kubernetes.tokenOf('ada')));
    expect(await failure(ada.request('GET', configMaps))).toMatchObject({
      code: 'ClusterForbidden',
      message: expect.stringContaining('User "ada" cannot list resource "configmaps"') as string,
    });
    const nobody = await opened(kubernetes.kubeconfig('guessed'));
    expect(await failure(nobody.request('GET', configMaps))).toMatchObject({
      code: 'ClusterForbidden',
      status: 401,
    });
  });

  test('a server that is away, another one, and a kubeconfig that leads nowhere are told as such', async () => {
    const away = await opened(kubernetes.kubeconfig('x', 'https://127.0.0.1:1'));
    expect(await failure(away.request('GET', configMaps))).toMatchObject({
      code: 'ClusterUnavailable',
      message: expect.stringContaining('ECONNREFUSED') as string,
    });
    const stranger = kubernetes
      .kubeconfig(kubernetes.tokenOf('admin'))
      .replace(/certificate-authority: .*/, 'tls-server-name: elsewhere.example');
    expect((await failure((await opened(stranger)).request('GET', configMaps))).code).toBe(
      'ClusterUnavailable',
    );
    await expect(openCluster({ kubeconfig: '/nowhere/kubeconfig' })).rejects.toThrow('/nowhere/kubeconfig');
    await expect(opened(kubernetes.kubeconfig('x'), { context: 'production' })).rejects.toThrow(
      'has no context "production"; it has test',
    );
  });

  test('a token file is read again after a 401, and may end in a newline', async () => {
    const folder = await temporaryFolder();
    const tokenFile = join(folder, 'token');
    await writeFile(tokenFile, 'old\n');
    const text = kubernetes
      .kubeconfig('x')
      .replace('token: x', `auth-provider: { name: tokenFile, config: { tokenFile: ${tokenFile} } }`);
    const cluster = await opened(text);
    expect((await failure(cluster.request('GET', configMaps))).status).toBe(401);
    await writeFile(tokenFile, `${kubernetes.tokenOf('admin')}\n`);
    await cluster.request('GET', configMaps);
  });

  test('a plug-in, a certificate and the name of another open the door', async () => {
    const folder = await temporaryFolder();
    const plugin = join(folder, 'plug-in');
    const apiVersion = 'client.authentication.k8s.io/v1';
    const answers = async (token: string): Promise<void> => {
      const answer = JSON.stringify({ apiVersion, kind: 'ExecCredential', status: { token } });
      await writeFile(plugin, `#!/bin/sh\necho '${answer}'\n`, { mode: 0o700 });
    };
    await answers('old');
    const withUser = (user: object): Promise<Cluster> =>
      opened(kubernetes.kubeconfig('x').replace('token: x', JSON.stringify(user)));
    const plugged = await withUser({ exec: { apiVersion, command: plugin, interactiveMode: 'Never' } });
    expect((await failure(plugged.request('GET', configMaps))).status).toBe(401);
    await answers(kubernetes.tokenOf('admin'));
    await plugged.request('GET', configMaps);

    const pki = dirname(kubernetes.caFile);
    const certified = await withUser({
      'client-certificate': join(pki, 'kubelet-client.crt'),
      'client-key': join(pki, 'kubelet-client.key'),
    });
    await certified.request('GET', configMaps);
    expect(await certified.bearer()).toBeUndefined();

    const asAda = await withUser({ token: kubernetes.tokenOf('admin'), as: 'ada', 'as-groups': ['b', 'c'] });
    const { status } = await asAda.request<{ status: { userInfo: { username: string; groups: string[] } } }>(
      'POST',
      '/apis/authentication.k8s.io/v1/selfsubjectreviews',
      { body: { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' } },
    );
    expect(status.userInfo.username).toBe('ada');
    expect(status.userInfo.groups).toEqual(expect.arrayContaining(['b', 'c']));
  });

  /** As of RFC 9110, 9.3.6; `asked` has where each client wanted to go. */
  async function startTunnels(): Promise<{ url: string; asked: string[]; refuse(): void }> {
    const asked: string[] = [];
    const sockets = new Set<Socket>();
    let refuses = false;
    const server = createServer();
    server.on('connect', ({ url = '' }, client: Socket) => {
      asked.push(url);
      if (refuses) return void client.end('HTTP/1.1 403 Forbidden\r\n\r\n');
      const { hostname, port } = new URL(`http://${url}`);
      const target = connect({ host: hostname, port: Number(port) }, () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        client.pipe(target).pipe(client);
      });
      for (const socket of [client, target]) {
        sockets.add(socket);
        socket.on('error', () => socket.destroy());
        socket.on('close', () => (client.destroy(), target.destroy()));
      }
    });
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    closeLater(async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return { url, asked, refuse: () => void (refuses = true) };
  }

  test('proxy-url of a kubeconfig is the way to the server, for requests and for watches', async () => {
    const through = (proxy: string, more = ''): Promise<Cluster> =>
      opened(
        kubernetes
          .kubeconfig(kubernetes.tokenOf('admin'))
          .replace(/^( *)server: .*/m, `$&\n$1proxy-url: ${proxy}${more && `\n$1${more}`}`),
      );
    const tunnels = await startTunnels();
    const cluster = await through(tunnels.url);
    await cluster.request('POST', configMaps, { body: configMap('tunnelled') });
    const watching = new AbortController();
    const query = { watch: true, resourceVersion: '0', fieldSelector: 'metadata.name=tunnelled' };
    const lines = cluster.lines(configMaps, { query, signal: watching.signal, silentMs: 60_000 });
    const { value } = await lines[Symbol.asyncIterator]().next();
    expect(JSON.parse(String(value))).toMatchObject({ object: { metadata: { name: 'tunnelled' } } });
    watching.abort();
    expect(new Set(tunnels.asked)).toEqual(new Set([new URL(kubernetes.url).host]));

    // Whom it leads to is still checked: the proxy is nobody to trust.
    const stranger = await through(tunnels.url, 'tls-server-name: elsewhere.example');
    expect((await failure(stranger.request('GET', configMaps))).message).toContain('elsewhere.example');
    tunnels.refuse();
    const refused = await failure((await through(tunnels.url)).request('GET', configMaps));
    expect(refused).toMatchObject({ code: 'ClusterUnavailable', status: undefined });
    const away = await failure((await through('http://127.0.0.1:1')).request('GET', configMaps));
    expect(away).toMatchObject({
      code: 'ClusterUnavailable',
      message: expect.stringContaining('ECONNREFUSED') as string,
    });
    const odd = await failure((await through('socks5://127.0.0.1:1')).request('GET', configMaps));
    expect(odd.message).toContain('"socks5://127.0.0.1:1" must be http:// or https://');
  });

  test('a server that stands still is given up after the time that was set', async () => {
    const cluster = await opened(kubernetes.kubeconfig(kubernetes.tokenOf('admin')), { answerMs: 1_500 });
    await cluster.request('GET', configMaps);
    await kubernetes.apiserver.pause();
    try {
      const beganMs = performance.now();
      expect((await failure(cluster.request('GET', configMaps))).message).toContain('does not answer');
      expect((await failure(cluster.request('GET', configMaps, { timeoutMs: 300 }))).code).toBe(
        'ClusterUnavailable',
      );
      expect(performance.now() - beganMs).toBeLessThan(15_000);
    } finally {
      kubernetes.apiserver.resume();
    }
    await expect
      .poll(() =>
        cluster.request('GET', configMaps).then(
          () => 'answers',
          () => 'not yet',
        ),
      )
      .toBe('answers');
  });

  test('lines of a watch come as they are written, and end with the signal', async () => {
    const cluster = await asAdmin();
    const watching = new AbortController();
    const query = { watch: true, resourceVersion: '0', fieldSelector: 'metadata.name=lined' };
    const lines = cluster.lines(configMaps, { query, signal: watching.signal, silentMs: 60_000 });
    const names = (async () => {
      for await (const line of lines) return JSON.parse(line) as { type: string };
      return undefined;
    })();
    await cluster.request('POST', configMaps, { body: configMap('lined') });
    expect(await names).toMatchObject({ type: 'ADDED' });
    const silent = cluster.lines(configMaps, {
      query: { ...query, fieldSelector: 'metadata.name=none', resourceVersion: undefined },
      silentMs: 1_200,
    });
    expect((await failure(silent[Symbol.asyncIterator]().next())).message).toContain('does not answer');
  });

  test('who may not write any more at the moment of writing has not written', async () => {
    // Through a wire of its own, so that the connection is not there yet.
    const wire = await startWire(Number(new URL(kubernetes.url).port));
    const url = `https://127.0.0.1:${wire.port}`;
    const cluster = await opened(kubernetes.kubeconfig(kubernetes.tokenOf('admin'), url));
    let may = true;
    const guarded = cluster.guarded(() => {
      if (!may) throw new AtollError('LeaseLost', 'not any more');
    });
    await kubernetes.apiserver.pause();
    const post = failure(guarded.request('POST', configMaps, { body: configMap('late') }));
    const exchange = failure(
      guarded.exchange('POST', configMaps, {
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(configMap('late')),
      }),
    );
    // It waits for the server to greet it.
    await expect.poll(() => wire.connections).toBe(2);
    may = false;
    kubernetes.apiserver.resume();
    expect(await post).toMatchObject({ code: 'LeaseLost', message: 'not any more' });
    expect(await exchange).toMatchObject({ code: 'LeaseLost', message: 'not any more' });
    expect((await guarded.exchange('GET', configMaps, {})).statusCode).toBe(200);
    expect((await guarded.request<{ items: unknown[] }>('GET', configMaps)).items).toBeDefined();
    const writes = (await kubernetes.audited()).filter(
      ({ verb, objectRef }) => verb === 'create' && objectRef?.name === 'late',
    );
    expect(writes).toEqual([]);
    expect((await failure(cluster.request('GET', `${configMaps}/late`))).status).toBe(404);
    may = true;
    await guarded.request('POST', configMaps, { body: configMap('late') });
  });
});
