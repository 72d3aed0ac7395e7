/** The contract between the event flow and what runs handlers. */
import type { OnChunk, Outcome, TriggerEvent } from '../event.ts';

export interface Invocation {
  /** One event, or a batch (SQS-shaped for the handler when there is more than one or `batch` is set). */
  readonly events: readonly TriggerEvent[];
  /** Batch shape even for a single event: the trigger has batchSize > 1. */
  readonly batch?: boolean;
  /** ms since the epoch. Every invocation of a function has the same timeout, so deadlines are a FIFO. */
  readonly deadline: number;
  /** The caller went away: the handler's context.signal aborts. */
  readonly signal?: AbortSignal | undefined;
  /** Collect the last 4 KB of the log. */
  readonly tail?: boolean;
  /** Run in a process of its own: the event was in flight when a process with several died. */
  readonly alone?: boolean;
  /**
   * The events may run a second time when it cannot be told which of several invocations of a process was the cause
   * of its end: an outcome with `suspects` > 1 is then no verdict yet.
   */
  readonly mayRunAgain?: boolean;
  /** Absent: what a streaming handler writes comes as its result, up to the size that a result may have. */
  readonly onChunk?: OnChunk;
}

/** The state a status needs: can invocations run now, and if not, why. */
export interface InvokerState {
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

export interface Invoker {
  /** Starts the processes. Resolves when the first is ready; rejects with the handler's load error (AtollError). */
  start(): Promise<void>;
  /** Never rejects. More calls than `capacity` at once wait inside; callers acquire a slot first. */
  invoke(invocation: Invocation): Promise<Outcome>;
  /** processes × concurrency. */
  readonly capacity: number;
  readonly state: InvokerState;
  onState(listener: (state: InvokerState) => void): void;
  /** Takes nothing new, waits for what runs until `deadline` (ms since the epoch), then kills. */
  drain(deadline: number): Promise<void>;
}
