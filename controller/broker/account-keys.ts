/**
 * NATS accounts, one for each namespace, and the users in them: JWTs of NATS' operator mode
 * (https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt). All keys are derived from one
 * seed, so that nothing needs to be stored or read again: whoever holds the seed makes the same user twice.
 */
import { createHash, createPrivateKey, createPublicKey, hkdfSync, randomBytes, sign } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Permissions } from '../../runtime/account.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { Key } from '../stores/store.ts';

/** Ed25519, in NATS' own texts. Node's own, which is a hundred times faster than that of NATS.js. */
interface KeyPair {
  /** `O…`, `A…` or `U…` */
  readonly name: string;
  readonly seed: string;
  sign(text: string): Buffer;
}

/** What the gateway needs: users in the accounts of namespaces. */
export interface AccountKeys {
  /** `A…`, by which a server knows the account. */
  account(namespace: string): string;
  /** A function's own user; another one after any change of what it may do. `creds` is a secret, `user` (`U…`) is not. */
  functionUser(key: Key, uid: string, permissions: Permissions): { user: string; creds: string };
  /** A user who may do everything in the namespace's account: a secret. */
  administrator(namespace: string, name: string): string;
}

/** What the controller needs: the accounts themselves. */
export interface OperatorKeys extends AccountKeys {
  /** What a server is told of an account. */
  accountClaims(namespace: string): string;
  /** A user who tells servers of accounts: a secret. */
  systemUser(name: string): string;
  /** For a nats-server's configuration; `directory` is where it keeps what it is told of accounts. No secret. */
  serverConfig(directory: string): string;
  /** What `openAccountKeys` opens: a secret. */
  readonly accountsSeed: string;
}

const kinds = { operator: 14 << 3, account: 0, user: 20 << 3 } as const;
/** Later when claims of the same subject say something else than they did in earlier versions: the newer ones count. */
const issuedAt = Date.UTC(2026, 10, 28) / 1000;
const unlimited = { subs: -1, data: -1, payload: -1 };
const ofAccount = { imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
const storage = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };

/** A new operator's seed, `SO…`. */
export function newOperatorSeed(): string {
  return pairOf('operator', randomBytes(32)).seed;
}

/** Throws AtollError InvalidRequest when the text is no operator's seed; it is not quoted. */
export function openOperatorKeys(seed: string): OperatorKeys {
  const root = secretOf(seed, 'operator');
  const operator = pairOf('operator', root);
  const system = pairOf('account', derived(root, 'system account'));
  const accountsSeed = pairOf('account', derived(root, 'accounts')).seed;
  const keys = openAccountKeys(accountsSeed);
  const accounts = accountPairs(accountsSeed);
  const claims = (account: KeyPair, name: string, limits: object): string =>
    token(operator, account.name, name, {
      type: 'account',
      version: 2,
      limits,
      default_permissions: { pub: {}, sub: {} },
    });
  const systemClaims = claims(system, 'SYS', { ...unlimited, ...ofAccount });
  return {
    ...keys,
    accountsSeed,
    accountClaims: (namespace) =>
      claims(accounts(namespace), namespace, { ...unlimited, ...ofAccount, ...storage }),
    systemUser: (name) =>
      credsOf(system, derived(root, `system user ${name}`), name, { pub: {}, sub: {} }).creds,
    serverConfig: (directory) =>
      [
        `operator: ${token(operator, operator.name, 'atoll', { type: 'operator', version: 2 })}`,
        `system_account: ${system.name}`,
        `resolver { type: full, dir: ${JSON.stringify(directory)}, allow_delete: false, interval: "2m" }`,
        `resolver_preload { ${system.name}: ${systemClaims} }`,
        '',
      ].join('\n'),
  };
}

/** Throws as `openOperatorKeys`. */
export function openAccountKeys(accountsSeed: string): AccountKeys {
  const root = secretOf(accountsSeed, 'account');
  const accounts = accountPairs(accountsSeed);
  return {
    account: (namespace) => accounts(namespace).name,
    functionUser({ namespace, name }, uid, permissions) {
      const what = createHash('sha256')
        .update(JSON.stringify([namespace, name, uid, permissions]))
        .digest('hex');
      return credsOf(
        accounts(namespace),
        derived(root, `function ${what}`),
        `${namespace}/${name}`,
        permissions,
      );
    },
    administrator: (namespace, name) =>
      credsOf(accounts(namespace), derived(root, `administrator ${namespace} ${name}`), name, {
        pub: {},
        sub: {},
      }).creds,
  };
}

/** The text of a file that holds a key. Rejects with AtollError InvalidRequest; mode 0600, a group may be let in. */
export async function readKeyFile(file: string): Promise<string> {
  try {
    const [text, { mode }] = await Promise.all([readFile(file, 'utf8'), stat(file)]);
    if ((mode & 0o007) === 0) return text;
  } catch (error) {
    const { message } = error as Error;
    throw new AtollError('InvalidRequest', `the key of NATS accounts cannot be read: ${message}`);
  }
  throw new AtollError('InvalidRequest', `${file} holds a key and everyone may use it: chmod 600`);
}

function accountPairs(accountsSeed: string): (namespace: string) => KeyPair {
  const root = secretOf(accountsSeed, 'account');
  const known = new Map<string, KeyPair>();
  return (namespace) => {
    const pair = known.get(namespace) ?? pairOf('account', derived(root, `account ${namespace}`));
    known.set(namespace, pair);
    return pair;
  };
}

/** A user's credentials as nsc writes them. */
function credsOf(
  account: KeyPair,
  secret: Buffer,
  name: string,
  permissions: object,
): { user: string; creds: string } {
  const user = pairOf('user', secret);
  const jwt = token(account, user.name, name, { type: 'user', version: 2, ...unlimited, ...permissions });
  const creds = [
    ...['-----BEGIN NATS USER JWT-----', jwt, '------END NATS USER JWT------', ''],
    ...['-----BEGIN USER NKEY SEED-----', user.seed, '------END USER NKEY SEED------', ''],
  ];
  return { user: user.name, creds: creds.join('\n') };
}

/** The same subject and content give the same bytes: what was told already is not told again. */
function token(issuer: KeyPair, subject: string, name: string, nats: object): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { jti: `${subject}-${issuedAt}`, iat: issuedAt, iss: issuer.name, sub: subject, name, nats };
  const text = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part(claims)}`;
  return `${text}.${issuer.sign(text).toString('base64url')}`;
}

const derived = (root: Buffer, purpose: string): Buffer =>
  Buffer.from(hkdfSync('sha256', root, 'atoll', purpose, 32));

// The texts of keys: https://docs.nats.io/reference/reference-protocols/nkeys

const seedPrefix = 18 << 3;
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
/** What stands before the 32 bytes of a private Ed25519 key in PKCS #8 (RFC 8410, section 7). */
const privateKeyHead = Buffer.from('302e020100300506032b657004220420', 'hex');
const secretBytes = 32;

function pairOf(kind: keyof typeof kinds, secret: Buffer): KeyPair {
  const prefix = kinds[kind];
  const key = createPrivateKey({
    key: Buffer.concat([privateKeyHead, secret]),
    format: 'der',
    type: 'pkcs8',
  });
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-secretBytes);
  return {
    name: textOf(Buffer.concat([Buffer.from([prefix]), publicKey])),
    seed: textOf(Buffer.concat([Buffer.from([seedPrefix | (prefix >> 5), (prefix & 31) << 3]), secret])),
    sign: (text) => sign(null, Buffer.from(text), key),
  };
}

/** Throws for a text that is no such seed: the text is a secret, so it is not told. */
function secretOf(seed: string, kind: 'operator' | 'account'): Buffer {
  const bytes = bytesOf(seed.trim());
  const secret = bytes.subarray(2, 2 + secretBytes);
  const body = bytes.subarray(0, -2);
  if (
    secret.length !== secretBytes ||
    textOf(body) !== seed.trim() ||
    pairOf(kind, secret).seed !== seed.trim()
  ) {
    const first = kind === 'operator' ? 'SO' : 'SA';
    throw new AtollError(
      'InvalidRequest',
      `the key of NATS accounts is not a seed that begins with ${first}: make one with "node charts/accounts.ts"`,
    );
  }
  return secret;
}

/** Base32 without padding, a checksum behind it. */
function textOf(body: Buffer): string {
  const check = Buffer.alloc(2);
  check.writeUInt16LE(crc16(body));
  let [text, bits, held] = ['', 0, 0];
  for (const byte of Buffer.concat([body, check])) {
    held = (held << 8) | byte;
    for (bits += 8; bits >= 5; bits -= 5) text += letters[(held >> (bits - 5)) & 31];
    held &= 0xff;
  }
  return bits > 0 ? text + letters[(held << (5 - bits)) & 31] : text;
}

function bytesOf(text: string): Buffer {
  const bytes: number[] = [];
  let [bits, held] = [0, 0];
  for (const letter of text) {
    held = ((held << 5) | Math.max(0, letters.indexOf(letter))) & 0xfff;
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push((held >> bits) & 0xff);
  }
  return Buffer.from(bytes);
}

/** XMODEM's. */
function crc16(bytes: Buffer): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc;
}
