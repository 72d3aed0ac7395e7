import { expect, test } from 'vitest';
import { missingField, parseCondition, parsePath, project } from '../../../functions/telemetry/condition.ts';
import { readSchema } from '../../../runtime/telemetry.ts';
import { definitions } from '../../runtime/telemetry/types.ts';

test('a path is names with dots, each with an index or none', () => {
  expect(parsePath('status[2].values[0].key')).toEqual(['status', 2, 'values', 0, 'key']);
  for (const text of ['', '.', 'a.', '.a', 'a[]', 'a[-1]', '0a', 'a b', '__proto__', 'a.__proto__']) {
    expect(parsePath(text), text).toBeUndefined();
  }
});

test('what is no condition is none', () => {
  for (const text of ['a', 'a <', '< 5', 'a = 5', 'a < b', 'a < true', 'a == "b', 'a < 5 and b > 3']) {
    expect(parseCondition(text), text).toBeUndefined();
  }
  expect(parseCondition(' a.b>=-1.5e3 ')).toMatchObject({ path: ['a', 'b'], operator: '>=', value: -1500 });
});

test('a projection has only these fields, of lists of messages each one', () => {
  const message = {
    header: { stamp: { sec: 1, nanosec: 2 }, frame_id: 'a' },
    status: [
      { level: 0, name: 'x', values: [] },
      { level: 2, name: 'y', values: [] },
    ],
    data: Float32Array.of(1, 2),
  };
  const paths = ['header.stamp', 'header.frame_id', 'status.level', 'data', 'status.name'].map((one) =>
    parsePath(one)!,
  );
  expect(project(message, paths)).toEqual({
    header: message.header,
    status: [
      { level: 0, name: 'x' },
      { level: 2, name: 'y' },
    ],
    data: message.data,
  });
  expect(project(message, [['header'], ['header', 'frame_id']])).toEqual({ header: message.header });
});

test('a field that the type does not have is told, with those that it has', () => {
  const odometry = readSchema('nav_msgs/msg/Odometry', definitions['nav_msgs/msg/Odometry']);
  const missing = (path: string) => missingField(odometry, parsePath(path)!);
  expect(missing('pose.pose.position.x')).toBeUndefined();
  expect(missing('header.stamp.sec')).toBeUndefined();
  expect(missing('pose.covariance[3]')).toBeUndefined();
  expect(missing('pose.position')).toBe('pose has pose, covariance');
  expect(missing('speed')).toBe('nav_msgs/msg/Odometry has header, child_frame_id, pose, twist');
  expect(missing('child_frame_id.length')).toBe('child_frame_id is a string and has no fields');
  expect(missing('header.stamp.nsec')).toBe('header.stamp has sec, nanosec');
  expect(missing('pose[0]')).toBe('pose is no list');
});
