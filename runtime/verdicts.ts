/**
 * What JetStream was told about events and may not know. What is published while a connection breaks is lost, and a
 * server that crashed has forgotten its last moments: it then delivers again what was settled here. Such a delivery
 * is answered from here instead of being run again.
 */

interface Verdict {
  readonly reply: string;
  readonly verdict: string;
  readonly sequence: number;
  readonly round: number;
  /** Told before the server came back: it may not even know that it had delivered the event. */
  readonly doubtful: boolean;
}

/** Rounds for which a verdict is kept at least: what a server forgets in a crash is younger than that. */
const keptRounds = 2;

export class Verdicts {
  /** In the order of their rounds. */
  readonly #told = new Map<string, Verdict>();
  #round = 0;
  #doubtful = 0;

  get size(): number {
    return this.#told.size;
  }

  /** Is there one that only the consumer's own count can confirm? */
  get doubtful(): boolean {
    return this.#doubtful > 0;
  }

  get(key: string): string | undefined {
    return this.#told.get(key)?.verdict;
  }

  add(key: string, reply: string, verdict: string, sequence: number, doubtful = false): void {
    this.#forget(key);
    this.#told.set(key, { reply, verdict, sequence, round: this.#round, doubtful });
    if (doubtful) this.#doubtful += 1;
  }

  /** After every reconnect. */
  tellAgain(tell: (reply: string, verdict: string) => void): void {
    for (const [key, { reply, verdict, sequence }] of [...this.#told]) {
      tell(reply, verdict);
      this.add(key, reply, verdict, sequence, true);
    }
  }

  /** What is added from now on is not confirmed by `confirm` of this round. */
  nextRound(): number {
    return ++this.#round;
  }

  /** The server has read what was told before the round began, and has delivered up to `delivered`. */
  confirm(round: number, delivered: number): void {
    for (const [key, entry] of this.#told) {
      if (entry.round > round - keptRounds) return;
      if (!entry.doubtful || entry.sequence <= delivered) this.#forget(key);
    }
  }

  #forget(key: string): void {
    const entry = this.#told.get(key);
    if (!entry) return;
    this.#told.delete(key);
    if (entry.doubtful) this.#doubtful -= 1;
  }
}
