/** One bucket of an S3-compatible store. Whatever goes wrong becomes one of the Package… errors. */
import { readFile, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
  type S3ServiceException,
} from '@aws-sdk/client-s3';
import type { S3Settings } from '../config.ts';
import { AtollError } from '../errors.ts';

const connectTimeoutMs = 3_000;
/** Without a byte either way for this long, the store counts as away. */
const idleTimeoutMs = 10_000;
/** Whoever calls tries again later by itself, so the client does not insist. */
const maxAttempts = 2;
/** After this the credentials file is read again. */
const credentialsAgeMs = 60_000;

export interface S3 {
  /** False: there was an object of that key, and it stays as it is. */
  putIfAbsent(key: string, bytes: Uint8Array): Promise<boolean>;
  put(key: string, bytes: Uint8Array): Promise<void>;
  /** Undefined: there is no such object. */
  head(key: string): Promise<{ readonly bytes: number } | undefined>;
  /** Rejects with PackageNotFound when there is none. The body has to be read or destroyed. */
  get(
    key: string,
    options?: { readonly bucket?: string; readonly signal?: AbortSignal },
  ): Promise<{ readonly body: Readable; readonly bytes?: number }>;
  /** Rejects as reading and writing this key would; leaves nothing in the bucket. */
  probe(key: string): Promise<void>;
  close(): void;
}

/**
 * Connects with the first call, not here. Rejects with PackageForbidden for a credentials file that cannot be used;
 * without one requests are not signed, as a public bucket takes them.
 */
export async function openS3(settings: S3Settings): Promise<S3> {
  const { credentialsFile: file, bucket } = settings;
  if (file !== undefined) await readCredentials(file);
  const client = new S3Client({
    endpoint: settings.endpoint,
    region: settings.region,
    // Buckets as host names need DNS, which a site seldom has.
    forcePathStyle: true,
    followRegionRedirects: false,
    useFipsEndpoint: false,
    useDualstackEndpoint: false,
    retryMode: 'standard',
    maxAttempts,
    // The digest of a package is checked anyway, and not every store knows the newer checksums.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: connectTimeoutMs, socketTimeout: idleTimeoutMs },
    // Never the client's own search for credentials, which asks addresses outside the site.
    ...(file === undefined
      ? {
          signer: { sign: async (request) => request },
          credentials: { accessKeyId: '', secretAccessKey: '' },
        }
      : {
          credentials: async () => ({
            ...(await readCredentials(file)),
            expiration: new Date(Date.now() + credentialsAgeMs),
          }),
        }),
  });
  const failed = (error: unknown, key: string, inBucket = bucket) =>
    errorOf(error, `s3://${inBucket}/${key}`, settings.endpoint);

  async function put(key: string, bytes: Uint8Array, condition: { IfNoneMatch?: '*' }): Promise<void> {
    await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes, ...condition }));
  }

  async function putAlways(key: string, bytes: Uint8Array): Promise<void> {
    await put(key, bytes, {}).catch((error: unknown) => {
      throw failed(error, key);
    });
  }

  async function head(key: string): Promise<{ bytes: number } | undefined> {
    try {
      const { ContentLength } = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }));
      return { bytes: ContentLength ?? 0 };
    } catch (error) {
      // A HEAD has no body, so a missing bucket looks the same; the next PUT tells.
      if (statusOf(error) === 404) return undefined;
      throw failed(error, key);
    }
  }

  return {
    head,
    put: putAlways,
    async putIfAbsent(key, bytes) {
      // Saves the upload. Who may not list a bucket is told 403 for what is missing, so only a hit counts.
      if (await head(key).catch(() => undefined)) return false;
      try {
        await put(key, bytes, { IfNoneMatch: '*' });
        return true;
      } catch (error) {
        // 412: somebody else was faster; 409: somebody else is putting it at this moment.
        if (statusOf(error) === 412 || statusOf(error) === 409) return false;
        if (statusOf(error) !== 501) throw failed(error, key);
      }
      // A store without conditional writes.
      await putAlways(key, bytes);
      return true;
    },
    async get(key, options = {}) {
      const inBucket = options.bucket ?? bucket;
      try {
        const { Body, ContentLength } = await client.send(
          new GetObjectCommand({ Bucket: inBucket, Key: key }),
          options.signal ? { abortSignal: options.signal } : {},
        );
        return {
          body: Body as Readable,
          ...(ContentLength !== undefined && { bytes: ContentLength }),
        };
      } catch (error) {
        options.signal?.throwIfAborted();
        throw failed(error, key, inBucket);
      }
    },
    async probe(key) {
      const object = { Bucket: bucket, Key: key };
      try {
        // An upload in parts asks for the permission to write, and can be given up.
        const { UploadId } = await client.send(new CreateMultipartUploadCommand(object));
        await client.send(new AbortMultipartUploadCommand({ ...object, UploadId }));
        const { Body } = await client.send(new GetObjectCommand(object));
        (Body as Readable).destroy();
      } catch (error) {
        if ((error as Error).name !== 'NoSuchKey') throw failed(error, key);
      }
    },
    close() {
      client.destroy();
    },
  };
}

const statusOf = (error: unknown) => (error as Partial<S3ServiceException>).$metadata?.httpStatusCode;

function errorOf(error: unknown, uri: string, endpoint: string): AtollError {
  if (error instanceof AtollError) return error;
  const status = statusOf(error);
  const { name, message, code } = error as NodeJS.ErrnoException;
  // versitygw answers 404 to a user it does not know.
  const refused = status === 401 || status === 403 || name === 'XAdminUserNotFound';
  if (status === 404 && !refused) {
    const what = name === 'NoSuchBucket' ? 'the bucket does not exist' : 'there is no such object';
    return new AtollError('PackageNotFound', `${uri} at ${endpoint}: ${what}`, { cause: error });
  }
  if (refused) {
    return new AtollError('PackageForbidden', `${uri} at ${endpoint}: access was refused (${name})`, {
      cause: error,
    });
  }
  const answer = status === undefined ? (code ?? name) : `status ${status}, ${name}`;
  const why = name === 'TimeoutError' ? 'no answer in time' : [answer, message].filter(Boolean).join(': ');
  return new AtollError('PackageUnavailable', `${uri} at ${endpoint}: ${why}`, { cause: error });
}

interface Credentials {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string;
}

async function readCredentials(file: string): Promise<Credentials> {
  const refused = (why: string) => new AtollError('PackageForbidden', `S3 credentials file ${file}: ${why}`);
  const { mode, uid } = await stat(file).catch((error: NodeJS.ErrnoException) => {
    throw refused(error.code === 'ENOENT' ? 'is not there' : `cannot be read (${error.code})`);
  });
  // A Secret in a pod is root's, and readable by the group that only the pod's own processes have.
  const others = uid === 0 && process.getuid?.() !== 0 ? 0o037 : 0o077;
  if ((mode & others) !== 0) {
    throw refused(`others may read it (mode ${(mode & 0o777).toString(8)}): chmod 600`);
  }
  let given: Partial<Credentials>;
  try {
    given = JSON.parse(await readFile(file, 'utf8')) as Partial<Credentials>;
  } catch {
    // Neither the parser's message nor the cause: both quote the file.
    throw refused('is not JSON');
  }
  const { accessKeyId, secretAccessKey, sessionToken } = given;
  if (typeof accessKeyId !== 'string' || typeof secretAccessKey !== 'string') {
    throw refused('must be { "accessKeyId": …, "secretAccessKey": … }');
  }
  return { accessKeyId, secretAccessKey, ...(typeof sessionToken === 'string' && { sessionToken }) };
}
