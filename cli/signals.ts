/** Being told to stop, by a signal or by the wrapper going away. */

/**
 * A terminal signals the whole process group, and the wrapper passes on what it got: signals that come
 * this close together are one.
 */
const sameSignalMs = 250;

/** Calls `stop(1)` at the first request, `stop(2)` at the second, … Returns the way to stop listening. */
export function onStop(stop: (count: number) => void): () => void {
  let count = 0;
  let last = -Infinity;
  const listener = (): void => {
    const now = performance.now();
    const isEcho = now - last < sameSignalMs;
    last = now;
    if (isEcho) return;
    count += 1;
    stop(count);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, listener);
  process.on('disconnect', listener);
  process.channel?.unref();
  return () => {
    for (const signal of signals) process.off(signal, listener);
    process.off('disconnect', listener);
  };
}

/** Aborted at the first request to stop; the second ends the process at once. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  onStop((count) => {
    if (count > 1) process.exit(130);
    controller.abort();
  });
  return controller.signal;
}
