/** `node charts/accounts.ts`, as docs/reference/accounts.md tells to use it, before a real nats-server. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { jetstreamManager } from '@nats-io/jetstream';
import { credsAuthenticator } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { chart } from '../../charts/manifest.ts';
import { openOperatorKeys } from '../../controller/broker/account-keys.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNats } from '../support/nats.ts';
import { freePort } from '../support/ports.ts';
import { startProcess } from '../support/process.ts';
import { missing, requireTool } from '../support/requirement.ts';

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function accounts(args: readonly string[], stdin = ''): Promise<Ended> {
  const program = join(import.meta.dirname, '../../charts/accounts.ts');
  const child = spawn(process.execPath, [program, ...args]);
  child.stdin.end(stdin);
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'exit') as Promise<[number]>,
  ]);
  return { code, stdout, stderr };
}

interface Secret {
  readonly kind: string;
  readonly metadata: object;
  readonly stringData: Readonly<Record<'operator.seed' | 'accounts.seed' | 'server.conf', string>>;
}

async function newSecret(...args: string[]): Promise<Secret> {
  const { code, stdout, stderr } = await accounts(args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return parse(stdout) as Secret;
}

test('every call makes other keys, in a Secret for kubectl', async () => {
  const [one, other] = [await newSecret(), await newSecret('--directory', '/srv/accounts')];
  expect(one).toMatchObject({
    kind: 'Secret',
    metadata: { name: 'atoll-accounts', namespace: 'atoll-system' },
  });
  expect(Object.keys(one.stringData)).toEqual(['operator.seed', 'accounts.seed', 'server.conf']);
  expect(one.stringData['operator.seed']).not.toBe(other.stringData['operator.seed']);
  expect(one.stringData['server.conf']).toContain('"/data/accounts"');
  expect(other.stringData['server.conf']).toContain('"/srv/accounts"');
  // What the server is told makes no user.
  expect(one.stringData['server.conf']).not.toMatch(/\bS[OAU][A-Z2-7]{56}\b/);
});

test('what is missing or wrong on its command line is told, and no key of it', async () => {
  const usage = await accounts(['--user', 'lab']);
  expect(usage).toMatchObject({ code: 2, stdout: '' });
  expect(usage.stderr).toContain('usage: node charts/accounts.ts');
  const { stringData } = await newSecret();
  const wrong = await accounts(['--user', 'lab', 'tester'], stringData['operator.seed']);
  expect(wrong).toMatchObject({ code: 1, stdout: '' });
  expect(wrong.stderr).toContain('begins with SA');
  expect(wrong.stderr).not.toContain(stringData['operator.seed']);
  expect(wrong.stderr.trim().split('\n')).toHaveLength(1);
  const unknown = await accounts(['--folder', 'x']);
  expect(unknown).toMatchObject({ code: 2, stdout: '' });
  expect(unknown.stderr).toContain('--folder');
});

describe.skipIf(await missing('nats-server'))('with a nats-server', () => {
  test("that includes server.conf, a user may do everything in its namespace's account and sees no other", async () => {
    const { stringData } = await newSecret('--directory', join(await temporaryFolder(), 'accounts'));
    const nats = await startNats({ config: stringData['server.conf'] });
    const client = (creds: string) =>
      nats.connect({ authenticator: credsAuthenticator(Buffer.from(creds)), reconnect: false });
    const userOf = async (namespace: string): Promise<string> =>
      (await accounts(['--user', namespace, 'tester'], `${stringData['accounts.seed']}\n`)).stdout;
    // The controller does this: an account that the server was not told of does not exist.
    const operator = openOperatorKeys(stringData['operator.seed']);
    const system = await client(operator.systemUser('test'));
    await expect(client(await userOf('lab'))).rejects.toThrow(/authorization/i);
    for (const namespace of ['lab', 'yard']) {
      await system.request('$SYS.REQ.CLAIMS.UPDATE', operator.accountClaims(namespace), { timeout: 20_000 });
    }
    const [one, two, stranger] = [
      await client(await userOf('lab')),
      await client(await userOf('lab')),
      await client(await userOf('yard')),
    ];
    one.subscribe('anything', { callback: (_error, message) => void message.respond('heard') });
    await one.flush();
    expect((await two.request('anything', '', { timeout: 20_000 })).string()).toBe('heard');
    await expect(stranger.request('anything', '', { timeout: 5_000 })).rejects.toThrow(/no responders/i);

    // Who asks the monitoring by the account's key, as KEDA does, gets it by another name.
    const lab = operator.account('lab');
    const answer = await fetch(`${nats.monitorUrl}/jsz?acc=${lab}&consumers=true&config=true`);
    expect(await answer.json()).toMatchObject({ account_details: [{ name: 'lab', id: lab }] });
  });

  test('that had no accounts before passes the probes of its pod, though streams of before cannot be served', async () => {
    const storeDir = await temporaryFolder();
    const first = await startNats({ storeDir, mqtt: true });
    const nc = await first.connect();
    await (await jetstreamManager(nc)).streams.add({ name: 'ORDERS', subjects: ['orders'] });
    const robot = await connectAsync(first.mqttUrl, { clientId: 'robot', clean: false });
    await robot.subscribeAsync('robots', { qos: 1 });
    await robot.publishAsync('robots', '1', { qos: 1 });
    await robot.endAsync();
    await nc.close();
    await first.stop();

    const { stringData } = await newSecret('--directory', join(await temporaryFolder(), 'accounts'));
    const [client, monitor, mqtt] = [await freePort(), await freePort(), await freePort()];
    const lines = [
      `listen: "127.0.0.1:${client}"`,
      `http: "127.0.0.1:${monitor}"`,
      `jetstream { store_dir: ${JSON.stringify(storeDir)} }`,
      `mqtt { listen: "127.0.0.1:${mqtt}" }`,
      stringData['server.conf'],
    ];
    const config = join(await temporaryFolder(), 'nats.conf');
    await writeFile(config, lines.join('\n'), { mode: 0o600 });
    const server = await startProcess(await requireTool('nats-server'), [
      '--config',
      config,
      '--name',
      'next',
    ]);
    await server.line(/Server is ready/);
    const status = async (path: string): Promise<number> =>
      (await fetch(`http://127.0.0.1:${monitor}${path}`)).status;
    const template = await readFile(join(chart, 'templates/nats.yaml'), 'utf8');
    const probes = [...template.matchAll(/Probe: \{ httpGet: \{ path: '?([^',]+)/g)].map(([, path]) => path!);
    expect(probes).toHaveLength(3);
    for (const path of probes) expect([path, await status(path)]).toEqual([path, 200]);
    // Why they do not ask for more than the server itself.
    expect(await status('/healthz')).toBe(503);
  });
});
