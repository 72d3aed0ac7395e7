import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { startProcess } from './process.ts';
import { missing } from './requirement.ts';
import { rosEnvironment, startDdsPeer, startRosPeer, startSimulatedRobot } from './ros.ts';

describe.skipIf(await missing('ros'))('ROS in a test', () => {
  test('peers of one environment hear one another, and every value arrives as it was sent', async () => {
    const env = await rosEnvironment();
    const [speaker, listener] = await Promise.all([
      startRosPeer({ env, name: 'speaker', namespace: '/robot1' }),
      startRosPeer({ env, name: 'listener' }),
    ]);
    const numbers = await listener.subscribe('/robot1/numbers', 'std_msgs/msg/UInt64');
    const images = await listener.subscribe('/robot1/image', 'sensor_msgs/msg/CompressedImage');
    const states = await listener.subscribe('/robot1/battery', 'sensor_msgs/msg/BatteryState');
    const raw = await listener.subscribe('/robot1/text', 'std_msgs/msg/String', { raw: true });
    await speaker.advertise('numbers', 'std_msgs/msg/UInt64');
    await speaker.advertise('image', 'sensor_msgs/msg/CompressedImage');
    await speaker.advertise('battery', 'sensor_msgs/msg/BatteryState');
    await speaker.advertise('text', 'std_msgs/msg/String');
    for (const topic of ['numbers', 'image', 'battery', 'text']) await speaker.matched(topic);

    await speaker.publish('numbers', { data: 2n ** 64n - 1n });
    expect(await numbers.next()).toEqual({ data: 2n ** 64n - 1n });
    await speaker.publish('image', { format: 'png', data: Buffer.from([0, 1, 255]) });
    expect(await images.next()).toMatchObject({ format: 'png', data: new Uint8Array([0, 1, 255]) });
    await speaker.publish('battery', { voltage: NaN, charge: -Infinity, cell_voltage: [1.5, NaN] });
    expect(await states.next()).toMatchObject({ voltage: NaN, charge: -Infinity, cell_voltage: [1.5, NaN] });
    await speaker.publish('text', { data: 'hello' });
    const bytes = (await raw.next()) as Uint8Array;
    // The rest of a word of four bytes is not told what to be.
    expect(Buffer.from(bytes.subarray(0, 14)).toString('latin1')).toBe('\0\x01\0\0\x06\0\0\0hello\0');

    // A node's endpoints are found before its name is.
    await expect
      .poll(async () => (await listener.graph()).nodes, { timeout: 60_000 })
      .toEqual(expect.arrayContaining(['/robot1/speaker', '/listener']));
    await expect
      .poll(async () => await listener.publishersOf('/robot1/numbers'), { timeout: 60_000 })
      .toEqual([
        {
          node: '/robot1/speaker',
          type: 'std_msgs/msg/UInt64',
          reliability: 'reliable',
          durability: 'volatile',
        },
      ]);
  });

  test('a peer serves with answers that the test gives, several at a time, and calls', async () => {
    const env = await rosEnvironment();
    const [server, client] = await Promise.all([
      startRosPeer({ env, name: 'server' }),
      startRosPeer({ env, name: 'client' }),
    ]);
    const both = Promise.withResolvers<void>();
    let waiting = 0;
    await server.serve('/twice', 'std_srvs/srv/SetBool', async ({ data }: { data: boolean }) => {
      if (++waiting === 2) both.resolve();
      await both.promise;
      return { success: data, message: 'both came' };
    });
    const answers = await Promise.all(
      [true, false].map((data) => client.call('/twice', 'std_srvs/srv/SetBool', { data })),
    );
    expect(answers).toEqual([
      { success: true, message: 'both came' },
      { success: false, message: 'both came' },
    ]);
    await expect(client.call('/nowhere', 'std_srvs/srv/Trigger', {}, 300)).rejects.toThrow(
      'no answer to call',
    );
  });

  test('what is published fast is numbered, and a subscriber that is as reliable misses none', async () => {
    const env = await rosEnvironment();
    const [speaker, listener] = await Promise.all([startRosPeer({ env }), startRosPeer({ env })]);
    const heard = await listener.subscribe('/numbers', 'std_msgs/msg/UInt64', { depth: 500 });
    await speaker.advertise('/numbers', 'std_msgs/msg/UInt64', { depth: 500 });
    await speaker.matched('/numbers');
    await speaker.burst('/numbers', { count: 300, hz: 300, field: 'data', first: 7 });
    await heard.count(300);
    expect(heard.messages).toEqual(Array.from({ length: 300 }, (_, index) => ({ data: 7 + index })));
  });

  test('another environment is another domain: nothing is heard across', async () => {
    const [here, there] = await Promise.all([rosEnvironment(), rosEnvironment()]);
    expect(here['ROS_DOMAIN_ID']).not.toBe(there['ROS_DOMAIN_ID']);
    const [speaker, near, far] = await Promise.all([
      startRosPeer({ env: here, name: 'speaker' }),
      startRosPeer({ env: here, name: 'near' }),
      startRosPeer({ env: there, name: 'far' }),
    ]);
    const [heard, overheard] = await Promise.all(
      [near, far].map((peer) => peer.subscribe('/text', 'std_msgs/msg/String')),
    );
    await speaker.advertise('/text', 'std_msgs/msg/String');
    await speaker.matched('/text');
    await speaker.publish('/text', { data: 'for whoever is near' });
    await heard!.next();
    expect(overheard!.messages).toEqual([]);
    expect((await far.graph()).nodes).not.toContain('/speaker');
  });

  test('atoll_interfaces is spoken by rclnodejs and rclpy, services and messages both ways', async () => {
    const env = await rosEnvironment();
    const peer = await startRosPeer({ env });
    const script = join(import.meta.dirname, '..', 'ros', 'interfaces.js');
    const node = await startProcess(process.execPath, [script], { name: 'rclnodejs', env });
    await node.line(/"ready"/);
    const update = { job_id: 'job-1', application: 'navigation', version: '2.0.0', timeout_seconds: 60 };
    expect(await peer.call('/update', 'atoll_interfaces/srv/Update', update)).toEqual({
      success: true,
      status: 'SUCCEEDED',
      message: 'navigation is at 2.0.0',
      version: '2.0.0',
    });
    expect(await node.line(/"update"/)).toContain('"job_id":"job-1"');

    const type = 'atoll_interfaces/msg/TelemetryStatistics';
    const again = await peer.subscribe('/from_node', type);
    await peer.advertise('/statistics', type);
    await peer.matched('/statistics');
    const topics = [{ topic: '/scan', type: 'sensor_msgs/msg/LaserScan', received: 2n ** 60n, sent: 3 }];
    await peer.publish('/statistics', { robot: 'robot1', topics });
    expect(await node.line(/"statistics"/)).toContain(`"received":"${2n ** 60n}n"`);
    expect(await again.next()).toMatchObject({ robot: 'robot1 again', topics: [{ ...topics[0] }] });
    expect(await node.stop()).toEqual({ code: 0, signal: null });
  });

  test('a DDS that is not that of ROS understands what ROS writes, and is understood', async () => {
    const env = await rosEnvironment();
    const [ros, dds] = await Promise.all([startRosPeer({ env }), startDdsPeer({ env })]);
    const type = 'sensor_msgs/msg/BatteryState';
    const [heardByRos, heardByDds] = await Promise.all([
      ros.subscribe('/from_dds', type),
      dds.subscribe('/from_ros', type),
    ]);
    await Promise.all([ros.advertise('/from_ros', type), dds.advertise('/from_dds', type)]);
    await Promise.all([ros.matched('/from_ros'), dds.matched('/from_dds')]);
    const header = { stamp: { sec: 7, nanosec: 8 }, frame_id: 'base' };
    const state = { header, voltage: 24.5, temperature: NaN, cell_voltage: [4, 3.5], present: true };
    await ros.publish('/from_ros', state);
    expect(await heardByDds.next()).toMatchObject({ ...state, serial_number: '' });
    await dds.publish('/from_dds', state);
    expect(await heardByRos.next()).toMatchObject({ ...state, serial_number: '' });

    const [image, copies] = [
      'sensor_msgs/msg/CompressedImage',
      await dds.subscribe('/image', 'sensor_msgs/msg/CompressedImage'),
    ];
    await ros.advertise('/image', image);
    await ros.matched('/image');
    const data = new Uint8Array(2_000).map((_, index) => index);
    await ros.publish('/image', { format: 'noise', data });
    expect(await copies.next()).toMatchObject({ format: 'noise', data });
  });

  test('rclnodejs that is loaded without the environment of ROS says so and stays as it was built', async () => {
    const env = await rosEnvironment();
    const module = join(env['ATOLL_RCLNODEJS']!, 'dist', 'index.js');
    const load = `import(${JSON.stringify(module)}).then(() => console.log('loaded'))`;
    const without = await startProcess(process.execPath, ['-e', load], { env: { PATH: env['PATH'] } });
    expect((await without.exited).code).not.toBe(0);
    expect(without.output()).toContain('Missing script: "rebuild"');
    const again = await startProcess(process.execPath, ['-e', load], { env });
    expect(await again.line(/loaded/)).toBe('loaded');
  });

  test('a simulated robot publishes what robots publish, drives as it is told, and resets', async () => {
    const env = await rosEnvironment();
    const [robot, peer] = await Promise.all([
      startSimulatedRobot({ env, namespace: '/robot1', cameraKilobytes: 50 }),
      startRosPeer({ env }),
    ]);
    const sensor = { reliability: 'best_effort' } as const;
    const [odom, scan, battery, diagnostics, camera, description, numbers] = await Promise.all([
      peer.subscribe('/robot1/odom', 'nav_msgs/msg/Odometry'),
      peer.subscribe('/robot1/scan', 'sensor_msgs/msg/LaserScan', sensor),
      peer.subscribe('/robot1/battery_state', 'sensor_msgs/msg/BatteryState'),
      peer.subscribe('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray'),
      peer.subscribe('/robot1/camera/image/compressed', 'sensor_msgs/msg/CompressedImage', sensor),
      peer.subscribe('/robot1/robot_description', 'std_msgs/msg/String', { durability: 'transient_local' }),
      peer.subscribe('/robot1/numbers', 'std_msgs/msg/UInt64', { depth: 1000 }),
    ]);
    const { ranges } = (await scan.next()) as { ranges: number[] };
    expect(ranges).toHaveLength(360);
    expect(ranges[0]).toBeCloseTo(5);
    expect(await battery.next()).toMatchObject({ temperature: NaN, present: true });
    expect(await diagnostics.next()).toMatchObject({ status: [{ name: '/robot1/battery', message: 'ok' }] });
    expect(await description.next()).toMatchObject({ data: expect.stringContaining('<robot') });
    const { data, format } = (await camera.next()) as { data: Uint8Array; format: string };
    expect({ format, begin: Buffer.from(data.subarray(1, 4)).toString() }).toEqual({
      format: 'png',
      begin: 'PNG',
    });
    expect(data.length).toBeGreaterThan(50_000);

    await robot.matched();
    expect(await robot.numbers(100, 200)).toBe(100);
    await numbers.count(100);
    expect(numbers.messages).toEqual(Array.from({ length: 100 }, (_, data) => ({ data })));

    const told = robot.nextCommand();
    await peer.advertise('/robot1/cmd_vel', 'geometry_msgs/msg/Twist');
    await peer.matched('/robot1/cmd_vel');
    await peer.publish('/robot1/cmd_vel', { linear: { x: 1 } });
    expect(await told).toEqual({ linear: 1, angular: 0 });
    const moved = async (): Promise<boolean> => {
      const { pose } = (await odom.next()) as { pose: { pose: { position: { x: number } } } };
      return pose.pose.position.x > 0.1;
    };
    while (!(await moved()));
    await peer.publish('/robot1/cmd_vel', {});
    await expect.poll(() => robot.commands.length).toBe(2);
    expect(await peer.call('/robot1/reset_odometry', 'std_srvs/srv/Trigger')).toMatchObject({
      success: true,
    });
    expect(await robot.state()).toMatchObject({ x: 0, y: 0, numbers: 100 });
  });
});
