/**
 * Addresses that a user gave, with their credentials moved into files that only the user can read: an address is
 * printed, logged, and handed to other processes.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeAtomically } from '../controller/stores/atomic-file.ts';
import type { SitePaths } from '../controller/stores/site.ts';
import type { MqttSettings, NatsSettings, S3Settings } from '../runtime/config.ts';
import { usageError } from './failure.ts';

const defaultRegion = 'us-east-1';

export const natsCredentialsFile = (paths: SitePaths): string => join(paths.dir, 'nats.json');
const mqttCredentialsFile = (paths: SitePaths): string => join(paths.dir, 'mqtt.json');

/** `nats://user:pass@host:port`, `nats://token@host:port`, several separated by commas. */
export async function natsSettings(text: string, paths: SitePaths): Promise<NatsSettings> {
  const servers = text
    .split(',')
    .map((server) => addressOf(server, '--nats', ['nats:', 'tls:', 'ws:', 'wss:']));
  const credentials = servers.map(({ user, password }) =>
    user === undefined ? undefined : password === undefined ? { token: user } : { user, pass: password },
  );
  const given = credentials.find((one) => one !== undefined);
  const url = servers.map((server) => server.url).join(',');
  return await withCredentials({ url }, given, natsCredentialsFile(paths));
}

export async function mqttSettings(text: string, paths: SitePaths): Promise<MqttSettings> {
  const { url, user, password } = addressOf(text, '--mqtt', ['mqtt:', 'mqtts:', 'ws:', 'wss:']);
  const given = user === undefined ? undefined : { username: user, password: password ?? '' };
  return await withCredentials({ url }, given, mqttCredentialsFile(paths));
}

/** `http://host:port/bucket`; the credentials are those of the environment, else those of an earlier start. */
export async function s3Settings(
  text: string,
  paths: SitePaths,
  env: Readonly<Record<string, string | undefined>>,
): Promise<S3Settings> {
  const { url, user } = addressOf(text, '--s3', ['http:', 'https:']);
  if (user !== undefined) {
    throw usageError(
      '--s3 has credentials in it',
      'Give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.',
    );
  }
  const { origin, pathname } = new URL(url);
  const bucket = pathname.replace(/^\/|\/$/g, '');
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucket)) {
    throw usageError(`--s3 is "${url}"; it must be http://host:port/bucket`);
  }
  const accessKeyId = env['AWS_ACCESS_KEY_ID'];
  const secretAccessKey = env['AWS_SECRET_ACCESS_KEY'];
  const sessionToken = env['AWS_SESSION_TOKEN'];
  if (accessKeyId && secretAccessKey) {
    const credentials = { accessKeyId, secretAccessKey, ...(sessionToken && { sessionToken }) };
    await writeAtomically(paths.s3, `${JSON.stringify(credentials, null, 2)}\n`);
  } else if (!(await readFile(paths.s3).then(Boolean, () => false))) {
    throw usageError(
      '--s3 needs credentials',
      'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; they are kept in the folder of the site for its next start.',
    );
  }
  const region = env['AWS_REGION'] || env['AWS_DEFAULT_REGION'] || defaultRegion;
  return { endpoint: origin, region, bucket, credentialsFile: paths.s3 };
}

async function withCredentials<S extends { url: string }>(
  settings: S,
  credentials: object | undefined,
  file: string,
): Promise<S & { credentialsFile?: string }> {
  if (credentials === undefined) {
    // Those of an earlier start belong to another address.
    await rm(file, { force: true });
    return settings;
  }
  await writeAtomically(file, `${JSON.stringify(credentials)}\n`);
  return { ...settings, credentialsFile: file };
}

interface Address {
  /** Without credentials. */
  readonly url: string;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
}

/** What is not an address is not repeated: a password may be in it. */
function addressOf(text: string, option: string, protocols: readonly string[]): Address {
  const trimmed = text.trim();
  const complete = trimmed.includes('://') ? trimmed : `${protocols[0]}//${trimmed}`;
  const parsed = URL.canParse(complete) ? new URL(complete) : undefined;
  if (parsed === undefined || parsed.hostname === '' || !protocols.includes(parsed.protocol)) {
    const allowed = protocols.map((protocol) => `${protocol}//`).join(', ');
    throw usageError(`${option} is not an address that begins with ${allowed}`);
  }
  const user = parsed.username === '' ? undefined : decodeURIComponent(parsed.username);
  const password = parsed.password === '' ? undefined : decodeURIComponent(parsed.password);
  parsed.username = '';
  parsed.password = '';
  // Of nats:// and the like URL makes "nats://host:port" with or without a slash, as it was written.
  return { url: parsed.href.replace(/\/$/, ''), user, password };
}
