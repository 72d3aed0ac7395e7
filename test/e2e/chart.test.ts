/** A user's whole way in a real cluster: the chart, brokers and store beside it, everything through `faas` and kubectl. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { connect as connectSocket, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DeleteObjectCommand } from '@aws-sdk/client-s3';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import { connect, connectAsync } from 'mqtt';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { FunctionObject } from '../../crds/function.ts';
import type { Connections } from '../../examples/site.ts';
import { deployExamples, sendEvents, table } from '../../examples/tour.ts';
import type { LogRecord } from '../../runtime/log.ts';
import { graceMs } from '../../runtime/triggers/forget.ts';
import { faas, faasFile, folderWith, functionFolder, greeterSource, type Ended } from '../cli/run.ts';
import { closeLater } from '../support/closing.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { startMosquitto, type MosquittoServer } from '../support/mosquitto.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { installRelease, systemNamespace, type Release } from '../support/release.ts';
import { missing } from '../support/requirement.ts';
import { startVersitygw, type S3Server } from '../support/s3.ts';
import { get as call, startCallers } from './callers.ts';

const key = { id: 'examples', secret: 'not-a-secret-outside-of-this-test' };
/** Of a Secret that the function takes a variable from. */
const token = 'shown-to-nobody-but-the-handler';
/** Requests by NATS, while a version is replaced by the next. */
const perSecond = 100;
/** A busy machine may take its time; what counts is that all are answered. */
const answerMs = 30_000;

/** Says where it is, and logs what it is called with by name. */
const twinSource = `
const { WHERE } = process.env;
export const handler = async (event: { name?: string } | null) => {
  if (event?.name !== undefined) console.log(WHERE, event.name);
  return { where: WHERE };
};
`;

/** Looks for tokens of the API server in its pod, and asks the server with the one that was put there. */
const searcherSource = `
import { readFileSync, readdirSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';

const token = /eyJ[\\w-]+\\.[\\w-]+\\.[\\w-]+/;

function holdsToken(path: string): boolean {
  try {
    return readdirSync(path).some((name) => holdsToken(join(path, name)));
  } catch (error) {
    if (error.code !== 'ENOTDIR') return false;
  }
  try {
    return token.test(readFileSync(path, 'utf8'));
  } catch {
    return false;
  }
}

const ask = (server: string, bearer?: string) =>
  new Promise((resolve, reject) => {
    const headers = bearer === undefined ? {} : { authorization: 'Bearer ' + bearer };
    const asked = request(server, { headers, rejectUnauthorized: false }, async (response) => {
      let text = '';
      for await (const chunk of response) text += chunk;
      resolve({ status: response.statusCode, text });
    });
    asked.once('error', reject).end();
  });

export const handler = async ({ server }: { server: string }) => {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\\n').map((line) => line.split(' ')[4]);
  const places = [...new Set(mounts)].filter((place) => place !== '/' && !/^\\/(proc|sys|dev)(\\/|$)/.test(place));
  return {
    places,
    held: places.filter(holdsToken),
    variables: Object.keys(process.env).filter((name) => token.test(process.env[name])),
    host: readFileSync('/proc/' + process.ppid + '/environ', 'utf8').split('\\0'),
    without: await ask(server),
    withToken: await ask(server, readFileSync('/planted/token', 'utf8')),
  };
};
`;
const absent = (await missingNodes()) ?? (await missing('helm', 'nats-server', 'mosquitto', 'versitygw'));

describe.skipIf(absent)('a cluster', { timeout: 300_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let nats: NatsServer;
  let mosquitto: MosquittoServer;
  let s3: S3Server;
  let client: NatsConnection;
  let release: Release;
  let namespace: string;

  const run = (args: string[], within = namespace): Promise<Ended> =>
    faas(['--context', 'test', '-n', within, ...args], { env: { KUBECONFIG: kubernetes.kubeconfigFile } });
  const ok = (...args: string[]): Promise<string> => okIn(namespace, ...args);
  async function okIn(within: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(args, within);
    if (code === 0) return stdout;
    throw new Error(
      `faas ${args.join(' ')} ended with exit code ${code}:\n${stderr}\n${await release.state()}`,
    );
  }
  const get = async (name: string): Promise<FunctionObject> =>
    JSON.parse(await ok('get', name, '-o', 'json')) as FunctionObject;

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['node-1', 'node-2'], audit: true });
    const { place } = kubernetes;
    [nats, mosquitto, s3] = await Promise.all([
      startNats({ place }),
      startMosquitto({ place }),
      startVersitygw({ place }),
    ]);
    client = await nats.connect();
    await (await jetstreamManager(client)).streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
    release = await installRelease(kubernetes, {
      s3,
      secrets: { 'atoll-keys': { keys: JSON.stringify(key) } },
      values: {
        controller: { replicas: 2 },
        gateway: { keysSecret: 'atoll-keys' },
        nats: { url: nats.url },
        mqtt: { url: mosquitto.url },
      },
    });
  }, 300_000);

  beforeEach(async () => {
    namespace = await kubernetes.namespace();
  });

  async function ask(subject: string, event: object): Promise<object> {
    const answer = await client.request(subject, JSON.stringify(event), { timeout: answerMs });
    return answer.json<object>();
  }

  test('a function is deployed, called in every way, scaled, replaced, rolled back and deleted', async () => {
    await kubernetes.kubectl([
      ...['create', 'secret', 'generic', 'shop', '-n', namespace],
      `--from-literal=token=${token}`,
    ]);
    const folder = await functionFolder(
      'greeter',
      `
  env: [{ name: TOKEN, valueFrom: { secretKeyRef: { name: shop, key: token } } }]
  timeoutSeconds: 30
  concurrency: 10
  triggers:
    - { name: asked, nats: { subject: shop.greet } }
    - { name: web, http: { path: /greet, auth: None } }
    - { name: orders, jetstream: { stream: ORDERS, startAt: All } }
    - { name: robots, mqtt: { topic: robots/+/greet, qos: 1 } }
    - { name: clock, schedule: { every: 2s } }
  onSuccess: { nats: { subject: shop.done } }
`,
    );
    expect(await ok('deploy', folder, '--timeout', '90')).toMatch(
      /^function greeter deployed and ready: .* uploaded/,
    );
    expect(await ok('deploy', folder)).toMatch(/^function greeter unchanged: .* not uploaded again/);

    expect(JSON.parse(await ok('invoke', 'greeter', '-d', '{"name":"reef"}'))).toMatchObject({
      hello: 'reef',
    });
    const failed = await run(['invoke', 'greeter', '-d', '{"fail":"on purpose"}']);
    expect(failed).toMatchObject({ code: 1 });
    expect(failed.stderr).toContain('RangeError: on purpose');
    expect(failed.stderr).toMatch(/at .*index\.ts:\d+/);
    expect(await ask('shop.greet', { name: 'nats' })).toMatchObject({ hello: 'nats' });
    await jetstream(client).publish('orders.new', '{"name":"an order"}');
    const mqtt = await connectAsync(mosquitto.url);
    await mqtt.publishAsync('robots/r1/greet', '{"name":"a robot"}', { qos: 1 });
    await mqtt.endAsync();
    const web = await kubernetes.request(
      'GET',
      `/api/v1/namespaces/${systemNamespace}/services/atoll-gateway:http/proxy/greet`,
    );
    expect(web).toMatchObject({ status: 200, body: { hello: 'nobody' } });

    const { stdout } = await run(['invoke', 'greeter', '--async', '-d', '{"name":"later"}']);
    expect(stdout).toMatch(/^[0-9a-f-]{36}\n$/);
    for (const name of ['an order', 'a robot', 'later', 'reef']) {
      await expect
        .poll(() => ok('logs', 'greeter', '--since', '5m'), { timeout: 60_000 })
        .toContain(`{ name: '${name}' }`);
    }
    expect(await ok('list')).toMatch(/^greeter +True +nats,http,jetstream,mqtt,schedule/m);
    expect(await ok('describe', 'greeter')).toMatch(/^ +orders +jetstream .* True +Ready/m);

    await kubernetes.kubectl(['scale', 'fn/greeter', '--replicas=3', '-n', namespace]);
    await kubernetes.kubectl([
      'wait',
      'fn/greeter',
      '-n',
      namespace,
      '--for=jsonpath={.status.readyReplicas}=3',
      '--timeout=60s',
    ]);

    const handled: string[] = [];
    client.subscribe('shop.done', {
      callback: (error, message) => {
        const name = error ?? message.json<{ requestPayload: { name?: unknown } }>().requestPayload.name;
        if (/^flow-/.test(String(name))) handled.push(String(name));
      },
    });
    const calls = startCallers({
      nats: { perSecond, ask: async () => JSON.stringify(await ask('shop.greet', { name: 'nats' })) },
      http: { perSecond: perSecond / 10, ask: () => call(`${release.url}/greet`, answerMs) },
      events: { perSecond: perSecond / 10, ask: publish },
    });
    await expect.poll(() => calls.answers.length, { timeout: 60_000 }).toBeGreaterThan(2 * perSecond);
    const first = (await get('greeter')).status?.packageSha256;
    await writeFile(join(folder, 'index.ts'), greeterSource.replace('hello:', 'bye:'));
    await ok('deploy', folder, '--timeout', '120');
    const readyAt = calls.now();
    const answered = calls.answers.length;
    await expect
      .poll(() => calls.answers.length, { timeout: 60_000 })
      .toBeGreaterThan(answered + 2 * perSecond);
    await calls.stop();
    expect(calls.failed).toEqual([]);
    const old = calls.answers.filter(({ text }) => text.startsWith('{"hello"'));
    expect(old.length).toBeGreaterThan(0);
    expect(old.filter(({ sentAt }) => sentAt > readyAt)).toEqual([]);
    const published = calls.answers.filter(({ way }) => way === 'events').map(({ text }) => text);
    await expect.poll(() => handled.length, { timeout: 60_000 }).toBeGreaterThanOrEqual(published.length);
    expect(handled.sort()).toEqual(published.sort());
    expect(JSON.parse(await ok('dead', 'list', 'greeter', '-o', 'json'))).toEqual([]);

    const now = await get('greeter');
    const wrong = { uri: `s3://${s3.bucket}/packages/none.tgz`, sha256: 'f'.repeat(64) };
    await kubernetes.kubectl([
      'patch',
      'fn/greeter',
      '-n',
      namespace,
      '--type=merge',
      '-p',
      JSON.stringify({ spec: { package: wrong } }),
    ]);
    await expect
      .poll(async () => (await get('greeter')).status?.conditions?.find(({ type }) => type === 'Ready'), {
        timeout: 60_000,
      })
      .toMatchObject({
        status: 'False',
        reason: 'PackageNotFound',
        observedGeneration: now.metadata.generation + 1,
      });
    expect(await ask('shop.greet', { name: 'still there' })).toHaveProperty('bye');
    const available = (await get('greeter')).status?.conditions?.find(({ type }) => type === 'Available');
    expect(available).toMatchObject({ status: 'True' });

    expect(await ok('rollback', 'greeter', '--to', first!.slice(0, 12), '--timeout', '120')).toContain(
      'rolled back',
    );
    expect(await oldAnswers('hello')).toBe(0);
    expect(await ok('history', 'greeter')).toMatch(new RegExp(`^${first!.slice(0, 12)} .* answers now`, 'm'));
    const second = (await get('greeter')).status?.history?.find(
      ({ packageSha256 }) => packageSha256 !== first,
    )?.packageSha256;
    await s3.client().send(new DeleteObjectCommand({ Bucket: s3.bucket, Key: `packages/${second}.tgz` }));
    expect(await run(['rollback', 'greeter'])).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/PackageNotFound: the package \w+ is in the store no more/) as string,
    });

    const { url } = release;
    expect((await fetch(`${url}/greet`)).status).toBe(200);
    const door = `${url}/ns/${namespace}/2015-03-31/functions/greeter/invocations`;
    expect((await fetch(door, { method: 'POST', body: '{}' })).status).toBe(403);
    const invoked = await signed(key.secret).send(
      new InvokeCommand({ FunctionName: 'greeter', Payload: Buffer.from('{"name":"signed"}') }),
    );
    expect(JSON.parse(Buffer.from(invoked.Payload ?? []).toString())).toMatchObject({ hello: 'signed' });
    await expect(
      signed('another').send(new InvokeCommand({ FunctionName: 'greeter' })),
    ).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } });

    const said = await everythingSaid();
    for (const word of ['the gateway listens', 'this controller leads', "{ name: 'nats' }", 'fn-greeter'])
      expect(said).toContain(word);
    for (const secret of [token, key.secret, s3.secretAccessKey]) expect(said).not.toContain(secret);

    await ok('delete', 'greeter');
    await expect.poll(() => leftovers(), { timeout: 90_000 }).toEqual([]);

    // What the chart allows is enough for all of this.
    const requests = (await kubernetes.audited()).filter(({ user }) =>
      user.username.startsWith(`system:serviceaccount:${systemNamespace}:`),
    );
    expect(requests.length).toBeGreaterThan(20);
    const refused = requests.filter(({ responseStatus }) => responseStatus?.code === 403);
    expect(refused.map(({ verb, requestURI, user }) => `${user.username} ${verb} ${requestURI}`)).toEqual([]);
  });

  /** Of one name in two namespaces; one of them is deleted, and forgotten while other tests run. */
  let twins: { readonly gone: string; readonly living: string; readonly session: string } | undefined;

  test('two functions of one name in two namespaces never meet', async () => {
    const [gone, living] = [namespace, await kubernetes.namespace()];
    const both = [gone, living];
    await (await jetstreamManager(client)).streams.add({ name: 'TWINS', subjects: ['twins.>'] });
    const spec = (within: string): string => `
  env: [{ name: WHERE, value: ${within} }]
  triggers:
    - { name: asked, nats: { subject: twin.${within} } }
    - { name: heard, nats: { subject: twin.all, reply: Never } }
    - { name: web, http: { path: /twin/${within}, auth: None } }
    - { name: orders, jetstream: { stream: TWINS, subject: twins.new } }
    - { name: robots, mqtt: { topic: twins/robot, qos: 1 } }
    - { name: clock, schedule: { every: 5s } }
`;
    await Promise.all(
      both.map(async (within) => {
        const folder = await functionFolder('twin', spec(within), twinSource);
        await okIn(within, 'deploy', folder, '--timeout', '120');
      }),
    );
    for (const within of both) {
      const where = { where: within };
      expect(await ask(`twin.${within}`, {})).toEqual(where);
      expect(JSON.parse(await okIn(within, 'invoke', 'twin'))).toEqual(where);
      const web = async (): Promise<string> =>
        await fetch(`${release.url}/twin/${within}`).then((answer) => answer.text(), String);
      await expect.poll(web, { timeout: 60_000 }).toBe(JSON.stringify(where));
      await okIn(within, 'invoke', 'twin', '--async', '-d', JSON.stringify({ name: `for ${within}` }));
    }
    // By subjects, a stream and a topic that both listen on: each gets its own copy.
    client.publish('twin.all', '{"name":"a word"}');
    await jetstream(client).publish('twins.new', '{"name":"an order"}');
    await publishTo('twins/robot', 'a robot');
    const all = (within: string): string[] =>
      ['a robot', 'a word', 'an order', `for ${within}`].map((name) => `${within} ${name}`);
    for (const within of both)
      await expect.poll(() => said(within), { timeout: 60_000 }).toEqual(all(within));
    expect(await said(gone)).toEqual(all(gone));
    expect((await consumersOf('TWINS')).sort()).toEqual(both.map((one) => `${one}_twin_orders`).sort());

    for (const within of both) {
      // The key of a schedule is there once it ticked.
      await expect
        .poll(async () => [...(await stateOf(within)).keys()].map((key) => key.split('.')[0]), {
          timeout: 60_000,
        })
        .toEqual(expect.arrayContaining(['mqtt-topic', 'schedule']));
    }
    const session = (await stateOf(gone)).get(`mqtt-topic.${gone}.twin.robots`) ?? '';
    const { clientId } = JSON.parse(session) as { clientId: string };
    await okIn(gone, 'delete', 'twin');
    twins = { gone, living, session: clientId };
    await expect.poll(async () => (await run(['invoke', 'twin'], gone)).code, { timeout: 60_000 }).toBe(3);
    expect(await ask(`twin.${living}`, {})).toEqual({ where: living });
  });

  test('each example is deployed and answers a real event', async () => {
    const connections: Connections = {
      url: release.url,
      headers: { authorization: `Bearer ${key.id}.${key.secret}` },
      mqttUrl: mosquitto.url,
      nats: client,
      faas: async (...args) => ({ stdout: await ok(...args), stderr: '' }),
    };
    await deployExamples(connections, () => undefined);
    const results = await sendEvents(connections);
    expect(
      results.filter((result) => !result.ok),
      table(results),
    ).toEqual([]);
    expect(results).toHaveLength(7);
  });

  test('what is saved runs at the next call, what is printed is followed, and without a site the current context is meant', async () => {
    const folder = await functionFolder('watched');
    const dev = await follow('dev', folder);
    await dev.line(/^ready: /);
    expect(JSON.parse(await ok('invoke', 'watched', '-d', '{"name":"reef"}'))).toMatchObject({
      hello: 'reef',
    });
    await dev.line(/\{ name: 'reef' \}/);
    const source = `export const handler = () => { console.log('the saved one'); return 'saved'; };\n`;
    await writeFile(join(folder, 'index.ts'), source);
    await expect
      .poll(async () => (await run(['invoke', 'watched'])).stdout, { timeout: 60_000 })
      .toBe('"saved"\n');
    await dev.line(/the saved one/);
    dev.signal('SIGINT');
    expect(await dev.exited).toEqual({ code: 0, signal: null });

    const logs = await follow('logs', 'watched', '--follow');
    await logs.line(/the saved one/);
    const before = logs.stdout().length;
    await ok('invoke', 'watched');
    await expect.poll(() => logs.stdout().slice(before), { timeout: 60_000 }).toContain('the saved one');
    logs.signal('SIGINT');
    await logs.exited;

    const elsewhere = await folderWith({});
    const env = { KUBECONFIG: kubernetes.kubeconfigFile };
    const listed = await faas(['list', '-n', namespace], { cwd: elsewhere, env });
    expect(listed).toMatchObject({ code: 0, stdout: expect.stringMatching(/^watched +True/m) as string });
    await ok('delete', 'watched');
  });

  test('a deploy goes on waiting while the API server is away, and ends when the function is ready', async () => {
    const link = await startLink(kubernetes.url);
    const kubeconfig = join(await folderWith({}), 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf('admin'), link.url));
    // Its handler is loaded when it is let in.
    const { promise: letIn, resolve: open } = Promise.withResolvers<void>();
    const door = createHttpServer((_request, response) => void letIn.then(() => response.end()));
    door.listen(0, kubernetes.place.host);
    await once(door, 'listening');
    closeLater(async () => {
      door.closeAllConnections();
      door.close();
    });
    const { port } = door.address() as AddressInfo;
    const source = `
await fetch('http://${kubernetes.place.host}:${port}');
export const handler = () => 'slowly';
`;
    const folder = await functionFolder('slow', '  timeoutSeconds: 120\n', source);
    const deploying = await startProcess(
      process.execPath,
      [faasFile, '--context', 'test', '-n', namespace, 'deploy', folder, '--timeout', '120'],
      {
        name: 'faas deploy',
        env: { ...process.env, FAAS_SITE: undefined, NO_COLOR: '1', KUBECONFIG: kubeconfig },
      },
    );
    const told = (text: string): Promise<boolean> =>
      deploying.until(
        `it says "${text}"`,
        async () => deploying.output().includes(text) || undefined,
        100_000,
      );
    await told('slow: Starting: ');
    link.cut();
    await told('slow: ClusterUnavailable: ');
    await link.heal();
    open();
    expect(await deploying.exited).toEqual({ code: 0, signal: null });
    expect(deploying.stdout()).toMatch(/^function slow deployed and ready/);
    await ok('delete', 'slow');
  });

  test('a pod holds no token of the API server, and one that was put there is good for nothing', async () => {
    const folder = await functionFolder(
      'searcher',
      `
  pod:
    volumes: [{ name: planted, projected: { sources: [{ serviceAccountToken: { path: token } }] } }]
    volumeMounts: [{ name: planted, mountPath: /planted, readOnly: true }]
`,
      searcherSource,
    );
    await ok('deploy', folder, '--timeout', '120');
    const address = ['get', 'service', 'kubernetes', '-n', 'default', '-o', 'jsonpath={.spec.clusterIP}'];
    const server = `https://${await kubernetes.kubectl(address)}/api/v1/namespaces/${namespace}/secrets`;
    const found = JSON.parse(await ok('invoke', 'searcher', '-d', JSON.stringify({ server }))) as {
      places: string[];
      host: string[];
      without: { status: number };
      withToken: { status: number; text: string };
    };
    // The search finds what the test planted, and nothing else.
    expect(found).toMatchObject({ held: ['/planted'], variables: [] });
    expect(found.host).toContainEqual(expect.stringMatching(/^KUBERNETES_SERVICE_HOST=/));
    expect(found.host.filter((one) => one.includes('eyJ'))).toEqual([]);
    expect(found.places).toEqual(expect.arrayContaining(['/planted', '/tmp', '/etc/hosts']));
    expect(found.places.filter((place) => place.includes('/secrets'))).toEqual([]);
    expect([401, 403]).toContain(found.without.status);
    expect(found.withToken.status).toBe(403);
    expect(found.withToken.text).toContain(`system:serviceaccount:${namespace}:fn-searcher`);
    await ok('delete', 'searcher');
  });

  test('a deploy that cannot come to run ends with the reason of its pods, long before its time is over', async () => {
    const elsewhere = kubernetes.node('node-2');
    const images = (...args: string[]): Promise<string> =>
      elsewhere.run('ctr', '--namespace', 'k8s.io', 'images', ...args);
    const narrow = await kubernetes.namespace();
    const hard = ['get', 'quota/small', '-n', narrow, '-o', 'jsonpath={.status.hard}'];
    await kubernetes.kubectl(['create', 'quota', 'small', '-n', narrow, '--hard=limits.memory=1Mi']);
    // Admission learns of a quota by a watch of its own.
    await expect.poll(() => kubernetes.kubectl(hard), { timeout: 60_000 }).toContain('1Mi');

    const broken = `
const connect = () => {
  throw new Error('no such robot');
};
connect();
export const handler = () => 'never';
`;
    const on = (node: string): string =>
      `  placement: { nodeSelector: { kubernetes.io/hostname: ${node} } }\n`;
    const deploy = async (name: string, spec: string, source?: string, within = namespace): Promise<Ended> =>
      run(['deploy', await functionFolder(name, spec, source), '--timeout', '200'], within);
    // Another name keeps it on the node, for afterwards.
    const [image, kept] = [`docker.io/library/${kubernetes.image}`, 'docker.io/library/kept:1'];
    await images('tag', '--force', image, kept);
    await images('rm', image);
    const [loading, big, small, missing, tiny] = await Promise.all([
      deploy('broken', on('node-1'), broken),
      deploy('big', '  pod: { resources: { requests: { memory: 100Ti }, limits: { memory: 100Ti } } }\n'),
      deploy('small', '', undefined, narrow),
      deploy('missing', on('node-2')),
      deploy('tiny', `${on('node-1')}  pod: { resources: { limits: { memory: 24Mi } } }\n`),
    ]).finally(() => images('tag', '--force', kept, image));
    const reasons = [
      [
        loading,
        /^error: Runtime\.InitError: broken is not ready: .*Error: no such robot \(index\.ts:3:\d+\)$/m,
      ],
      [big, /^error: Unschedulable: big is not ready: pod fn-big-\S+: 0\/2 nodes .* Insufficient memory/m],
      [small, /^error: QuotaExceeded: small is not ready: .*exceeded quota: small/m],
      [missing, /^error: ImagePullBackOff: missing is not ready: pod fn-missing-\S+: .*atoll/m],
      [tiny, /^error: OOMKilled: tiny is not ready: pod fn-tiny-\S+: .* its limit of 24Mi/m],
    ] as const;
    for (const [{ code, stderr }, reason] of reasons) {
      expect(stderr).toMatch(reason);
      expect(stderr).not.toContain('within 200 s');
      expect(code).toBe(1);
    }
    expect(loading.stderr).toMatch(/^ +at connect \(.*index\.ts:3:\d+\)\n +at .*index\.ts:5:\d+/m);
    await ok('delete', 'broken', 'big', 'missing', 'tiny');
    await okIn(narrow, 'delete', 'small');
  });

  test('of a deleted function the brokers forget keys, consumers and MQTT session, and nothing of its namesake', async ({
    skip,
  }) => {
    if (twins === undefined) return skip('looks after the functions of another test');
    const { gone, living, session } = twins;
    const left = async (): Promise<string[]> => {
      const consumers = (await consumersOf('TWINS')).filter((name) => name.startsWith(`${gone}_`));
      return [...(await stateOf(gone)).keys(), ...consumers];
    };
    // The change of a Function, which the last test made, is followed by a sweep, and by another after the grace.
    await expect.poll(left, { timeout: 3 * graceMs, interval: 500 }).toEqual([]);
    expect(await hasSession(session)).toBe(false);
    expect((await stateOf(living)).has(`mqtt-topic.${living}.twin.robots`)).toBe(true);
    expect(await consumersOf('TWINS')).toEqual([`${living}_twin_orders`]);
    await publishTo('twins/robot', 'a late robot');
    await jetstream(client).publish('twins.new', '{"name":"a late order"}');
    await expect
      .poll(() => said(living), { timeout: 60_000 })
      .toEqual(expect.arrayContaining([`${living} a late order`, `${living} a late robot`]));
  });

  async function publishTo(topic: string, name: string): Promise<void> {
    const mqtt = await connectAsync(mosquitto.url);
    await mqtt.publishAsync(topic, JSON.stringify({ name }), { qos: 1 });
    await mqtt.endAsync();
  }

  /** What the twin's handler logged, sorted. */
  async function said(within: string): Promise<string[]> {
    const lines = (await okIn(within, 'logs', 'twin', '--since', '1h', '-o', 'json')).split('\n');
    const records = lines.filter(Boolean).map((line) => JSON.parse(line) as LogRecord);
    return records
      .filter(({ source }) => source === 'handler')
      .map(({ message }) => message)
      .sort();
  }

  /** The twin's keys in our bucket, with what is in them. */
  async function stateOf(within: string): Promise<Map<string, string>> {
    const kv = await new Kvm(client).open('ATOLL_STATE');
    const keys: string[] = [];
    for await (const key of await kv.keys()) keys.push(key);
    const found = new Map<string, string>();
    for (const key of keys) {
      const [, namespaceOfKey, name] = key.split('.');
      if (namespaceOfKey !== within || name !== 'twin') continue;
      const entry = await kv.get(key);
      if (entry?.operation === 'PUT') found.set(key, entry.string());
    }
    return found;
  }

  async function consumersOf(stream: string): Promise<string[]> {
    const manager = await jetstreamManager(client);
    const names: string[] = [];
    for await (const { name } of manager.consumers.list(stream)) names.push(name);
    return names;
  }

  /** Whether the broker keeps a session for this client. */
  async function hasSession(clientId: string): Promise<boolean> {
    const options = { protocolVersion: 4, clientId, clean: false, reconnectPeriod: 0 } as const;
    const mqtt = connect(mosquitto.url, options);
    closeLater(async () => void (await mqtt.endAsync(true)));
    return await new Promise<boolean>((resolve, reject) => {
      mqtt.once('connect', ({ sessionPresent }) => resolve(sessionPresent));
      mqtt.once('error', reject);
    });
  }

  interface Link {
    readonly url: string;
    cut(): void;
    heal(): Promise<void>;
  }

  /** A port of this machine that leads to a server, and can be taken away. */
  async function startLink(to: string): Promise<Link> {
    const { hostname, port } = new URL(to);
    const sockets = new Set<Socket>();
    const server = createServer((near) => {
      const far = connectSocket({ host: hostname, port: Number(port) });
      for (const [socket, other] of [
        [near, far],
        [far, near],
      ] as const) {
        sockets.add(socket);
        socket.once('close', () => {
          sockets.delete(socket);
          other.destroy();
        });
        socket.on('error', () => socket.destroy());
        socket.pipe(other);
      }
    });
    const listen = async (at: number): Promise<void> => {
      server.listen(at, '127.0.0.1');
      await once(server, 'listening');
    };
    await listen(0);
    const own = (server.address() as AddressInfo).port;
    const cut = (): void => {
      server.close();
      for (const socket of sockets) socket.destroy();
    };
    closeLater(() => Promise.resolve(cut()));
    return { url: `https://127.0.0.1:${own}`, cut, heal: () => listen(own) };
  }

  /** A command that goes on. */
  const follow = (...args: string[]): Promise<RunningProcess> =>
    startProcess(process.execPath, [faasFile, '--context', 'test', '-n', namespace, ...args], {
      name: `faas ${args[0]}`,
      env: { ...process.env, FAAS_SITE: undefined, NO_COLOR: '1', KUBECONFIG: kubernetes.kubeconfigFile },
      graceMs: 20_000,
    });

  /** Of numbered events; resolves when the stream has it. */
  async function publish(n: number): Promise<string> {
    const name = `flow-${n}`;
    await jetstream(client).publish('orders.new', JSON.stringify({ name }));
    return name;
  }

  /** Of twenty requests, which any pod may get. */
  async function oldAnswers(property: string): Promise<number> {
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask('shop.greet', { name: 'nats' })));
    return answers.filter((answer) => !(property in answer)).length;
  }

  /** AWS's own client at the gateway's Service. */
  function signed(secretAccessKey: string): LambdaClient {
    const lambda = new LambdaClient({
      endpoint: `${release.url}/ns/${namespace}`,
      region: 'us-east-1',
      credentials: { accessKeyId: key.id, secretAccessKey },
      maxAttempts: 1,
    });
    closeLater(() => Promise.resolve(lambda.destroy()));
    return lambda;
  }

  /** Objects, Events and what `describe` makes of them, and the logs of ours and of the function. */
  async function everythingSaid(): Promise<string> {
    const kinds = 'functions,configmaps,deployments,replicasets,pods,services,events';
    const logs = ['--all-containers', '--tail=-1', '--max-log-requests=50', '--ignore-errors'];
    const texts = await Promise.all(
      [
        ['get', kinds, '-A', '-o', 'json'],
        ['describe', 'functions,pods,deployments,configmaps', '-n', namespace],
        ['describe', 'pods,deployments,configmaps', '-n', systemNamespace],
        ['logs', '-n', namespace, '-l', 'atoll.dev/function', ...logs],
        ['logs', '-n', systemNamespace, '-l', 'app.kubernetes.io/part-of=atoll', ...logs],
      ].map((args) => kubernetes.kubectl(args)),
    );
    return texts.join('\n');
  }

  /** Everything of ours in the namespace, and the function's consumers. */
  async function leftovers(): Promise<string[]> {
    const kinds =
      'deployments,daemonsets,replicasets,pods,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers';
    const found = await kubernetes.kubectl([
      'get',
      kinds,
      '-n',
      namespace,
      '-l',
      'atoll.dev/function',
      '-o',
      'name',
    ]);
    return [...found.split('\n').filter(Boolean), ...(await consumersOf('ORDERS'))];
  }
});
