/** MQTT.js alone, the handler inline, a message acknowledged after it. Arguments: URL, topic, QoS. */
import { connectAsync } from 'mqtt';
import { handler } from '../handlers/count/index.ts';

const [url = '', topic = '', qos] = process.argv.slice(2);
const client = await connectAsync(url, { protocolVersion: 5 });
client.handleMessage = (packet, done) => {
  void handler(JSON.parse(packet.payload.toString()) as Parameters<typeof handler>[0]).then(() => done());
};
await client.subscribeAsync(topic, { qos: Number(qos) as 0 | 1 });
console.log('{}');
