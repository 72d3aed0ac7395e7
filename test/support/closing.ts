import { presentTest } from './present-test.ts';

/**
 * Everything a test starts is registered here at once with what ends it, so that tests need no `finally`.
 * Started inside a test it ends with that test, started elsewhere (in a hook, at the top of a file) with the file:
 * the last started first.
 */
export type Closing = (close: () => Promise<void>) => unknown;

/** Outside vitest (a benchmark, an example) nobody ends what was started but the caller, or the end of the process. */
const vitest = process.env['VITEST'] === undefined ? undefined : await import('vitest');

const ofThisFile = new Set<() => Promise<void>>();
/** A server is given five seconds to end by itself; a test file may have started several. */
const closingMs = 60_000;

vitest?.afterAll(async () => {
  for (const close of [...ofThisFile].reverse()) await close();
}, closingMs);

/** Registers `close` and gives it back in a form that does its work only once, however often it is called. */
export function closeLater(close: () => Promise<void>, closing?: Closing): () => Promise<void> {
  let closed: Promise<void> | undefined;
  const once = (): Promise<void> => {
    // Also kept for the file until it is done: a test that is skipped on its way does not run its own hooks.
    closed ??= close().finally(() => ofThisFile.delete(once));
    return closed;
  };
  ofThisFile.add(once);
  if (closing !== undefined) closing(once);
  else registerWithTest(once);
  return once;
}

function registerWithTest(close: () => Promise<void>): void {
  try {
    presentTest()?.onTestFinished(close, closingMs);
  } catch {
    // vitest refuses this inside beforeEach and afterEach: then it ends with the file.
  }
}
