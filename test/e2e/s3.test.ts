import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeleteObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, test, vi } from 'vitest';
import { buildPackage } from '../../cli/build/publish.ts';
import { startMinio, startVersitygw } from '../support/s3.ts';
import { describes, startSite, unready, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 120_000 });

for (const [product, startS3] of [
  ['versitygw', startVersitygw],
  ['MinIO', startMinio],
] as const) {
  test.concurrent(
    `packages in ${product}: missing, refused and away are told apart, and recovered from`,
    async () => {
      const s3 = await startS3();
      const client = s3.client();
      const env = { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
      const site = await startSite({ args: ['--s3', `${s3.endpoint}/${s3.bucket}`], env });
      const code = (text: string): FunctionSource => ({
        name: 'stored',
        code: `export const handler = async () => (${JSON.stringify(text)});`,
      });
      await site.deploy(code('first'));
      expect(await site.invoke('stored')).toBe('first');
      const listed = await client.send(new ListObjectsV2Command({ Bucket: s3.bucket }));
      expect(listed.Contents?.map(({ Key }) => Key)).toHaveLength(1);
      const key = listed.Contents?.[0]?.Key ?? '';
      // Of the same source the same package: it is found there and not sent again.
      await site.faas('delete', 'stored');
      expect((await site.deploy(code('first'))).stdout).toMatch(/not uploaded again/);

      /** A Function whose package the site has never seen. */
      async function applied(text: string): Promise<{ bytes: Uint8Array; key: string; name: string }> {
        const folder = await site.write(code(text));
        const { bytes, sha256 } = await buildPackage(folder, {
          handler: 'index.handler',
          runtime: 'nodejs24.x',
        });
        const name = `stored-${text}`;
        const keyOfIt = key.replace(/[0-9a-f]{64}/, sha256);
        const object = {
          apiVersion: 'atoll.dev/v1alpha1',
          kind: 'Function',
          metadata: { name },
          spec: { handler: 'index.handler', package: { uri: `s3://${s3.bucket}/${keyOfIt}`, sha256 } },
        };
        const file = join(folder, 'applied.json');
        await writeFile(file, JSON.stringify(object));
        await site.faas('apply', '-f', file);
        return { bytes, key: keyOfIt, name };
      }

      // Missing.
      const missing = await applied('missing');
      await until(
        'it says that the object is missing',
        async () => (await unready(site, missing.name)).reason === 'PackageNotFound' || undefined,
      );
      await describes(site, missing.name, new RegExp(`PackageNotFound.*${missing.key}`));
      await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: missing.key, Body: missing.bytes }));
      await site.ready(missing.name);
      expect(await site.invoke(missing.name)).toBe('missing');

      // Away.
      await s3.stop();
      const away = await applied('away');
      await until(
        'it says that the store is away',
        async () => (await unready(site, away.name)).reason === 'PackageUnavailable' || undefined,
      );
      await describes(site, away.name, new RegExp(`PackageUnavailable.*${s3.endpoint}`));
      const failed = await site.run(['deploy', await site.write(code('never'))]);
      expect(failed.code).toBe(3);
      expect(failed.stderr).toContain(s3.endpoint);
      expect(await site.invoke('stored')).toBe('first');
      await s3.restart();
      await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: away.key, Body: away.bytes }));
      await site.ready(away.name);

      // Refused.
      const credentials = join(site.dir, 's3.json');
      const right = await readFile(credentials, 'utf8');
      await writeFile(credentials, right.replace(s3.secretAccessKey, 'not-the-secret'));
      const refused = await applied('refused');
      await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: refused.key, Body: refused.bytes }));
      await until(
        'it says that it is refused',
        async () => (await unready(site, refused.name)).reason === 'PackageForbidden' || undefined,
      );
      await writeFile(credentials, right);
      await site.ready(refused.name);
      expect(await site.invoke(refused.name)).toBe('refused');
      expect(await logText(site)).not.toContain(s3.secretAccessKey);

      // What runs needs no store.
      await client.send(new DeleteObjectCommand({ Bucket: s3.bucket, Key: key }));
      expect(await site.invoke('stored')).toBe('first');
    },
  );
}

const logText = (site: Site): Promise<string> => readFile(join(site.dir, 'logs', 'host.jsonl'), 'utf8');
