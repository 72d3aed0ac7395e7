import { once } from 'node:events';
import { chmod, chown, readFile, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openS3 } from '../../../runtime/clients/s3.ts';
import type { PackageConfig, S3Settings } from '../../../runtime/config.ts';
import { packFiles } from '../../../runtime/package/pack.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { freePort } from '../../support/ports.ts';
import { startProcess, type RunningProcess } from '../../support/process.ts';
import { startVersitygw, type S3Server } from '../../support/s3.ts';
import { sha256Of } from './archives.ts';

const main = join(import.meta.dirname, '../../../runtime/package/main.ts');
/** The user of our image. */
const user = 65532;

async function fetching(
  config: Omit<PackageConfig, 'cache'>,
  { as }: { as?: number } = {},
): Promise<{ running: RunningProcess; cache: string }> {
  const folder = await temporaryFolder();
  const cache = join(folder, 'cache');
  const file = join(folder, 'package.json');
  await writeFile(file, JSON.stringify({ ...config, cache }));
  const node = [process.execPath, main, file];
  if (as !== undefined) {
    await chown(folder, as, as);
    node.unshift('setpriv', `--reuid=${as}`, `--regid=${as}`, '--clear-groups');
  }
  const [command = '', ...args] = node;
  return { running: await startProcess(command, args), cache };
}

async function s3With(bytes: Uint8Array): Promise<{ server: S3Server; s3: S3Settings; uri: string }> {
  const server = await startVersitygw();
  const { endpoint, region, bucket } = server;
  const s3 = { endpoint, region, bucket, credentialsFile: await credentialsOf(server) };
  const client = await openS3(s3);
  await client.put('hello.tgz', bytes);
  client.close();
  return { server, s3, uri: `s3://${bucket}/hello.tgz` };
}

async function credentialsOf({ accessKeyId, secretAccessKey }: S3Server): Promise<string> {
  const file = join(await temporaryFolder(), 's3.json');
  await writeFile(file, JSON.stringify({ accessKeyId, secretAccessKey }), { mode: 0o600 });
  return file;
}

const packed = async (): Promise<Uint8Array> =>
  (await packFiles([{ path: 'index.mjs', data: 'export const handler = () => 1;\n' }])).bytes;

test('a package of the store is in the cache when it ends, also for a user whose key is a Secret of a pod', async () => {
  const bytes = await packed();
  const { s3, uri } = await s3With(bytes);
  const as = process.getuid?.() === 0 ? user : undefined;
  if (as !== undefined) {
    // As kubelet mounts it: root's, for the pod's group to read.
    await chown(s3.credentialsFile!, 0, user);
    await chmod(s3.credentialsFile!, 0o440);
    await chmod(join(s3.credentialsFile!, '..'), 0o755);
  }
  const sha256 = sha256Of(bytes);
  const config = { package: { uri, sha256 }, handler: 'index.handler', s3 };
  const { running, cache } = await fetching(config, as === undefined ? {} : { as });
  expect(await running.exited, running.output()).toEqual({ code: 0, signal: null });
  expect(await readFile(join(cache, sha256, 'index.mjs'), 'utf8')).toContain('=> 1');
});

test('inline code needs no store', async () => {
  const { running } = await fetching({
    package: { inline: 'exports.handler = () => 1' },
    handler: 'index.handler',
  });
  expect(await running.exited, running.output()).toEqual({ code: 0, signal: null });
});

test('what it failed with is the last line of stderr, with its code', async () => {
  const { s3, uri } = await s3With(await packed());
  const sha256 = '0'.repeat(64);
  const { running } = await fetching({ package: { uri, sha256 }, handler: 'index.handler', s3 });
  expect(await running.exited).toEqual({ code: 1, signal: null });
  const last = running.stderr().trimEnd().split('\n').at(-1);
  expect(last).toMatch(new RegExp(`^PackageDigestMismatch: ${uri} has the SHA-256 `));
});

test('a store that comes back within half a minute is waited for', async () => {
  const bytes = await packed();
  const { server, s3, uri } = await s3With(bytes);
  await server.kill();
  const nobody = createServer((socket) => socket.destroy()).listen(server.port, '127.0.0.1');
  const sha256 = sha256Of(bytes);
  const { running } = await fetching({ package: { uri, sha256 }, handler: 'index.handler', s3 });
  await once(nobody, 'connection');
  nobody.close();
  await server.restart();
  expect(await running.exited, running.output()).toEqual({ code: 0, signal: null });
});

test('what is not to be had from the relay is asked of the store, and without one the relay is told of', async () => {
  const bytes = await packed();
  const { s3, uri } = await s3With(bytes);
  const tokenFile = join(await temporaryFolder(), 'token');
  await writeFile(tokenFile, 'token');
  const relay = { url: `http://127.0.0.1:${await freePort()}`, tokenFile };
  const config = { package: { uri, sha256: sha256Of(bytes) }, handler: 'index.handler', relay };
  const { running } = await fetching({ ...config, s3 });
  expect(await running.exited, running.output()).toEqual({ code: 0, signal: null });

  const server = createHttpServer((_request, response) => response.writeHead(404).end()).listen(
    0,
    '127.0.0.1',
  );
  closeLater(async () => void server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const without = await fetching({ ...config, relay: { url: `http://127.0.0.1:${port}`, tokenFile } });
  expect(await without.running.exited).toEqual({ code: 1, signal: null });
  expect(without.running.stderr()).toContain(
    `PackageNotFound: ${uri} at http://127.0.0.1:${port}: the server answered 404`,
  );
});
