/** From what a handler gave to an HTTP response: payload format 2.0, as returned or as the prelude of a stream. */
import type { ServerResponse } from 'node:http';
import { preludeContentType, type OnChunk, type Result } from '../event.ts';
import { written } from './requests.ts';

type HttpResponse = { statusCode: number; headers: [string, string][]; body: string | Uint8Array };

/** What a handler returned, as a response; without `statusCode` the value itself is the JSON body (format 2.0). */
export function httpResponse(result: Result): HttpResponse | { problem: string } {
  if (result.contentType === preludeContentType) return { problem: 'it ended within its prelude' };
  if (result.encoding === 'binary') {
    const contentType = result.contentType ?? 'application/octet-stream';
    return { statusCode: 200, headers: [['content-type', contentType]], body: result.data };
  }
  const text = Buffer.from(result.data.buffer, result.data.byteOffset, result.data.byteLength).toString();
  const value: unknown = JSON.parse(text);
  if (typeof value !== 'object' || value === null || !('statusCode' in value)) {
    const body = typeof value === 'string' ? value : text;
    return { statusCode: 200, headers: [['content-type', 'application/json']], body };
  }
  const given = value as Record<string, unknown>;
  const head = responseHead(given);
  if ('problem' in head) return head;
  const { statusCode, headers } = head;
  const body = given['body'] ?? '';
  if (typeof body !== 'string')
    return { problem: `body is ${typeof body}, not a string: use JSON.stringify` };
  if (!headers.some(([header]) => header === 'content-type') && body !== '') {
    headers.push(['content-type', 'application/json']);
  }
  return {
    statusCode,
    headers,
    body: given['isBase64Encoded'] === true ? Buffer.from(body, 'base64') : body,
  };
}

function responseHead(given: Record<string, unknown>): Omit<HttpResponse, 'body'> | { problem: string } {
  const statusCode = Number(given['statusCode']);
  if (!Number.isInteger(statusCode) || statusCode < 200 || statusCode > 599) {
    return { problem: `statusCode ${JSON.stringify(given['statusCode'])} is not 200 to 599` };
  }
  const headers: [string, string][] = [];
  for (const field of ['headers', 'multiValueHeaders'] as const) {
    const block = given[field] ?? {};
    if (typeof block !== 'object' || Array.isArray(block)) return { problem: `${field} is not an object` };
    for (const [header, values] of Object.entries(block as Record<string, unknown>)) {
      for (const one of Array.isArray(values) ? values : [values]) {
        const problem = headerProblem(header, String(one));
        if (problem !== undefined) return { problem };
        if (!hopByHop.has(header.toLowerCase())) headers.push([header.toLowerCase(), String(one)]);
      }
    }
  }
  const cookies = given['cookies'] ?? [];
  if (!Array.isArray(cookies)) return { problem: 'cookies is not an array' };
  for (const cookie of cookies) {
    const problem = headerProblem('set-cookie', String(cookie));
    if (problem !== undefined) return { problem };
    headers.push(['set-cookie', String(cookie)]);
  }
  return { statusCode, headers };
}

function headerProblem(header: string, value: string): string | undefined {
  if (!/^[\w!#$%&'*+.^`|~-]+$/.test(header)) return `header name ${JSON.stringify(header)}`;
  if (/[\r\n\0]/.test(value)) return `header ${header} has a line break in its value`;
  if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) {
    return `header ${header} has a character in its value that no header may have`;
  }
  return undefined;
}

/** Belongs to one connection, not to the response (RFC 9110 7.6.1); content-length is ours to count. */
const hopByHop = new Set([
  'connection',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
  'te',
  'trailer',
  'content-length',
]);

/** Status, headers and cookies of a streamed response; as much as Node itself would send as a header. */
const maxPreludeBytes = 16 * 1024;
const separator = Buffer.alloc(8);

export interface HttpStream {
  readonly onChunk: OnChunk;
  /** Something was answered already: all that is left to do is to end it, or to cut it. */
  readonly begun: boolean;
}

/** Answers with what a streaming handler writes. `refuse` is told what is wrong with a prelude, and answers for it. */
export function openHttpStream(response: ServerResponse, refuse: (problem: string) => void): HttpStream {
  let begun = false;
  let prelude: Buffer | undefined = Buffer.alloc(0);

  function begin(statusCode: number, headers: readonly (readonly [string, string])[]): void {
    begun = true;
    for (const [header, value] of headers) response.appendHeader(header, value);
    response.writeHead(statusCode);
    // The first byte of the body may be long in coming.
    response.flushHeaders();
  }

  function refused(problem: string): Promise<void> {
    begun = true;
    refuse(problem);
    return Promise.reject(new Error(`the response is not valid: ${problem}`));
  }

  function onChunk(chunk: Uint8Array, contentType: string): Promise<void> {
    if (begun) return written(response, chunk);
    if (contentType !== preludeContentType) {
      const problem = headerProblem('content-type', contentType);
      if (problem !== undefined) return refused(problem);
      begin(200, [['content-type', contentType]]);
      return written(response, chunk);
    }
    prelude = Buffer.concat([prelude ?? separator, chunk]);
    const end = prelude.indexOf(separator);
    if (end < 0 && prelude.length <= maxPreludeBytes) return Promise.resolve();
    if (end < 0 || end > maxPreludeBytes)
      return refused(`its prelude is longer than ${maxPreludeBytes} bytes`);
    const head = preludeOf(prelude.subarray(0, end).toString());
    if ('problem' in head) return refused(head.problem);
    const rest = prelude.subarray(end + separator.length);
    prelude = undefined;
    begin(head.statusCode, head.headers);
    return rest.length === 0 ? Promise.resolve() : written(response, rest);
  }

  return {
    onChunk,
    get begun() {
      return begun;
    },
  };
}

function preludeOf(text: string): Omit<HttpResponse, 'body'> | { problem: string } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { problem: `its prelude is not JSON: ${(error as Error).message}` };
  }
  if (typeof value !== 'object' || value === null) return { problem: 'its prelude is not an object' };
  const given = value as Record<string, unknown>;
  // As in Lambda, all of it may be left out.
  const head = responseHead({ ...given, statusCode: given['statusCode'] ?? 200 });
  if ('problem' in head || head.headers.some(([header]) => header === 'content-type')) return head;
  return { ...head, headers: [...head.headers, ['content-type', 'application/octet-stream']] };
}
