import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  everyMs,
  memoryBytes,
  parseHandler,
  problemText,
  sourceOf,
  triggerKinds,
  validate,
} from '../../crds/function.ts';
import { bad, functionWith, good, objectOf } from './cases.ts';

test.each(good)('$what is accepted', (each) => {
  const verdict = validate(objectOf(each));
  expect(verdict.ok ? [] : verdict.problems.map(problemText)).toEqual([]);
});

test.each(bad)('$what is refused, naming the path and what is allowed', (each) => {
  const verdict = validate(objectOf(each));
  if (verdict.ok) throw new Error('was accepted');
  expect(verdict.problems.map(({ path }) => path)).toEqual([each.path]);
  expect(verdict.problems[0]?.message).toContain(each.says);
});

test('a Function with every problem is told all of them at once, each with its value', () => {
  const verdict = validate({
    ...functionWith(
      {
        timeoutSeconds: 0,
        memory: 5,
        triggers: [
          { name: 'a', nats: { subject: 'a..b' } },
          { name: 'a', mqtt: { topic: 'x/#/y' }, http: { path: '/' } },
          { name: 'c', schedule: { cron: 'nonsense' } },
        ],
      },
      'Capital',
    ),
  });
  if (verdict.ok) throw new Error('was accepted');
  expect(verdict.problems.map(({ path, value }) => [path, typeof value === 'object' ? '…' : value])).toEqual(
    expect.arrayContaining([
      ['metadata.name', 'Capital'],
      ['spec.timeoutSeconds', 0],
      ['spec.memory', 5],
      ['spec.triggers[0].nats.subject', 'a..b'],
      ['spec.triggers[1].name', 'a'],
      ['spec.triggers[1]', '…'],
      ['spec.triggers[1].mqtt.topic', 'x/#/y'],
      ['spec.triggers[2].schedule.cron', 'nonsense'],
    ]),
  );
  expect(verdict.problems).toHaveLength(8);
});

test('the defaults are filled in, those of a trigger only for the source it has', () => {
  const verdict = validate(
    functionWith({
      triggers: [
        { name: 'n', nats: { subject: 'a' } },
        { name: 'j', jetstream: { stream: 'S' } },
        { name: 'm', mqtt: { topic: 'a' } },
        { name: 'r', ros: { topics: [{ match: '/a' }] } },
        { name: 'h', http: { path: '/' } },
        { name: 's', schedule: { every: '1s' } },
      ],
      retry: { maxAttempts: 5 },
      permissions: {},
      scaling: { maxReplicas: 2, targetLag: 1 },
    }),
  );
  if (!verdict.ok) throw new Error('was refused');
  expect(verdict.object.spec).toEqual({
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    timeoutSeconds: 30,
    memory: '128Mi',
    concurrency: 1,
    processes: 1,
    spareProcesses: 0,
    replicas: 1,
    env: [],
    recursion: 'Terminate',
    retry: { maxAttempts: 5, minBackoffMs: 1000, maxBackoffMs: 60000, maxAgeSeconds: 21600 },
    permissions: { publish: [], call: [] },
    scaling: { minReplicas: 1, maxReplicas: 2, targetLag: 1 },
    triggers: [
      { name: 'n', encoding: 'json', nats: { subject: 'a', broadcast: false, reply: 'Always' } },
      {
        name: 'j',
        encoding: 'json',
        jetstream: { stream: 'S', startAt: 'New', batchSize: 1, batchWindowMs: 0 },
      },
      { name: 'm', encoding: 'json', mqtt: { topic: 'a', qos: 1, version: 4, delivery: 'AtLeastOnce' } },
      {
        name: 'r',
        encoding: 'json',
        ros: { topics: [{ match: '/a', raw: false, keepLast: 10, qos: 'auto' }] },
      },
      { name: 'h', encoding: 'json', http: { path: '/', pathType: 'Exact' } },
      { name: 's', encoding: 'json', schedule: { every: '1s', catchUp: false, delivery: 'AtLeastOnce' } },
    ],
  });
  expect(verdict.object.spec.triggers.map((trigger) => sourceOf(trigger).kind)).toEqual([...triggerKinds]);
});

test('what was given stays as it was, and the status of a printed object is left out', () => {
  const given = { ...functionWith({ env: null }), status: { readyReplicas: 1 } };
  const before = structuredClone(given);
  const verdict = validate(given);
  expect(given).toEqual(before);
  expect(verdict).toMatchObject({ ok: true, object: { spec: { env: [] } } });
  expect(verdict.ok && Object.keys(verdict.object)).toEqual(['apiVersion', 'kind', 'metadata', 'spec']);
});

test('a valid object is valid again with its defaults, and does not change any more', () => {
  for (const each of good) {
    const once = validate(objectOf(each));
    if (!once.ok) throw new Error(each.what);
    expect(validate(once.object)).toEqual(once);
  }
});

test('whatever is given, the verdict is problems with a path, never an exception', () => {
  const anything = fc.anything({ withNullPrototype: true, withBigInt: true, maxDepth: 4 });
  fc.assert(
    fc.property(anything, anything, (spec, whole) => {
      for (const object of [whole, functionWith(spec as object)]) {
        const verdict = validate(object);
        if (!verdict.ok) expect(verdict.problems.map(problemText).join()).not.toBe('');
      }
    }),
    { numRuns: 300 },
  );
  expect(validate(functionWith({ handler: () => 1 })).ok).toBe(false);
  expect(validate(JSON.parse('{"__proto__": {"kind": "Function"}}')).ok).toBe(false);
});

test('a long value is shortened where problems are printed', () => {
  const verdict = validate(functionWith({ handler: 'x'.repeat(5000) }));
  if (verdict.ok) throw new Error('was accepted');
  expect(Math.max(...verdict.problems.map((problem) => problemText(problem).length))).toBeLessThan(300);
});

test.each([
  ['32Mi', 33554432],
  ['0.5Gi', 536870912],
  ['512M', 512000000],
  ['1.5k', 1500],
  ['134217728', 134217728],
])('%s is %d bytes', (quantity, bytes) => expect(memoryBytes(quantity)).toBe(bytes));

test.each([
  ['250ms', 250],
  ['1s', 1000],
  ['5m', 300000],
  ['2h', 7200000],
  ['1d', 86400000],
])('every %s is %d ms', (every, ms) => expect(everyMs(every)).toBe(ms));

test.each([
  ['index.handler', 'index', 'handler'],
  ['src/v1.2/app.api.get', 'src/v1.2/app', 'api.get'],
])('the handler %s is the file %s and the export %s', (handler, file, name) =>
  expect(parseHandler(handler)).toEqual({ file, export: name }),
);
