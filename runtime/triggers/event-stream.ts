/**
 * What InvokeWithResponseStream answers: PayloadChunk events, then one InvokeComplete, as
 * application/vnd.amazon.eventstream. https://docs.aws.amazon.com/lambda/latest/api/API_InvokeWithResponseStream.html
 */
export const eventStreamContentType = 'application/vnd.amazon.eventstream';

const preludeBytes = 8;
const crcBytes = 4;
/** The type of a header whose value is text. */
const textHeader = 7;

export interface InvokeComplete {
  /** Absent when the handler ended well. */
  readonly ErrorCode?: string;
  /** JSON of Lambda's error object { errorType, errorMessage, trace }. */
  readonly ErrorDetails?: string;
  /** base64 */
  readonly LogResult?: string;
}

export function payloadChunk(data: Uint8Array): Buffer {
  return message('PayloadChunk', 'application/octet-stream', data);
}

export function invokeComplete(complete: InvokeComplete): Buffer {
  return message('InvokeComplete', 'application/json', Buffer.from(JSON.stringify(complete)));
}

/** Lengths, their checksum, headers, payload, the checksum of all of it; big endian. */
function message(eventType: string, contentType: string, payload: Uint8Array): Buffer {
  const headers = Buffer.concat([
    header(':event-type', eventType),
    header(':content-type', contentType),
    header(':message-type', 'event'),
  ]);
  const size = preludeBytes + crcBytes + headers.length + payload.length + crcBytes;
  const bytes = Buffer.allocUnsafe(size);
  bytes.writeUInt32BE(size, 0);
  bytes.writeUInt32BE(headers.length, 4);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, preludeBytes)), preludeBytes);
  bytes.set(headers, preludeBytes + crcBytes);
  bytes.set(payload, preludeBytes + crcBytes + headers.length);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, size - crcBytes)), size - crcBytes);
  return bytes;
}

function header(name: string, value: string): Buffer {
  const bytes = Buffer.allocUnsafe(1 + name.length + 1 + 2 + value.length);
  let at = bytes.writeUInt8(name.length, 0);
  at += bytes.write(name, at);
  at = bytes.writeUInt8(textHeader, at);
  at = bytes.writeUInt16BE(value.length, at);
  bytes.write(value, at);
  return bytes;
}

const { crc32 } = process.getBuiltinModule('node:zlib');
