import { expect, test } from 'vitest';
import { startSite, until } from '../e2e/site.ts';
import { startMinio, startVersitygw } from '../support/s3.ts';
import { randomFor } from './random.ts';
import { soak, testTimeoutMs } from './scale.ts';

const functions = soak ? 40 : 6;

test.each([
  ['MinIO', startMinio],
  ['versitygw', startVersitygw],
] as const)(
  'a deploy either works or says why when %s is killed at a random moment, and works once it is back',
  { timeout: testTimeoutMs },
  async (product, startS3) => {
    const random = randomFor(product);
    const s3 = await startS3();
    const env = { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
    const site = await startSite({ args: ['--s3', `${s3.endpoint}/${s3.bucket}`], env });
    const source = (n: number) => ({ name: `stored-${n}`, code: `export const handler = async () => ${n};` });
    await site.deploy(source(0));

    const codes: (number | null)[] = [];
    const victim = Math.floor(random.between(1, functions));
    for (let n = 1; n <= functions; n++) {
      const folder = await site.write(source(n));
      const deploy = site.run(['deploy', folder, '--timeout', '10']);
      if (n === victim) {
        // Before, during and after the upload: a deploy takes about a second.
        await new Promise((resolve) => setTimeout(resolve, random.between(0, 1_500)));
        await s3.kill('SIGKILL');
      }
      const { code, stderr } = await deploy;
      codes.push(code);
      if (code !== 0) expect(stderr).toMatch(/S3|127\.0\.0\.1/);
      // What runs needs no S3.
      expect(await site.invoke('stored-0')).toBe(0);
    }
    process.stdout.write(
      `${product} killed at deploy ${victim}: exit codes ${codes.join(' ')}; ATOLL_SEED=${random.seed}\n`,
    );
    expect(codes.slice(0, victim - 1)).toEqual(Array.from({ length: victim - 1 }, () => 0));
    expect(codes.slice(victim)).not.toContain(0);

    await s3.restart();
    for (let n = 1; n <= functions; n++) await site.deploy(source(n));
    for (let n = 0; n <= functions; n++) {
      await until(`stored-${n} answers`, async () => (await site.invoke(`stored-${n}`)) === n || undefined);
    }
  },
);
