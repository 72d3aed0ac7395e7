/**
 * Key-value buckets for handlers. What JetStream's client does, with the count of hops on each write: a trigger may
 * listen to a bucket. https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-8.md
 */
import { JetStreamApiCodes, JetStreamApiError } from '@nats-io/jetstream';
import { NoRespondersError, PermissionViolationError, type NatsConnection } from '@nats-io/nats-core';
import { AtollError, faultOf } from '../errors.ts';
import type { CallAnswer, CallKind } from '../handler-calls.ts';
import { isApiError, managerOf } from '../streams.ts';
import type { Caller } from './calls.ts';
import { refusedByServer, type NatsCalls } from './nats.ts';

export interface KvQuestion {
  readonly kind: Extract<CallKind, `kv.${string}`>;
  readonly bucket: string;
  readonly key: string;
  readonly revision: number | undefined;
  readonly data: Uint8Array;
  readonly hops: number;
}

export interface KvCalls {
  /** Rejects with AtollError. */
  ask(question: KvQuestion, caller: Caller): Promise<CallAnswer>;
}

interface Entry {
  readonly revision: number;
  readonly data: Uint8Array;
  /** A marker that the key was deleted, or has expired. */
  readonly deleted: boolean;
}

const operationHeader = 'KV-Operation';
const expectedHeader = 'Nats-Expected-Last-Subject-Sequence';
const getMs = 5_000;
const noBytes = new Uint8Array();

export function openKvCalls(nats: NatsCalls): KvCalls {
  async function write(
    { bucket, key, hops, kind }: KvQuestion,
    data: Uint8Array,
    headers: [string, string][],
    caller: Caller,
  ): Promise<number> {
    try {
      const { seq } = await nats.store({ subject: `$KV.${bucket}.${key}`, data, headers, hops }, caller);
      return seq;
    } catch (error) {
      if (error instanceof AtollError && error.code === 'StreamNotFound') throw noBucket(bucket, error);
      if (isOvertaken((error as AtollError).cause)) {
        const what = kind === 'kv.create' ? 'is there already' : 'has another revision';
        throw new AtollError('WrongRevision', `key ${key} of bucket ${bucket} ${what}`, { cause: error });
      }
      throw error;
    }
  }

  async function create(question: KvQuestion, caller: Caller): Promise<number> {
    try {
      return await write(question, question.data, [[expectedHeader, '0']], caller);
    } catch (error) {
      if (!(error instanceof AtollError) || error.code !== 'WrongRevision') throw error;
      // What was deleted leaves a marker, which is what has to be the last then.
      const entry = await read(question, await nats.connection(caller));
      if (entry?.deleted !== true) throw error;
      return await write(question, question.data, [[expectedHeader, String(entry.revision)]], caller);
    }
  }

  return {
    async ask(question, caller) {
      const { kind, revision, data } = question;
      const expected: [string, string][] = revision === undefined ? [] : [[expectedHeader, String(revision)]];
      if (kind === 'kv.get') {
        const entry = await read(question, await nats.connection(caller));
        if (entry === undefined || entry.deleted) return { ok: true, detail: '', data: noBytes };
        return { ok: true, detail: JSON.stringify({ revision: entry.revision }), data: entry.data };
      }
      const written =
        kind === 'kv.create'
          ? await create(question, caller)
          : kind === 'kv.delete'
            ? await write(question, noBytes, [...expected, [operationHeader, 'DEL']], caller)
            : await write(question, data, kind === 'kv.update' ? expected : [], caller);
      return { ok: true, detail: JSON.stringify({ revision: written }), data: noBytes };
    },
  };
}

/** https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md */
async function read({ bucket, key }: KvQuestion, nc: NatsConnection): Promise<Entry | undefined> {
  const [stream, subject] = [`KV_${bucket}`, `$KV.${bucket}.${key}`];
  try {
    const { headers, data } = await nc.request(`$JS.API.DIRECT.GET.${stream}.${subject}`, noBytes, {
      timeout: getMs,
    });
    if (headers === undefined)
      throw new AtollError('JetStreamUnavailable', `an answer for ${subject} says nothing`);
    if (headers.code === 404) return undefined;
    if (headers.code >= 300)
      throw new AtollError('JetStreamUnavailable', `${headers.code} ${headers.description}`);
    return entryOf(Number(headers.get('Nats-Sequence')), data, headers);
  } catch (error) {
    if (error instanceof AtollError) throw error;
    const causes = [error, (error as Error).cause];
    if (causes.some((one) => one instanceof PermissionViolationError)) throw refusedByServer(subject, error);
    if (!causes.some((one) => one instanceof NoRespondersError)) {
      throw new AtollError('JetStreamUnavailable', faultOf(error).message, { cause: error });
    }
    return await readStored(stream, subject, bucket, nc);
  }
}

/** From a bucket that was made without direct access, by whoever made it. */
async function readStored(
  stream: string,
  subject: string,
  bucket: string,
  nc: NatsConnection,
): Promise<Entry | undefined> {
  try {
    const manager = await managerOf(nc);
    const message = await manager.streams.getMessage(stream, { last_by_subj: subject });
    return message === null ? undefined : entryOf(message.seq, message.data, message.header);
  } catch (error) {
    if (isApiError(error, JetStreamApiCodes.StreamNotFound)) throw noBucket(bucket, error);
    if (isApiError(error, JetStreamApiCodes.NoMessageFound)) return undefined;
    throw new AtollError('JetStreamUnavailable', faultOf(error).message, { cause: error });
  }
}

function entryOf(revision: number, data: Uint8Array, headers: { get(name: string): string }): Entry {
  const deleted = headers.get(operationHeader) !== '' || headers.get('Nats-Marker-Reason') !== '';
  return { revision, data, deleted };
}

function noBucket(bucket: string, cause: unknown): AtollError {
  return new AtollError(
    'BucketNotFound',
    `there is no key-value bucket ${bucket}: "nats kv add ${bucket}" makes it`,
    { cause },
  );
}

function isOvertaken(error: unknown): boolean {
  const { StreamWrongLastSequence, StreamWrongLastSequenceUnknown } = JetStreamApiCodes;
  return (
    error instanceof JetStreamApiError &&
    (error.code === StreamWrongLastSequence || error.code === StreamWrongLastSequenceUnknown)
  );
}
