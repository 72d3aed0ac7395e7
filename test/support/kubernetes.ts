/** A real Kubernetes: etcd and the API server, and on demand the controllers, the scheduler and nodes. */
import { execFile } from 'node:child_process';
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import { freePort } from './ports.ts';
import type { RunningProcess } from './process.ts';
import { requireTool } from './requirement.ts';
import { startServer, withFacts } from './server.ts';
import type { Server } from './server.ts';

export interface KubernetesOptions {
  /** kube-controller-manager: Deployments, garbage collection, default ServiceAccounts, deletion of namespaces. */
  controllers?: boolean | readonly ControllerSwitch[];
  scheduler?: boolean;
  /**
   * Further API servers may serve groups (APIService). Autoscalers look every second, and kubelets of nodes measure
   * every second.
   */
  aggregation?: boolean;
  /** Writes down every request, or those of the users; `audited()` reads it. */
  audit?: boolean | { readonly users: readonly string[] };
  /** Names of further users, each with the groups it is in; `tokenOf` gives what they log in with. */
  users?: Readonly<Record<string, readonly string[]>>;
  /** Where its nodes are (`kubernetes-nodes.ts` starts them); by default it has none and listens on loopback. */
  network?: {
    /** Of this machine, as nodes reach it: the API server listens there. */
    readonly address: string;
    /** Of ClusterIPs: `a.b.c.0/n`. */
    readonly services: string;
  };
  closing?: Closing;
}

/** Of a controller that is not to run; all others do. */
export type ControllerSwitch = `-${string}`;

export interface Kubernetes {
  /** The API server's, `https://…`. */
  readonly url: string;
  readonly caFile: string;
  /** Of an administrator. */
  readonly kubeconfigFile: string;
  /** Where the programs lie, kubectl among them: first on a PATH they are found. */
  readonly bin: string;
  readonly etcd: Server & { readonly url: string };
  readonly apiserver: Server;
  /** These two throw when they were not asked for. */
  readonly controllerManager: Server;
  readonly scheduler: Server;
  /** The administrator is `admin`. */
  tokenOf(user: string): string;
  /** The text of a kubeconfig file for the bearer of the token; through another address when one is given. */
  kubeconfig(token: string, url?: string): string;
  /** Rejects with what kubectl wrote to stderr. */
  kubectl(args: readonly string[], input?: string): Promise<string>;
  /** As the administrator unless another token is given. */
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>;
  /** A new namespace. One for each test is much faster than a cluster for each. */
  namespace(): Promise<string>;
  /** Resolves when every request that was answered before the call is in it; oldest first. */
  audited(): Promise<AuditEvent[]>;
  /** Forgets all history: a watch from an older resourceVersion, or the rest of an older list, is 410 Gone. */
  compact(): Promise<void>;
}

export interface RequestOptions {
  body?: unknown;
  /** By default JSON; a patch needs its own. */
  contentType?: string;
  token?: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Parsed when it is JSON. */
  readonly body: unknown;
}

export interface AuditEvent {
  readonly verb: string;
  readonly requestURI: string;
  readonly user: { readonly username: string };
  readonly userAgent?: string;
  readonly objectRef?: {
    readonly apiGroup?: string;
    readonly resource?: string;
    readonly subresource?: string;
    readonly namespace?: string;
    readonly name?: string;
  };
  readonly responseStatus?: { readonly code: number };
}

/** Nobody but a node could reach a ClusterIP. */
const withoutNodes = { address: '127.0.0.1', services: '10.96.0.0/16' };

export async function startKubernetes(options: KubernetesOptions = {}): Promise<Kubernetes> {
  const { closing } = options;
  const { address, services } = options.network ?? withoutNodes;
  const bin = dirname(await requireTool('kubernetes'));
  const folder = await temporaryFolder({ closing });
  const file = (name: string): string => join(folder, name);
  const pki = await makeCertificates(folder, [address, services.replace(/\.0\/\d+$/, '.1')]);
  const frontProxy = options.aggregation ? await makeFrontProxy(folder) : undefined;

  const users: Record<string, readonly string[]> = {
    admin: ['system:masters'],
    'system:kube-controller-manager': [],
    'system:kube-scheduler': [],
    ...options.users,
  };
  const tokens = new Map(Object.keys(users).map((user) => [user, randomBytes(16).toString('hex')]));
  const tokenOf = (user: string): string => {
    const token = tokens.get(user);
    if (token === undefined) throw new Error(`this Kubernetes was started without { users: { ${user}: … } }`);
    return token;
  };
  const logins = [...tokens].map(([user, token]) => `${token},${user},${user},"${users[user]?.join(',')}"\n`);
  await writeFile(file('tokens.csv'), logins.join(''), { mode: 0o600 });
  await writeFile(
    file('audit.yaml'),
    auditPolicy(typeof options.audit === 'object' ? options.audit.users : undefined),
  );

  const etcd = await startServer<{ client: number; peer: number }>(
    {
      name: 'etcd',
      choosePorts: async () => ({ client: await freePort(), peer: await freePort() }),
      prepare: async ({ client, peer }) => ({
        command: join(bin, 'etcd'),
        args: [
          ...['--name=test', `--data-dir=${file('etcd')}`, '--unsafe-no-fsync', '--log-level=warn'],
          ...[`--listen-client-urls=${http(client)}`, `--advertise-client-urls=${http(client)}`],
          ...[`--listen-peer-urls=${http(peer)}`, `--initial-advertise-peer-urls=${http(peer)}`],
          `--initial-cluster=test=${http(peer)}`,
        ],
      }),
      ready: async (process, { client }) => {
        await process.until('it is healthy', async () => {
          const answer = await fetch(`${http(client)}/health`, { headers: { connection: 'close' } });
          return answer.ok || undefined;
        });
      },
    },
    { closing },
  );
  // What it stores is thrown away: nobody has to wait for its orderly end.
  closeLater(() => etcd.kill(), closing);
  const etcdUrl = http(etcd.ports.client);

  const apiserver = await startServer<{ https: number }>(
    {
      name: 'kube-apiserver',
      choosePorts: async () => ({ https: await freePort() }),
      prepare: async ({ https }) => ({
        command: join(bin, 'kube-apiserver'),
        args: [
          ...[`--etcd-servers=${etcdUrl}`, `--bind-address=${address}`, `--secure-port=${https}`],
          `--advertise-address=${address}`,
          // Without nodes the Service "kubernetes" would lead to loopback, which no Endpoint may.
          `--endpoint-reconciler-type=${options.network === undefined ? 'none' : 'lease'}`,
          ...[`--service-cluster-ip-range=${services}`, '--allow-privileged=true'],
          ...[`--kubelet-client-certificate=${pki.kubeletClient.cert}`],
          ...[
            `--kubelet-client-key=${pki.kubeletClient.key}`,
            '--kubelet-preferred-address-types=InternalIP',
          ],
          ...[`--tls-cert-file=${pki.server.cert}`, `--tls-private-key-file=${pki.server.key}`],
          ...[`--client-ca-file=${pki.ca}`, `--token-auth-file=${file('tokens.csv')}`],
          ...['--authorization-mode=Node,RBAC', '--enable-admission-plugins=NodeRestriction'],
          '--service-account-issuer=https://kubernetes.default.svc',
          `--service-account-key-file=${pki.serviceAccount.public}`,
          `--service-account-signing-key-file=${pki.serviceAccount.private}`,
          ...(options.audit
            ? [`--audit-policy-file=${file('audit.yaml')}`, `--audit-log-path=${file('audit.log')}`]
            : []),
          ...(frontProxy ? aggregationFlags(frontProxy) : []),
          '--profiling=false',
        ],
      }),
      ready: (process, { https }) =>
        untilReady(process, `https://${address}:${https}/readyz`, pki.ca, tokenOf('admin')),
    },
    { closing },
  );
  closeLater(() => apiserver.kill(), closing);
  const url = `https://${address}:${apiserver.ports.https}`;

  const kubeconfig = (token: string, server = url): string =>
    stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'test', cluster: { server, 'certificate-authority': pki.ca } }],
      users: [{ name: 'bearer', user: { token } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'bearer' } }],
      'current-context': 'test',
    });
  const kubeconfigFile = file('kubeconfig');
  await writeFile(kubeconfigFile, kubeconfig(tokenOf('admin')), { mode: 0o600 });

  const startComponent = async (name: string, args: readonly string[]): Promise<Server> => {
    const config = file(`${name}.kubeconfig`);
    await writeFile(config, kubeconfig(tokenOf(`system:${name}`)), { mode: 0o600 });
    const component = await startServer<{ https: number }>(
      {
        name,
        choosePorts: async () => ({ https: await freePort() }),
        prepare: async ({ https }) => ({
          command: join(bin, name),
          args: [
            ...[`--kubeconfig=${config}`, `--authentication-kubeconfig=${config}`],
            ...[`--authorization-kubeconfig=${config}`, '--bind-address=127.0.0.1'],
            ...[`--secure-port=${https}`, `--tls-cert-file=${pki.server.cert}`],
            ...[`--tls-private-key-file=${pki.server.key}`, '--leader-elect=false', '--profiling=false'],
            ...args,
          ],
        }),
        ready: (process, { https }) => untilReady(process, `https://127.0.0.1:${https}/healthz`, pki.ca),
      },
      { closing },
    );
    closeLater(() => component.kill(), closing);
    return component;
  };

  const request: Kubernetes['request'] = (method, path, { body, contentType, token } = {}) =>
    ask({ method, url: `${url}${path}`, ca: pki.ca, token: token ?? tokenOf('admin'), body, contentType });

  const [controllerManager, scheduler] = await Promise.all([
    options.controllers
      ? startComponent('kube-controller-manager', [
          '--use-service-account-credentials=true',
          // With its usual limits it takes seconds to make what a new namespace needs.
          ...['--kube-api-qps=500', '--kube-api-burst=1000'],
          ...(typeof options.controllers === 'object'
            ? [`--controllers=${['*', ...options.controllers].join(',')}`]
            : []),
          `--service-account-private-key-file=${pki.serviceAccount.private}`,
          `--root-ca-file=${pki.ca}`,
          ...['--node-monitor-period=2s', '--node-monitor-grace-period=20s'],
          ...(options.aggregation
            ? [
                '--horizontal-pod-autoscaler-sync-period=1s',
                // Five minutes otherwise: what it takes to be sure that load is over.
                '--horizontal-pod-autoscaler-downscale-stabilization=2s',
              ]
            : []),
        ])
      : undefined,
    options.scheduler ? startComponent('kube-scheduler', []) : undefined,
  ]);
  const asked = (server: Server | undefined, option: string): Server => {
    if (server === undefined) throw new Error(`this Kubernetes was started without { ${option}: true }`);
    return server;
  };

  const untilServiceAccount = (namespace: string): Promise<unknown> =>
    untilTrue(`namespace ${namespace} has its ServiceAccount`, async () => {
      const path = `/api/v1/namespaces/${namespace}/serviceaccounts/default`;
      return (await request('GET', path)).status === 200;
    });
  if (options.controllers) await untilServiceAccount('default');

  return {
    url,
    caFile: pki.ca,
    kubeconfigFile,
    bin,
    etcd: withFacts(etcd, { url: etcdUrl }),
    apiserver,
    get controllerManager() {
      return asked(controllerManager, 'controllers');
    },
    get scheduler() {
      return asked(scheduler, 'scheduler');
    },
    tokenOf,
    kubeconfig,
    kubectl: (args, input) => kubectl(bin, kubeconfigFile, args, input),
    request,
    async namespace() {
      const name = `test-${randomUUID().slice(0, 13)}`;
      const { status, body } = await request('POST', '/api/v1/namespaces', { body: { metadata: { name } } });
      if (status !== 201) throw new Error(`namespace ${name} was refused: ${JSON.stringify(body)}`);
      // Without it no Pod can be created there.
      if (options.controllers) await untilServiceAccount(name);
      return name;
    },
    async audited() {
      if (!options.audit) throw new Error('this Kubernetes was started without { audit: true }');
      const mark = `/version?mark=${randomUUID()}`;
      await request('GET', mark);
      let events: AuditEvent[] = [];
      await untilTrue('the audit log has the last request', async () => {
        const lines = (await readFile(file('audit.log'), 'utf8')).split('\n');
        // The last line may be half written.
        events = lines.slice(0, -1).map((line) => JSON.parse(line) as AuditEvent);
        return events.some(({ requestURI }) => requestURI === mark);
      });
      return events.filter(({ requestURI }) => !requestURI.startsWith('/version?mark='));
    },
    async compact() {
      const call = async (path: string, body: unknown): Promise<unknown> => {
        const answer = await fetch(`${etcdUrl}/v3/kv/${path}`, {
          method: 'POST',
          body: JSON.stringify(body),
        });
        if (!answer.ok) throw new Error(`etcd refused ${path}: ${await answer.text()}`);
        return answer.json();
      };
      const { header } = (await call('range', { key: 'AA==' })) as { header: { revision: string } };
      await call('compaction', { revision: header.revision, physical: true });
    },
  };
}

/** Who asked for what and what came of it; no bodies, so no secrets. */
const auditPolicy = (users: readonly string[] | undefined): string =>
  stringify({
    apiVersion: 'audit.k8s.io/v1',
    kind: 'Policy',
    omitStages: ['RequestReceived'],
    rules:
      users === undefined
        ? [{ level: 'Metadata' }]
        : // The mark that `audited` waits for is nobody's of them.
          [
            { level: 'Metadata', users },
            { level: 'Metadata', nonResourceURLs: ['/version'] },
            { level: 'None' },
          ],
  });

const http = (port: number): string => `http://127.0.0.1:${port}`;
const run = promisify(execFile);

interface Certificates {
  readonly ca: string;
  readonly server: { readonly cert: string; readonly key: string };
  /** Of the API server when it is the client of a kubelet: it can show it nothing else than a certificate. */
  readonly kubeletClient: { readonly cert: string; readonly key: string };
  readonly serviceAccount: { readonly public: string; readonly private: string };
}

interface FrontProxy {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/**
 * By what the API server shows whom it asks on behalf of: of an authority of its own, since who is signed by that is
 * believed whatever user he names.
 */
async function makeFrontProxy(folder: string): Promise<FrontProxy> {
  const authority = await makeAuthority(folder, 'front-proxy-ca');
  const { cert, key } = await authority.issue(
    'front-proxy',
    '/CN=front-proxy',
    'extendedKeyUsage=clientAuth',
  );
  return { ca: authority.ca, cert, key };
}

const aggregationFlags = ({ ca, cert, key }: FrontProxy): string[] => [
  ...[`--requestheader-client-ca-file=${ca}`, '--requestheader-allowed-names=front-proxy'],
  ...['--requestheader-username-headers=X-Remote-User', '--requestheader-group-headers=X-Remote-Group'],
  ...['--requestheader-extra-headers-prefix=X-Remote-Extra-', '--enable-aggregator-routing=true'],
  ...[`--proxy-client-cert-file=${cert}`, `--proxy-client-key-file=${key}`],
];

interface Authority {
  /** PEM file of its own certificate. */
  readonly ca: string;
  issue(name: string, subject: string, ...extensions: string[]): Promise<{ cert: string; key: string }>;
}

/** Node can make keys but no certificates: those are OpenSSL's. */
async function makeAuthority(folder: string, authorityName: string): Promise<Authority> {
  const openssl = await requireTool('openssl');
  const file = (name: string): string => join(folder, name);
  const makeKey = async (name: string): Promise<string> => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    await writeFile(file(name), privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
    return file(name);
  };
  const [ca, caKey] = [file(`${authorityName}.crt`), await makeKey(`${authorityName}.key`)];
  await run(openssl, [
    ...['req', '-x509', '-new', '-key', caKey, '-subj', `/CN=${authorityName}`, '-days', '30'],
    ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign,digitalSignature', '-out', ca],
  ]);
  return {
    ca,
    async issue(name, subject, ...extensions) {
      const made = { cert: file(`${name}.crt`), key: await makeKey(`${name}.key`) };
      await run(openssl, [
        ...['req', '-x509', '-new', '-key', made.key, '-subj', subject, '-days', '30'],
        ...['-CA', ca, '-CAkey', caKey, '-out', made.cert],
        ...['basicConstraints=critical,CA:FALSE', ...extensions].flatMap((text) => ['-addext', text]),
      ]);
      return made;
    },
  };
}

async function makeCertificates(folder: string, addresses: readonly string[]): Promise<Certificates> {
  const file = (name: string): string => join(folder, name);
  const { ca, issue: certificate } = await makeAuthority(folder, 'test-ca');
  const names = ['localhost', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc'];
  const alternatives = [
    ...names.map((name) => `DNS:${name}`),
    ...new Set(['127.0.0.1', ...addresses].map((ip) => `IP:${ip}`)),
  ];
  const [server, kubeletClient] = await Promise.all([
    certificate(
      'server',
      '/CN=kube-apiserver',
      'extendedKeyUsage=serverAuth',
      `subjectAltName=${alternatives.join(',')}`,
    ),
    certificate(
      'kubelet-client',
      '/O=system:masters/CN=kube-apiserver-kubelet-client',
      'extendedKeyUsage=clientAuth',
    ),
  ]);

  const serviceAccount = { public: file('service-account.pub'), private: file('service-account.key') };
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  await writeFile(serviceAccount.public, pair.publicKey.export({ type: 'spki', format: 'pem' }));
  await writeFile(serviceAccount.private, pair.privateKey.export({ type: 'sec1', format: 'pem' }), {
    mode: 0o600,
  });
  return { ca, server, kubeletClient, serviceAccount };
}

/** Four seconds on a machine with nothing else to do. */
const startMs = 100_000;

/** On a port that somebody else took, somebody else would answer with another certificate, which is refused. */
async function untilReady(process: RunningProcess, url: string, ca: string, token?: string): Promise<void> {
  const look = async (): Promise<true | undefined> => {
    const { status } = await ask({ method: 'GET', url, ca, token });
    return status === 200 || undefined;
  };
  await process.until('it is ready', look, startMs);
}

interface Asked {
  readonly method: string;
  readonly url: string;
  readonly ca: string;
  readonly token: string | undefined;
  readonly body?: unknown;
  readonly contentType?: string | undefined;
}

async function ask({ method, url, ca, token, body, contentType }: Asked): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const headers: Record<string, string> = { accept: 'application/json', connection: 'close' };
  if (token !== undefined) headers['authorization'] = `Bearer ${token}`;
  if (body !== undefined) headers['content-type'] = contentType ?? 'application/json';
  const sent = httpsRequest(url, {
    method,
    headers,
    ca: await readFile(ca),
    timeout: answerMs,
    agent: false,
  });
  sent.on('timeout', () => sent.destroy(new Error(`${url} does not answer`)));
  sent.on('error', reject);
  sent.on('response', (response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    response.on('error', reject);
    response.on('end', () => {
      const json = response.headers['content-type']?.startsWith('application/json');
      resolve({
        status: response.statusCode ?? 0,
        headers: response.headers,
        body: json ? (JSON.parse(text) as unknown) : text,
      });
    });
  });
  sent.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body));
  return promise;
}

const answerMs = 20_000;

async function kubectl(
  bin: string,
  kubeconfig: string,
  args: readonly string[],
  input?: string,
): Promise<string> {
  const running = run(join(bin, 'kubectl'), ['--kubeconfig', kubeconfig, ...args], {
    maxBuffer: 64 * 1024 * 1024,
  });
  running.child.stdin?.end(input);
  return (await running).stdout;
}

async function untilTrue(what: string, check: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + startMs;
  while (!(await check())) {
    if (Date.now() > deadline) throw new Error(`waited ${startMs / 1000} s in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
