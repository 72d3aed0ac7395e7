import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { describe, expect, test } from 'vitest';
import { aws } from './aws.ts';
import { missing } from './requirement.ts';
import { startMinio, startVersitygw } from './s3.ts';

describe.each([
  { tool: 'versitygw', start: startVersitygw },
  { tool: 'minio', start: startMinio },
] as const)('$tool', async ({ tool, start }) => {
  test.skipIf(await missing(tool))(
    'keeps an object over a restart, refuses a second writer, and goes',
    async () => {
      const server = await start();
      const client = server.client();
      const object = { Bucket: server.bucket, Key: 'a/b' };
      await client.send(new PutObjectCommand({ ...object, Body: 'hello', IfNoneMatch: '*' }));
      await expect(
        client.send(new PutObjectCommand({ ...object, Body: 'again', IfNoneMatch: '*' })),
      ).rejects.toThrow(expect.objectContaining({ name: 'PreconditionFailed' }));

      await server.restart();
      const { Body: body } = await server.client().send(new GetObjectCommand(object));
      expect(await body?.transformToString()).toBe('hello');

      const { pid } = server;
      await server.stop();
      expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    },
  );
});

test.skipIf(await missing('versitygw', 'awscli'))('AWS’s command line lists the bucket', async () => {
  const server = await startVersitygw({ bucket: 'seen-by-aws' });
  const answer = await aws(['s3', 'ls'], server);
  expect(answer).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('seen-by-aws') });
  const refused = await aws(['s3', 'ls'], { ...server, endpoint: server.endpoint, secretAccessKey: 'wrong' });
  expect(refused.exitCode).not.toBe(0);
});
