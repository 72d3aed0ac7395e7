/** What triggers and invoker share: an event, the way to answer its source, and how an invocation ended. */
import type { Encoding, TriggerKind } from '../crds/function.ts';
import type { Fault } from './errors.ts';

export type EventEncoding = Encoding | 'cdr';

export interface EventSchema {
  /** `sensor_msgs/msg/LaserScan` */
  readonly type: string;
  /** MCAP's `ros2msg`. */
  readonly definition: string;
  readonly response?: { readonly type: string; readonly definition: string };
}

/** Where an event came from. `invoke` is the door every function has without declaring it. */
export type SourceKind = TriggerKind | 'invoke';

export interface TriggerEvent {
  /** Same on every attempt: JetStream `<stream>:<seq>`, schedule `<trigger>:<tick>`, else a UUID. */
  readonly id: string;
  /** The trigger's name in the manifest; `invoke` for the invoke door. */
  readonly trigger: string;
  readonly kind: SourceKind;
  /** NATS subject, MQTT topic, ROS topic or service, HTTP path, `<trigger>` of a schedule. */
  readonly subject: string;
  /** When the event was accepted, ms since the epoch. */
  readonly time: number;
  /** 1 on the first invocation; counts only invocations that this event failed (CONTRACTS 4.6). */
  readonly attempt: number;
  readonly headers: Readonly<Record<string, string>>;
  /** `cdr`: what `schema` decodes. */
  readonly encoding: EventEncoding;
  /** Bytes stay bytes until the handler process decodes them. */
  readonly data: Uint8Array;
  /** Of ROS: what decodes `data`, and encodes the response of a service. The same object for the same definitions. */
  readonly schema?: EventSchema;
  /**
   * What the source says besides, as JSON: mqtt { retain, qos }, jetstream { stream, sequence }, ros { type },
   * http: the payload format 2.0 event without `body` and `isBase64Encoded`.
   */
  readonly detail?: Readonly<Record<string, unknown>>;
}

export interface Delivery {
  readonly event: TriggerEvent;
  /** A caller waits: answer once, never retry, never dead-letter. */
  readonly replies: boolean;
  /** The source can hand this event out again (JetStream, inbox, the in-host buffer); a waiting caller cannot. */
  readonly redeliverable: boolean;
  /** Exactly once per delivery. Never rejects: what the source could not be told is logged by the trigger. */
  settle(settlement: Settlement): Promise<void>;
  /** "Still working", where the source has such a word (JetStream). */
  extend?(): void;
  /** Aborted when the caller went away; absent where nobody waits. */
  readonly signal?: AbortSignal;
  /**
   * Must not reach the handler: Poison, Interrupted, EventAgeExceeded, or given up before and not stored as a dead
   * letter yet. The host dead-letters it at once.
   */
  readonly refuse?: GivenUp | undefined;
  /** A caller that wants the invocation's last log lines (`X-Amz-Log-Type: Tail`). */
  readonly tail?: boolean;
  /** A caller that reads a streamed response while it is written. */
  readonly onChunk?: OnChunk;
}

/**
 * Called in order, with bytes that are the callee's to keep. Resolves when more may come; rejects when none may: the
 * handler's stream fails then. `contentType` is the same each time.
 */
export type OnChunk = (chunk: Uint8Array, contentType: string) => Promise<void>;

/** A streamed response that begins with `{ statusCode, headers, cookies }` as JSON and eight zero bytes: Lambda's name. */
export const preludeContentType = 'application/vnd.awslambda.http-integration-response';

export type DeadLetterReason =
  | 'RetriesExhausted'
  | 'EventAgeExceeded'
  | 'Undecodable'
  | 'Poison'
  | 'Refused'
  | 'TooLarge'
  | 'Interrupted'
  | 'FunctionDeleted'
  | 'Recursion'
  | 'Overflow';

/** The verdict on an event that failed finally. */
export interface GivenUp {
  readonly reason: DeadLetterReason;
  readonly fault: Fault;
  /** Invocations that it had. */
  readonly attempts: number;
}

export type Settlement =
  | { kind: 'done'; result?: Result; report?: InvocationReport; tail?: string }
  /**
   * `failed: true`: this event failed its invocation, which counts as an attempt; else it is handed back. A caller
   * who waits (`replies`) is told to come later. `givenUp`: only its dead letter is missing; it comes again with
   * `refuse`, and no handler sees it any more.
   */
  | { kind: 'retry'; delayMs: number; failed: boolean; givenUp?: GivenUp }
  | {
      kind: 'failed';
      fault: Fault;
      reason: DeadLetterReason;
      /** Invocations that it had; `event.attempt` unless it is said. */
      attempts?: number;
      /** How the invocation ended; absent when there was none. */
      outcome?: 'threw' | 'timedOut' | 'crashed';
      report?: InvocationReport;
      tail?: string;
    };

/** What the handler returned, encoded by the handler process. */
export interface Result {
  /** `json`: UTF-8 JSON of the value (`null` for undefined); `binary`: a Uint8Array or Buffer as it was. */
  readonly encoding: 'json' | 'binary';
  readonly data: Uint8Array;
  /** What a streaming handler said; its bytes are here only when nobody read along. */
  readonly contentType?: string;
}

export interface InvocationReport {
  readonly requestId: string;
  readonly durationMs: number;
  readonly initDurationMs?: number;
  readonly maxMemoryMiB: number;
  readonly coldStart: boolean;
}

interface Ended {
  readonly report: InvocationReport;
  /** The last 4 KB of the invocation's log, when asked for. */
  readonly tail?: string;
}

export type Outcome =
  | ({ kind: 'returned'; result: Result } & Ended)
  | ({ kind: 'threw'; fault: Fault; retryable: boolean } & Ended)
  /** With `suspects` its process did not answer any more: each of so many may be the one that spun. */
  | ({ kind: 'timedOut'; fault: Fault; suspects?: number } & Ended)
  /**
   * The process ended. `suspects` is how many invocations were in flight in it: only with 1 is the event
   * known to be the cause. 0: it never reached the handler (the process could not start).
   */
  | ({ kind: 'crashed'; fault: Fault; suspects: number } & Ended)
  /**
   * Given back without fault of its own: drain, or killed as the neighbour of another's timeout (`began`). With
   * `suspects` it was in a process that did not answer any more, and may be the cause all the same.
   */
  | ({ kind: 'returnedUnrun'; fault: Fault; began: boolean; suspects?: number } & Ended);
