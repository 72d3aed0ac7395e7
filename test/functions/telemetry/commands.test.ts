import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CallError, type Context, type TriggerInfo } from 'atoll';
import { fakeCalls, testContext, type FakeCalls } from 'atoll/testing';
import { openCommands } from '../../../functions/telemetry/commands.ts';
import { openDefinitions } from '../../../functions/telemetry/definitions.ts';
import { parseSettings } from '../../../functions/telemetry/settings.ts';

const now = 1_764_000_000_000;
let calls: FakeCalls;
let command: ReturnType<typeof openCommands>;

beforeEach(() => {
  calls = fakeCalls();
  const settings = parseSettings(`
robot: robot1
commands:
  - { name: count, topic: /count, type: example_msgs/msg/Counters, ttl: 500ms }
  - { name: dock, service: /dock, type: std_srvs/srv/Trigger, ttl: 5s, timeout: 20s }
`);
  command = openCommands(settings, openDefinitions('robot1'), () => now);
  calls.answer('example_msgs/msg/Counters', 'int64 signed\nuint64 unsigned\n');
  calls.answer('std_srvs/srv/Trigger_Request', '');
});
afterEach(() => calls.remove());

function context(name: string, given: Partial<TriggerInfo> = {}, more: Partial<Context> = {}): Context {
  const subject = `robots.robot1.cmd.${name}`;
  const trigger = { kind: 'nats', name: 'commands', subject, id: 'id', time: now, attempt: 1, headers: {} };
  return testContext({ trigger: { ...trigger, ...given } as TriggerInfo, ...more });
}

test('to a topic: published with the values of its type', async () => {
  const answer = await command(
    { signed: '-9007199254740993' },
    context('count', { headers: { 'Atoll-Time': String(now - 400) } }),
  );
  expect(answer).toEqual({ ok: true, command: 'count' });
  const [call] = calls.of('ros.publish', '/count');
  expect(call!.options['type']).toBe('example_msgs/msg/Counters');
  expect(call!.json()).toEqual({ signed: -9_007_199_254_740_993n });
});

test('to a service: its response is the answer, in JSON', async () => {
  calls.answer('/dock', { success: true, message: 'docked', count: 2n ** 63n, data: Float32Array.of(NaN) });
  const answer = await command(null, context('dock', {}, { getRemainingTimeInMillis: () => 60_000 }));
  expect(answer).toEqual({
    ok: true,
    command: 'dock',
    response: { success: true, message: 'docked', count: '9223372036854775808', data: ['NaN'] },
  });
  expect(calls.of('ros.call', '/dock')[0]!.options).toMatchObject({
    type: 'std_srvs/srv/Trigger',
    timeoutMs: 20_000,
  });
});

describe('is refused', () => {
  test.each([
    [
      'one that is not allowed',
      'reboot',
      {},
      {},
      'UnknownCommand',
      'there is no command "reboot" here; allowed: count, dock',
    ],
    [
      'one of another robot',
      'count',
      { subject: 'robots.robot2.cmd.count' },
      {},
      'UnknownCommand',
      'robots.robot2.cmd.count is for robot2, and this is robot1',
    ],
    [
      'one that is too old',
      'count',
      { headers: { 'Atoll-Time': String(now - 501) } },
      {},
      'Expired',
      "it was sent 501 ms ago, by this robot's clock, and is good for 500 ms",
    ],
    [
      'one that waited too long on the robot',
      'count',
      { time: now - 600 },
      {},
      'Expired',
      "it was sent 600 ms ago, by this robot's clock, and is good for 500 ms",
    ],
    [
      'one of a clock that is ahead',
      'count',
      { headers: { 'Atoll-Time': String(now + 3_600_000) } },
      {},
      'Expired',
      "it was sent 3600000 ms in the future, by this robot's clock: the clocks differ by more than its 500 ms",
    ],
    [
      'one of no time',
      'count',
      { headers: { 'Atoll-Time': 'now' } },
      {},
      'InvalidTime',
      'the header Atoll-Time is "now"; it must be milliseconds since the epoch',
    ],
    [
      'one of another type',
      'count',
      {},
      { speed: 1 },
      'InvalidCommand',
      'example_msgs/msg/Counters has no field "speed"; it has signed, unsigned',
    ],
    [
      'a number that was rounded',
      'count',
      {},
      { signed: 2 ** 53 },
      'InvalidCommand',
      /^signed is 9007199254740992; it must be int64/,
    ],
    [
      'one that was begun before a crash',
      'count',
      { attempt: 2 },
      {},
      'Interrupted',
      /may have been carried out/,
    ],
  ] as const)('%s', async (_, name, trigger, payload, code, message) => {
    const answer = await command(payload, context(name, trigger));
    expect(answer).toEqual({
      ok: false,
      command: name,
      code,
      message: expect.stringMatching(message) as string,
    });
    expect([...calls.of('ros.publish'), ...calls.of('ros.call')]).toEqual([]);
  });

  test('what ROS does not carry out', async () => {
    calls.answer('/dock', new CallError('RosTimeout', '/dock did not answer within 20 s', true));
    expect(await command({}, context('dock'))).toEqual({
      ok: false,
      command: 'dock',
      code: 'Failed',
      message: '/dock did not answer within 20 s',
    });
  });
});
