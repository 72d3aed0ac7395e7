import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { expect, test } from 'vitest';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNats } from '../support/nats.ts';
import { functionConfig, startedHost } from './started-host.ts';

const pid = 'exports.handler = () => process.pid';
const answering = (value: number): string => `exports.handler = () => ${value}`;

/** A place where handlers wait until they are let go. */
async function gate(): Promise<{ code: string; entered: Promise<void>; open(): void }> {
  const entered = Promise.withResolvers<void>();
  const waiting: ServerResponse[] = [];
  const server = createServer((_request, response) => {
    waiting.push(response);
    entered.resolve();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const open = (): void => {
    for (const response of waiting.splice(0)) response.end('go on');
  };
  closeLater(async () => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return {
    code: `exports.handler = async () => (await fetch('http://127.0.0.1:${port}/')).text()`,
    entered: entered.promise,
    open,
  };
}

test('the host is healthy at once, and ready when every function has code that answers', async () => {
  const host = await startedHost([functionConfig('later')]);
  expect(await host.ask('/healthz')).toMatchObject({ status: 200, body: 'ok\n' });
  expect(await host.ask('/readyz')).toMatchObject({ status: 503, body: 'running; not ready: later\n' });
  const now = functionConfig('later', answering(1), { generation: 2 });
  await host.reload([now]);
  await host.untilReady(now);
  expect(await host.ask('/readyz')).toMatchObject({ status: 200, body: 'ok\n' });
  expect(await host.ask('/nothing')).toMatchObject({ status: 404 });
});

test('a host that drains is not ready any more, and answers what it had taken', async () => {
  const slow = await gate();
  const held = functionConfig('held', slow.code);
  const host = await startedHost([held]);
  await host.untilReady(held);
  const answer = host.invoke('held');
  await slow.entered;
  const stopped = host.stop();
  expect(await host.ask('/readyz')).toMatchObject({ status: 503, body: 'stopping; not ready: -\n' });
  slow.open();
  expect(await answer).toBe('go on');
  await stopped;
});

test('a host that says goodbye takes no more events, goes on answering over HTTP, and ends what it had taken', async () => {
  const slow = await gate();
  const triggers = (subject: string): object => ({
    triggers: [
      { name: 'asked', nats: { subject } },
      { name: 'stream', jetstream: { stream: 'GOODBYE', subject: `${subject}.stored` } },
    ],
  });
  const held = functionConfig('held', slow.code, { spec: triggers('held') });
  const plain = functionConfig('plain', answering(1), { spec: triggers('plain') });
  const server = await startNats();
  const client = await server.connect();
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'GOODBYE', subjects: ['held.stored', 'plain.stored'] });
  const host = await startedHost([held, plain], { nats: { url: server.url }, goodbyeMs: 4_000 });
  await host.untilReady(held, plain);
  const lines = await host.watch();
  const answer = client.request('held', '', { timeout: 30_000 });
  await slow.entered;
  const stopped = host.stop();
  await Array.fromAsync(lines);
  await expect(client.request('plain', '')).rejects.toThrow(/no responders/i);
  await jetstream(client).publish('plain.stored', '1');
  expect(await host.invoke('plain')).toBe(1);
  expect(await host.ask('/readyz')).toMatchObject({ status: 200 });
  expect(await host.ask('/status')).toMatchObject({ status: 503 });
  slow.open();
  expect((await answer).json()).toBe('go on');
  await stopped;
  expect(await manager.consumers.info('GOODBYE', 'default_plain_stream')).toMatchObject({
    delivered: { consumer_seq: 0 },
    num_pending: 1,
  });
});

test('a watcher is told what is there, then what changes and what goes; stopping the host ends it', async () => {
  const one = functionConfig('one', answering(1));
  const host = await startedHost([one]);
  await host.untilReady(one);
  const lines = await host.watch();
  expect((await lines.next()).value).toMatchObject({
    function: { name: 'one', uid: 'uid-one', generation: 1, handler: { ready: true } },
  });
  await host.reload([]);
  expect((await lines.next()).value).toEqual({ removed: { namespace: 'default', name: 'one' } });
  const two = functionConfig('two', answering(2));
  await host.reload([two]);
  expect((await lines.next()).value).toMatchObject({ function: { name: 'two', handler: { ready: false } } });
  await host.untilReady(two);
  const { body } = await host.ask('/status');
  expect(JSON.parse(body)).toMatchObject({ functions: [{ name: 'two', handler: { ready: true } }] });
  await host.stop();
  const rest = await Array.fromAsync(lines);
  expect(rest.at(-1)).toMatchObject({ function: { name: 'two', handler: { ready: true } } });
});

test('functions come, change and go with the config file, and the others keep their process', async () => {
  const stays = functionConfig('stays', pid);
  const changes = functionConfig('changes', answering(1));
  const goes = functionConfig('goes', answering(1));
  const host = await startedHost([stays, changes, goes]);
  await host.untilReady(stays, changes, goes);
  const before = await host.invoke('stays');
  const changed = functionConfig('changes', answering(2), { generation: 2 });
  const comes = functionConfig('comes', answering(3));
  await host.reload([stays, changed, comes]);
  await host.untilReady(changed, comes);
  expect([await host.invoke('changes'), await host.invoke('comes')]).toEqual([2, 3]);
  expect(await host.invoke('stays')).toBe(before);
  expect(await host.ask('/invoke/default/goes', 1)).toMatchObject({ status: 404 });
});

test('a function that drains slowly holds up no other; only its successor of the same name waits for it', async () => {
  const slow = await gate();
  const held = functionConfig('held', slow.code);
  const host = await startedHost([held]);
  await host.untilReady(held);
  const answer = host.invoke('held');
  await slow.entered;
  const successor = functionConfig('held', answering(2), { uid: 'uid-anew' });
  const other = functionConfig('other', answering(3));
  await host.reload([successor, other]);
  await host.untilReady(other);
  expect(await host.invoke('other')).toBe(3);
  expect(host.logs.filter(({ message }) => message === 'version in service')).toHaveLength(2);
  slow.open();
  expect(await answer).toBe('go on');
  await host.untilReady(successor);
  expect(await host.invoke('held')).toBe(2);
});

test('what a handler logs is kept from its level on, and what the host says from the system level on', async () => {
  const code = `exports.handler = async (event) => {
    console.debug('fine');
    process.stdout.write('{"level":"debug","message":"finer","joint":3}\\n');
    if (event) throw new Error('no');
  }`;
  const levels = (generation: number, ours: string) => {
    const env = [
      { name: 'AWS_LAMBDA_LOG_LEVEL', value: 'DEBUG' },
      { name: 'ATOLL_SYSTEM_LOG_LEVEL', value: ours },
    ];
    return { ...functionConfig('talks', code, { generation }), env };
  };
  const host = await startedHost([levels(1, 'INFO')]);
  await host.untilReady(levels(1, 'INFO'));
  await host.invoke('talks');
  expect(await host.untilLogged(({ message }) => message === 'fine')).toMatchObject({ level: 'DEBUG' });
  expect(await host.untilLogged(({ message }) => message === 'finer')).toMatchObject({
    level: 'DEBUG',
    namespace: 'default',
    function: 'talks',
    source: 'stdout',
    joint: 3,
  });
  await host.untilLogged(({ message, level }) => message === 'REPORT' && level === 'INFO');

  await host.reload([levels(2, 'WARN')]);
  await host.untilReady(levels(2, 'WARN'));
  const before = host.logs.length;
  await host.invoke('talks');
  expect((await host.ask('/invoke/default/talks', 1)).headers['atoll-outcome']).toBe('threw');
  // In the order in which they were written: that of the failure is the first report, and the last word.
  await host.untilLogged(({ message, level }) => message === 'REPORT' && level === 'WARN');
  const ours = host.logs.slice(before).filter(({ source }) => source === 'report' || source === 'platform');
  expect(ours.map(({ level, message }) => `${level} ${message}`)).toEqual([
    'ERROR invocation failed',
    'WARN REPORT',
  ]);
  expect(host.logs.slice(before).some(({ message }) => message === 'fine')).toBe(true);
});

test('a module that spins while it is imported holds up neither its successor nor the end of the host', async () => {
  const spins = (generation: number) => functionConfig('later', `for (;;) ${generation};`, { generation });
  const mended = functionConfig('later', "exports.handler = async () => 'mended'", { generation: 2 });
  const host = await startedHost([spins(1)]);
  const starting = async (generation: number): Promise<void> => {
    for await (const line of await host.watch()) {
      if (!('function' in line) || line.function.generation !== generation) continue;
      if (line.function.handler.reason === 'Starting' && line.function.package.ready) return;
    }
  };
  await starting(1);
  await host.reload([mended]);
  await host.untilReady(mended);
  expect(await host.invoke('later')).toBe('mended');
  await host.reload([spins(3)]);
  await starting(3);
  await host.stop();
  // Nobody waited for the ten seconds to be over.
  expect(host.logs.filter(({ errorType }) => errorType === 'Runtime.InitTimeout')).toEqual([]);
});

test('a config that cannot be read is told, and everything stays as it was', async () => {
  const one = functionConfig('one', answering(1));
  const host = await startedHost([one]);
  await host.untilReady(one);
  await host.reload('{ "site": "lo');
  expect(await host.invoke('one')).toBe(1);
  await host.untilLogged(({ level, message }) => level === 'ERROR' && message.includes('could not be read'));
  const two = functionConfig('two', answering(2));
  await host.reload([one, two]);
  await host.untilReady(two);
});

test('/metrics has every figure of a function, and no subject, topic or id as a label', async () => {
  const server = await startNats();
  const client = await server.connect();
  await (await jetstreamManager(client)).streams.add({ name: 'ORDERS', subjects: ['orders.secret'] });
  const code = `exports.handler = (event) => {
    if (event === 'exit') process.exit(3);
    if (event === 'fail') throw new Error('no');
    return event;
  }`;
  const orders = functionConfig('orders', code, {
    spec: {
      triggers: [{ name: 'placed', jetstream: { stream: 'ORDERS', startAt: 'All' } }],
      retry: { maxAttempts: 2, minBackoffMs: 1, maxBackoffMs: 1 },
    },
  });
  const host = await startedHost([orders], { nats: { url: server.url } });
  await host.untilReady(orders);
  for (const event of ['ok', 'fail', 'exit']) {
    const stored = await client.request('orders.secret', JSON.stringify(event));
    const id = `ORDERS:${stored.json<{ seq: number }>().seq}`;
    const ended = event === 'ok' ? 'REPORT' : 'event dead-lettered';
    await host.untilLogged(({ message, requestId }) => message === ended && requestId === id);
  }
  // The memory of handler processes is looked at every half second.
  await expect
    .poll(async () => (await host.ask('/metrics')).body, { timeout: 60_000 })
    .toContain('atoll_handler_memory_bytes{');
  const { body, headers } = await host.ask('/metrics');
  expect(headers['content-type']).toContain('text/plain');
  const of = 'namespace="default",function="orders"';
  for (const sample of [
    `atoll_invocations_total{${of},trigger="placed",outcome="returned"} 1`,
    `atoll_invocations_total{${of},trigger="placed",outcome="threw"} 2`,
    `atoll_invocations_total{${of},trigger="placed",outcome="crashed"} 2`,
    `atoll_invocation_duration_seconds_count{${of},trigger="placed"} 5`,
    `atoll_queue_wait_seconds_count{${of},trigger="placed"} 3`,
    `atoll_invocations_in_flight{${of}} 0`,
    `atoll_cold_starts_total{${of}} 2`,
    `atoll_retries_total{${of},trigger="placed"} 2`,
    `atoll_dead_letters_total{${of},trigger="placed",reason="RetriesExhausted"} 2`,
    `atoll_trigger_connected{${of},trigger="placed"} 1`,
    `atoll_trigger_lag_events{${of},trigger="placed"} 0`,
    `atoll_process_restarts_total{${of},reason="crash"} 2`,
  ]) {
    expect(body.split('\n')).toContain(sample);
  }
  expect(body).not.toContain('orders.secret');
  expect(body).not.toContain('ORDERS');
});

test('with timeoutSeconds: 30 a handler may import for 11 s, and the status says that it takes long', async () => {
  const slow = functionConfig(
    'slow',
    'await new Promise((resolve) => setTimeout(resolve, 11_000)); export const handler = () => "at last";',
    { spec: { timeoutSeconds: 30 } },
  );
  const host = await startedHost([slow]);
  const said = new Set<string>();
  for await (const line of await host.watch()) {
    if (!('function' in line)) continue;
    const { ready, reason, message } = line.function.handler;
    said.add(`${reason}: ${message}`);
    if (ready) break;
  }
  expect([...said]).toContain(
    'Starting: importing the module of handler index.handler takes longer than 10 s; it may take 30 s, as an invocation may',
  );
  expect(await host.invoke('slow')).toBe('at last');
});

test('variables come from files and from facts of the pod, and a file that is missing is told of by what it holds', async () => {
  const folder = await temporaryFolder();
  const [token, other] = [join(folder, 'TOKEN'), join(folder, 'OTHER')];
  const valueFrom = { secretKeyRef: { name: 'robot', key: 'token' } };
  const wants = {
    ...functionConfig('wants', 'exports.handler = (name) => process.env[name] ?? null', {
      spec: { env: [{ name: 'TOKEN', valueFrom }] },
    }),
    env: [
      { name: 'TOKEN', file: token },
      { name: 'OTHER', file: other, optional: true },
      { name: 'NODE', variable: 'ATOLL_FIELD_NODE' },
    ],
  };
  process.env['ATOLL_FIELD_NODE'] = 'robot-1';
  closeLater(async () => void delete process.env['ATOLL_FIELD_NODE']);
  const host = await startedHost([wants]);
  for await (const line of await host.watch()) {
    if (!('function' in line) || line.function.handler.reason !== 'SecretNotFound') continue;
    expect(line.function.handler.message).toBe(
      `env TOKEN: ${token} is missing: it holds the key "token" of the Secret "robot"`,
    );
    break;
  }
  await writeFile(token, 'hunter2');
  await host.untilReady(wants);
  const values = await Promise.all(['TOKEN', 'OTHER', 'NODE'].map((name) => host.invoke('wants', name)));
  expect(values).toEqual(['hunter2', null, 'robot-1']);
});
