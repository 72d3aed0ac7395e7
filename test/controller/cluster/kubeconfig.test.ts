import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { stringify } from 'yaml';
import { openCredentials } from '../../../controller/cluster/credentials.ts';
import { readAccess, type UserEntry } from '../../../controller/cluster/kubeconfig.ts';
import { temporaryFolder } from '../../support/folder.ts';

interface Entries {
  cluster?: object;
  user?: UserEntry;
  name?: string;
  namespace?: string;
  current?: string | null;
}

const text = ({ cluster, user, name = 'site', namespace, current = name }: Entries = {}): string =>
  stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name, cluster: { server: 'https://10.0.0.1:6443', ...cluster } }],
    users: [{ name, user: user ?? { token: 'secret' } }],
    contexts: [
      { name, context: { cluster: name, user: name, ...(namespace !== undefined && { namespace }) } },
    ],
    ...(current !== null && { 'current-context': current }),
  });

async function written(...texts: string[]): Promise<string[]> {
  const folder = await temporaryFolder();
  return Promise.all(
    texts.map(async (one, index) => {
      await mkdir(join(folder, String(index)));
      const file = join(folder, String(index), 'config');
      await writeFile(file, one, { mode: 0o600 });
      return file;
    }),
  );
}

async function credentialsOf(
  user: UserEntry,
  cluster: object = {},
): ReturnType<ReturnType<typeof openCredentials>> {
  const [kubeconfig] = await written(text({ user, cluster }));
  return openCredentials(readAccess({ kubeconfig: kubeconfig! }))();
}

/** A plug-in that counts its calls in a file and answers with what the script prints. */
async function plugin(script: string): Promise<{ folder: string; command: string }> {
  const folder = await temporaryFolder();
  const command = join(folder, 'plug-in');
  await writeFile(command, `#!/bin/sh\ncd "$(dirname "$0")"\necho call >> calls\n${script}\n`, {
    mode: 0o700,
  });
  return { folder, command };
}

const apiVersion = 'client.authentication.k8s.io/v1';
const credential = (status: object): string =>
  `echo '${JSON.stringify({ apiVersion, kind: 'ExecCredential', status })}'`;

test('of several files the first that says something wins, and paths are relative to their own file', async () => {
  const [first, second] = await written(
    text({ cluster: { 'certificate-authority': 'ca.crt' }, current: null }),
    text({ name: 'other', namespace: 'lab', user: { tokenFile: '../token' } }),
  );
  vi.stubEnv('KUBECONFIG', [first, '/nowhere/config', second].join(delimiter));
  try {
    const other = readAccess();
    expect(other.namespace).toBe('lab');
    expect(other.user.tokenFile).toBe(join(second!, '../../token'));
    const site = readAccess({ context: 'site' });
    expect(site.cluster['certificate-authority']).toBe(join(first!, '../ca.crt'));
    expect(site.namespace).toBe('default');
  } finally {
    vi.unstubAllEnvs();
  }
});

test('what cannot be used is told with the file or entry that it stands in', async () => {
  const told = async (one: string, context?: string): Promise<string> => {
    const [kubeconfig] = await written(one);
    try {
      readAccess({ kubeconfig: kubeconfig!, ...(context !== undefined && { context }) });
    } catch (error) {
      return (error as Error).message.replace(kubeconfig!, 'FILE');
    }
    return 'nothing';
  };
  expect(await told('{')).toContain('FILE cannot be read');
  expect(await told('clusters: 3')).toBe('FILE: "clusters" must be a list');
  expect(await told('clusters: [{name: a, cluster: {}}]')).toBe('FILE: cluster "a" has no server');
  expect(await told(text({ current: null }))).toContain('FILE has no current-context');
  expect(await told(text(), 'production')).toBe('the kubeconfig has no context "production"; it has site');
  expect(await told(text({ cluster: { server: '10.0.0.1' } }))).toBe(
    'cluster "site": server "10.0.0.1" must begin with https:// or http://',
  );
  expect(await told(text().replace('user: site', 'user: nobody'))).toBe(
    'context "site" names user "nobody", which no file has',
  );
});

test('data stands before files, and what the connection needs is taken over', async () => {
  const base64 = (one: string): string => Buffer.from(one).toString('base64');
  expect(
    await credentialsOf(
      {
        'client-certificate-data': base64('certificate'),
        'client-key-data': base64('key'),
        as: 'ada',
        'as-groups': ['robots', 'staff'],
      },
      {
        'certificate-authority': '/nowhere',
        'certificate-authority-data': base64('authority'),
        'tls-server-name': 'kubernetes',
        'insecure-skip-tls-verify': true,
      },
    ),
  ).toEqual({
    headers: { 'impersonate-user': 'ada', 'impersonate-group': ['robots', 'staff'] },
    tls: {
      ca: 'authority',
      cert: 'certificate',
      key: 'key',
      servername: 'kubernetes',
      rejectUnauthorized: false,
    },
  });
  const basic = await credentialsOf({ username: 'ada', password: 'x:y' });
  expect(basic.headers).toEqual({ authorization: `Basic ${base64('ada:x:y')}` });
  await expect(credentialsOf({ tokenFile: 'none' })).rejects.toThrow('no credentials: ENOENT');
});

test('a plug-in is told of the cluster, and asked again only when what it gave has expired', async () => {
  const kept = await plugin(
    `echo "$KUBERNETES_EXEC_INFO" > info; echo "$MOOD $1" >&2; ${credential({
      token: 'from the plug-in',
      expirationTimestamp: '2999-01-01T00:00:00Z',
    })}`,
  );
  const exec = { apiVersion, command: kept.command, args: ['x'], env: [{ name: 'MOOD', value: 'good' }] };
  const [kubeconfig] = await written(text({ user: { exec: { ...exec, provideClusterInfo: true } } }));
  const read = openCredentials(readAccess({ kubeconfig: kubeconfig! }));
  expect((await read()).headers).toEqual({ authorization: 'Bearer from the plug-in' });
  await read();
  expect(await readFile(join(kept.folder, 'calls'), 'utf8')).toBe('call\n');
  expect(JSON.parse(await readFile(join(kept.folder, 'info'), 'utf8'))).toEqual({
    apiVersion,
    kind: 'ExecCredential',
    spec: { interactive: false, cluster: { server: 'https://10.0.0.1:6443' } },
  });

  const shortLived = await plugin(credential({ token: 'x', expirationTimestamp: '2001-01-01T00:00:00Z' }));
  const [other] = await written(text({ user: { exec: { apiVersion, command: shortLived.command } } }));
  const again = openCredentials(readAccess({ kubeconfig: other! }));
  await again();
  await again();
  expect(await readFile(join(shortLived.folder, 'calls'), 'utf8')).toBe('call\ncall\n');
});

test('a plug-in that fails is told by its name, never with what it printed', async () => {
  const failure = async (script: string, more: object = {}): Promise<string> => {
    const { command } = await plugin(script);
    const exec = { apiVersion, command, ...more };
    return credentialsOf({ exec }).then(
      () => 'nothing',
      (error: Error) => error.message.replace(command, 'PLUGIN'),
    );
  };
  const prefix = 'no credentials from the plug-in "PLUGIN": ';
  expect(await failure('echo secret; exit 3')).toBe(`${prefix}it ended with 3`);
  expect(await failure('echo secret')).toBe(`${prefix}what it printed is no JSON`);
  expect(await failure(credential({}))).toBe(
    `${prefix}its status has neither a token nor a certificate with its key`,
  );
  expect(await failure('', { apiVersion: 'client.authentication.k8s.io/v1alpha1' })).toContain(
    'is not one of',
  );
  expect(await failure('', { interactiveMode: 'Always' })).toContain('there is no terminal');
  expect(await failure('', { command: 'no-such-plug-in', installHint: 'Get it from the site.' })).toContain(
    'Get it from the site.',
  );
});

test("a token of OpenID Connect is the library's to give, and an unknown provider is told", async () => {
  const payload = Buffer.from(JSON.stringify({ exp: 32_503_680_000 })).toString('base64url');
  const idToken = `e30.${payload}.x`;
  const config = { 'id-token': idToken, 'idp-issuer-url': 'https://127.0.0.1:1', 'client-id': 'atoll' };
  const { headers } = await credentialsOf({ 'auth-provider': { name: 'oidc', config } });
  expect(headers).toEqual({ authorization: `Bearer ${idToken}` });
  await expect(credentialsOf({ 'auth-provider': { name: 'unicorn' } })).rejects.toThrow(
    'auth-provider "unicorn" gave no credentials',
  );
});
