/** spec.onSuccess and spec.onFailure through a whole host and real brokers. */
import { headers as natsHeaders, type Msg, type NatsConnection } from '@nats-io/transport-node';
import mqtt from 'mqtt';
import { expect, test } from 'vitest';
import { maxHops } from '../../runtime/host.ts';
import { closeLater } from '../support/closing.ts';
import { startMosquitto } from '../support/mosquitto.ts';
import { startNats } from '../support/nats.ts';
import { functionConfig, onNats, startedHost } from './started-host.ts';

const shouting = `exports.handler = (event) => {
  if (event.fail) throw new TypeError('no');
  return { heard: event };
}`;
const once = { maxAttempts: 1, minBackoffMs: 1, maxBackoffMs: 1 };
const heard = (subject: string, given: object = {}): object => ({
  triggers: [{ name: 'in', nats: { subject } }],
  retry: once,
  ...given,
});

function hopsOf(message: Msg): number {
  return Number(message.headers?.get('Atoll-Hops'));
}

/** What is published there from now on, each message once. */
async function listen(client: NatsConnection, subject: string): Promise<() => Promise<Msg>> {
  const messages = client.subscribe(subject)[Symbol.asyncIterator]();
  await client.flush();
  return async () => (await messages.next()).value as Msg;
}

test('what nobody waits for goes on in Lambda’s envelope, result or fault, one hop further', async () => {
  const { client } = await onNats(
    functionConfig('loud', shouting, {
      spec: heard('door.opened', {
        onSuccess: { nats: { subject: 'went.well' } },
        onFailure: { nats: { subject: 'went.wrong' } },
      }),
    }),
  );
  const well = await listen(client, 'went.well');
  const wrong = await listen(client, 'went.wrong');

  const headers = natsHeaders();
  headers.set('Atoll-Hops', '4');
  headers.set('Atoll-Id', 'event-1');
  client.publish('door.opened', '{"door":7}', { headers });
  const success = await well();
  expect(hopsOf(success)).toBe(5);
  expect(success.json()).toEqual({
    version: '1.0',
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) as string,
    requestContext: {
      requestId: 'event-1',
      functionArn: expect.stringMatching(/:function:loud:[0-9a-f]{12}$/) as string,
      condition: 'Success',
      approximateInvokeCount: 1,
    },
    requestPayload: { door: 7 },
    responseContext: { statusCode: 200, executedVersion: expect.stringMatching(/^[0-9a-f]{12}$/) as string },
    responsePayload: { heard: { door: 7 } },
  });

  client.publish('door.opened', '{"fail":true}');
  const failure = await wrong();
  expect(hopsOf(failure)).toBe(1);
  expect(failure.json()).toMatchObject({
    requestContext: { condition: 'RetriesExhausted', approximateInvokeCount: 1 },
    requestPayload: { fail: true },
    responseContext: { functionError: 'Unhandled' },
    responsePayload: { errorType: 'TypeError', errorMessage: 'no' },
  });
});

test('who waits has the answer; nothing goes to a destination', async () => {
  const { client, host } = await onNats(
    functionConfig('loud', shouting, {
      spec: heard('door.opened', { onSuccess: { nats: { subject: 'went.well' } } }),
    }),
  );
  const well = await listen(client, 'went.well');
  await client.request('door.opened', '1');
  await host.invoke('loud', 2);
  client.publish('door.opened', '3');
  expect((await well()).json()).toMatchObject({ requestPayload: 3 });
});

test.each(['of the site', 'the listener of NATS'])('MQTT destinations on a broker %s', async (which) => {
  const nats = await startNats({ mqtt: true });
  const url = which === 'of the site' ? (await startMosquitto()).url : nats.mqttUrl;
  const device = await mqtt.connectAsync(url, { protocolVersion: 4 });
  closeLater(() => device.endAsync());
  const next = Promise.withResolvers<{ topic: string; qos: number; body: unknown }>();
  device.on('message', (topic, data, { qos }) => {
    next.resolve({ topic, qos, body: JSON.parse(data.toString()) as unknown });
  });
  await device.subscribeAsync('lab/failed', { qos: 1 });
  const loud = functionConfig('loud', shouting, {
    spec: heard('door.opened', { onFailure: { mqtt: { topic: 'lab/failed' } } }),
  });
  const host = await startedHost([loud], { nats: { url: nats.url }, mqtt: { url } });
  await host.untilReady(loud);
  (await nats.connect()).publish('door.opened', '{"fail":true}');
  expect(await next.promise).toMatchObject({
    topic: 'lab/failed',
    qos: 1,
    body: { requestContext: { condition: 'RetriesExhausted' }, requestPayload: { fail: true } },
  });
});

test('a destination that cannot be reached costs its message, is logged, and the next event runs', async () => {
  const { client, host } = await onNats(
    functionConfig('loud', shouting, {
      spec: heard('door.opened', {
        onSuccess: { nats: { subject: 'went.well' } },
        onFailure: { mqtt: { topic: 'lab/failed' } },
      }),
    }),
  );
  const well = await listen(client, 'went.well');
  client.publish('door.opened', '{"fail":true}');
  await host.untilLogged(
    ({ level, message }) => level === 'ERROR' && message === 'destination could not be reached',
  );
  client.publish('door.opened', '2');
  expect((await well()).json()).toMatchObject({ requestPayload: 2 });
});

test.each([
  ['onSuccess', '0'],
  ['onFailure', '{"fail":true}'],
])('a function whose %s leads back to itself is stopped after 16 hops', async (field, first) => {
  const code =
    field === 'onSuccess'
      ? 'exports.handler = () => null'
      : 'exports.handler = () => { throw new Error("no") }';
  const { client, host } = await onNats(
    functionConfig('circle', code, {
      spec: heard('round', { [field]: { nats: { subject: 'round' } } }),
    }),
  );
  const hops: number[] = [];
  client.subscribe('round', { callback: (_error, message) => void hops.push(hopsOf(message)) });
  client.publish('round', first);
  const stopped = () => host.logs.filter(({ reason }) => reason === 'Recursion').length;
  await expect.poll(stopped, { timeout: 60_000 }).toBe(field === 'onSuccess' ? 1 : 2);
  // Whatever would still follow lies before the answer of the next event.
  await host.invoke('circle').catch(() => undefined);
  await client.flush();
  const reports = host.logs.filter(({ message, trigger }) => message === 'REPORT' && trigger === 'in');
  expect(reports).toHaveLength(maxHops);
  // That it was stopped is told to onFailure once, and no function runs on that.
  expect(Math.max(...hops.filter(Number.isFinite))).toBe(field === 'onSuccess' ? maxHops : maxHops + 1);
});

/** A function that publishes on the topic that calls it. */
async function mqttCircle(version: 4 | 5, url: string) {
  const nats = await startNats();
  const circle = functionConfig('circle', 'exports.handler = () => null', {
    spec: {
      triggers: [{ name: 'in', mqtt: { topic: 'round', qos: 1, version } }],
      onSuccess: { mqtt: { topic: 'round' } },
    },
  });
  const host = await startedHost([circle], { nats: { url: nats.url }, mqtt: { url } });
  await host.untilReady(circle);
  const device = await mqtt.connectAsync(url, { protocolVersion: version });
  closeLater(() => device.endAsync());
  await device.publishAsync('round', '0', { qos: 1 });
  return { host, runs: () => host.logs.filter(({ message }) => message === 'REPORT').length };
}

test('a circle through MQTT 5 is stopped after 16 hops: they travel as a user property', async () => {
  const { host, runs } = await mqttCircle(5, (await startMosquitto()).url);
  expect(await host.untilLogged(({ reason }) => reason !== undefined)).toMatchObject({
    reason: 'Recursion',
    message: 'event dead-lettered',
    attempts: 0,
  });
  expect(runs()).toBe(maxHops);
});

test('MQTT 3.1.1 has nothing that could carry them: a circle through it goes on', async () => {
  const { host, runs } = await mqttCircle(4, (await startMosquitto()).url);
  await expect.poll(runs, { timeout: 60_000 }).toBeGreaterThan(2 * maxHops);
  expect(host.logs.filter(({ reason }) => reason !== undefined)).toEqual([]);
});

test('a caller whose call came in a circle is told so, by HTTP and by NATS', async () => {
  const { client, host } = await onNats(
    functionConfig('loud', shouting, {
      spec: {
        triggers: [
          { name: 'ask', nats: { subject: 'ask' } },
          { name: 'web', http: { path: '/loud' } },
        ],
      },
    }),
  );
  const headers = natsHeaders();
  headers.set('Atoll-Hops', String(maxHops));
  const reply = await client.request('ask', '1', { headers, timeout: 10_000 });
  expect(reply.headers?.get('Nats-Service-Error-Code')).toBe('508');
  expect(reply.headers?.get('Nats-Service-Error')).toMatch(/^Recursion: .*spec\.recursion/);
  const trace = { 'x-amzn-trace-id': `Lineage=00000000:${maxHops}` };
  const web = await host.ask('/http/default/loud/web/loud', 1, trace);
  expect(web).toMatchObject({ status: 508, body: '{"message":"Loop Detected"}' });
  const door = await host.ask('/invoke/default/loud', 1, trace);
  expect(door.status).toBe(508);
  expect(JSON.parse(door.body)).toMatchObject({ code: 'Recursion' });
  expect(host.logs.filter(({ message }) => message === 'REPORT')).toEqual([]);
});

test('a count of hops that is none begins at 0', async () => {
  const { client } = await onNats(
    functionConfig('loud', shouting, {
      spec: heard('door.opened', { onSuccess: { nats: { subject: 'went.well' } } }),
    }),
  );
  const well = await listen(client, 'went.well');
  for (const nonsense of ['many', '-5']) {
    const headers = natsHeaders();
    headers.set('Atoll-Hops', nonsense);
    client.publish('door.opened', '1', { headers });
    expect(hopsOf(await well())).toBe(1);
  }
});

test('with recursion: Allow a circle goes on', async () => {
  const { client } = await onNats(
    functionConfig('circle', 'exports.handler = () => null', {
      spec: heard('round', { onSuccess: { nats: { subject: 'round' } }, recursion: 'Allow' }),
    }),
  );
  const next = await listen(client, 'round');
  client.publish('round', '0');
  while (hopsOf(await next()) !== 2 * maxHops);
});
