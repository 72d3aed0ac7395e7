/**
 * rclnodejs alone, bytes as they came: the handler inline, or on to NATS. Arguments: topic, depth; for NATS its URL and the
 * subject.
 */
import { connect } from '@nats-io/transport-node';
import { loadRclnodejs, typeClassOf } from '../../runtime/ros/rclnodejs.ts';
import { qosOf } from '../../runtime/ros/topics.ts';
import { handler } from '../handlers/scan/index.ts';

const [topic = '', depth, servers, subject = ''] = process.argv.slice(2);
const nats = servers === undefined ? undefined : await connect({ servers });
const rcl = await loadRclnodejs(process.env);
const node = rcl.createNode(topic.slice(1).replaceAll('/', '_'));
node.createSubscription(
  typeClassOf('sensor_msgs/msg/LaserScan'),
  topic,
  { isRaw: true, qos: qosOf(rcl, 'reliable', Number(depth)) },
  nats === undefined ? (scan) => void handler(scan) : (scan) => nats.publish(subject, scan),
);
node.spin();
console.log('{}');
