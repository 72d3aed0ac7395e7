/** What the hosts of a site agree on in ATOLL_STATE: leases, schedule ticks. JSON values, compare-and-set. */
import { JetStreamApiCodes } from '@nats-io/jetstream';
import type { KV } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import type { NatsLink } from './clients/nats.ts';
import { AtollError } from './errors.ts';
import { isApiError, openState, stateBucket } from './streams.ts';

/** Every method rejects with AtollError NatsUnavailable or JetStreamUnavailable when the bucket cannot be asked. */
export interface State {
  /** Undefined when there is none, or it was removed. */
  read(key: string): Promise<{ value: unknown; revision: number } | undefined>;
  /**
   * Writes if the entry still has this revision; 0: if there is none. The new revision, or undefined when
   * another was faster.
   */
  write(key: string, value: unknown, revision: number): Promise<number | undefined>;
  /** Removes the entry if it still has this revision. */
  remove(key: string, revision: number): Promise<void>;
  /** Calls back when the key is removed, as far as this connection hears of it: a hint, not a promise. */
  onRemoved(key: string, listener: () => void): () => void;
}

export function openSharedState(link: NatsLink, options: { timeoutMs?: number } = {}): State {
  const timeoutMs = options.timeoutMs ?? 5_000;
  let opened: { connection: NatsConnection; bucket: Promise<KV> } | undefined;

  function bucket(): Promise<KV> {
    const connection = link.current();
    if (connection === undefined)
      return Promise.reject(new AtollError('NatsUnavailable', link.state.message));
    if (opened?.connection !== connection) {
      opened = { connection, bucket: openState(connection) };
    }
    return opened.bucket;
  }

  async function ask<T>(question: (kv: KV) => Promise<T>): Promise<T> {
    try {
      return await within(timeoutMs, bucket().then(question));
    } catch (error) {
      if (error instanceof AtollError) throw error;
      // A server that lost its store has no bucket any more: the next question makes it anew.
      opened = undefined;
      throw unavailable(error);
    }
  }

  return {
    read: (key) =>
      ask(async (kv) => {
        const entry = await kv.get(key);
        if (entry === null || entry.operation !== 'PUT') return undefined;
        return { value: parsed(entry.string()), revision: entry.revision };
      }),
    write: (key, value, revision) =>
      ask(async (kv) => {
        const data = JSON.stringify(value);
        try {
          return await (revision === 0 ? kv.create(key, data) : kv.update(key, data, revision));
        } catch (error) {
          if (isOvertaken(error)) return undefined;
          throw error;
        }
      }),
    remove: (key, revision) =>
      ask(async (kv) => {
        try {
          await kv.delete(key, { previousSeq: revision });
        } catch (error) {
          if (!isOvertaken(error)) throw error;
        }
      }),
    onRemoved(key, listener) {
      let close = (): void => {};
      let stopped = false;
      link.connection().then(
        (connection) => {
          if (stopped) return;
          const subscription = connection.subscribe(`$KV.${stateBucket}.${key}`, {
            callback: (error, message) => {
              if (error === null && message.headers?.get('KV-Operation')) listener();
            },
          });
          close = () => subscription.unsubscribe();
        },
        () => {},
      );
      return () => {
        stopped = true;
        close();
      };
    },
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Not ours, or half of something: whoever reads it treats it as unknown and writes it anew.
    return undefined;
  }
}

function isOvertaken(error: unknown): boolean {
  const { StreamWrongLastSequence, StreamWrongLastSequenceUnknown } = JetStreamApiCodes;
  return isApiError(error, StreamWrongLastSequence) || isApiError(error, StreamWrongLastSequenceUnknown);
}

/** A write that took longer may still happen: compare-and-set makes that visible to the next one. */
async function within<T>(timeoutMs: number, answer: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  try {
    return await Promise.race([answer, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function unavailable(error: unknown): AtollError {
  const why = `${stateBucket} in JetStream: ${error instanceof Error ? error.message : String(error)}`;
  return new AtollError('JetStreamUnavailable', why, { cause: error });
}
