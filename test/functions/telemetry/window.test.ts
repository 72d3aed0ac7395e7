import fc from 'fast-check';
import { expect, test } from 'vitest';
import { openWindow } from '../../../functions/telemetry/window.ts';

test('all are on their way at once, in their order', async () => {
  const window = openWindow();
  const gate = Promise.withResolvers<void>();
  const begun: number[] = [];
  const all = [1, 2, 3].map((number) =>
    window.send(
      () => (begun.push(number), gate.promise),
      (error) => Promise.reject(error as Error),
    ),
  );
  expect(begun).toEqual([1, 2, 3]);
  gate.resolve();
  await Promise.all(all);
});

test('whenever the server goes and comes, what it stores is in order, and each is stored or given up', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.boolean(), { maxLength: 40 }),
      fc.integer({ min: 1, max: 12 }),
      async (up, count) => {
        const window = openWindow();
        const stored: number[] = [];
        let look = 0;
        let isUp = true;
        // A server that goes takes nothing until it is asked again.
        const publish = async (number: number): Promise<void> => {
          if (isUp) isUp = up[look++] ?? true;
          const taken = isUp;
          await Promise.resolve();
          if (!taken) throw new Error('away');
          stored.push(number);
        };
        const numbers = Array.from({ length: count }, (_, index) => index + 1);
        await Promise.all(
          numbers.map((number) =>
            window.send(
              () => publish(number),
              async () => {
                await Promise.resolve();
                isUp = true;
              },
            ),
          ),
        );
        expect(stored).toEqual(numbers);
      },
    ),
  );
});

test('one that is given up lets the others go on', async () => {
  const window = openWindow();
  const stored: number[] = [];
  const outcomes = await Promise.allSettled(
    [1, 2, 3].map((number) =>
      window.send(
        () =>
          number === 2 ? Promise.reject(new Error('too big')) : Promise.resolve(void stored.push(number)),
        (error) => Promise.reject(error as Error),
      ),
    ),
  );
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(stored).toEqual([1, 3]);
});
