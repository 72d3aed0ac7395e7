/**
 * What does isolation cost an MQTT message? QoS 1 is stored in the inbox before it is acknowledged to the broker, QoS 0
 * waits in the host. Against MQTT.js with the handler inline, acknowledging after it. mosquitto has one thread.
 */
import { connectAsync } from 'mqtt';
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { receiver, tellEvery } from './frame/progress.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const count = scaled(10_000, { step: tellEvery });
/** Messages on their way at most, the same for all. */
const backlog = 1_000;

await bench(
  async ({ nats: startNats, mosquitto: startMosquitto, site: startSite, deploy, baseline, closing }) => {
    const server = await startNats();
    const broker = await startMosquitto();
    const client = await connectAsync(broker.url, { protocolVersion: 5 });
    closing(() => client.endAsync(true));
    const site = await startSite('--nats', server.url, '--mqtt', broker.url);

    for (const qos of [1, 0] as const) {
      const inline = await baseline('mqtt.ts', broker.url, `bench/${qos}/inline`, String(qos));
      const copy = await baseline('mqtt.ts', broker.url, `bench/${qos}/copy`, String(qos));
      await deploy(site, `count${qos}`, 'count', {
        concurrency: 64,
        triggers: [{ name: 'events', mqtt: { topic: `bench/${qos}/atoll`, qos } }],
      });
      const contender = (name: string, topic: string, pid: number): Promise<Contender> => {
        const send = (event: Buffer): void => void client.publish(`bench/${qos}/${topic}`, event, { qos });
        return receiver({ name, pid, count, backlog, closing, send });
      };
      await report(
        await compare({
          name: `mqtt-qos${qos}`,
          text: `MQTT messages with QoS ${qos}, ${count} each round, at most ${backlog} on their way; concurrency 64.`,
          event: 'message',
          parts: { mosquitto: broker.pid, 'nats-server': server.pid },
          contenders: [
            await contender('inline subscriber', 'inline', inline.pid),
            await contender('an identical copy', 'copy', copy.pid),
            await contender(qos === 1 ? 'Atoll, through the inbox' : 'Atoll', 'atoll', site.info.pid),
          ],
        }),
      );
    }
  },
);
