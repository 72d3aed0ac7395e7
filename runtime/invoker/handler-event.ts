/** From an event's bytes to what the handler gets: AWS's shape for the nearest source (CONTRACTS 3). */
import { isUtf8 } from 'node:buffer';
import type { TriggerEvent } from '../event.ts';
import type { BatchEvent, BatchRecord } from '../handler.ts';
import { codecOf } from '../ros/message.ts';

/** The event is not what the trigger's `encoding` says. */
export class InvalidEvent extends Error {
  override name = 'Runtime.InvalidEvent';
}

/** Throws InvalidEvent. What it returns shares no memory with the event's bytes. */
export function handlerEvent(event: TriggerEvent): unknown {
  if (event.kind === 'http') return httpEvent(event);
  const { data, encoding } = event;
  if (encoding === 'binary') return Buffer.from(data);
  if (encoding === 'cdr') return rosMessage(event);
  if (encoding === 'text') return utf8(event);
  // Nothing sent: Lambda makes {} of an Invoke without payload; an empty message elsewhere carries no value.
  if (data.length === 0) return event.kind === 'invoke' ? {} : null;
  const text = utf8(event);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InvalidEvent(
      `event ${event.id} on ${event.subject} is not JSON (encoding: json): ${(error as Error).message}`,
    );
  }
}

function rosMessage({ id, subject, schema, data }: TriggerEvent): unknown {
  if (schema === undefined) throw new InvalidEvent(`event ${id} on ${subject} came without its definition`);
  try {
    // A copy: large arrays are views of what is decoded.
    return codecOf(schema.definition, schema.type).decode(Buffer.from(data));
  } catch (error) {
    throw new InvalidEvent(`event ${id} on ${subject} is not a ${schema.type}: ${(error as Error).message}`);
  }
}

export function batchEvent(events: readonly TriggerEvent[], region: string): BatchEvent {
  return { Records: events.map((event) => record(event, region)) };
}

function utf8(event: TriggerEvent): string {
  const bytes = asBuffer(event.data);
  const text = bytes.toString('utf8');
  // Only text with the replacement character in it can have been invalid; the check is for that rare one.
  if (text.includes('\ufffd') && !isUtf8(bytes)) {
    throw new InvalidEvent(
      `event ${event.id} on ${event.subject} is not UTF-8 (encoding: ${event.encoding}); encoding: binary takes any bytes`,
    );
  }
  return text;
}

function asBuffer(data: Uint8Array): Buffer {
  return Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

function httpEvent(event: TriggerEvent): unknown {
  const bytes = asBuffer(event.data);
  const detail = event.detail ?? {};
  if (bytes.length === 0) return { ...detail, isBase64Encoded: false };
  const headers = (detail['headers'] ?? event.headers) as Record<string, string | undefined>;
  const text = isText(headers['content-type']) && !isCompressed(headers['content-encoding']) && isUtf8(bytes);
  return { ...detail, body: bytes.toString(text ? 'utf8' : 'base64'), isBase64Encoded: !text };
}

/** API Gateway's rule: these go through as they are, everything else is base64. */
function isText(contentType: string | undefined): boolean {
  if (contentType === undefined) return false;
  const type = contentType.split(';', 1)[0]!.trim().toLowerCase();
  return (
    type.startsWith('text/') ||
    /^application\/(.*\+)?(json|xml)$/.test(type) ||
    type === 'application/javascript' ||
    type === 'application/x-www-form-urlencoded' ||
    type === 'application/x-ndjson' ||
    type === 'application/yaml'
  );
}

function isCompressed(contentEncoding: string | undefined): boolean {
  return contentEncoding !== undefined && contentEncoding.trim().toLowerCase() !== 'identity';
}

function record(event: TriggerEvent, region: string): BatchRecord {
  const bytes = asBuffer(event.data);
  // One undecodable record must not fail its neighbours, so it arrives as base64 instead.
  const base64 = event.encoding === 'binary' || !isUtf8(bytes);
  const body = bytes.toString(base64 ? 'base64' : 'utf8');
  const messageAttributes: BatchRecord['messageAttributes'] = {};
  for (const [name, value] of Object.entries(event.headers)) {
    messageAttributes[name] = {
      stringValue: value,
      stringListValues: [],
      binaryListValues: [],
      dataType: 'String',
    };
  }
  const stream = event.detail?.['stream'];
  return {
    messageId: event.id,
    receiptHandle: event.id,
    body,
    attributes: {
      ApproximateReceiveCount: String(event.attempt),
      SentTimestamp: String(event.time),
      SenderId: event.subject,
      ApproximateFirstReceiveTimestamp: String(event.time),
      ...(base64 && { AtollBodyEncoding: 'base64' }),
    },
    messageAttributes,
    md5OfBody: process.getBuiltinModule('node:crypto').hash('md5', body),
    eventSource: 'aws:sqs',
    eventSourceARN: `arn:aws:sqs:${region}:000000000000:${typeof stream === 'string' ? stream : event.trigger}`,
    awsRegion: region,
  };
}
