import { connectAsync } from 'mqtt';
import { expectEqual, firstOf, listen, type Attempt } from '../site.ts';

/** An MQTT message of QoS 1, stored before it is acknowledged. */
export const attempt: Attempt = async (site) => {
  const results = listen(site.nats, 'examples.results.battery');
  const client = await connectAsync(site.mqttUrl, { protocolVersion: 4, clientId: 'examples-publisher' });
  const sent = { percentage: 0.12 };
  await client.publishAsync('examples/robots/r2/battery', JSON.stringify(sent), { qos: 1 });
  await client.endAsync();
  const { responsePayload } = (await firstOf(results)) as {
    responsePayload: { robot: string; low: boolean };
  };
  expectEqual(responsePayload.robot, 'r2');
  expectEqual(responsePayload.low, true);
  return {
    trigger: 'mqtt',
    sent: `publish examples/robots/r2/battery ${JSON.stringify(sent)} (QoS 1)`,
    answer: responsePayload,
  };
};
