/**
 * Messages of one topic on their way to a stream, several at a time and stored in their order: a connection keeps the order,
 * so when one fails those after it fail too. Then they go again one by one, the oldest first.
 */

export interface Window {
  /**
   * Publishes at once unless one before it has failed. `passes` is told why it failed, when all before it are stored or given
   * up: it resolves when it is time to try again, and rejects to give it up.
   */
  send(publish: () => Promise<void>, passes: (error: unknown) => Promise<void>): Promise<void>;
}

export function openWindow(): Window {
  const open: symbol[] = [];
  const failed = new Set<symbol>();
  let changed = Promise.withResolvers<void>();

  return {
    async send(publish, passes) {
      const own = Symbol();
      open.push(own);
      try {
        for (;;) {
          while (failed.size > 0 && open[0] !== own) await changed.promise;
          try {
            return await publish();
          } catch (error) {
            failed.add(own);
            while (open[0] !== own) await changed.promise;
            await passes(error);
          }
        }
      } finally {
        open.splice(open.indexOf(own), 1);
        failed.delete(own);
        changed.resolve();
        changed = Promise.withResolvers();
      }
    },
  };
}
