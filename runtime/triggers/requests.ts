/** Requests that wait for a slot: what the invoke door and http triggers have in common. */
import type { ServerResponse } from 'node:http';
import type { Delivery } from '../event.ts';
import { bufferBytes } from './buffer.ts';

/** Requests that may wait for a slot at once, per trigger. */
const maxWaiting = 1000;

/** Aborted when the caller went away before the answer was out. */
export function callerGone(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished) gone.abort();
  });
  return gone.signal;
}

/** Resolves when it left this process: what a slow client has not read yet is not piled up here. */
export function written(response: ServerResponse, chunk: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    response.write(chunk, (error) => (error ? reject(new Error('the caller went away')) : resolve()));
  });
}

export class RequestQueue implements AsyncIterable<Delivery> {
  readonly #waiting: { delivery: Delivery; timer: NodeJS.Timeout }[] = [];
  readonly #asking: ((next: IteratorResult<Delivery>) => void)[] = [];
  readonly #waitMs: number;
  #bytes = 0;
  #closed = false;

  /** `waitMs`: how long a request may wait for a slot before it is answered as busy. */
  constructor(waitMs: number) {
    this.#waitMs = waitMs;
  }

  /** False: the queue is full or closed, answer now. `expired` is called when it waited too long. */
  offer(delivery: Delivery, expired: () => void): boolean {
    if (this.#closed) return false;
    const ask = this.#asking.shift();
    if (ask) {
      ask({ done: false, value: delivery });
      return true;
    }
    const size = delivery.event.data.byteLength;
    if (this.#waiting.length >= maxWaiting || this.#bytes + size > bufferBytes) return false;
    const entry = {
      delivery,
      timer: setTimeout(() => {
        if (this.#drop(delivery)) expired();
      }, this.#waitMs),
    };
    this.#waiting.push(entry);
    this.#bytes += size;
    delivery.signal?.addEventListener('abort', () => this.#drop(delivery), { once: true });
    return true;
  }

  #drop(delivery: Delivery): boolean {
    const at = this.#waiting.findIndex((entry) => entry.delivery === delivery);
    if (at < 0) return false;
    const [entry] = this.#waiting.splice(at, 1);
    if (entry) this.#left(entry);
    this.#endIfEmpty();
    return true;
  }

  #left(entry: { delivery: Delivery; timer: NodeJS.Timeout }): void {
    clearTimeout(entry.timer);
    this.#bytes -= entry.delivery.event.data.byteLength;
  }

  #endIfEmpty(): void {
    if (!this.#closed || this.#waiting.length > 0) return;
    for (const ask of this.#asking.splice(0)) ask({ done: true, value: undefined });
  }

  /** Takes nothing new; what waits is still yielded, since a request cannot be given back. */
  close(): void {
    this.#closed = true;
    this.#endIfEmpty();
  }

  [Symbol.asyncIterator](): AsyncIterator<Delivery> {
    return {
      next: () => {
        const entry = this.#waiting.shift();
        if (entry) {
          this.#left(entry);
          return Promise.resolve({ done: false, value: entry.delivery });
        }
        if (this.#closed) return Promise.resolve({ done: true, value: undefined });
        return new Promise((resolve) => this.#asking.push(resolve));
      },
    };
  }
}
