/** At most so many a second, evenly: what comes earlier is left out. */
export class Rate {
  readonly #periodMs: number;
  #dueMs = -Infinity;

  constructor(hz: number) {
    this.#periodMs = 1000 / hz;
  }

  /** @param nowMs on a monotonic clock */
  pass(nowMs: number): boolean {
    // A source of 30 Hz is seldom exactly on time: without some grace every second message at "30" would be left out.
    if (nowMs < this.#dueMs - this.#periodMs / 10) return false;
    // From when it was due, not from now: else a source of 30 Hz at "10" would give 7.5. After a pause from now.
    const late = nowMs - this.#dueMs;
    this.#dueMs = late < this.#periodMs ? this.#dueMs + this.#periodMs : nowMs + this.#periodMs;
    return true;
  }
}
