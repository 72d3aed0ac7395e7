/** The contract every kind of trigger keeps; `test/contracts/trigger.ts` holds each to it. */
import type { Encoding, RetryPolicy, TriggerKind, TriggerSources } from '../../crds/function.ts';
import type { MqttSettings } from '../config.ts';
import type { NatsLink } from '../clients/nats.ts';
import type { RosLink } from '../clients/ros.ts';
import type { Fault } from '../errors.ts';
import type { DeadLetterReason, Delivery, TriggerEvent } from '../event.ts';
import type { RosTopicCounts } from '../handler-calls.ts';
import type { Inbox } from '../inbox.ts';
import type { Log } from '../log.ts';
import type { Server } from '../server.ts';

export interface Trigger {
  /**
   * Pulled: each outstanding `next()` is demand for one event. Ends after `close()` once everything that
   * cannot be given back to its source has been yielded. Called once.
   */
  deliveries(): AsyncIterable<Delivery>;
  /** Takes nothing new; what was yielded may still be settled. Resolves when the source knows. */
  close(): Promise<void>;
  /** Events waiting at the source, those in backoff included; absent where the source cannot tell. */
  lag?(): Promise<number>;
  /** Of a ros trigger with topics: what became of their messages so far. */
  topics?(): readonly RosTopicCounts[];
}

export interface TriggerState {
  readonly ready: boolean;
  /** CamelCase, one of `errorCodes` where it is an error, `Ready` otherwise. */
  readonly reason: string;
  readonly message: string;
}

export interface FunctionRef {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export interface TriggerContext {
  readonly site: string;
  readonly function: FunctionRef;
  /** The trigger's name in the manifest. */
  readonly name: string;
  readonly encoding: Encoding;
  readonly retry: RetryPolicy;
  /** Seconds an invocation may take: an answer is due by then. */
  readonly timeoutSeconds: number;
  /** How many invocations can run at once: a trigger has no use for much more demand than that. */
  readonly capacity: number;
  /** Shared by all functions of the host. Triggers open also while these are away, and recover by themselves. */
  readonly nats?: NatsLink;
  readonly mqtt?: MqttSettings;
  /** Absent where the host was told of no ROS, as in a cluster. */
  readonly ros?: RosLink;
  /** Absent without NATS. Sources that cannot redeliver put events here; the host pulls them from it. */
  readonly inbox?: Inbox;
  readonly server: Server;
  readonly log: Log;
  /** Called at once with the first state, and at each change. */
  report(state: TriggerState): void;
  /** An event that had to be dropped (bounded buffer full): counted and logged by the host, rate limited. */
  dropped(subject: string): void;
  /** The source cut the host off for reading too slowly; nobody knows what is lost. `why`: the source's own words. */
  cutOff?(why: string): void;
  /**
   * For an event that no inbox can take (CONTRACTS 4.8). Resolves when it is stored: only then may its source be
   * acknowledged. Absent without NATS.
   */
  deadLetter?(event: TriggerEvent, fault: Fault, reason: DeadLetterReason): Promise<void>;
}

/** Never throws for an absent broker: the trigger reports it and goes on trying. */
export type OpenTrigger<K extends TriggerKind> = (
  source: TriggerSources[K],
  context: TriggerContext,
) => Trigger;
