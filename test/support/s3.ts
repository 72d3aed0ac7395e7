import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import type { S3ClientConfig } from '@aws-sdk/client-s3';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import type { Place } from './place.ts';
import { freePort } from './ports.ts';
import type { RunningProcess } from './process.ts';
import { requireTool } from './requirement.ts';
import { startServer, withFacts } from './server.ts';
import type { Server } from './server.ts';

export interface S3Options {
  /** A free one by default. */
  port?: number;
  /** Created, without versioning; by default "packages". */
  bucket?: string;
  /** Variables for the server: the one way to set what has no option here (webhooks, events). */
  env?: Record<string, string>;
  /** Loopback by default. */
  place?: Place;
  closing?: Closing;
}

export interface S3Server extends Server {
  readonly endpoint: string;
  readonly port: number;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly bucket: string;
  /** A client for this server that is closed before it is stopped. */
  client(config?: S3ClientConfig): S3Client;
}

const region = 'us-east-1';
const accessKeyId = 'atolltest';
const secretAccessKey = 'atolltest-secret';

export async function startVersitygw(options: S3Options = {}): Promise<S3Server> {
  const command = await requireTool('versitygw');
  // Absolute paths: given a relative one it takes the versions' folder for a part of the data's.
  const folder = await temporaryFolder({ closing: options.closing });
  const [data, versions] = [join(folder, 'data'), join(folder, 'versions')];
  await Promise.all([data, versions].map((path) => mkdir(path)));
  return startS3('versitygw', options, (host, port) => ({
    command,
    args: [
      ...['--access', accessKeyId, '--secret', secretAccessKey, '--region', region],
      ...['--port', `${host}:${port}`, '--quiet', '--health', '/health'],
      ...['posix', '--versioning-dir', versions, data],
    ],
    healthPath: '/health',
  }));
}

export async function startMinio(options: S3Options = {}): Promise<S3Server> {
  const command = await requireTool('minio');
  const folder = await temporaryFolder({ closing: options.closing });
  const [data, certificates] = [join(folder, 'data'), join(folder, 'certificates')];
  await Promise.all([data, certificates].map((path) => mkdir(path)));
  return startS3('minio', options, (host, port) => ({
    command,
    args: ['server', '--address', `${host}:${port}`, '--certs-dir', certificates, data],
    env: {
      MINIO_ROOT_USER: accessKeyId,
      MINIO_ROOT_PASSWORD: secretAccessKey,
      MINIO_REGION: region,
      // Neither its web pages nor its question whether there is something newer: nothing reaches outside.
      MINIO_BROWSER: 'off',
      MINIO_UPDATE: 'off',
    },
    healthPath: '/minio/health/ready',
    // Healthy before it is through with starting: a bucket created in between took five seconds now and then.
    banner: /^API: /,
  }));
}

interface Launch {
  command: string;
  args: string[];
  env?: Record<string, string>;
  healthPath: string;
  /** A line that it writes when it is ready, where the health check alone does not tell. */
  banner?: RegExp;
}

async function startS3(
  name: string,
  options: S3Options,
  launch: (host: string, port: number) => Launch,
): Promise<S3Server> {
  const { bucket = 'packages', place, closing } = options;
  const host = place?.host ?? '127.0.0.1';
  const server = await startServer<number>(
    {
      name,
      choosePorts: async () => options.port ?? (await freePort()),
      prepare: async (port) => {
        const { env, ...launched } = launch(host, port);
        const { command, args } = place?.enter(launched) ?? launched;
        return { command, args, env: { ...process.env, ...env, ...options.env } };
      },
      ready: async (process, port) => {
        const { healthPath, banner } = launch(host, port);
        if (banner !== undefined) await process.line(banner);
        await untilHealthy(process, `http://${host}:${port}${healthPath}`);
      },
    },
    { closing },
  );
  const endpoint = `http://${host}:${server.ports}`;
  const client = (config: S3ClientConfig = {}): S3Client => {
    const credentials = { accessKeyId, secretAccessKey };
    const s3 = new S3Client({ endpoint, region, credentials, forcePathStyle: true, ...config });
    closeLater(async () => s3.destroy(), closing);
    return s3;
  };
  await client().send(new CreateBucketCommand({ Bucket: bucket }));
  return withFacts(server, {
    endpoint,
    port: server.ports,
    region,
    accessKeyId,
    secretAccessKey,
    bucket,
    client,
  });
}

async function untilHealthy(process: RunningProcess, url: string): Promise<void> {
  await process.until('it called itself healthy', async () => {
    const answer = await fetch(url, { headers: { connection: 'close' } });
    return answer.ok || undefined;
  });
}
