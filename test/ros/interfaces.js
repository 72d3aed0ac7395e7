// A node of rclnodejs that serves /update and hears /statistics, both of atoll_interfaces, and publishes /from_node.
// It writes JSON lines: 64-bit integers as text with an n.
import { join } from 'node:path';

const { default: ros } = await import(join(process.env.ATOLL_RCLNODEJS, 'dist', 'index.js'));
const say = (line) =>
  console.log(JSON.stringify(line, (_key, value) => (typeof value === 'bigint' ? `${value}n` : value)));

await ros.init();
const node = ros.createNode('interfaces');
const close = () => {
  node.destroy();
  ros.shutdown();
};
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, () => {
    close();
    process.exit(0);
  });
}

const publisher = node.createPublisher('atoll_interfaces/msg/TelemetryStatistics', 'from_node');
node.createService('atoll_interfaces/srv/Update', 'update', (request, response) => {
  say({ event: 'update', request });
  const answer = response.template;
  answer.success = true;
  answer.status = 'SUCCEEDED';
  answer.message = `${request.application} is at ${request.version}`;
  answer.version = request.version;
  response.send(answer);
});
node.createSubscription('atoll_interfaces/msg/TelemetryStatistics', 'statistics', (message) => {
  say({ event: 'statistics', message });
  publisher.publish({ ...message, robot: `${message.robot} again` });
});
node.spin();
say({ event: 'ready' });
