/** A nats-server in operator mode: accounts and users are JWTs, signed by keys that the server never sees. */
import { randomUUID } from 'node:crypto';
import { nkeys } from '@nats-io/nats-core';

type KeyPair = ReturnType<typeof nkeys.createUser>;

export interface Accounts {
  /** For the server's configuration file. */
  readonly config: string;
  /** The text of a user's credentials file, as nsc writes it. */
  userOf(name: string): string;
}

/** One account with JetStream, without limits. */
export function makeAccounts(): Accounts {
  const operator = nkeys.createOperator();
  const account = nkeys.createAccount();
  const system = nkeys.createAccount();
  const unlimited = { subs: -1, data: -1, payload: -1 };
  const ofAccount = { imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
  const storage = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };
  const accountToken = (pair: KeyPair, name: string, limits: object): string =>
    token(operator, pair, name, { type: 'account', version: 2, limits, default_permissions: {} });
  const apps = accountToken(account, 'APP', { ...unlimited, ...ofAccount, ...storage });
  const sys = accountToken(system, 'SYS', { ...unlimited, ...ofAccount });
  return {
    config: [
      `operator: ${token(operator, operator, 'test', { type: 'operator', version: 2 })}`,
      `system_account: ${system.getPublicKey()}`,
      'resolver: MEMORY',
      `resolver_preload { ${account.getPublicKey()}: ${apps}, ${system.getPublicKey()}: ${sys} }`,
    ].join('\n'),
    userOf(name) {
      const user = nkeys.createUser();
      const jwt = token(account, user, name, { type: 'user', version: 2, ...unlimited, pub: {}, sub: {} });
      const seed = Buffer.from(user.getSeed()).toString('ascii');
      return [
        ...['-----BEGIN NATS USER JWT-----', jwt, '------END NATS USER JWT------', ''],
        ...['-----BEGIN USER NKEY SEED-----', seed, '------END USER NKEY SEED------', ''],
      ].join('\n');
    },
  };
}

function token(issuer: KeyPair, subject: KeyPair, name: string, nats: object): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = {
    jti: randomUUID(),
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    sub: subject.getPublicKey(),
    name,
    nats,
  };
  const text = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part(claims)}`;
  return `${text}.${Buffer.from(issuer.sign(Buffer.from(text))).toString('base64url')}`;
}
