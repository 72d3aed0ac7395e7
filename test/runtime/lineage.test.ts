import { expect, test } from 'vitest';
import { hopsOf, nextTraceId, withoutHops } from '../../runtime/lineage.ts';

const root = '1-5759e988-bd862e3fe1be46a994272793';

test.each([
  [{}, 0],
  [{ 'Atoll-Hops': '4' }, 4],
  [{ 'Atoll-Hops': 'many' }, 0],
  [{ 'Atoll-Hops': '-5' }, 0],
  // As AWS's documentation of the header has it.
  [
    {
      'x-amzn-trace-id': `Root=${root};Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a87bd80c:1|68fd508a:5|c512fbe3:2`,
    },
    8,
  ],
  [{ 'x-amzn-trace-id': `Root=${root};Lineage=1:a87bd80c:3` }, 3],
  [{ 'x-amzn-trace-id': `Root=${root}` }, 0],
  [{ 'x-amzn-trace-id': 'Lineage=;Lineage' }, 0],
  [{ 'x-amzn-trace-id': 'Lineage=a:b|c:-3|:2' }, 2],
  [{ 'Atoll-Hops': '4', 'x-amzn-trace-id': 'Lineage=a87bd80c:7' }, 7],
  [{ 'Atoll-Hops': '9', 'x-amzn-trace-id': 'Lineage=a87bd80c:7' }, 9],
])('%j came through %i functions', (headers, hops) => {
  expect(hopsOf(headers as Record<string, string>)).toBe(hops);
});

test('what is handed on keeps root and sampling, and is one hop further', () => {
  const given = {
    'x-amzn-trace-id': `Root=${root};Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a87bd80c:1|68fd508a:5`,
  };
  const next = nextTraceId(given);
  expect(next).toMatch(new RegExp(`^Root=${root};Parent=[0-9a-f]{16};Sampled=1;Lineage=[0-9a-f]{8}:7$`));
  expect(hopsOf({ 'x-amzn-trace-id': next })).toBe(7);
  expect(hopsOf({ 'x-amzn-trace-id': nextTraceId({ 'Atoll-Hops': '2' }) })).toBe(3);
});

test('without a trace each invocation begins one of its own', () => {
  const made = Array.from({ length: 1_000 }, () => nextTraceId({}));
  for (const one of made) {
    expect(one).toMatch(
      /^Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0;Lineage=[0-9a-f]{8}:1$/,
    );
  }
  expect(new Set(made.map((one) => one.split(';')[0])).size).toBe(made.length);
});

test('a root that is none is not handed on', () => {
  expect(nextTraceId({ 'x-amzn-trace-id': 'Root=evil\r\nheader;Sampled=7' })).toMatch(
    /^Root=1-[0-9a-f]{8}-.*;Sampled=0;/,
  );
});

test('an event that is to begin anew keeps all other headers', () => {
  expect(withoutHops({ 'Atoll-Hops': '16', 'x-amzn-trace-id': 'Lineage=a:9', color: 'red' })).toEqual({
    color: 'red',
  });
});
