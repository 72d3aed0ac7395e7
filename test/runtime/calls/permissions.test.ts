import { expect, test } from 'vitest';
import { validate } from '../../../crds/function.ts';
import { refusal, type Wanted } from '../../../runtime/calls/permissions.ts';
import { functionWith } from '../../crds/cases.ts';

const nats = (name: string, kind: 'nats.publish' | 'nats.request' = 'nats.publish'): Wanted => ({
  kind,
  to: 'nats',
  name,
});
const mqtt = (name: string): Wanted => ({ kind: 'mqtt.publish', to: 'mqtt', name });
const kv = (bucket: string, name: string, kind: 'kv.get' | 'kv.put' = 'kv.put'): Wanted => ({
  kind,
  to: 'kv',
  bucket,
  name,
});
const ros = (name: string, kind: 'ros.call' | 'ros.publish' | 'ros.definition' = 'ros.publish'): Wanted => ({
  kind,
  to: 'ros',
  name,
});

/** As an API server and `faas` would take them. */
function permissions(given: { publish?: string[]; call?: string[] }) {
  const verdict = validate(functionWith({ permissions: given }));
  if (!verdict.ok) throw new Error(JSON.stringify(verdict.problems));
  return verdict.object.spec.permissions;
}

test.each([
  ...[
    'atoll.local.inbox.a.b.c',
    'atoll',
    '$JS.API.STREAM.DELETE.X',
    '$JS.hub.API.INFO',
    '$SYS.REQ.SERVER.PING',
  ].map((name) => nats(name)),
  ...['$KV.ATOLL_STATE.x', '$KV.ATOLL_ROBOTS.robot1', '_INBOX.local.x', '$NRG.x', '$MQTT.x'].map((name) =>
    nats(name),
  ),
  ...['$JS.API.STREAM.MSG.GET.X', 'atoll.x'].map((name) => nats(name, 'nats.request')),
  ...[
    'atoll/local/dead/a',
    'atoll',
    '$JS/API/STREAM/DELETE/X',
    '$SYS/x',
    '$KV/ATOLL_STATE/x',
    '_INBOX/a',
    '$MQTT/x',
  ].map(mqtt),
  ...[kv('ATOLL_STATE', 'a'), kv('ATOLL_ROBOTS', 'a', 'kv.get')],
])('nobody may $kind $bucket $name', (wanted) => {
  expect(refusal(wanted, undefined, false)).toContain('of NATS or Atoll itself');
  expect(refusal(wanted, permissions({ publish: ['mqtt:#', 'kv:mine'], call: ['lab.>'] }), false)).toContain(
    'itself',
  );
});

test('without permissions everything else is allowed, but where they are required nothing', () => {
  for (const wanted of [
    nats('$KV.mine.a'),
    nats('atolls.a'),
    nats('a', 'nats.request'),
    mqtt('$aws/things/r1'),
    kv('mine', 'a'),
    ros('/cmd_vel'),
  ]) {
    expect(refusal(wanted, undefined, false), wanted.name).toBeUndefined();
    expect(refusal(wanted, undefined, true), wanted.name).toMatch(
      /without spec.permissions may reach nothing/,
    );
  }
  expect(refusal(nats('lab.a'), undefined, true)).toContain('add "lab.a" to spec.permissions.publish');
  expect(refusal(kv('mine', 'a.b', 'kv.get'), undefined, true)).toContain(
    'add "kv:mine/a.b" to spec.permissions.call',
  );
  expect(refusal(ros('std_msgs/msg/String', 'ros.definition'), undefined, true)).toContain(
    'spec.permissions',
  );
});

test('an empty list allows nothing; definitions of ROS types are open to whoever has permissions', () => {
  expect(refusal(nats('a'), permissions({}), false)).toContain('spec.permissions.publish does not hold it');
  expect(refusal(nats('a', 'nats.request'), permissions({ publish: ['a'] }), false)).toContain(
    'spec.permissions.call',
  );
  expect(refusal(ros('std_msgs/msg/String', 'ros.definition'), permissions({}), true)).toBeUndefined();
  expect(refusal(nats('$KV.mine.a'), permissions({ publish: ['kv:mine'] }), false)).toContain('use kv()');
});

const allowed: [string, Wanted[], Wanted[]][] = [
  [
    'alarms.>',
    [nats('alarms.a'), nats('alarms.a.b')],
    [nats('alarms'), nats('alarmsa.b'), nats('x.alarms.a'), mqtt('alarms/a')],
  ],
  ['a.*.c', [nats('a.b.c')], [nats('a.b.b.c'), nats('a.c'), nats('a.b.c.d')]],
  ['nats:a/b.c+', [nats('a/b.c+')], [nats('a/b.cc'), nats('a/bxc+')]],
  [
    'mqtt:fleet/+/state',
    [mqtt('fleet/r1/state'), mqtt('fleet//state')],
    [mqtt('fleet/r1/x/state'), nats('fleet/r1/state')],
  ],
  ['mqtt:fleet/#', [mqtt('fleet'), mqtt('fleet/a/b')], [mqtt('fleets')]],
  ['mqtt:#', [mqtt('a'), mqtt('/a/b')], [mqtt('$aws/things/a'), nats('a')]],
  ['mqtt:+/a', [mqtt('b/a')], [mqtt('$aws/a'), mqtt('a')]],
  ['kv:mine', [kv('mine', 'a'), kv('mine', 'a.b')], [kv('other', 'a'), kv('mines', 'a'), nats('mine')]],
  [
    'kv:mine/robots.*',
    [kv('mine', 'robots.r1')],
    [kv('mine', 'robots'), kv('mine', 'robots.r1.x'), kv('mine', 'a')],
  ],
  ['ros:/cmd_vel', [ros('/cmd_vel')], [ros('cmd_vel'), ros('/cmd_vel/x'), ros('/robot1/cmd_vel')]],
  ['ros:/*/cmd_vel', [ros('/robot1/cmd_vel')], [ros('/cmd_vel'), ros('/a/b/cmd_vel')]],
  ['ros:/robot1/**', [ros('/robot1/a'), ros('/robot1/a/b')], [ros('/robot1'), ros('/robot10/a')]],
  ['ros:/**', [ros('/a'), ros('/a/b')], [ros('a')]],
];

test.each(allowed)('%s allows what its wildcards hold, and nothing else', (entry, inside, outside) => {
  const publish = permissions({ publish: [entry] });
  for (const wanted of inside) expect(refusal(wanted, publish, true), JSON.stringify(wanted)).toBeUndefined();
  for (const wanted of outside) expect(refusal(wanted, publish, true), JSON.stringify(wanted)).toBeDefined();
});

test('call allows asking: requests, reading keys, services', () => {
  const call = permissions({ call: ['lab.>', 'kv:mine', 'ros:/reset'] });
  for (const wanted of [
    nats('lab.ask', 'nats.request'),
    kv('mine', 'a', 'kv.get'),
    ros('/reset', 'ros.call'),
  ]) {
    expect(refusal(wanted, call, true)).toBeUndefined();
  }
  for (const wanted of [nats('lab.ask'), kv('mine', 'a'), ros('/reset')]) {
    expect(refusal(wanted, call, true)).toContain('spec.permissions.publish');
  }
});

test('what the refusal advises to add is valid, and allows the call', () => {
  for (const wanted of [
    nats('a.b'),
    nats('a/b:c'),
    mqtt('a/b'),
    kv('mine', 'a/b.c'),
    ros('/cmd_vel'),
    ros('/reset', 'ros.call'),
  ]) {
    const [, entry = '', list = ''] = /add "(.*)" to spec\.permissions\.(\w+)/.exec(
      refusal(wanted, undefined, true)!,
    )!;
    expect(refusal(wanted, permissions({ [list]: [entry] }), true), entry).toBeUndefined();
  }
});
