import { expect, test } from 'vitest';
import { openLine } from '../../../functions/telemetry/line.ts';

test('one after the other, in the order in which they came, whatever fails', async () => {
  const line = openLine();
  const gates = [0, 1, 2].map(() => Promise.withResolvers<void>());
  const begun: number[] = [];
  const all = gates.map((gate, index) =>
    line.take(async () => (begun.push(index), await gate.promise, index), { newestWins: false }),
  );
  expect(line.length).toBe(3);
  gates[2]!.resolve();
  gates[1]!.reject(new Error('no'));
  await Promise.resolve();
  expect(begun).toEqual([0]);
  gates[0]!.resolve();
  expect(await Promise.allSettled(all)).toMatchObject([
    { value: 0 },
    { reason: { message: 'no' } },
    { value: 2 },
  ]);
  expect(begun).toEqual([0, 1, 2]);
  expect(line.length).toBe(0);
});

test('the newest wins: one is at it, one waits, the others step aside', async () => {
  const line = openLine();
  const first = Promise.withResolvers<string>();
  const take = (work: () => Promise<string>) => line.take(work, { newestWins: true });
  const results = [
    take(() => first.promise),
    take(() => Promise.resolve('second')),
    take(() => Promise.resolve('third')),
    take(() => Promise.resolve('fourth')),
  ];
  expect(await Promise.all(results.slice(1, 3))).toEqual([undefined, undefined]);
  expect(line.length).toBe(2);
  first.resolve('first');
  expect(await Promise.all(results)).toEqual(['first', undefined, undefined, 'fourth']);
});
