import { createHash } from 'node:crypto';
import { chmod, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { openS3, type S3 } from '../../../runtime/clients/s3.ts';
import type { S3Settings } from '../../../runtime/config.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { freePort } from '../../support/ports.ts';
import { missing } from '../../support/requirement.ts';
import { startMinio, startVersitygw, type S3Server } from '../../support/s3.ts';

async function credentialsFile(content: unknown, mode = 0o600): Promise<string> {
  const file = join(await temporaryFolder(), 's3.json');
  await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content));
  await chmod(file, mode);
  return file;
}

async function settingsOf(server: S3Server, change: object = {}): Promise<S3Settings> {
  const { endpoint, region, bucket, accessKeyId, secretAccessKey } = server;
  return {
    endpoint,
    region,
    bucket,
    credentialsFile: await credentialsFile({ accessKeyId, secretAccessKey, ...change }),
  };
}

async function opened(settings: S3Settings): Promise<S3> {
  const s3 = await openS3(settings);
  closeLater(async () => s3.close());
  return s3;
}

async function textOf({ body }: Awaited<ReturnType<S3['get']>>): Promise<string> {
  return Buffer.concat(await body.toArray()).toString();
}

const bytesOf = (text: string) => new TextEncoder().encode(text);

const stores = [
  { name: 'MinIO', tool: 'minio', start: startMinio },
  { name: 'versitygw', tool: 'versitygw', start: startVersitygw },
] as const;

for (const { name, tool, start } of stores) {
  describe.skipIf(await missing(tool))(`with ${name}`, () => {
    let server: S3Server;
    let settings: S3Settings;
    beforeAll(async () => {
      server = await start();
      settings = await settingsOf(server);
    });

    test('an object is what was put, also under a key that a URL would read differently', async () => {
      const s3 = await opened(settings);
      for (const key of ['packages/a.tgz', 'with space/100%/a+b=ü.tgz']) {
        await s3.put(key, bytesOf(`content of ${key}`));
        expect(await textOf(await s3.get(key))).toBe(`content of ${key}`);
        expect(await s3.head(key)).toEqual({ bytes: bytesOf(`content of ${key}`).length });
      }
      await s3.put('packages/a.tgz', bytesOf('newer'));
      expect(await textOf(await s3.get('packages/a.tgz'))).toBe('newer');
    });

    test('an object of 12 MiB arrives whole', async () => {
      const s3 = await opened(settings);
      const big = Buffer.alloc(12 * 1024 ** 2, 'atoll');
      await s3.put('big', big);
      const { body, bytes } = await s3.get('big');
      const hash = createHash('sha256');
      for await (const chunk of body) hash.update(chunk as Buffer);
      expect(bytes).toBe(big.length);
      expect(hash.digest('hex')).toBe(createHash('sha256').update(big).digest('hex'));
    });

    test('what is there stays: of eight who put if absent, one does', async () => {
      const s3 = await opened(settings);
      const outcomes = await Promise.all(
        Array.from({ length: 8 }, (_, i) => s3.putIfAbsent('race', bytesOf(`writer ${i}`))),
      );
      expect(outcomes.filter(Boolean)).toHaveLength(1);
      expect(await textOf(await s3.get('race'))).toBe(`writer ${outcomes.indexOf(true)}`);
      expect(await s3.putIfAbsent('race', bytesOf('late'))).toBe(false);
    });

    test('what is missing is PackageNotFound, or nothing to head', async () => {
      const s3 = await opened(settings);
      expect(await s3.head('nothing')).toBeUndefined();
      await expect(s3.get('nothing')).rejects.toMatchObject({
        code: 'PackageNotFound',
        message: expect.stringContaining(`s3://${server.bucket}/nothing`),
      });
      await expect(s3.get('nothing', { bucket: 'no-such-bucket' })).rejects.toMatchObject({
        code: 'PackageNotFound',
        message: expect.stringContaining('bucket'),
      });
    });

    test('a wrong secret, a wrong user and no credentials are PackageForbidden; no secret is in the message', async () => {
      const wrong = await opened(await settingsOf(server, { secretAccessKey: 'not-the-secret' }));
      const stranger = await opened(await settingsOf(server, { accessKeyId: 'stranger' }));
      const { endpoint, region, bucket } = server;
      const nobody = await opened({ endpoint, region, bucket });
      for (const s3 of [wrong, stranger, nobody]) {
        const error: unknown = await s3.get('packages/a.tgz').catch((caught: unknown) => caught);
        expect(error).toMatchObject({ code: 'PackageForbidden' });
        expect(String(error)).not.toMatch(/not-the-secret|atolltest-secret/);
        await expect(s3.put('new', bytesOf('x'))).rejects.toMatchObject({ code: 'PackageForbidden' });
      }
    });

    test('credentials that are put right in the file are used by the next client', async () => {
      const wrong = await settingsOf(server, { secretAccessKey: 'not-the-secret' });
      await expect((await opened(wrong)).put('a', bytesOf('x'))).rejects.toMatchObject({
        code: 'PackageForbidden',
      });
      const { accessKeyId, secretAccessKey } = server;
      await writeFile(wrong.credentialsFile ?? '', JSON.stringify({ accessKeyId, secretAccessKey }));
      await (await opened(wrong)).put('a', bytesOf('x'));
    });

    test('a caller who gives up gets his own reason', async () => {
      const s3 = await opened(settings);
      const reason = new Error('no longer wanted');
      await expect(s3.get('packages/a.tgz', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    });
  });
}

test('a store that is away is PackageUnavailable, naming its address', async () => {
  const endpoint = `http://127.0.0.1:${await freePort()}`;
  const s3 = await opened({ endpoint, region: 'us-east-1', bucket: 'packages' });
  await expect(s3.get('a')).rejects.toMatchObject({
    code: 'PackageUnavailable',
    retryable: true,
    message: expect.stringContaining(endpoint),
  });
});

test('a store that hangs up is PackageUnavailable', async () => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  closeLater(async () => void server.close());
  const { port } = server.address() as { port: number };
  const s3 = await opened({ endpoint: `http://127.0.0.1:${port}`, region: 'us-east-1', bucket: 'packages' });
  await expect(s3.head('a')).rejects.toMatchObject({ code: 'PackageUnavailable' });
});

test.each([
  ['others may read', { accessKeyId: 'a', secretAccessKey: 'top-secret' }, 0o644, 'chmod 600'],
  ['the group may read', { accessKeyId: 'a', secretAccessKey: 'top-secret' }, 0o640, 'chmod 600'],
  ['is not JSON', 'top-secret', 0o600, 'is not JSON'],
  ['lacks the secret', { accessKeyId: 'top-secret' }, 0o600, 'secretAccessKey'],
])('a credentials file that %s is refused without quoting it', async (_, content, mode, says) => {
  const file = await credentialsFile(content, mode);
  const settings = {
    endpoint: 'http://127.0.0.1:9',
    region: 'us-east-1',
    bucket: 'b',
    credentialsFile: file,
  };
  const error: unknown = await openS3(settings).catch((caught: unknown) => caught);
  expect(error).toMatchObject({ code: 'PackageForbidden', message: expect.stringContaining(says) });
  expect(JSON.stringify(error) + String((error as Error).stack)).not.toContain('top-secret');
});

test('a credentials file that is missing is named', async () => {
  const settings = {
    endpoint: 'http://127.0.0.1:9',
    region: 'us-east-1',
    bucket: 'b',
    credentialsFile: '/nowhere/s3.json',
  };
  await expect(openS3(settings)).rejects.toMatchObject({
    message: expect.stringContaining('/nowhere/s3.json: is not there'),
  });
});
