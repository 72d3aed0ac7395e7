/** What unit tests of handlers have instead of a host: the same functions of 'atoll', and what they did. */
import { expect, test } from 'vitest';
import { fakeCalls, type FakeCalls } from '../../cli/testing.ts';
import { CallError, kv, mqtt, nats, ros } from '../../runtime/handler.ts';
import { closeLater } from '../support/closing.ts';

function fake(): FakeCalls {
  const calls = fakeCalls();
  closeLater(async () => calls.remove());
  return calls;
}

test('what a handler publishes is kept, in order, with its options', async () => {
  const calls = fake();
  await nats.publish('a.b', { n: 1 }, { headers: { Robot: 'r1' }, msgId: 'one' });
  await mqtt.publish('a/b', 'text', { retain: true });
  await ros.publish('/cmd_vel', 'geometry_msgs/msg/Twist', {
    stamp: 5n,
    ranges: new Float32Array([1, Infinity]),
  });
  await ros.publish('/raw', 'std_msgs/msg/String', new Uint8Array([0, 1, 0, 0]));
  expect(calls.made.map(({ kind, target, options }) => [kind, target, options])).toEqual([
    ['nats.publish', 'a.b', { headers: { Robot: 'r1' }, msgId: 'one' }],
    ['mqtt.publish', 'a/b', { retain: true }],
    ['ros.publish', '/cmd_vel', { type: 'geometry_msgs/msg/Twist' }],
    ['ros.publish', '/raw', { type: 'std_msgs/msg/String', raw: true }],
  ]);
  expect(calls.of('nats.publish', 'a.b')[0]!.json()).toEqual({ n: 1 });
  expect(calls.of('mqtt.publish')[0]!.string()).toBe('text');
  expect(calls.of('ros.publish', '/cmd_vel')[0]!.json()).toEqual({
    stamp: 5n,
    ranges: new Float32Array([1, Infinity]),
  });
  expect(calls.of('ros.publish', '/raw')[0]!.data).toEqual(new Uint8Array([0, 1, 0, 0]));
  expect(calls.of('nats.publish', 'other')).toEqual([]);
});

test('who is asked answers as the test says: a value, a function of the call, an error', async () => {
  const calls = fake();
  calls.answer('lab.ask', (call: { json(): { n: number } }) => ({ twice: call.json().n * 2 }));
  calls.answer('/reset', { success: true, stamp: 7n });
  calls.answer('std_msgs/msg/String', 'string data');
  calls.answer('closed', new CallError('NotAllowed', 'no', false));
  expect((await nats.request('lab.ask', { n: 4 })).json()).toEqual({ twice: 8 });
  expect(await ros.call('/reset', 'std_srvs/srv/Trigger')).toEqual({ success: true, stamp: 7n });
  expect(await ros.definition('std_msgs/msg/String')).toBe('string data');
  expect(await ros.topics()).toEqual([]);
  calls.answer('', [{ topic: '/scan', tooLarge: 1 }]);
  expect(await ros.topics()).toEqual([{ topic: '/scan', tooLarge: 1 }]);
  await expect(nats.publish('closed')).rejects.toMatchObject({ code: 'NotAllowed', retryable: false });
  await expect(nats.request('lab.nobody')).rejects.toMatchObject({ code: 'NoResponders' });
});

test('buckets are kept in memory, with revisions as in JetStream', async () => {
  const calls = fake();
  const bucket = kv('settings');
  const first = await bucket.put('speed', 3);
  expect(await bucket.get('speed')).toMatchObject({ key: 'speed', revision: first });
  const second = await bucket.update('speed', { kmh: 4 }, first);
  expect(second).toBeGreaterThan(first);
  await expect(bucket.update('speed', 5, first)).rejects.toMatchObject({ code: 'WrongRevision' });
  await expect(bucket.create('speed', 5)).rejects.toMatchObject({ code: 'WrongRevision' });
  expect((await bucket.get('speed'))!.json()).toEqual({ kmh: 4 });
  await bucket.delete('speed');
  await bucket.delete('speed');
  expect(await bucket.get('speed')).toBeUndefined();
  await bucket.create('speed', 'again');
  expect(calls.buckets.get('settings')!.get('speed')!.data).toEqual(new TextEncoder().encode('again'));
});

test('without a host and without a fake a call says what to use', async () => {
  using calls = fakeCalls();
  calls.remove();
  await expect(nats.publish('a')).rejects.toMatchObject({
    code: 'OutsideInvocation',
    message: expect.stringContaining('fakeCalls()') as string,
  });
});
