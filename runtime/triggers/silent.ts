/** A trigger whose events come out of the inbox, or that cannot have any: it yields nothing and ends with close(). */
import type { Trigger } from './trigger.ts';

export function openSilent(close: () => Promise<void> = () => Promise.resolve()): Trigger {
  const ended = Promise.withResolvers<IteratorReturnResult<undefined>>();
  return {
    deliveries: () => ({ [Symbol.asyncIterator]: () => ({ next: () => ended.promise }) }),
    async close() {
      await close();
      ended.resolve({ done: true, value: undefined });
    },
  };
}
