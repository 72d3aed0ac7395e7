import { Cron } from 'croner';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { validate } from '../../crds/function.ts';
import { rules } from '../../crds/rules.ts';
import { bad, functionWith, objectOf } from './cases.ts';

const generic = (path: string) => path.replaceAll(/\[[0-9]+\]/g, '[]');

test('every rule has a manifest that it alone refuses', () => {
  const refusedBy = new Set(
    bad.flatMap((each) => {
      const verdict = validate(objectOf(each));
      const only = !verdict.ok && verdict.problems.length === 1 ? verdict.problems[0] : undefined;
      return only ? [`${generic(only.path)} ${only.message}`] : [];
    }),
  );
  const idle = rules.filter(
    ({ path, fieldPath, message }) =>
      !refusedBy.has(`${(path + (fieldPath ?? '')).replace(/^\./, '')} ${message}`),
  );
  expect(idle.map(({ path, message }) => `${path}: ${message}`)).toEqual([]);
});

test('every cron expression that is accepted is one that croner can run', () => {
  const pattern = rules.find(
    ({ path, rule }) => path.endsWith('.cron') && rule.startsWith('self.matches'),
  )?.rule;
  const regexp = new RegExp(/r'(.*)'/.exec(pattern ?? '')?.[1] ?? '(?!)', 'u');
  let ran = 0;
  fc.assert(
    fc.property(fc.stringMatching(regexp), (cron) => {
      const spec = { triggers: [{ name: 'a', schedule: { cron } }] };
      if (!validate(functionWith(spec)).ok) return;
      ran++;
      expect(() => new Cron(cron, { paused: true }, () => undefined)).not.toThrow();
    }),
    { numRuns: 2000 },
  );
  expect(ran).toBeGreaterThan(200);
});

test('no pattern is one that the two regular expression engines read differently', () => {
  for (const { rule } of rules) expect(rule).not.toMatch(/\\[sdwbDSWB]|\(\?|\\u/);
});

test('hostile text is judged quickly', () => {
  const hostile = ['a/'.repeat(511) + '#a', `${'a.'.repeat(127)}..`, '1,'.repeat(63) + 'x', '*'.repeat(1024)];
  const begin = performance.now();
  for (const text of hostile) {
    validate(functionWith({ triggers: [{ name: 'a', mqtt: { topic: text } }], handler: text.slice(0, 128) }));
    validate(functionWith({ triggers: [{ name: 'a', nats: { subject: text.slice(0, 256) } }] }));
    validate(functionWith({ triggers: [{ name: 'a', schedule: { cron: text.slice(0, 128) } }] }));
  }
  expect(performance.now() - begin).toBeLessThan(1000);
});
