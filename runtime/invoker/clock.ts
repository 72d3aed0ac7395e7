/**
 * Milliseconds on the monotonic clock that all processes of a machine share. A deadline counted on the wall
 * clock would fire early or late when NTP steps it; `performance.now()` counts from each process's own start.
 */
// The first look at `performance` loads it, which takes a millisecond or two: not between the two readings.
performance.now();
const [seconds, nanoseconds] = process.hrtime();
const offsetMs = seconds * 1e3 + nanoseconds / 1e6 - performance.now();

export function monotonicMs(): number {
  return performance.now() + offsetMs;
}
