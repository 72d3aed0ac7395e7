import { nkeys } from '@nats-io/nats-core';
import { credsAuthenticator } from '@nats-io/transport-node';
import { describe, expect, test } from 'vitest';
import {
  newOperatorSeed,
  openAccountKeys,
  openOperatorKeys,
} from '../../../controller/broker/account-keys.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('keys of accounts', () => {
  test('the same seed gives the same accounts and users, also without the operator; another one gives others', () => {
    const seed = newOperatorSeed();
    const [first, second] = [openOperatorKeys(seed), openOperatorKeys(`${seed}\n`)];
    const others = openOperatorKeys(newOperatorSeed());
    const gateway = openAccountKeys(first.accountsSeed);
    const permissions = { pub: { allow: ['a'] }, sub: { allow: ['b'] } };
    const key = { namespace: 'lab', name: 'hello' };
    const user = first.functionUser(key, 'uid', permissions);
    for (const keys of [second, gateway]) {
      expect(keys.account('lab')).toBe(first.account('lab'));
      expect(keys.functionUser(key, 'uid', permissions)).toEqual(user);
    }
    expect(first.accountClaims('lab')).toBe(second.accountClaims('lab'));
    expect(others.account('lab')).not.toBe(first.account('lab'));
    expect(first.account('yard')).not.toBe(first.account('lab'));
    const users = [
      first.functionUser({ ...key, name: 'other' }, 'uid', permissions),
      first.functionUser(key, 'uid2', permissions),
      first.functionUser(key, 'uid', { ...permissions, pub: { allow: [] } }),
    ].map((one) => one.user);
    expect(new Set([user.user, ...users]).size).toBe(4);
  });

  test('the seeds are those that NATS reads', () => {
    const keys = openOperatorKeys(newOperatorSeed());
    const { user, creds } = keys.functionUser({ namespace: 'lab', name: 'hello' }, 'uid', {
      pub: { allow: [] },
      sub: { allow: [] },
    });
    expect(credsAuthenticator(bytes(creds))('nonce')).toMatchObject({ nkey: user });
    expect(nkeys.fromSeed(bytes(keys.accountsSeed)).getPublicKey()).toMatch(/^A/);
  });

  test('what is no seed is refused without being told', () => {
    const { accountsSeed } = openOperatorKeys(newOperatorSeed());
    for (const wrong of ['', 'SOSECRET', accountsSeed]) {
      expect(() => openOperatorKeys(wrong)).toThrow(/not a seed that begins with SO/);
    }
    expect(() => openOperatorKeys('SOSECRET')).not.toThrow(/SECRET/);
    expect(() => openAccountKeys(newOperatorSeed())).toThrow(/begins with SA/);
  });
});
