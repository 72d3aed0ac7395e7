import { join } from 'node:path';
import { Writable } from 'node:stream';
import { jetstreamManager } from '@nats-io/jetstream';
import { credsAuthenticator } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { newOperatorSeed, openAccountKeys, openOperatorKeys } from '../../controller/broker/account-keys.ts';
import { keepAccounts } from '../../controller/broker/accounts.ts';
import { openDirectoryStore } from '../../controller/stores/directory.ts';
import { openBrokers } from '../../gateway/brokers.ts';
import type { TriggerEvent } from '../../runtime/event.ts';
import { openLog } from '../../runtime/log.ts';
import { makeAuthority } from '../support/certificates.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNats } from '../support/nats.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const event: TriggerEvent = {
  id: 'one',
  trigger: 'invoke',
  kind: 'invoke',
  subject: '',
  time: Date.now(),
  attempt: 1,
  headers: {},
  encoding: 'json',
  data: Buffer.from('{}'),
};

test('over TLS with a certificate of its own the gateway reaches inbox and dead letters of each namespace by the accounts’ seed, and nothing of one that has none', async () => {
  const keys = openOperatorKeys(newOperatorSeed());
  const authority = await makeAuthority();
  const [serves, calls] = [await authority.issue('server'), await authority.issue('gateway')];
  const server = await startNats({
    config: [
      `tls { cert_file: "${serves.certificate}", key_file: "${serves.key}", ca_file: "${authority.ca}", verify: true }`,
      keys.serverConfig(join(await temporaryFolder(), 'accounts')),
    ].join('\n'),
  });
  const nats = { url: server.url.replace('nats:', 'tls:'), tls: { ca: authority.ca, ...calls } };
  const store = await openDirectoryStore({ dir: await temporaryFolder() });
  for (const namespace of ['a', 'b']) {
    await store.put({
      apiVersion: 'atoll.dev/v1alpha1',
      kind: 'Function',
      metadata: { namespace, name: 'hello' },
      spec: {},
    });
  }
  const site = 'local';
  const owner = { id: 'test', place: 'here' };
  const accounts = keepAccounts({ keys, nats, site, store, owner, log });
  closeLater(() => accounts.stop());
  await Promise.all([accounts.ready('a'), accounts.ready('b')]);

  const brokers = openBrokers(openAccountKeys(keys.accountsSeed), nats, { site, log });
  closeLater(() => brokers.close());
  const target = { namespace: 'a', name: 'hello' };
  await brokers.inbox.put(target, event);
  const fault = { code: 'Error', message: 'no' };
  await brokers.deadLetters.put(target, event, fault, 'RetriesExhausted');
  expect(await brokers.deadLetters.list(target)).toMatchObject([{ id: 'one', namespace: 'a' }]);
  const letter = await brokers.deadLetters.list(target);
  expect(await brokers.deadLetters.show(target, letter[0]!.seq)).toMatchObject({ text: '{}' });
  expect(await brokers.deadLetters.list({ namespace: 'b', name: 'hello' })).toEqual([]);
  const creds = new TextEncoder().encode(keys.administrator('a', 'test'));
  const client = await server.connect({
    authenticator: credsAuthenticator(creds),
    tls: { caFile: authority.ca, certFile: calls.certificate, keyFile: calls.key },
  });
  const a = await jetstreamManager(client);
  expect((await a.streams.info('ATOLL_INBOX')).state.messages).toBe(1);

  const nowhere = { namespace: 'c', name: 'hello' };
  await expect(brokers.inbox.put(nowhere, event)).rejects.toMatchObject({ code: 'InboxUnavailable' });
  await expect(brokers.deadLetters.list(nowhere)).rejects.toMatchObject({ code: 'NatsUnavailable' });
});
