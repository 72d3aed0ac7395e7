/**
 * Addresses that a user gave, with their credentials moved into files that only the user can read: an address is
 * printed, logged, and handed to other processes.
 */
import { constants } from 'node:fs';
import { access, readFile, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { writeAtomically } from '../controller/stores/atomic-file.ts';
import type { SitePaths } from '../controller/stores/site.ts';
import type { MqttSettings, NatsSettings, S3Settings, TlsFiles } from '../runtime/config.ts';
import { usageError } from './failure.ts';

const defaultRegion = 'us-east-1';

const natsCredentialsFile = (paths: SitePaths): string => join(paths.dir, 'nats.json');
const mqttCredentialsFile = (paths: SitePaths): string => join(paths.dir, 'mqtt.json');

/** `nats://user:pass@host:port`, `nats://token@host:port`, several separated by commas. */
export async function natsSettings(
  text: string,
  paths: SitePaths,
  files: GivenFiles = {},
): Promise<NatsSettings> {
  const servers = text
    .split(',')
    .map((server) => addressOf(server, '--nats', ['nats:', 'tls:', 'ws:', 'wss:']));
  const credentials = servers.map(({ user, password }) =>
    user === undefined ? undefined : password === undefined ? { token: user } : { user, pass: password },
  );
  const given = credentials.find((one) => one !== undefined);
  const url = servers.map((server) => server.url).join(',');
  const { creds } = files;
  if (creds !== undefined && given !== undefined) {
    throw usageError('--nats has credentials in it, and so has --nats-creds', 'Give one of them.');
  }
  const tls = await tlsFiles('nats', url.split(','), ['tls:', 'wss:'], files);
  return {
    ...(await withCredentials({ url }, given, natsCredentialsFile(paths))),
    ...(creds !== undefined && { credsFile: await secretFile('--nats-creds', creds) }),
    ...tls,
  };
}

export async function mqttSettings(
  text: string,
  paths: SitePaths,
  files: GivenFiles = {},
): Promise<MqttSettings> {
  const { url, user, password } = addressOf(text, '--mqtt', ['mqtt:', 'mqtts:', 'ws:', 'wss:']);
  const given = user === undefined ? undefined : { username: user, password: password ?? '' };
  const tls = await tlsFiles('mqtt', [url], ['mqtts:', 'wss:'], files);
  return { ...(await withCredentials({ url }, given, mqttCredentialsFile(paths))), ...tls };
}

/** As given on the command line; they stay where they are, and are read again at each connect. */
export interface GivenFiles {
  readonly ca?: string | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** NATS only. */
  readonly creds?: string | undefined;
}

async function tlsFiles(
  option: 'nats' | 'mqtt',
  urls: readonly string[],
  secure: readonly string[],
  { ca, cert, key }: GivenFiles,
): Promise<{ tls?: TlsFiles }> {
  if (ca === undefined && cert === undefined && key === undefined) return {};
  if (urls.some((url) => !secure.includes(new URL(url).protocol))) {
    throw usageError(
      `certificates were given, and --${option} is "${urls.join(',')}", which does not use them`,
      `Give an address that begins with ${secure.map((protocol) => `${protocol}//`).join(' or ')}.`,
    );
  }
  if ((cert === undefined) !== (key === undefined)) {
    const [has, lacks] = cert === undefined ? ['key', 'cert'] : ['cert', 'key'];
    throw usageError(`--${option}-${has} needs --${option}-${lacks}`);
  }
  return {
    tls: {
      ...(ca !== undefined && { ca: await readableFile(`--${option}-ca`, ca) }),
      ...(cert !== undefined && { certificate: await readableFile(`--${option}-cert`, cert) }),
      ...(key !== undefined && { key: await secretFile(`--${option}-key`, key) }),
    },
  };
}

async function readableFile(option: string, given: string): Promise<string> {
  const file = resolve(given);
  await access(file, constants.R_OK).catch((error: unknown) => {
    throw usageError(`${option}: ${(error as Error).message}`);
  });
  return file;
}

async function secretFile(option: string, given: string): Promise<string> {
  const file = await readableFile(option, given);
  if (((await stat(file)).mode & 0o007) !== 0) {
    throw usageError(`${option}: everyone may use ${file}`, `Run: chmod 600 ${file}`);
  }
  return file;
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
