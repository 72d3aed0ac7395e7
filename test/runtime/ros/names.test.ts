import { expect, test } from 'vitest';
import { isHidden, patternOf, resolveName } from '../../../runtime/ros/names.ts';

test.each([
  ['/scan', '/robot1', '/scan'],
  ['scan', '/robot1', '/robot1/scan'],
  ['camera/image', '/fleet/robot1', '/fleet/robot1/camera/image'],
  ['scan', '/', '/scan'],
  ['**', '/robot1', '/robot1/**'],
])('%s in %s is %s', (name, namespace, resolved) => {
  expect(resolveName(name, namespace)).toBe(resolved);
});

test.each([
  ['/scan', ['/scan'], ['/scan2', '/a/scan', '/scan/a']],
  ['/**', ['/scan', '/a/b/c'], []],
  ['/*', ['/scan'], ['/a/scan']],
  ['/*/scan', ['/robot1/scan'], ['/scan', '/a/b/scan']],
  ['/robot*/scan', ['/robot1/scan', '/robot/scan'], ['/arobot/scan']],
  ['/a/**', ['/a', '/a/b', '/a/b/c'], ['/ab', '/b/a']],
  ['/a/**/z', ['/a/z', '/a/b/c/z'], ['/a/b', '/az']],
  ['/*_raw', ['/image_raw', '/_raw'], ['/image_raw2']],
])('the pattern %s fits %j and not %j', (match, fitting, others) => {
  for (const name of fitting) expect([name, patternOf(match).test(name)]).toEqual([name, true]);
  for (const name of others) expect([name, patternOf(match).test(name)]).toEqual([name, false]);
});

test('names with a level that begins with an underscore are hidden, as from the tools of ROS', () => {
  expect(['/_a', '/a/_b', '/a_b', '/a'].map(isHidden)).toEqual([true, true, false, false]);
});
