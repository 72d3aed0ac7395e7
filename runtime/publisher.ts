/**
 * Messages into streams, many on their way at a time: one subscription takes all answers, one timer watches all
 * deadlines. `publish()` of the JetStream client makes timers, races of promises and errors with stacks of each message.
 */
import { JetStreamApiError } from '@nats-io/jetstream';
import type { ApiError } from '@nats-io/jetstream';
import { PermissionViolationError, createInbox } from '@nats-io/nats-core';
import type { Msg, MsgHdrs, NatsConnection } from '@nats-io/nats-core';

export interface Publisher {
  /**
   * Resolves when a stream has stored the message; `duplicate`: it had one of this id. Rejects with JetStreamApiError when
   * the stream refuses it, with another Error when nobody answers, and throws what NATS' publish() throws.
   */
  publish(subject: string, data: Uint8Array, headers: MsgHdrs): Promise<Stored>;
}

export interface Stored {
  readonly duplicate: boolean;
  /** The message's sequence in the stream; in a key-value bucket the revision. */
  readonly seq: number;
}

/** Becomes what `Stored` promises. */
interface Answer {
  readonly stream?: string;
  readonly seq: number;
  duplicate?: boolean;
  readonly error?: ApiError;
}

/** Nobody answered at all. */
export class NoStreamError extends Error {
  constructor(subject: string) {
    super(`no stream takes ${subject}, or there is no JetStream`);
  }
}

interface Pending {
  readonly subject: string;
  /** On the clock of performance.now(). */
  readonly deadline: number;
  readonly resolve: (stored: Stored) => void;
  readonly reject: (error: Error) => void;
}

const tickMs = 250;
const noResponders = 503;

/** For as long as the connection lives; `inboxPrefix` is where its user may receive. */
export function openPublisher(
  nc: NatsConnection,
  { inboxPrefix, timeoutMs }: { inboxPrefix: string; timeoutMs: number },
): Publisher {
  const prefix = `${createInbox(inboxPrefix)}.`;
  /** By the last token of the answer's subject; in the order of their deadlines. */
  const pending = new Map<string, Pending>();
  let count = 0;
  let timer: NodeJS.Timeout | undefined;

  function answered(message: Msg): void {
    const token = message.subject.slice(prefix.length);
    const one = pending.get(token);
    if (!one) return;
    pending.delete(token);
    if (message.data.length === 0 && message.headers?.code === noResponders) {
      return one.reject(new NoStreamError(one.subject));
    }
    let answer: Answer;
    try {
      answer = message.json<Answer>();
    } catch (error) {
      return one.reject(new Error(`the answer for ${one.subject} is not JetStream's`, { cause: error }));
    }
    if (answer.error) one.reject(new JetStreamApiError(answer.error));
    else if (!answer.stream) one.reject(new Error(`the answer for ${one.subject} names no stream`));
    else {
      answer.duplicate ??= false;
      one.resolve(answer as Stored);
    }
  }

  function tick(): void {
    const now = performance.now();
    for (const [token, one] of pending) {
      if (one.deadline > now) return;
      pending.delete(token);
      one.reject(new Error(`no answer for ${one.subject} within ${timeoutMs} ms`));
    }
    clearInterval(timer);
    timer = undefined;
  }

  function fail(error: Error, concerns: (one: Pending) => boolean): void {
    for (const [token, one] of pending) {
      if (!concerns(one)) continue;
      pending.delete(token);
      one.reject(error);
    }
  }

  /** That this user may not publish there, or not receive, is told beside the answers. */
  async function watch(): Promise<void> {
    for await (const status of nc.status()) {
      if (status.type !== 'error' || !(status.error instanceof PermissionViolationError)) continue;
      const { operation, subject } = status.error;
      fail(status.error, (one) => (operation === 'publish' ? one.subject : `${prefix}*`) === subject);
    }
    fail(new Error('the connection was closed'), () => true);
  }

  nc.subscribe(`${prefix}*`, { callback: (error, message) => void (error ?? answered(message)) });
  void watch();

  return {
    publish(subject, data, headers) {
      return new Promise((resolve, reject) => {
        const token = (count += 1).toString(36);
        nc.publish(subject, data, { headers, reply: prefix + token });
        pending.set(token, { subject, deadline: performance.now() + timeoutMs, resolve, reject });
        timer ??= setInterval(tick, tickMs).unref();
      });
    },
  };
}
