/**
 * Fuzzing by time: seconds in the gate, minutes with ATOLL_SOAK=1, or as long as ATOLL_FUZZ_SECONDS says; with
 * ATOLL_FUZZ_SEED=N the same inputs again.
 */
import fc from 'fast-check';

const seconds = Number(process.env['ATOLL_FUZZ_SECONDS'] ?? (process.env['ATOLL_SOAK'] === '1' ? 180 : 2));
const timeMs = seconds * 1000;
/** For vitest: one input may take a while, and a busy machine all the more. */
export const fuzzTimeoutMs = timeMs + 60_000;
const seed = Number(process.env['ATOLL_FUZZ_SEED'] ?? Date.now() % 2 ** 31);

/** Runs until the time is over. A failure is shrunk, and printed with seed and path. */
export async function fuzz<T>(
  what: string,
  input: fc.Arbitrary<T>,
  check: (input: T) => void | Promise<void>,
): Promise<void> {
  let runs = 0;
  await fc.assert(
    fc.asyncProperty(input, async (one) => {
      runs += 1;
      await check(one);
    }),
    {
      seed,
      numRuns: Number.MAX_SAFE_INTEGER,
      interruptAfterTimeLimit: timeMs,
      markInterruptAsFailure: false,
    },
  );
  process.stderr.write(`fuzz ${what}: ${runs} inputs, ATOLL_FUZZ_SEED=${seed}\n`);
}

/** One change of a text or of bytes: where (0 to 1 of the length), how long, and what is put there. */
export interface Change {
  readonly at: number;
  readonly take: number;
  readonly put: Uint8Array;
}

/** Bytes flipped, cut out, put in, doubled. */
export function changes(piece: fc.Arbitrary<Uint8Array>, maxLength = 6): fc.Arbitrary<Change[]> {
  const change = fc.record({
    at: fc.double({ min: 0, max: 0.999999, noNaN: true }),
    take: fc.oneof(fc.constant(0), fc.constant(1), fc.nat(600)),
    put: piece,
  });
  return fc.array(change, { minLength: 1, maxLength });
}

export function changed(bytes: Uint8Array, all: readonly Change[]): Buffer {
  let result = Buffer.from(bytes);
  for (const { at, take, put } of all) {
    const from = Math.floor(at * result.length);
    result = Buffer.concat([result.subarray(0, from), put, result.subarray(from + take)]);
  }
  return result;
}
