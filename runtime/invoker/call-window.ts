/** The handler process's side of calls through the host: whose they are, the window, what waits, the answers. */
import { carrierKey, type CallAnswer, type Carrier, type HandlerCall } from '../handler-calls.ts';
import { callsOf, type HandlerContext } from './handler-context.ts';
import { currentContext } from './invoke-store.ts';
import { bytesOfCall, callWindow, maxCallBytes } from './protocol.ts';

/** Calls that wait for the window. A handler that makes more without awaiting any is told. */
const maxWaiting = { calls: 10_000, bytes: 64 * 1024 * 1024 } as const;

export interface CallWindow {
  /** Some wait for an answer of the host. */
  readonly pending: boolean;
  /** Resolves with the answer, rejects with what aborted the invocation. */
  make(context: HandlerContext, call: HandlerCall, quiet: () => void): Promise<CallAnswer>;
  /** Of the call with this number. */
  answered(number: number, answer: CallAnswer): void;
  /** What the invocation waits for is rejected. */
  abort(id: number, reason: Error): void;
  /** What was not sent yet is refused; what was goes on, and is not waited for. */
  ended(id: number): void;
}

interface Made {
  readonly id: number;
  readonly call: HandlerCall;
  readonly bytes: number;
  readonly quiet: () => void;
  readonly resolve: (answer: CallAnswer) => void;
  readonly reject: (reason: Error) => void;
  /** `late`: its invocation has ended. `over`: it was rejected already. */
  state: 'live' | 'late' | 'over';
}

export interface CallWindowOptions {
  /** Hands a call to the host, which answers it by `answered`. */
  send(id: number, number: number, call: HandlerCall): void;
  /** The invocation has not ended. */
  runs(id: number): boolean;
}

export function openCallWindow({ send, runs }: CallWindowOptions): CallWindow {
  const sent = new Map<number, Made>();
  const waiting: Made[] = [];
  let sentBytes = 0;
  let waitingBytes = 0;
  let last = 0;

  const fits = ({ bytes }: Made): boolean =>
    sent.size === 0 || (sent.size < callWindow.calls && sentBytes + bytes <= callWindow.bytes);

  function hand(made: Made): void {
    last = (last + 1) >>> 0;
    sent.set(last, made);
    sentBytes += made.bytes;
    send(made.id, last, made.call);
  }

  function advance(): void {
    let count = 0;
    for (const made of waiting) {
      if (!fits(made)) break;
      count += 1;
      waitingBytes -= made.bytes;
      hand(made);
    }
    if (count > 0) waiting.splice(0, count);
  }

  function settle(made: Made, answer: CallAnswer): void {
    if (made.state === 'late' && !answer.ok) tellLate(answer.message, made.quiet);
    made.resolve(answer);
  }

  function reject(made: Made, reason: Error): void {
    made.state = 'over';
    made.reject(reason);
  }

  /** Takes them out of what waits. */
  function unsentOf(id: number): Made[] {
    const own = waiting.filter((made) => made.id === id);
    if (own.length === 0) return own;
    const others = waiting.filter((made) => made.id !== id);
    waiting.splice(0, waiting.length, ...others);
    waitingBytes = others.reduce((sum, { bytes }) => sum + bytes, 0);
    return own;
  }

  return {
    get pending() {
      return sent.size > 0;
    },
    make(context, call, quiet) {
      const { id, aborted } = callsOf(context);
      if (!runs(id)) return refuseOutside(call, 'its invocation has ended', quiet);
      if (aborted !== undefined) return Promise.reject(aborted);
      const bytes = bytesOfCall(call);
      if (bytes > maxCallBytes) {
        const message = `${call.kind} ${call.target}: ${bytes} bytes, and a call may have ${maxCallBytes}`;
        return Promise.resolve({ ok: false, code: 'TooLarge', message, retryable: false });
      }
      if (waiting.length >= maxWaiting.calls || waitingBytes + bytes > maxWaiting.bytes) {
        const message = `${call.kind} ${call.target}: ${waiting.length} calls wait already: await them before you make more`;
        return Promise.resolve({ ok: false, code: 'TooManyRequests', message, retryable: true });
      }
      return new Promise((resolve, reject) => {
        const made: Made = { id, call, bytes, quiet, resolve, reject, state: 'live' };
        if (waiting.length === 0 && fits(made)) return hand(made);
        waiting.push(made);
        waitingBytes += bytes;
      });
    },
    answered(number, answer) {
      const made = sent.get(number);
      if (made === undefined) return;
      sent.delete(number);
      sentBytes -= made.bytes;
      settle(made, answer);
      if (waiting.length > 0) advance();
    },
    abort(id, reason) {
      for (const made of unsentOf(id)) reject(made, reason);
      // They stay in the window until the host has answered them.
      for (const made of sent.values()) if (made.id === id && made.state === 'live') reject(made, reason);
    },
    ended(id) {
      if (sent.size === 0) return;
      for (const made of sent.values()) if (made.id === id && made.state === 'live') made.state = 'late';
      for (const made of unsentOf(id)) {
        made.state = 'late';
        settle(made, outside(made.call, 'its invocation has ended before it was sent: await it'));
      }
    },
  };
}

/** Where 'atoll' finds the invocation that a call belongs to. Returns how to take it away again. */
export function provideCalls(): () => void {
  const place = globalThis as { [carrierKey]?: Carrier };
  const before = place[carrierKey];
  place[carrierKey] = (call, quiet) => {
    const context = currentContext();
    if (context !== undefined) return callsOf(context).calls.make(context, call, quiet);
    return refuseOutside(call, 'it was made outside of an invocation', quiet);
  };
  return () => {
    if (before === undefined) delete place[carrierKey];
    else place[carrierKey] = before;
  };
}

function outside({ kind, target }: HandlerCall, why: string): CallAnswer & { ok: false } {
  const message = `${kind} ${target}: ${why}`;
  return { ok: false, code: 'OutsideInvocation', message, retryable: false };
}

function refuseOutside(call: HandlerCall, why: string, quiet: () => void): Promise<CallAnswer> {
  const answer = outside(call, why);
  tellLate(answer.message, quiet);
  return Promise.resolve(answer);
}

/** Who made it may not look any more: it is told, and ends no process. */
function tellLate(message: string, quiet: () => void): void {
  quiet();
  console.warn(`a call failed that no running invocation waits for: ${message}`);
}
