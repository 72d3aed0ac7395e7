/** Messages of one topic go one after the other, in the order in which they came. */

export interface Line {
  /** How many are at it or wait. */
  readonly length: number;
  /**
   * Runs `work` when all before it are done, or have called what they were given: then the next may begin. `newestWins`: the
   * one that waits steps aside for this one, and gets undefined at once.
   */
  take<T>(work: (next: () => void) => Promise<T>, options: { newestWins: boolean }): Promise<T | undefined>;
}

export function openLine(): Line {
  let tail: Promise<unknown> = Promise.resolve();
  let length = 0;
  /** Lets the one that waits step aside. */
  let overtake: (() => void) | undefined;
  return {
    get length() {
      return length;
    },
    async take(work, { newestWins }) {
      const aside = Promise.withResolvers<undefined>();
      let isAside = false;
      if (newestWins) overtake?.();
      const own = (): void => {
        isAside = true;
        aside.resolve(undefined);
      };
      if (length > 0) overtake = own;
      length += 1;
      const before = tail;
      const next = Promise.withResolvers<void>();
      const mine = (async () => {
        await before;
        if (isAside) return undefined;
        if (overtake === own) overtake = undefined;
        return await work(next.resolve);
      })();
      tail = Promise.race([next.promise, mine.catch(() => {})]);
      try {
        return await Promise.race([mine, aside.promise]);
      } finally {
        length -= 1;
      }
    },
  };
}
