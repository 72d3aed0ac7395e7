/**
 * Publishes scans on topics, each answered for: told by its handler's datagrams, or counted as it comes by NATS. One line of
 * JSON on stdin is one round, one on stdout its seconds. Arguments: topics with their subjects as JSON, NATS' URL, and a file
 * of JSON with user and pass, where it asks for them.
 */
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { connect } from '@nats-io/transport-node';
import { loadRclnodejs, typeClassOf } from '../../runtime/ros/rclnodejs.ts';
import { qosOf } from '../../runtime/ros/topics.ts';
import { encode, readSchema } from '../../runtime/telemetry.ts';
import { definitions } from '../../test/runtime/telemetry/types.ts';
import { openCounted, openProgress, sendAll, type Progress } from './progress.ts';
import { laserScan } from './ros-messages.ts';
import { depth, tellEvery, type ScanRound, type ScanTopic } from './scans.ts';

const type = 'sensor_msgs/msg/LaserScan';
const matchedMs = 120_000;
const pollMs = 20;

const [topicsText = '[]', servers, login] = process.argv.slice(2);
const credentials =
  login === undefined ? {} : (JSON.parse(await readFile(login, 'utf8')) as { user: string; pass: string });
const nats = servers === undefined ? undefined : await connect({ servers, ...credentials });
const rcl = await loadRclnodejs(process.env);
const node = rcl.createNode('scan_publisher');
const senders = new Map<string, { progress: Progress; send(): void }>();

for (const { topic, subject } of JSON.parse(topicsText) as ScanTopic[]) {
  const publisher = node.createPublisher(typeClassOf(type), topic, { qos: qosOf(rcl, 'reliable', depth) });
  const scan = Buffer.from(encode(laserScan(), 'cdr', readSchema(type, definitions[type])));
  let progress: Progress;
  if (subject === undefined) {
    const told = await openProgress();
    scan.writeInt32LE(told.port, 4);
    scan.writeUInt32LE(tellEvery, 8);
    progress = told.progress;
  } else {
    const counted = openCounted();
    nats!.subscribe(subject, { callback: counted.came });
    await nats!.flush();
    progress = counted.progress;
  }
  const until = Date.now() + matchedMs;
  while (publisher.subscriptionCount === 0) {
    if (Date.now() > until) throw new Error(`nobody subscribed to ${topic} within ${matchedMs} ms`);
    await pause(pollMs);
  }
  senders.set(topic, { progress, send: () => publisher.publish(scan) });
}
node.spin();
console.log('{}');

for await (const line of createInterface({ input: process.stdin })) {
  const { topic, ...round } = JSON.parse(line) as ScanRound;
  const { progress, send } = senders.get(topic)!;
  console.log(JSON.stringify(await sendAll(progress, { ...round, send })));
}
process.exit(0);
