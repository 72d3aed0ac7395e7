/** How long a benchmark runs, and where its figures go: environment variables, so that one line starts them all. */

/** Counted rounds of each contender. */
export const rounds = number('BENCH_ROUNDS', 10);
/** Rounds before them that warm up compilers and caches. */
export const warmUps = number('BENCH_WARMUPS', 1);
/** The one contender, by name, that runs: for a profiler. */
export const only = process.env['BENCH_ONLY'];
/** Multiplies what one round does. */
const scale = number('BENCH_SCALE', 1);
/** A folder that keeps every benchmark's figures as `<name>.json`. */
export const resultsFolder = process.env['BENCH_RESULTS'];

/** What one round does, at least `least`, in whole steps of `step`. */
export function scaled(count: number, { least = 1, step = 1 } = {}): number {
  return Math.max(least, step, Math.round((count * scale) / step) * step);
}

function number(name: string, usual: number): number {
  const text = process.env[name];
  if (text === undefined || text === '') return usual;
  const value = Number(text);
  if (Number.isFinite(value) && value >= 0) return value;
  throw new Error(`${name} is ${JSON.stringify(text)}, not a number of at least 0`);
}
