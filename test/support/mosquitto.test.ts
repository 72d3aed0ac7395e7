import mqtt from 'mqtt';
import { expect, test } from 'vitest';
import { startMosquitto } from './mosquitto.ts';

test('mosquitto answers an MQTT 5 client, and is gone when it was stopped', async () => {
  const broker = await startMosquitto();
  const client = await mqtt.connectAsync(broker.url, { protocolVersion: 5 });
  const arrived = new Promise<string>((resolve) =>
    client.on('message', (_, payload) => resolve(payload.toString())),
  );
  await client.subscribeAsync('greeting', { qos: 1 });
  await client.publishAsync('greeting', 'hello', { qos: 1 });
  expect(await arrived).toBe('hello');
  await client.endAsync();

  const { pid } = broker;
  await broker.stop();
  expect(() => process.kill(pid, 0)).toThrow('ESRCH');
});

test('more than 1,000 messages wait for an absent subscriber, over a restart too', async () => {
  const count = 1_500;
  const broker = await startMosquitto();
  const session = { clientId: 'absent', clean: false } as const;
  const absent = await mqtt.connectAsync(broker.url, session);
  await absent.subscribeAsync('kept', { qos: 1 });
  await absent.endAsync();
  const publisher = await mqtt.connectAsync(broker.url);
  await Promise.all(
    Array.from({ length: count }, (_, i) => publisher.publishAsync('kept', String(i), { qos: 1 })),
  );
  await publisher.endAsync();

  await broker.restart();

  const received = new Set<string>();
  const returned = mqtt.connect(broker.url, session);
  await new Promise<void>((resolve) => {
    returned.on('message', (_, payload) => {
      received.add(payload.toString());
      if (received.size === count) resolve();
    });
  });
  await returned.endAsync();
});
