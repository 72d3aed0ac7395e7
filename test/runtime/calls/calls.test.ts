/** Handlers in processes of their own, a host, and the brokers that it has: what is called arrives, or is refused. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Kvm } from '@nats-io/kv';
import { jetstreamManager } from '@nats-io/jetstream';
import type { Msg, NatsConnection } from '@nats-io/transport-node';
import mqtt, { type IPublishPacket } from 'mqtt';
import { expect, test, vi } from 'vitest';
import { maxHops } from '../../../runtime/host.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startMosquitto } from '../../support/mosquitto.ts';
import { startNats, type NatsOptions } from '../../support/nats.ts';
import { functionConfig, startedHost } from '../started-host.ts';

vi.setConfig({ testTimeout: 120_000 });
/** Other tests run beside these. */
const patient = { timeout: 20_000 };

const mebibyte = 1024 * 1024;

/** `(event, context) => …` with everything of 'atoll' in reach; what a call throws is answered as { code, message }. */
const handler = (body: string): string => `
  import { CallError, kv, mqtt, nats, ros } from 'atoll';
  const told = ({ code, message, retryable }) => ({ code, message, retryable });
  export const handler = async (event, context) => {
    try { ${body} } catch (error) { if (error instanceof CallError) return told(error); throw error; }
  };`;

async function running(
  body: string,
  given: { spec?: object; nats?: NatsOptions; mqtt?: { url: string }; permissions?: 'required' } = {},
) {
  const server = await startNats(given.nats);
  const client = await server.connect();
  const one = functionConfig('one', handler(body), { spec: { memory: '512Mi', ...given.spec } });
  const host = await startedHost([one], {
    nats: { url: server.url },
    ...(given.mqtt && { mqtt: given.mqtt }),
    ...(given.permissions && { permissions: given.permissions }),
  });
  await host.untilReady(one);
  return { server, client, host, invoke: (event?: unknown) => host.invoke('one', event) };
}

/** The next messages of a subject, once the server knows the subscription. */
async function listen(client: NatsConnection, subject: string) {
  const messages: Msg[] = [];
  client.subscribe(subject, { callback: (_error, message) => void messages.push(message) });
  await client.flush();
  return messages;
}

test('nats.publish: text, bytes, a value, nothing; headers, and one hop more than the event had', async () => {
  const { client, host } = await running(
    `for (const data of ['text', Buffer.from([0, 255]), { n: 1 }, undefined])
       await nats.publish('out.a', data, { headers: { Robot: 'r1', 'atoll-hops': '-5' } });`,
  );
  const messages = await listen(client, 'out.>');
  const { headers } = await host.ask(
    '/invoke/default/one',
    {},
    {
      'x-amzn-trace-id': 'Root=1-00000000-000000000000000000000000;Lineage=00000000:4',
    },
  );
  expect(headers['atoll-outcome']).toBe('returned');
  // The server had them before the handler returned.
  await client.flush();
  expect(messages.map(({ data }) => Buffer.from(data))).toEqual([
    Buffer.from('text'),
    Buffer.from([0, 255]),
    Buffer.from('{"n":1}'),
    Buffer.alloc(0),
  ]);
  for (const { headers: each } of messages) {
    expect(Object.fromEntries([...each!].map(([name, values]) => [name, values]))).toEqual({
      Robot: ['r1'],
      'Atoll-Hops': ['5'],
    });
  }
});

test('nats.publish with msgId is stored before it resolves, and stored once', async () => {
  const { client, invoke } = await running(
    `for (let n = 0; n < 2; n++) await nats.publish(event.subject, { n }, { msgId: 'the-one' });`,
  );
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'KEPT', subjects: ['kept.>'] });
  expect(await invoke({ subject: 'kept.a' })).toBeNull();
  const { state } = await manager.streams.info('KEPT');
  expect(state.messages).toBe(1);
  expect((await manager.streams.getMessage('KEPT', { seq: 1 }))!.header.get('Nats-Msg-Id')).toBe('the-one');
  expect(await invoke({ subject: 'nowhere.a' })).toMatchObject({
    code: 'StreamNotFound',
    message: expect.stringContaining('nowhere.a') as string,
  });
});

test('nats.request: the reply with its headers; nobody there; nobody who answers', async () => {
  const { client, invoke } = await running(
    `const reply = await nats.request(event.subject, { ask: 1 }, { headers: { Robot: 'r1' }, timeoutMs: event.timeoutMs });
     return { got: reply.json(), text: reply.string(), bytes: reply.data.length, headers: reply.headers };`,
  );
  client.subscribe('lab.ask', {
    callback: (_error, message) => {
      const headers = message.headers!;
      headers.set('Answer', 'yes');
      message.respond(JSON.stringify({ asked: message.json() }), { headers });
    },
  });
  client.subscribe('lab.silent', { callback: () => {} });
  await client.flush();
  expect(await invoke({ subject: 'lab.ask' })).toEqual({
    got: { asked: { ask: 1 } },
    text: '{"asked":{"ask":1}}',
    bytes: 19,
    headers: { Robot: 'r1', Answer: 'yes', 'Atoll-Hops': '1' },
  });
  expect(await invoke({ subject: 'lab.nobody' })).toMatchObject({ code: 'NoResponders', retryable: true });
  const begun = performance.now();
  expect(await invoke({ subject: 'lab.silent', timeoutMs: 200 })).toMatchObject({
    code: 'RequestTimeout',
    message: 'nats.request lab.silent: no answer within 200 ms',
  });
  expect(performance.now() - begun).toBeLessThan(20_000);
});

test('a request that nobody answers ends with its invocation, and the next one of the process has its own time', async () => {
  const { client, host } = await running(
    `if (event.ask) return await nats.request(event.ask).catch((error) => ({ same: error === context.signal.reason }));
     return context.getRemainingTimeInMillis();`,
    { spec: { timeoutSeconds: 3, concurrency: 4 } },
  );
  client.subscribe('lab.silent', { callback: () => {} });
  await client.flush();
  const late = await host.ask('/invoke/default/one', { ask: 'lab.silent' });
  expect(late.body).toContain('Task timed out after 3.00 seconds');
  expect(await host.invoke('one', {})).toBeGreaterThan(2_000);
});

test('two invocations in one process have a deadline each', async () => {
  const { client, host } = await running(
    `try { return (await nats.request('lab.slow', event)).json(); }
     finally { console.log('ended ' + event.n + ' aborted ' + context.signal.aborted); }`,
    { spec: { timeoutSeconds: 6, concurrency: 2 } },
  );
  const asked: Msg[] = [];
  client.subscribe('lab.slow', {
    callback: (_error, message) => void asked.push(message),
  });
  await client.flush();
  const first = host.ask('/invoke/default/one', { n: 1 });
  await expect.poll(() => asked.length, patient).toBe(1);
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  const second = host.ask('/invoke/default/one', { n: 2 });
  await expect.poll(() => asked.length, patient).toBe(2);
  // The first is out of time while the second has half of its own left, and is answered.
  expect((await first).body).toContain('Task timed out');
  asked[1]!.respond('"in time"');
  expect((await second).body).toBe('"in time"');
  await host.untilLogged(({ message }) => message === 'ended 1 aborted true');
  await host.untilLogged(({ message }) => message === 'ended 2 aborted false');
});

test('kv: put, get, create, update by revision, delete; a bucket that is not there', async () => {
  const { client, invoke } = await running(`
    const bucket = kv(event.bucket ?? 'settings');
    const failure = (promise) => promise.then(() => 'none', ({ code }) => code);
    const first = await bucket.put('speed', { kmh: 3 });
    const entry = await bucket.get('speed');
    const second = await bucket.update('speed', 'fast', first);
    return {
      entry: [entry.key, entry.revision === first, entry.json()],
      stale: await failure(bucket.update('speed', 'late', first)),
      there: await failure(bucket.create('speed', 'again')),
      created: await bucket.create('name', Buffer.from([1, 2])) > second,
      bytes: [...(await bucket.get('name')).data],
      staleDelete: await failure(bucket.delete('name', { revision: first })),
      deleted: [await failure(bucket.delete('name')), await bucket.get('name') === undefined],
      again: await failure(bucket.create('name', 'new')),
      missing: (await bucket.get('no.such.key')) === undefined,
      now: (await bucket.get('speed')).string(),
    };`);
  const settings = await new Kvm(client).create('settings');
  expect(await invoke({})).toEqual({
    entry: ['speed', true, { kmh: 3 }],
    stale: 'WrongRevision',
    there: 'WrongRevision',
    created: true,
    bytes: [1, 2],
    staleDelete: 'WrongRevision',
    deleted: ['none', true],
    again: 'none',
    missing: true,
    now: 'fast',
  });
  // As any client of NATS sees it.
  expect((await settings.get('speed'))!.string()).toBe('fast');
  expect((await settings.get('name'))!.string()).toBe('new');
  expect(await invoke({ bucket: 'none' })).toMatchObject({
    code: 'BucketNotFound',
    message: 'kv.put none: there is no key-value bucket none: "nats kv add none" makes it',
  });
});

test('kv: of many that update one key by the revision they read, each that wins once adds one', async () => {
  const { client, host } = await running(
    `const bucket = kv('counters');
     for (;;) {
       const entry = await bucket.get('n');
       try { return await bucket.update('n', String(Number(entry.string()) + 1), entry.revision); }
       catch ({ code }) { if (code !== 'WrongRevision') throw code; }
     }`,
    { spec: { concurrency: 16 } },
  );
  const counters = await new Kvm(client).create('counters');
  await counters.put('n', '0');
  const revisions = await Promise.all(Array.from({ length: 40 }, () => host.invoke('one', {})));
  expect(new Set(revisions).size).toBe(40);
  expect((await counters.get('n'))!.string()).toBe('40');
});

test('mqtt.publish over mosquitto: QoS, retain, and the count of hops as a user property', async () => {
  const broker = await startMosquitto();
  const { host, invoke } = await running(
    `await mqtt.publish('out/' + event.n, event.data ?? { n: event.n }, event.options);`,
    { mqtt: { url: broker.url } },
  );
  const client = await mqtt.connectAsync(broker.url, { protocolVersion: 5 });
  closeLater(() => client.endAsync());
  const packets: IPublishPacket[] = [];
  client.on('message', (_topic, _payload, packet) => void packets.push(packet));
  await client.subscribeAsync('out/#', { qos: 2 });
  await invoke({ n: 0, options: { qos: 0 } });
  await invoke({ n: 1 });
  await invoke({ n: 2, options: { qos: 2, retain: true } });
  await expect.poll(() => packets.length, patient).toBe(3);
  expect(packets.map(({ topic, payload, qos }) => [topic, String(payload), qos])).toEqual([
    ['out/0', '{"n":0}', 0],
    ['out/1', '{"n":1}', 1],
    ['out/2', '{"n":2}', 2],
  ]);
  expect(packets.map(({ properties }) => ({ ...properties?.userProperties }))).toEqual(
    Array.from({ length: 3 }, () => ({ 'Atoll-Hops': '1' })),
  );
  const later = await mqtt.connectAsync(broker.url);
  closeLater(() => later.endAsync());
  const kept = new Promise<string>((resolve) => later.once('message', (topic) => resolve(topic)));
  await later.subscribeAsync('out/#');
  expect(await kept).toBe('out/2');
  expect(await invoke({ n: 3, options: { qos: 3 } })).toMatchObject({ code: 'InvalidRequest' });
  void host;
});

test('mqtt.publish over the nats-server’s own listener', async () => {
  const server = await startNats({ mqtt: true });
  const client = await server.connect();
  const one = functionConfig('one', handler(`await mqtt.publish('a/b', 'hello');`));
  const host = await startedHost([one], { nats: { url: server.url }, mqtt: { url: server.mqttUrl } });
  await host.untilReady(one);
  const messages = await listen(client, 'a.b');
  expect(await host.invoke('one', {})).toBeNull();
  await expect.poll(() => messages.map((message) => message.string()), patient).toEqual(['hello']);
});

test('a payload of 10 MB is refused where the server takes less, arrives where it takes more, and hurts nobody', async () => {
  const { server, client, invoke, host } = await running(
    `await nats.publish('big', Buffer.alloc(event.bytes, 'x')); return 'sent';`,
    { spec: { concurrency: 4 } },
  );
  const messages = await listen(client, 'big');
  expect(await invoke({ bytes: 10 * mebibyte })).toMatchObject({
    code: 'TooLarge',
    message: expect.stringContaining(
      `${10 * mebibyte} bytes; the NATS server takes ${8 * mebibyte}`,
    ) as string,
  });
  expect(await invoke({ bytes: 7 * mebibyte })).toBe('sent');
  expect(await invoke({ bytes: 20 * mebibyte })).toMatchObject({ code: 'TooLarge', retryable: false });
  await expect.poll(() => messages.map(({ data }) => data.length), patient).toEqual([7 * mebibyte]);
  // Nobody was cut off for it.
  expect(host.logs.filter(({ message }) => message.includes('disconnected'))).toEqual([]);
  await server.stop();

  const wide = await running(`await nats.publish('big', Buffer.alloc(event.bytes, 'x')); return 'sent';`, {
    nats: { maxPayload: 16 * mebibyte },
  });
  const arrived = await listen(wide.client, 'big');
  expect(await wide.invoke({ bytes: 10 * mebibyte })).toBe('sent');
  await expect.poll(() => arrived.map(({ data }) => data.length), patient).toEqual([10 * mebibyte]);
});

test('a flood: 20,000 calls without an await between them all arrive, in order, within the window', async () => {
  const { client, invoke } = await running(
    `const made = [];
     for (let n = 0; n < 20000; n++) {
       made.push(nats.publish('flood', String(n)));
       if (made.length % 5000 === 0) await Promise.all(made.splice(0));
     }
     return 'all';`,
  );
  const seen: number[] = [];
  client.subscribe('flood', { callback: (_error, message) => void seen.push(Number(message.string())) });
  await client.flush();
  expect(await invoke({})).toBe('all');
  await expect.poll(() => seen.length, patient).toBe(20_000);
  expect(seen).toEqual(Array.from({ length: 20_000 }, (_, n) => n));
});

test('while NATS is away a call waits a little for it, then says so; the next one works', async () => {
  const { server, invoke } = await running(`await nats.publish('a', 'b'); return 'sent';`, {
    spec: { timeoutSeconds: 20 },
  });
  await server.stop();
  expect(await invoke({})).toMatchObject({ code: 'NatsUnavailable', retryable: true });
  const sent = invoke({});
  await server.restart();
  expect(await sent).toBe('sent');
});

test.each([
  ['nats.publish', `nats.publish('atoll.local.inbox.default.one.invoke', {})`],
  ['nats.request', `nats.request('$JS.API.STREAM.DELETE.ATOLL_INBOX')`],
  ['nats.publish', `nats.publish('$KV.ATOLL_STATE.schedule.default.one.x', '1')`],
  ['nats.request', `nats.request('$SYS.REQ.SERVER.PING')`],
  ['kv.put', `kv('ATOLL_STATE').put('schedule.default.one.x', '1')`],
  ['kv.get', `kv('ATOLL_ROBOTS').get('robot1')`],
  ['mqtt.publish', `mqtt.publish('$JS/API/STREAM/DELETE/ATOLL_INBOX', '')`],
  ['mqtt.publish', `mqtt.publish('atoll/local/inbox/default/one/invoke', '{}')`],
])('%s may not reach what is of NATS or Atoll: %s', async (kind, call) => {
  const { client, invoke } = await running(`return await ${call};`);
  const heard = await listen(client, '>');
  expect(await invoke({})).toMatchObject({
    code: 'NotAllowed',
    message: expect.stringMatching(new RegExp(`^${kind} .*of NATS or Atoll itself`)) as string,
    retryable: false,
  });
  await client.flush();
  const touched = heard.filter(({ subject }) => /^(atoll|\$JS\.API\.STREAM\.DELETE|\$KV)/.test(subject));
  expect(
    touched
      .map(({ subject }) => subject)
      .filter((subject) => subject.includes('ATOLL_INBOX') && subject.includes('DELETE')),
  ).toEqual([]);
});

test.each([
  ['a subject', `nats.publish('a..b')`, '"a..b" is no subject'],
  ['a wildcard', `nats.publish('a.>')`, '"a.>" is no subject'],
  ['a line break', `nats.publish('a\\r\\nPUB b 0')`, 'is no subject'],
  ['no text', `nats.publish(5)`, '5 is not a text'],
  ['a topic', `mqtt.publish('a/#')`, 'is no topic'],
  ['a bucket', `kv('a.b').get('x')`, 'is no bucket'],
  ['a key', `kv('a').get('x..y')`, 'is no key'],
  ['a header', `nats.publish('a', '', { headers: { 'a b': 'c' } })`, 'is no name of a header'],
  [
    'a header of two lines',
    `nats.publish('a', '', { headers: { a: 'b\\r\\nc: d' } })`,
    'must be a text of one line',
  ],
  ['a timeout', `nats.request('a', '', { timeoutMs: -1 })`, 'timeoutMs -1'],
  ['a revision', `kv('a').update('x', 'y', 0)`, 'revision 0'],
  ['no revision', `kv('a').update('x', 'y')`, 'update needs a revision'],
  ['data without JSON', `nats.publish('a', 1n)`, 'cannot be encoded as JSON'],
  ['a function', `nats.publish('a', () => 1)`, 'has no JSON'],
])('%s that is none is refused with the value and what is allowed: %s', async (_what, call, says) => {
  const { invoke } = await running(`return await ${call};`);
  expect(await invoke({})).toMatchObject({
    code: 'InvalidRequest',
    message: expect.stringContaining(says) as string,
  });
});

test('spec.permissions narrows the rest, and a change of it counts at once, without new processes', async () => {
  const body = `
    const failure = (promise) => promise.then(() => 'done', ({ code }) => code);
    return [process.pid, await failure(nats.publish('alarms.a')), await failure(nats.publish('other')),
      await failure(nats.request('lab.ask')), await failure(kv('settings').get('a')), await failure(kv('settings').put('a', 'b'))];`;
  const { client, host } = await running(body, {
    spec: { permissions: { publish: ['alarms.>'], call: ['kv:settings'] } },
  });
  await new Kvm(client).create('settings');
  client.subscribe('lab.ask', { callback: (_error, message) => void message.respond('') });
  await client.flush();
  const [pid, ...before] = (await host.invoke('one', {})) as [number, ...string[]];
  expect(before).toEqual(['done', 'NotAllowed', 'NotAllowed', 'done', 'NotAllowed']);
  const next = functionConfig('one', handler(body), {
    generation: 2,
    spec: { memory: '512Mi', permissions: { publish: ['other', 'kv:settings/a'], call: ['lab.>'] } },
  });
  await host.reload([next]);
  await host.untilReady(next);
  expect(await host.invoke('one', {})).toEqual([pid, 'NotAllowed', 'done', 'done', 'NotAllowed', 'done']);
  const { body: metrics } = await host.ask('/metrics');
  expect(metrics).toContain(
    'atoll_calls_total{namespace="default",function="one",kind="nats.publish",outcome="done"} 2',
  );
  expect(metrics).toContain(
    'atoll_calls_total{namespace="default",function="one",kind="nats.publish",outcome="refused"} 2',
  );
});

test('where permissions are required, as on robots, a function without them may call nothing, and is told what to do', async () => {
  const { invoke } = await running(`return await nats.publish('robots.r1.kept.a', 'b');`, {
    permissions: 'required',
  });
  expect(await invoke({})).toMatchObject({
    code: 'NotAllowed',
    message:
      'nats.publish robots.r1.kept.a: here a function without spec.permissions may reach nothing: add "robots.r1.kept.a" to spec.permissions.publish',
  });
});

test('a NATS server that does not let the host publish is told of', async () => {
  const server = await startNats({
    config: `authorization { users: [
      { user: host, password: secret, permissions: { publish: { deny: ["closed.>"] } } } ] }`,
  });
  const credentialsFile = join(await temporaryFolder(), 'nats.json');
  await writeFile(credentialsFile, JSON.stringify({ user: 'host', pass: 'secret' }), { mode: 0o600 });
  const one = functionConfig(
    'one',
    handler(`
      const all = ['open.a', 'closed.a', 'open.b'].map((subject) => nats.publish(subject, 'x').then(() => 'done', told));
      return [...(await Promise.all(all)), await nats.request('closed.ask', '').catch(told)];`),
  );
  const host = await startedHost([one], { nats: { url: server.url, credentialsFile } });
  await host.untilReady(one);
  expect(await host.invoke('one', {})).toMatchObject([
    'done',
    { code: 'NotAllowed', message: expect.stringContaining('closed.a') as string },
    'done',
    { code: 'NotAllowed', message: expect.stringContaining('closed.ask') as string },
  ]);
});

test('a function that publishes what calls it is stopped after 16 hops', async () => {
  const seen: string[] = [];
  const { client, host } = await running(`await nats.publish('circle', { depth: (event.depth ?? 0) + 1 });`, {
    spec: { triggers: [{ name: 'circle', nats: { subject: 'circle' } }] },
  });
  client.subscribe('circle', {
    callback: (_error, message) => void seen.push(message.headers?.get('Atoll-Hops') ?? '0'),
  });
  await client.flush();
  client.publish('circle', '{}');
  const letter = await host.untilLogged(({ message }) => message === 'event dead-lettered');
  expect(letter).toMatchObject({ reason: 'Recursion' });
  expect(seen).toEqual(Array.from({ length: maxHops + 1 }, (_, hop) => String(hop)));
});

test('the same by MQTT 5, and by a key that a trigger listens to', async () => {
  const broker = await startMosquitto();
  const first = await running(`await mqtt.publish('circle/a', {});`, {
    mqtt: { url: broker.url },
    spec: { triggers: [{ name: 'circle', mqtt: { topic: 'circle/a', version: 5 } }] },
  });
  await first.invoke({});
  await first.host.untilLogged(({ reason }) => reason === 'Recursion');

  const second = await running(`await kv('loop').put('a', {});`, {
    spec: { triggers: [{ name: 'circle', nats: { subject: '$KV.loop.a', reply: 'Never' } }] },
  });
  await new Kvm(second.client).create('loop');
  await second.invoke({});
  await second.host.untilLogged(({ reason }) => reason === 'Recursion');
});

test('what a handler throws on of a call says whether the event is tried again', async () => {
  const server = await startNats();
  const code = `
    import { nats } from 'atoll';
    export const handler = ({ subject }) => nats.publish(subject, 'x');`;
  const one = functionConfig('one', code, {
    spec: { triggers: [{ name: 'in', nats: { subject: 'in', reply: 'Never' } }] },
  });
  const host = await startedHost([one], { nats: { url: server.url } });
  await host.untilReady(one);
  const client = await server.connect();
  client.publish('in', JSON.stringify({ subject: 'atoll.x' }));
  const letter = await host.untilLogged(({ message }) => message === 'event dead-lettered');
  expect(letter).toMatchObject({ reason: 'Refused', attempts: 1 });
});

test('without ROS the error says what to install', async () => {
  const { invoke } = await running(`return await ros.call('/reset', 'std_srvs/srv/Trigger');`);
  expect(await invoke({})).toMatchObject({
    code: 'RosNotInstalled',
    message: expect.stringContaining('install ROS 2') as string,
  });
});
