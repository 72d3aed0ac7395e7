import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import mqtt from 'mqtt';
import { expect, test } from 'vitest';
import { startNats } from './nats.ts';

test('a nats-server answers a client, and is gone when it was stopped', async () => {
  const nats = await startNats();
  const client = await nats.connect();
  client.subscribe('greeting', { callback: (_, message) => void message.respond(message.data) });

  expect((await client.request('greeting', 'hello')).string()).toBe('hello');
  expect(client.info?.max_payload).toBe(8 * 1024 * 1024);

  const { pid } = nats;
  await nats.stop();
  expect(nats.running).toBe(false);
  expect(() => process.kill(pid, 0)).toThrow('ESRCH');
});

test('a restart keeps ports and stored messages, after a stop and after a crash', async () => {
  const nats = await startNats({ domain: 'island' });
  const client = await nats.connect({ maxReconnectAttempts: -1, reconnectTimeWait: 20 });
  const streams = await jetstreamManager(client);
  expect((await streams.getAccountInfo()).domain).toBe('island');
  await streams.streams.add({ name: 'KEPT', subjects: ['kept'] });
  await jetstream(client).publish('kept', 'one');

  const before = nats.pid;
  await nats.restart();
  expect(nats.pid).not.toBe(before);
  await jetstream(await nats.connect()).publish('kept', 'two');

  await nats.kill('SIGKILL');
  await nats.restart();
  const again = await jetstreamManager(await nats.connect());
  expect((await again.streams.info('KEPT')).state.messages).toBe(2);
});

test('a paused nats-server keeps its connections and answers when it goes on', async () => {
  const nats = await startNats();
  const client = await nats.connect();
  await nats.pause();
  await expect(client.request('nobody', '', { timeout: 100 })).rejects.toThrow('timeout');
  nats.resume();
  await client.flush();
  expect(client.isClosed()).toBe(false);
});

test('a paused nats-server can be stopped', async () => {
  const nats = await startNats();
  await nats.pause();
  await nats.stop();
  expect(nats.running).toBe(false);
});

test('MQTT and WebSocket listeners are there when asked for, and their absence is said', async () => {
  const nats = await startNats({ mqtt: true, websocket: true });
  const client = await mqtt.connectAsync(nats.mqttUrl, { protocolVersion: 4 });
  await client.endAsync();
  const socket = new WebSocket(nats.websocketUrl);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error('the WebSocket was refused'));
  });
  socket.close();

  const plain = await startNats();
  expect(() => plain.mqttUrl).toThrow('without { mqtt: true }');
  expect(() => plain.websocketUrl).toThrow('without { websocket: true }');
});

test('a leaf passes on what is published at its hub', async () => {
  const hub = await startNats({ domain: 'hub', hub: true });
  const leaf = await startNats({ domain: 'robot1', leafOf: hub.leafUrl });
  const [atHub, atLeaf] = [await hub.connect(), await leaf.connect()];
  atLeaf.subscribe('greeting', { callback: (_, message) => void message.respond('from the leaf') });
  await atLeaf.flush();
  // The hub learns of the subscription a moment after the leaf does.
  await expect.poll(async () => (await atHub.request('greeting')).string()).toBe('from the leaf');
});

test('a configuration that nats-server refuses is told with its own words', async () => {
  await expect(startNats({ config: 'no_such_option: 1' })).rejects.toThrow('no_such_option');
});
