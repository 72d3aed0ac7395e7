import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseSettings } from '../../../functions/telemetry/settings.ts';
import { matches, schemaSubject, subjectOf } from '../../../functions/telemetry/subjects.ts';
import { settingsOf } from '../../../functions/telemetry/topics.ts';

const none = { namespace: '', subjects: {} };

test.each([
  ['/scan', '/scan', true],
  ['/scan', '/scan2', false],
  ['/camera/*', '/camera/image', true],
  ['/camera/*', '/camera/front/image', false],
  ['/camera/**', '/camera/front/image', true],
  ['/camera/**', '/camera', true],
  ['/**', '/anything/at/all', true],
  ['/*/scan', '/robot1/scan', true],
  ['/**/scan', '/a/b/scan', true],
  ['/**/scan', '/scan', true],
  ['/cam*', '/camera', true],
  ['/cam*', '/camera/image', false],
])('%s takes %s: %s', (pattern, topic, expected) => {
  expect(matches(pattern, topic)).toBe(expected);
});

test('slashes become dots; a namespace and odd names are taken off by settings', () => {
  expect(subjectOf('/camera/image/compressed', none)).toBe('camera.image.compressed');
  const settings = { namespace: '/robot1', subjects: { '/weird__name_': 'nice.name' } };
  expect(subjectOf('/robot1/scan', settings)).toBe('scan');
  expect(subjectOf('/robot10/scan', settings)).toBe('robot10.scan');
  expect(subjectOf('/weird__name_', settings)).toBe('nice.name');
  expect(subjectOf('/constructor', none)).toBe('constructor');
});

const name = fc
  .array(fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,8}$/), { minLength: 1, maxLength: 5 })
  .map((levels) => `/${levels.join('/')}`);

test('no two topics share a subject, and none is that of a definition', () => {
  fc.assert(
    fc.property(name, name, (one, other) => {
      expect(subjectOf(one, none) === subjectOf(other, none)).toBe(one === other);
      expect(subjectOf(one, none)).toMatch(/^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$/);
      expect(`robots.r.kept.${subjectOf(one, none)}`).not.toMatch(/^robots\.r\.kept\.ros-schemas\./);
    }),
  );
  expect(schemaSubject('r', 'ab12')).toBe('robots.r.kept.ros-schemas.ab12');
});

test('the first entry takes a topic; deny and allow go before; what is off is not sent', () => {
  const settings = parseSettings(`
robot: r
allow: [/sensors/**, /scan]
deny: [/sensors/secret]
topics:
  - { ros: /sensors/imu, as: json }
  - { ros: /sensors/off, enabled: false }
  - { ros: /**, as: cbor, maxHz: 1 }
`);
  expect(settingsOf('/sensors/imu', settings)?.as).toBe('json');
  expect(settingsOf('/sensors/new/one', settings)?.as).toBe('cbor');
  expect(settingsOf('/scan', settings)?.as).toBe('cbor');
  for (const topic of ['/sensors/secret', '/sensors/off', '/rosout']) {
    expect(settingsOf(topic, settings)).toBeUndefined();
  }
});
