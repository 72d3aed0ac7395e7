/** Into JetStream and out again: for sources that cannot redeliver (MQTT QoS 1 and 2, schedule, async invoke). */
import type { NatsLink } from './clients/nats.ts';
import type { TriggerEvent } from './event.ts';
import type { FunctionRef, Trigger, TriggerContext } from './triggers/trigger.ts';
import type { Log } from './log.ts';

export interface Inbox {
  /**
   * Resolves when JetStream has stored the event. Rejects with AtollError InboxUnavailable, InboxFull or
   * TooLarge (it does not fit; the caller dead-letters or answers 413).
   * The message id is `<event id>/<redrive number>`; `duplicate`: it was there already.
   */
  put(
    target: { namespace: string; name: string },
    event: TriggerEvent,
    options?: { redrive?: number },
  ): Promise<{ duplicate: boolean }>;
  /** Can an event be stored at this moment? */
  readonly ready: boolean;
  onReady(listener: (ready: boolean) => void): () => void;
}

export declare function openInbox(link: NatsLink, options: { site: string; log: Log }): Inbox;
/** The function's end of the inbox: one durable consumer for all its triggers. */
export declare function openInboxTrigger(context: TriggerContext & { function: FunctionRef }): Trigger;
