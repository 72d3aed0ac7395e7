/** The gateway's doors in a cluster: tokens of a real API server, its RBAC, and packages for Pods. */
import { createHash, randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { beforeAll, describe, expect, test } from 'vitest';
import { openDirectoryStore } from '../../controller/stores/directory.ts';
import { openPackageCache } from '../../gateway/packages.ts';
import { openReviews, rememberedMs, type Post } from '../../gateway/reviews.ts';
import { type Gateway, type GatewayOptions, startGateway } from '../../gateway/start.ts';
import { openS3 } from '../../runtime/clients/s3.ts';
import { packageAudience } from '../../runtime/config.ts';
import { openLog } from '../../runtime/log.ts';
import { openPackages } from '../../runtime/package/fetch.ts';
import { packFiles } from '../../runtime/package/pack.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { startVersitygw, type S3Server } from '../support/s3.ts';
import { ask } from './ask.ts';

const log = openLog({ level: 'silent' });
let kubernetes: Kubernetes;

beforeAll(async () => {
  kubernetes = await startKubernetes({ controllers: true, users: { ada: ['developers'], eve: [] } });
});

/** As the administrator; what was asked is counted. */
function posting(): { post: Post; asked: string[] } {
  const asked: string[] = [];
  const post: Post = async (path, body) => {
    asked.push(path);
    const answer = await kubernetes.request('POST', path, { body });
    if (answer.status >= 300) throw new Error(`status ${answer.status}`);
    return answer.body;
  };
  return { post, asked };
}

async function gateway(options: Partial<GatewayOptions> = {}): Promise<Gateway & { dir: string }> {
  const dir = join(await temporaryFolder(), '.atoll');
  const started = await startGateway({
    host: '127.0.0.1',
    port: 0,
    requireKeys: true,
    reviews: openReviews(posting().post),
    site: 'cluster',
    siteInfo: () => ({ site: 'cluster' }),
    store: await openDirectoryStore({ dir, log }),
    backend: {
      address: () => undefined,
      observe: () => Promise.resolve(undefined),
      async *logs() {},
    },
    log,
    ...options,
  });
  closeLater(() => started.stop(Date.now()));
  return { ...started, dir };
}

async function allow(user: string, namespace: string, verb: string, resource: string): Promise<void> {
  const metadata = { name: `${user}-${verb}-${resource.replaceAll('/', '-')}`, namespace };
  const api = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
  const rules = [{ apiGroups: ['atoll.dev'], resources: [resource], verbs: [verb] }];
  await kubernetes.request('POST', `${api}/roles`, { body: { metadata, rules } });
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: metadata.name };
  const subjects = [{ apiGroup: roleRef.apiGroup, kind: 'User', name: user }];
  await kubernetes.request('POST', `${api}/rolebindings`, { body: { metadata, roleRef, subjects } });
}

const bearer = (user: string) => ({ authorization: `Bearer ${kubernetes.tokenOf(user)}` });

describe('a token of the API server', () => {
  test('opens what RBAC allows its bearer, in that namespace, and nothing else', async () => {
    const [mine, other] = [await kubernetes.namespace(), await kubernetes.namespace()];
    await allow('ada', mine, 'get', 'functions');
    await allow('ada', mine, 'create', 'functions/invocations');
    await allow('ada', mine, 'get', 'functions/deadletters');
    const { url } = await gateway();
    const at = async (path: string, options: object = {}) =>
      (await ask(`${url}${path}`, { headers: bearer('ada'), ...options })).status;
    const of = (namespace: string) => `/atoll/v1/namespaces/${namespace}/functions/hello`;

    // 404: let in, and there is none of that name. 403 says nothing of the kind.
    await expect.poll(() => at(`${of(mine)}/status`)).toBe(404);
    expect(await at(`${of(other)}/status`)).toBe(403);
    expect(await at(`${of(mine)}/logs`)).toBe(403);
    expect(await at(`${of(mine)}/invocations`, { method: 'POST' })).toBe(404);
    expect(await at(`${of(other)}/invocations`, { method: 'POST' })).toBe(403);
    expect(await at(`/ns/${mine}/2015-03-31/functions/hello/invocations`, { method: 'POST' })).toBe(404);
    expect(await at('/2015-03-31/functions/hello/invocations', { method: 'POST' })).toBe(403);
    // Reading dead letters is not throwing them away.
    expect(await at(`${of(mine)}/dead-letters`)).not.toBe(403);
    expect(await at(`${of(mine)}/dead-letters`, { method: 'DELETE' })).toBe(403);
    expect(await at(`${of(mine)}/dead-letters/redrive`, { method: 'POST' })).toBe(403);
    expect(await at('/metrics')).toBe(403);
    expect(await at('/atoll/v1/site')).toBe(403);
  });

  test('behind the service proxy, which keeps Authorization to itself, comes in a header of its own', async () => {
    const { url } = await gateway();
    const authorization = `Bearer ${kubernetes.tokenOf('admin')}`;
    const headers = { 'atoll-authorization': authorization };
    expect((await ask(`${url}/atoll/v1/site`, { headers })).status).toBe(200);
    expect((await ask(`${url}/metrics`, { headers: { authorization } })).status).toBe(200);
  });

  test('that is nobody’s, or whose bearer may nothing, gets the same refusal as none', async () => {
    const { url } = await gateway();
    const answers = await Promise.all(
      [{}, bearer('eve'), { authorization: 'Bearer guessed' }, { authorization: 'Bearer a.b.c' }].map(
        (headers) => ask(`${url}/atoll/v1/site`, { headers }),
      ),
    );
    for (const answer of answers) expect(answer).toMatchObject({ status: 403, body: answers[0]?.body });
  });

  test('of which the API server cannot be asked opens nothing, and a key still does', async () => {
    const keysFile = join(await temporaryFolder(), 'keys');
    await writeFile(keysFile, '{"id":"ops","secret":"secret-of-the-operator"}\n', { mode: 0o600 });
    const reviews = openReviews(() => Promise.reject(new Error('connect ECONNREFUSED')));
    const { url } = await gateway({ keysFile, reviews });
    expect((await ask(`${url}/atoll/v1/site`, { headers: bearer('admin') })).status).toBe(503);
    const headers = { authorization: 'Bearer ops.secret-of-the-operator' };
    expect((await ask(`${url}/atoll/v1/site`, { headers })).status).toBe(200);
  });

  test('is asked about once in a while, not with each request; a failure to ask is not remembered', async () => {
    const { post, asked } = posting();
    let now = 0;
    let broken = true;
    const reviews = openReviews(
      (path, body) => (broken ? Promise.reject(new Error('away')) : post(path, body)),
      () => now,
    );
    const site = { verb: 'get', path: '/atoll/v1/site' } as const;
    const admin = kubernetes.tokenOf('admin');
    await expect(reviews.userOf(admin)).rejects.toMatchObject({ code: 'ClusterUnavailable' });
    broken = false;
    const [user] = await Promise.all([reviews.userOf(admin), reviews.userOf(admin)]);
    expect(user).toMatchObject({ username: 'admin' });
    expect(await reviews.may(user!, site)).toBe(true);
    expect(await reviews.may(user!, site)).toBe(true);
    expect(asked).toHaveLength(2);
    now += rememberedMs;
    await reviews.userOf(admin);
    expect(asked).toHaveLength(3);
  });
});

describe('packages', () => {
  let s3: S3Server;
  beforeAll(async () => {
    s3 = await startVersitygw();
  });

  async function withPackages(): Promise<Gateway & { dir: string; folder: string }> {
    const credentialsFile = join(await temporaryFolder(), 's3.json');
    const { accessKeyId, secretAccessKey, endpoint, region, bucket } = s3;
    await writeFile(credentialsFile, JSON.stringify({ accessKeyId, secretAccessKey }), { mode: 0o600 });
    const client = await openS3({ endpoint, region, bucket, credentialsFile });
    closeLater(async () => client.close());
    const folder = await temporaryFolder();
    const packages = await openPackageCache({ folder, s3: client, bucket, log });
    return { ...(await gateway({ packages })), folder };
  }

  const bytes = randomBytes(100_000);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const upload = (namespace: string, digest = sha256) =>
    `/atoll/v1/namespaces/${namespace}/packages/${digest}`;

  /** What a Pod of the function gets mounted: good for its package, and for nothing else. */
  async function podToken(namespace: string, serviceAccount: string, audience: string): Promise<string> {
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts`;
    await kubernetes.request('POST', path, { body: { metadata: { name: serviceAccount } } });
    const { body } = await kubernetes.request('POST', `${path}/${serviceAccount}/token`, {
      body: { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { audiences: [audience] } },
    });
    return (body as { status: { token: string } }).status.token;
  }

  async function declare(dir: string, namespace: string, name: string, digest = sha256): Promise<void> {
    await (
      await openDirectoryStore({ dir, log })
    ).put({
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { name, namespace },
      spec: { package: { uri: `s3://${s3.bucket}/packages/${digest}.tgz`, sha256: digest } },
    });
  }

  test('who may put packages into a namespace needs no key of the store', async () => {
    const namespace = await kubernetes.namespace();
    const { url } = await withPackages();
    const put = (user: string, path: string, body: Buffer) =>
      ask(`${url}${path}`, {
        method: 'PUT',
        body,
        headers: { ...bearer(user), 'content-length': body.length },
      });
    expect((await put('ada', upload(namespace), bytes)).status).toBe(403);
    await allow('ada', namespace, 'create', 'functions/packages');
    const allowed = await withPackages();
    const first = await ask(`${allowed.url}${upload(namespace)}`, {
      method: 'PUT',
      body: bytes,
      headers: bearer('ada'),
    });
    expect(first.status).toBe(201);
    expect(JSON.parse(first.body)).toEqual({ uri: `s3://packages/packages/${sha256}.tgz`, uploaded: true });
    const again = await ask(`${allowed.url}${upload(namespace)}`, {
      method: 'PUT',
      body: bytes,
      headers: bearer('ada'),
    });
    expect(again).toMatchObject({ status: 200 });
    expect(JSON.parse(again.body)).toMatchObject({ uploaded: false });

    const other = createHash('sha256').update('other').digest('hex');
    const wrong = await put('admin', upload(namespace, other), bytes);
    expect(wrong.status).toBe(422);
    expect(JSON.parse(wrong.body)).toMatchObject({ code: 'PackageDigestMismatch' });
    expect((await put('admin', upload(namespace), Buffer.alloc(0))).status).toBe(400);
  });

  test('what fetches a package for a Pod finds it there, without a key of the store', async () => {
    const namespace = await kubernetes.namespace();
    const packed = await packFiles([{ path: 'index.js', data: 'exports.handler = () => 1' }]);
    const { url, dir } = await withPackages();
    await declare(dir, namespace, 'hello', packed.sha256);
    const path = upload(namespace, packed.sha256);
    const body = Buffer.from(packed.bytes);
    expect((await ask(`${url}${path}`, { method: 'PUT', body, headers: bearer('admin') })).status).toBe(201);
    const folder = await temporaryFolder();
    const tokenFile = join(folder, 'token');
    await writeFile(tokenFile, `${await podToken(namespace, 'fn-hello', packageAudience)}\n`);
    const packages = openPackages({ cache: join(folder, 'cache'), relay: { url, tokenFile }, log });
    const spec = { uri: `s3://anywhere/at/all.tgz`, sha256: packed.sha256 };
    await expect
      .poll(() => packages.fetch(spec, 'index.handler').then(({ sha256 }) => sha256))
      .toBe(packed.sha256);

    await writeFile(tokenFile, await podToken(namespace, 'fn-other', packageAudience));
    const other = openPackages({ cache: join(folder, 'other'), relay: { url, tokenFile }, log });
    await expect(other.fetch(spec, 'index.handler')).rejects.toMatchObject({ code: 'PackageNotFound' });
    await rm(tokenFile);
    await expect(other.fetch(spec, 'index.handler')).rejects.toMatchObject({ code: 'PackageForbidden' });
  });

  test('a Pod gets the package of its own function, also while S3 is away, and no other', async () => {
    const [namespace, foreign] = [await kubernetes.namespace(), await kubernetes.namespace()];
    await s3
      .client()
      .send(new PutObjectCommand({ Bucket: s3.bucket, Key: `packages/${sha256}.tgz`, Body: bytes }));
    const { url, dir, folder } = await withPackages();
    await declare(dir, namespace, 'hello');
    const get = async (token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      return await fetch(`${url}/packages/${sha256}`, { headers });
    };
    const token = await podToken(namespace, 'fn-hello', packageAudience);
    await expect.poll(async () => (await get(token)).status).toBe(200);
    expect(Buffer.from(await (await get(token)).arrayBuffer())).toEqual(bytes);

    expect((await get(await podToken(foreign, 'fn-hello', packageAudience))).status).toBe(404);
    expect((await get(await podToken(namespace, 'fn-other', packageAudience))).status).toBe(404);
    // What the API server itself would take is not meant for this door, and the other way round.
    const usual = await podToken(namespace, 'fn-hello', 'https://kubernetes.default.svc');
    expect((await get(usual)).status).toBe(403);
    const site = await fetch(`${url}/atoll/v1/site`, { headers: { authorization: `Bearer ${token}` } });
    expect(site.status).toBe(403);
    expect((await kubernetes.request('GET', '/version', { token })).status).toBe(401);

    await s3.kill();
    expect((await get(token)).status).toBe(200);
    // Damaged on the disk: never handed out, and fetched again when S3 is back.
    await writeFile(join(folder, `${sha256}.tgz`), 'rubbish');
    expect((await get(token)).status).toBe(503);
    await s3.restart();
    await expect.poll(async () => (await get(token)).status).toBe(200);
    expect(Buffer.from(await (await get(token)).arrayBuffer())).toEqual(bytes);
  });
});
