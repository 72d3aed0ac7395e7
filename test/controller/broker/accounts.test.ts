import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { AckPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { PermissionViolationError, headers as newHeaders } from '@nats-io/nats-core';
import { credsAuthenticator, type NatsConnection } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import {
  newOperatorSeed,
  openOperatorKeys,
  type OperatorKeys,
} from '../../../controller/broker/account-keys.ts';
import { keepAccounts, type Accounts } from '../../../controller/broker/accounts.ts';
import { openDirectoryStore } from '../../../controller/stores/directory.ts';
import type { Store } from '../../../controller/stores/store.ts';
import type { FunctionObject } from '../../../crds/function.ts';
import { inboxPrefix, permissionsOf } from '../../../runtime/account.ts';
import { openNats, type NatsLink } from '../../../runtime/clients/nats.ts';
import type { NatsSettings } from '../../../runtime/config.ts';
import { consumerLabels } from '../../../runtime/consumer.ts';
import { openDeadLetters } from '../../../runtime/dead-letters.ts';
import { openInbox } from '../../../runtime/inbox.ts';
import { openLog } from '../../../runtime/log.ts';
import { startedHost } from '../../runtime/started-host.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startNats, type NatsServer } from '../../support/nats.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });
const site = 'local';
/** Says by which trigger it was called; an event that says so makes it fail. */
const code = `exports.handler = (event, context) => {
  if (event?.fail) throw new Error('as it was told');
  return { by: context.trigger?.name ?? 'invoke' };
}`;
const flows = {
  package: { inline: code },
  retry: { maxAttempts: 2, minBackoffMs: 1, maxBackoffMs: 1 },
  onSuccess: { nats: { subject: 'done' } },
  triggers: [
    { name: 'asks', nats: { subject: 'lab.ask' } },
    { name: 'notes', nats: { subject: 'lab.note', broadcast: true, reply: 'Never' } },
    { name: 'orders', jetstream: { stream: 'ORDERS', subject: 'orders.>' } },
    { name: 'all', jetstream: { stream: 'ORDERS' } },
    { name: 'tick', schedule: { every: '1s' } },
  ],
};

interface Lab {
  readonly server: NatsServer;
  /** Where the server keeps what it was told of accounts. */
  readonly directory: string;
  readonly keys: OperatorKeys;
  readonly store: Store;
  readonly accounts: Accounts;
  put(namespace: string, name: string, spec: object): Promise<FunctionObject>;
  /** Somebody of the namespace who may do everything there. */
  administrator(namespace: string): Promise<NatsConnection>;
  link(namespace: string): Promise<NatsLink>;
  /** What a pod of the function is given. */
  settingsOf(object: FunctionObject): Promise<NatsSettings>;
  /** A client with nothing but the function's credentials. */
  clientOf(object: FunctionObject): Promise<NatsConnection>;
}

async function lab(): Promise<Lab> {
  const keys = openOperatorKeys(newOperatorSeed());
  const folder = await temporaryFolder();
  const directory = join(folder, 'accounts');
  const server = await startNats({ config: keys.serverConfig(directory) });
  const store = await openDirectoryStore({ dir: await temporaryFolder() });
  const accounts = keepAccounts({
    keys,
    nats: { url: server.url },
    site,
    store,
    owner: { id: 'test', place: 'here' },
    graceMs: 0,
    settleMs: 50,
    log,
  });
  closeLater(() => accounts.stop());
  const authenticator = (creds: string) => ({
    authenticator: credsAuthenticator(new TextEncoder().encode(creds)),
  });
  const userOf = ({ metadata, spec }: FunctionObject): string =>
    keys.functionUser(metadata, metadata.uid, permissionsOf(site, metadata, spec)).creds;
  return {
    server,
    directory,
    keys,
    store,
    accounts,
    put: (namespace, name, spec) =>
      store.put({
        apiVersion: 'atoll.dev/v1alpha1',
        kind: 'Function',
        metadata: { namespace, name },
        spec,
      }),
    administrator: (namespace) => server.connect(authenticator(keys.administrator(namespace, 'test'))),
    async link(namespace) {
      const creds = keys.administrator(namespace, 'test');
      const link = openNats({ url: server.url }, { name: 'test', site, log, creds });
      closeLater(() => link.close());
      await link.connection();
      return link;
    },
    async settingsOf(object) {
      const credentialsFile = join(folder, `${object.metadata.uid}.json`);
      await writeFile(credentialsFile, JSON.stringify({ creds: userOf(object) }), { mode: 0o600 });
      return { url: server.url, credentialsFile, inboxPrefix: inboxPrefix(site, object.metadata) };
    },
    clientOf: (object) =>
      server.connect({ ...authenticator(userOf(object)), inboxPrefix: inboxPrefix(site, object.metadata) }),
  };
}

test('with its own user and nothing more a function serves all its triggers', async () => {
  const { put, accounts, administrator, link, settingsOf, server } = await lab();
  const object = await put('a', 'flows', flows);
  await accounts.ready('a');
  const nats = await administrator('a');
  await (await jetstreamManager(nats)).streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  const done: string[] = [];
  nats.subscribe('done', {
    callback: (_error, message) => {
      const envelope = message.json<{ responsePayload: { by: string } }>();
      done.push(envelope.responsePayload.by);
    },
  });
  const { namespace, name, uid, generation } = object.metadata;
  const config = { namespace, name, uid, generation, spec: object.spec, env: [] };
  const host = await startedHost([config], { nats: await settingsOf(object) });
  await host.untilReady(config);

  const answer = await nats.request('lab.ask', '{}', { timeout: 10_000 });
  expect(answer.json()).toEqual({ by: 'asks' });
  nats.publish('lab.note', '{}');
  await jetstream(nats).publish('orders.1', '{}');
  const admin = await link('a');
  const inbox = openInbox(admin, { site, log });
  await inbox.put(object.metadata, {
    id: 'later',
    trigger: 'invoke',
    kind: 'invoke',
    subject: '',
    time: Date.now(),
    attempt: 1,
    headers: {},
    encoding: 'json',
    data: Buffer.from('{}'),
  });
  for (const by of ['notes', 'orders', 'all', 'tick', 'invoke']) {
    await expect.poll(() => done, { timeout: 60_000 }).toContain(by);
  }
  await jetstream(nats).publish('orders.2', '{"fail":true}');
  const deadLetters = openDeadLetters(admin, { site, log });
  const dead = (): Promise<unknown[]> => deadLetters.list(object.metadata);
  await expect.poll(dead, { timeout: 60_000 }).toMatchObject([
    { reason: 'RetriesExhausted', attempts: 2 },
    { reason: 'RetriesExhausted', attempts: 2 },
  ]);
  expect(JSON.stringify(host.logs)).not.toMatch(/Permissions Violation/);
  expect(server.output()).not.toMatch(/SU[A-Z0-9]{40}/);
});

test('what spec.permissions names its handler reaches with that user, and nothing else', async () => {
  const { put, accounts, administrator, settingsOf } = await lab();
  const code = `
    import { kv, nats } from 'atoll';
    const told = (promise) => promise.then((value) => value ?? 'done', ({ code }) => code);
    export const handler = async () => [
      await told(nats.publish('alarms.a', 'x')), await told(nats.publish('other.a', 'x')),
      await told(nats.request('lab.ask').then((reply) => reply.string())), await told(nats.request('lab.more')),
      await told(nats.publish('alarms.kept', 'x', { msgId: 'one' })),
      await told(kv('settings').create('robots.r1', 'x')), await told(kv('settings').put('other', 'x')),
      await told(kv('limits').get('speed').then((entry) => entry.string())), await told(kv('limits').put('speed', '9')),
    ];`;
  const spec = {
    package: { inline: code },
    permissions: { publish: ['alarms.>', 'kv:settings/robots.*'], call: ['lab.ask', 'kv:limits'] },
  };
  const [named, silent] = [
    await put('a', 'named', spec),
    await put('a', 'silent', { package: spec.package }),
  ];
  await accounts.ready('a');
  const nats = await administrator('a');
  await (await jetstreamManager(nats)).streams.add({ name: 'KEPT', subjects: ['alarms.kept'] });
  const kvm = new Kvm(nats);
  await kvm.create('settings');
  await (await kvm.create('limits')).put('speed', '7');
  for (const subject of ['lab.ask', 'lab.more']) {
    nats.subscribe(subject, { callback: (_error, message) => void message.respond('answer') });
  }
  await nats.flush();
  const ask = async (object: FunctionObject, permissions?: 'required'): Promise<unknown> => {
    const { namespace, name, uid, generation } = object.metadata;
    const config = { namespace, name, uid, generation, spec: object.spec, env: [] };
    const settings = { nats: await settingsOf(object), ...(permissions && { permissions }) };
    const host = await startedHost([config], settings);
    await host.untilReady(config);
    const { body } = await host.ask(`/invoke/${namespace}/${name}`, {});
    return JSON.parse(body);
  };
  const refused = 'NotAllowed';
  expect(await ask(named, 'required')).toEqual([
    ...['done', refused, 'answer', refused, 'done'],
    ...[expect.any(Number), refused, '7', refused],
  ]);
  expect(await ask(silent, 'required')).toEqual(Array.from({ length: 9 }, () => refused));
  // Of a host that asked for all of it all the same the server lets nothing through.
  expect(await ask(silent)).toEqual(Array.from({ length: 9 }, () => refused));
});

test('what other functions and other namespaces have is out of its reach', async () => {
  const { put, accounts, administrator, clientOf, server } = await lab();
  await put('a', 'flows', flows);
  const other = await put('a', 'other', { package: { inline: code } });
  await put('b', 'flows', flows);
  await Promise.all([accounts.ready('a'), accounts.ready('b')]);
  const [a, b] = [await administrator('a'), await administrator('b')];
  await (await jetstreamManager(a)).streams.add({ name: 'ORDERS', subjects: ['orders.>'] });
  const client = await clientOf(other);
  const refused = new Set<string>();
  void (async () => {
    for await (const status of client.status()) {
      if (status.type === 'error' && status.error instanceof PermissionViolationError) {
        refused.add(`${status.error.operation} ${status.error.subject}`);
      }
    }
  })();

  const listens = [
    ...['>', '*', 'lab.ask', 'orders.>', 'done', '$SYS.>', '$JS.>', '$JS.ACK.>', '$KV.>', '_INBOX.>'],
    ...['_INBOX.local.>', '_INBOX.local.a_flows.>', '$KV.ATOLL_STATE.>', '$KV.ATOLL_STATE.*.a.flows.>'],
    ...['atoll.>', 'atoll.local.inbox.a.flows.>', 'atoll.local.dead.a.flows.>'],
  ];
  const heard: string[] = [];
  for (const subject of listens) {
    client.subscribe(subject, {
      callback: (error, message) => void (error ?? heard.push(message.subject)),
    });
  }
  const says = [
    ...['lab.ask', 'lab.note', 'orders.9', 'done', 'atoll.local.inbox.a.flows.asks'],
    ...['atoll.local.dead.a.flows.asks', '_INBOX.local.a_flows.x', '$KV.ATOLL_STATE.schedule.a.flows.tick'],
    ...['$SYS.REQ.CLAIMS.UPDATE', '$SYS.REQ.ACCOUNT.PING.CONNZ', '$JS.API.STREAM.LIST'],
    ...['CREATE', 'UPDATE', 'DELETE', 'PURGE', 'MSG.GET', 'MSG.DELETE', 'SNAPSHOT'].map(
      (verb) => `$JS.API.STREAM.${verb}.ATOLL_INBOX`,
    ),
    ...['$JS.API.STREAM.CREATE.MINE', '$JS.API.STREAM.INFO.ORDERS', '$JS.API.STREAM.MSG.GET.ATOLL_DEAD'],
    '$JS.API.DIRECT.GET.KV_ATOLL_STATE',
    '$JS.API.DIRECT.GET.KV_ATOLL_STATE.$KV.ATOLL_STATE.schedule.a.flows.tick',
    '$JS.API.CONSUMER.CREATE.KV_ATOLL_STATE.x.$KV.ATOLL_STATE.schedule.a.other.t',
    // Without its own filter a consumer would be given everybody's events.
    ...['', '.atoll.local.inbox.>', '.atoll.local.inbox.a.flows.>'].map(
      (filter) => `$JS.API.CONSUMER.CREATE.ATOLL_INBOX.a_other${filter}`,
    ),
    '$JS.API.CONSUMER.DURABLE.CREATE.ATOLL_INBOX.a_other',
    '$JS.API.CONSUMER.CREATE.ATOLL_DEAD.a_other.atoll.local.dead.>',
    '$JS.API.CONSUMER.CREATE.ORDERS.a_other_orders',
    ...['CREATE', 'INFO', 'DELETE', 'MSG.NEXT'].map((verb) => `$JS.API.CONSUMER.${verb}.ATOLL_INBOX.a_flows`),
    ...['$JS.API.CONSUMER.LIST.ATOLL_INBOX', '$JS.ACK.ATOLL_INBOX.a_flows.1.1.1.1.1'],
  ];
  const arrived: string[] = [];
  const watches = [a, b].map((one) =>
    one.subscribe('>', {
      callback: (_error, { subject, headers }) => void (headers?.has('Intruder') && arrived.push(subject)),
    }),
  );
  await Promise.all([a.flush(), b.flush()]);
  const headers = newHeaders();
  headers.set('Intruder', 'yes');
  for (const subject of says) client.publish(subject, '{}', { headers });
  await client.flush();
  await Promise.all([a.flush(), b.flush()]);
  expect([...refused].sort()).toEqual(
    [...listens.map((one) => `subscription ${one}`), ...says.map((one) => `publish ${one}`)].sort(),
  );
  expect(arrived).toEqual([]);
  for (const watch of watches) watch.unsubscribe();

  // The filter in the subject and that in the request have to be the same.
  const own = '$JS.API.CONSUMER.CREATE.ATOLL_INBOX.a_other.atoll.local.inbox.a.other.>';
  for (const filter of [undefined, 'atoll.local.inbox.>', 'atoll.local.inbox.a.flows.>']) {
    const config = {
      durable_name: 'a_other',
      name: 'a_other',
      ack_policy: 'explicit',
      filter_subject: filter,
    };
    const request = JSON.stringify({ stream_name: 'ATOLL_INBOX', config, action: '' });
    const answer = (await client.request(own, request)).json<{ error?: { description: string } }>();
    expect(answer.error?.description).toMatch(/filter/);
  }
  // One name in two namespaces: two accounts, which know nothing of each other.
  await jetstream(a).publish('atoll.local.inbox.a.flows.asks', '{}');
  expect((await (await jetstreamManager(b)).streams.info('ATOLL_INBOX')).state.messages).toBe(0);
  a.subscribe('lab.ask', { callback: (_error, message) => void message.respond('a') });
  await a.flush();
  await expect(b.request('lab.ask', '{}', { timeout: 2000 })).rejects.toThrow(/no responders/i);
  expect(heard).toEqual([]);
  // Who has no user of ours comes in nowhere.
  await expect(server.connect({ reconnect: false })).rejects.toThrow(/authorization/i);
});

test('a server that forgot the accounts is told again, and what deleted functions left in each is swept', async () => {
  const { put, accounts, administrator, store, server, directory } = await lab();
  const gone = await put('a', 'gone', { package: { inline: code } });
  await put('b', 'stays', { package: { inline: code } });
  await Promise.all([accounts.ready('a'), accounts.ready('b')]);
  const a = await administrator('a');
  const manager = await jetstreamManager(a);
  await manager.consumers.add('ATOLL_INBOX', {
    durable_name: 'a_gone',
    ack_policy: AckPolicy.Explicit,
    filter_subject: 'atoll.local.inbox.a.gone.>',
    metadata: { [consumerLabels.site]: site, [consumerLabels.uid]: gone.metadata.uid },
  });
  await jetstream(a).publish('atoll.local.inbox.a.gone.invoke', '{}');
  await store.remove(gone.metadata);
  const deadLetters = async (): Promise<number> => (await manager.streams.info('ATOLL_DEAD')).state.messages;
  await expect.poll(deadLetters, { timeout: 60_000 }).toBe(1);
  const consumers = await manager.consumers.list('ATOLL_INBOX').next();
  expect(consumers).toEqual([]);

  await server.stop();
  await rm(directory, { recursive: true });
  await server.restart();
  const again = await until(() => administrator('a'));
  expect((await (await jetstreamManager(again)).streams.info('ATOLL_DEAD')).state.messages).toBe(1);
  await until(() => administrator('b'));
});

/** What was not told yet is refused. */
async function until<T>(what: () => Promise<T>): Promise<T> {
  let result: T | undefined;
  const attempt = async (): Promise<boolean> => {
    result = await what().catch(() => undefined);
    return result !== undefined;
  };
  await expect.poll(attempt, { timeout: 60_000 }).toBe(true);
  return result!;
}
