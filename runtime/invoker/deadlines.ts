/**
 * Deadlines of all invocations of a function on one timer. They share one timeout, so a new one almost
 * always goes to the end; a linked list takes out those that ended in time without a search.
 */
import { monotonicMs } from './clock.ts';

export interface Deadline {
  readonly deadlineMs: number;
  before?: Deadline | undefined;
  after?: Deadline | undefined;
  /** In the list at the moment. */
  waiting?: boolean;
}

// Longest delay a Node timer takes.
const maxDelayMs = 2 ** 31 - 1;

export class Deadlines<D extends Deadline> {
  readonly #expired: (deadline: D) => void;
  #first: D | undefined;
  #last: D | undefined;
  #timer: NodeJS.Timeout | undefined;
  #timerMs = Infinity;

  /** `expired` is called at the deadline or later, never earlier. */
  constructor(expired: (deadline: D) => void) {
    this.#expired = expired;
  }

  add(deadline: D): void {
    let before = this.#last;
    while (before !== undefined && before.deadlineMs > deadline.deadlineMs) before = before.before as D;
    deadline.before = before;
    deadline.after = before === undefined ? this.#first : before.after;
    deadline.waiting = true;
    if (deadline.after === undefined) this.#last = deadline;
    else deadline.after.before = deadline;
    if (before === undefined) this.#first = deadline;
    else before.after = deadline;
    if (deadline.deadlineMs < this.#timerMs) this.#arm(deadline.deadlineMs);
  }

  /** The timer stays as it is: it finds out when it fires, once per timeout at most. */
  remove(deadline: D): void {
    if (deadline.waiting !== true) return;
    const { before, after } = deadline;
    if (before === undefined) this.#first = after as D | undefined;
    else before.after = after;
    if (after === undefined) this.#last = before as D | undefined;
    else after.before = before;
    deadline.before = deadline.after = undefined;
    deadline.waiting = false;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #arm(deadlineMs: number): void {
    clearTimeout(this.#timer);
    this.#timerMs = deadlineMs;
    const delayMs = Math.min(maxDelayMs, Math.max(0, Math.ceil(deadlineMs - monotonicMs())));
    this.#timer = setTimeout(() => this.#fire(), delayMs);
    // What it watches keeps the process alive by itself.
    this.#timer.unref();
  }

  #fire(): void {
    this.#timerMs = Infinity;
    // A timer may fire a little early; what is not due yet arms it again.
    for (let first = this.#first; first !== undefined; first = this.#first) {
      if (first.deadlineMs > monotonicMs()) {
        this.#arm(first.deadlineMs);
        return;
      }
      this.remove(first);
      this.#expired(first);
    }
  }
}
