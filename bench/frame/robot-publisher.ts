/**
 * A robot's topics: a state ten times a second, stamped by the clock that all processes of a machine share, and camera frames.
 * One line of JSON on stdin is one round, one on stdout what was published. Arguments: topics of states, topics of frames.
 */
import { randomFillSync } from 'node:crypto';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { loadRclnodejs, typeClassOf, type RosPublisher } from '../../runtime/ros/rclnodejs.ts';
import { qosOf } from '../../runtime/ros/topics.ts';
import { encode, readSchema } from '../../runtime/telemetry.ts';
import { definitions } from '../../test/runtime/telemetry/types.ts';
import { header, odometry } from './ros-messages.ts';
import type { RobotPublished, RobotRound } from './robot-topics.ts';

const [statesText = '', framesText = ''] = process.argv.slice(2);
const matchedMs = 120_000;
const pollMs = 20;
const goldenRatio = (Math.sqrt(5) - 1) / 2;

const rcl = await loadRclnodejs(process.env);
const node = rcl.createNode('robot_publisher');

const state = Buffer.from(
  encode(odometry(), 'cdr', readSchema('nav_msgs/msg/Odometry', definitions['nav_msgs/msg/Odometry'])),
);
const imageSchema = readSchema(
  'sensor_msgs/msg/CompressedImage',
  definitions['sensor_msgs/msg/CompressedImage'],
);

async function published(topics: string, type: string): Promise<Map<string, RosPublisher>> {
  const publishers = new Map<string, RosPublisher>();
  for (const topic of topics.split(',')) {
    const publisher = node.createPublisher(typeClassOf(type), topic, { qos: qosOf(rcl, 'reliable', 10) });
    const until = Date.now() + matchedMs;
    while (publisher.subscriptionCount === 0) {
      if (Date.now() > until) throw new Error(`nobody subscribed to ${topic} within ${matchedMs} ms`);
      await pause(pollMs);
    }
    publishers.set(topic, publisher);
  }
  return publishers;
}

/**
 * Calls `publish` so often a second, on the clock: what is late is made up for. `laterMs` is added to the time of each.
 */
async function every(
  hz: number,
  count: number,
  publish: () => void,
  laterMs: (number: number) => number = () => 0,
): Promise<void> {
  const started = performance.now();
  for (let done = 0; done < count; done++) {
    await pause(Math.max(0, started + (done * 1000) / hz + laterMs(done) - performance.now()));
    publish();
  }
}

const states = await published(statesText, 'nav_msgs/msg/Odometry');
const cameras = await published(framesText, 'sensor_msgs/msg/CompressedImage');
node.spin();
console.log('{}');

for await (const line of createInterface({ input: process.stdin })) {
  const { seconds, stateTopic, stateHz, frameTopic, frameHz, frameBytes } = JSON.parse(line) as RobotRound;
  const publisher = states.get(stateTopic)!;
  const camera = frameTopic === undefined ? undefined : cameras.get(frameTopic)!;
  // As a camera's are: no compression on the way makes them smaller.
  const data = randomFillSync(new Uint8Array(frameBytes));
  const frame = Buffer.from(encode({ header: header('camera'), format: 'jpeg', data }, 'cdr', imageSchema));
  const counts = {
    states: Math.round(seconds * stateHz),
    frames: camera === undefined ? 0 : Math.round(seconds * frameHz),
  };
  await Promise.all([
    every(frameHz, counts.frames, () => camera!.publish(frame)),
    every(
      stateHz,
      counts.states,
      () => {
        const now = process.hrtime.bigint();
        state.writeInt32LE(Number(now / 1_000_000_000n), 4);
        state.writeUInt32LE(Number(now % 1_000_000_000n), 8);
        publisher.publish(state);
      },
      // Spread evenly over the time between two frames: in step with them all would be before, or all behind one.
      (number) => ((number * goldenRatio) % 1) * (1000 / frameHz),
    ),
  ]);
  console.log(JSON.stringify(counts satisfies RobotPublished));
}
process.exit(0);
