/** What waits in the host because it cannot wait at its source: plain NATS, MQTT QoS 0, schedules that may be lost. */
import type { Delivery, GivenUp, Settlement, TriggerEvent } from '../event.ts';

/** Per trigger, events in backoff included (CONTRACTS 4.2). */
export const bufferBytes = 64 * 1024 * 1024;
/** What an event costs besides its data: objects, headers, a place in the queue. */
const overheadBytes = 512;
/** While closing, what is handed back comes again at once; without a pause it would do so in a busy loop. */
const closingRetryMs = 100;

/** The caller of a request: told once how it ended. */
export type Answer = (settlement: Settlement) => void;

export interface EventBuffer {
  /** False: full. The caller drops the event and says so, or refuses the request. */
  push(event: TriggerEvent, answer?: Answer): boolean;
  /** Called once. Ends after close() when all was yielded and settled. */
  deliveries(): AsyncIterable<Delivery>;
  /** Takes nothing new; what waits for its next attempt is due at once. */
  close(): void;
  /** Events waiting, those in backoff included. */
  readonly size: number;
}

export function openBuffer(options: { maxBytes?: number } = {}): EventBuffer {
  const maxBytes = options.maxBytes ?? bufferBytes;
  const waiting = new Fifo<BufferedDelivery>();
  const demand = new Fifo<(result: IteratorResult<Delivery>) => void>();
  const backoffs = new Map<BufferedDelivery, NodeJS.Timeout>();
  let heldBytes = 0;
  /** Yielded and not settled: each may come back. */
  let open = 0;
  let closed = false;

  function offer(delivery: BufferedDelivery): void {
    const resolve = demand.shift();
    if (!resolve) {
      delivery.release();
      waiting.push(delivery);
      heldBytes += delivery.bytes;
      return;
    }
    open += 1;
    resolve({ done: false, value: delivery });
  }

  function settled(delivery: BufferedDelivery, settlement: Settlement): void {
    open -= 1;
    if (settlement.kind === 'retry' && !delivery.replies) again(delivery, settlement);
    else delivery.answer?.(settlement);
    if (closed) endIfDone();
  }

  function again(
    { event }: BufferedDelivery,
    { delayMs, failed, givenUp }: Settlement & { kind: 'retry' },
  ): void {
    const attempt = event.attempt + (failed ? 1 : 0);
    // It counts as held, but is never turned away: it was accepted before.
    const next = new BufferedDelivery({ ...event, attempt }, undefined, settled, givenUp);
    const waitMs = !closed ? delayMs : failed ? 0 : closingRetryMs;
    if (waitMs <= 0) return offer(next);
    next.release();
    heldBytes += next.bytes;
    const due = (): void => {
      backoffs.delete(next);
      heldBytes -= next.bytes;
      offer(next);
    };
    backoffs.set(next, setTimeout(due, waitMs));
  }

  function endIfDone(): void {
    if (open > 0 || waiting.size > 0 || backoffs.size > 0) return;
    for (let resolve = demand.shift(); resolve; resolve = demand.shift()) {
      resolve({ done: true, value: undefined });
    }
  }

  const iterator: AsyncIterator<Delivery> = {
    next() {
      const delivery = waiting.shift();
      if (delivery) {
        heldBytes -= delivery.bytes;
        open += 1;
        return Promise.resolve({ done: false, value: delivery });
      }
      return new Promise((resolve) => {
        demand.push(resolve);
        if (closed) endIfDone();
      });
    },
  };

  return {
    push(event, answer) {
      if (closed) return false;
      if (demand.size === 0 && heldBytes + event.data.length + overheadBytes > maxBytes) return false;
      offer(new BufferedDelivery(event, answer, settled));
      return true;
    },
    deliveries: () => ({ [Symbol.asyncIterator]: () => iterator }),
    close() {
      if (closed) return;
      closed = true;
      for (const [delivery, timer] of backoffs) {
        clearTimeout(timer);
        heldBytes -= delivery.bytes;
        offer(delivery);
      }
      backoffs.clear();
      endIfDone();
    },
    get size() {
      return waiting.size + backoffs.size;
    },
  };
}

/** A class, since one is made for each of 100,000 events a second: no closures. */
class BufferedDelivery implements Delivery {
  event: TriggerEvent;
  readonly replies: boolean;
  readonly redeliverable = true;
  readonly answer: Answer | undefined;
  readonly refuse: GivenUp | undefined;
  #settled: ((delivery: BufferedDelivery, settlement: Settlement) => void) | undefined;

  constructor(
    event: TriggerEvent,
    answer: Answer | undefined,
    settled: (delivery: BufferedDelivery, settlement: Settlement) => void,
    refuse?: GivenUp,
  ) {
    this.event = event;
    this.refuse = refuse;
    this.replies = answer !== undefined;
    this.answer = answer;
    this.#settled = settled;
  }

  get bytes(): number {
    return this.event.data.length + overheadBytes;
  }

  /** A small event is a window onto a whole chunk of the connection's bytes, which must not be kept for its sake. */
  release(): void {
    const { data } = this.event;
    if (data.buffer.byteLength > data.length) this.event = { ...this.event, data: data.slice() };
  }

  settle(settlement: Settlement): Promise<void> {
    const settled = this.#settled;
    this.#settled = undefined;
    settled?.(this, settlement);
    return Promise.resolve();
  }
}

/** A queue whose operations take constant time, whatever waits in it. */
export class Fifo<T> {
  #items: (T | undefined)[] = [];
  #head = 0;

  get size(): number {
    return this.#items.length - this.#head;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head++] = undefined;
    if (this.#head === this.#items.length) {
      this.#items = [];
      this.#head = 0;
    } else if (this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
}
