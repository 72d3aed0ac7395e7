/** Handlers that publish on ROS and call its services, with a node in Python as peer. */
import { expect, describe, test } from 'vitest';
import { missing } from '../../support/requirement.ts';
import { startRosPeer } from '../../support/ros.ts';
import { linkIs, rosMachine } from '../ros/ros-process.ts';
import { functionConfig, startedHost } from '../started-host.ts';

describe.skipIf(await missing('ros'))('ros of atoll', () => {
  test(
    'publishes, calls a service and gives definitions; 64 bits stay 64 bits',
    { timeout: 120_000 },
    async () => {
      const machine = await rosMachine();
      const code = `
      import { ros } from 'atoll';
      export const handler = async () => {
        const answer = await ros.call('/enable', 'std_srvs/srv/SetBool', { data: true }, { timeoutMs: 20_000 });
        // Whoever knows the peer's service knows its subscriptions too, which were there before it.
        await ros.publish('/cmd_vel', 'geometry_msgs/msg/Twist', { linear: { x: 0.5 } });
        const definition = await ros.definition('geometry_msgs/msg/Twist');
        const failed = await ros.call('/none', 'no_msgs/srv/Such').catch(({ code }) => code);
        await ros.publish('/numbers', 'std_msgs/msg/UInt64', { data: 2n ** 64n - 1n });
        const forbidden = await ros.publish('/other', 'std_msgs/msg/Empty', {}).catch(({ code }) => code);
        return { answer, definition: definition.includes('MSG: geometry_msgs/Vector3'), failed, forbidden };
      };`;
      const permissions = {
        publish: ['ros:/cmd_vel', 'ros:/numbers'],
        call: ['ros:/enable', 'ros:/none'],
      };
      const one = functionConfig('one', code, { spec: { permissions, timeoutSeconds: 60 } });
      const peer = await startRosPeer({ env: machine.env });
      const heard = await peer.subscribe('/cmd_vel', 'geometry_msgs/msg/Twist');
      const numbers = await peer.subscribe('/numbers', 'std_msgs/msg/UInt64');
      await peer.serve('/enable', 'std_srvs/srv/SetBool', ({ data }: { data: boolean }) => ({
        success: data,
        message: 'grüße',
      }));
      await linkIs(machine.link(), true);
      const host = await startedHost([one], { ros: { socket: machine.socket } });
      await host.untilReady(one);
      expect(await host.invoke('one', {})).toEqual({
        answer: { success: true, message: 'grüße' },
        definition: true,
        failed: 'RosTypeNotFound',
        forbidden: 'NotAllowed',
      });
      expect(await heard.next()).toMatchObject({ linear: { x: 0.5, y: 0 } });
      expect(await numbers.next()).toEqual({ data: 2n ** 64n - 1n });
    },
  );
});
