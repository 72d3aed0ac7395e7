/**
 * Response streaming as in Lambda's Node.js runtime: `awslambda.streamifyResponse` marks a handler, which then gets
 * `(event, responseStream, context)`.
 */
import { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { preludeContentType } from '../event.ts';
import type { HandlerContext } from './handler-context.ts';
import { InvalidResponse, maxResultBytes } from './handler-result.ts';
import { maxChunkBytes, streamWindowBytes } from './protocol.ts';

/** Lambda's default for a streamed response. */
export const maxStreamBytes = 200 * 1024 * 1024;

// Lambda's own marks: libraries set and look for them without `awslambda`.
const streaming = Symbol.for('aws.lambda.runtime.handler.streaming');
const highWaterMark = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const separatorBytes = 8;

type Write = (chunk: string | Uint8Array) => void;
type StreamingHandler = (event: unknown, stream: ResponseStream, context: HandlerContext) => unknown;

export class InvalidStreamingOperation extends Error {
  override name = 'Runtime.InvalidStreamingOperation';
}

/** What `globalThis.awslambda` has for this. */
export const responseStreaming = {
  streamifyResponse<T extends object>(handler: T, options?: { highWaterMark?: number }): T {
    const marked = handler as Record<symbol, unknown>;
    marked[streaming] = 'response';
    if (typeof options?.highWaterMark === 'number') marked[highWaterMark] = options.highWaterMark;
    return handler;
  },
  HttpResponseStream: {
    /** Status, headers and cookies go ahead of the body as JSON, with eight zero bytes behind it. */
    from(stream: ResponseStream, prelude: unknown): ResponseStream {
      stream.setContentType(preludeContentType);
      const head = JSON.stringify(prelude);
      stream._onBeforeFirstWrite = (write) => {
        write(head);
        write(new Uint8Array(separatorBytes));
      };
      return stream;
    },
  },
} as const;

export function isStreaming(handler: unknown): boolean {
  const mark = (handler as Record<symbol, unknown>)[streaming];
  return mark !== undefined && mark !== null && mark !== false;
}

/** Anything else than this is refused when the handler is loaded, as in Lambda. */
export const isResponseStreaming = (handler: unknown): boolean =>
  (handler as Record<symbol, unknown>)[streaming] === 'response';

export interface ResponseStreamOptions {
  /** The stream fails with InvalidResponse beyond it. */
  readonly limitBytes: number;
  /** How much may be handed on before `taken` says that somebody read it. */
  readonly windowBytes: number;
  readonly highWaterMark?: number | undefined;
  /** The bytes must be copied before it returns. */
  send(chunk: Uint8Array, contentType: string): void;
}

/** What the handler writes to. A reader that is slow makes `write` return false, and `drain` comes when it caught up. */
export class ResponseStream extends Writable {
  contentType = 'application/octet-stream';
  /** Lambda's: called once, before the first byte. Libraries set it. */
  _onBeforeFirstWrite: ((write: Write) => void) | undefined;
  readonly #options: ResponseStreamOptions;
  #begun = false;
  #bytes = 0;
  #window: number;
  #waiting: { chunk: Uint8Array; at: number; done: () => void } | undefined;

  constructor(options: ResponseStreamOptions) {
    super(options.highWaterMark === undefined ? {} : { highWaterMark: options.highWaterMark });
    this.#options = options;
    this.#window = options.windowBytes;
    // A caller who goes away must not end the process of a handler that does not listen for it.
    this.on('error', () => {});
  }

  setContentType(contentType: string): void {
    if (this.#begun) throw new InvalidStreamingOperation('Cannot set content-type, too late.');
    this.contentType = String(contentType);
  }

  override write(chunk: unknown, ...rest: unknown[]): boolean {
    this.#begin();
    return super.write(asBytes(chunk), ...(rest as []));
  }

  override end(...args: unknown[]): this {
    const [chunk, encoding] = args;
    const callback = args.find((one) => typeof one === 'function') as (() => void) | undefined;
    if (chunk !== undefined && chunk !== null && typeof chunk !== 'function') {
      if (typeof encoding === 'string') this.write(chunk, encoding);
      else this.write(chunk);
    }
    // A response may be a prelude and nothing else.
    if (!this.destroyed && !this.writableEnded) this.#begin();
    return super.end(callback);
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error) => void): void {
    this.#bytes += chunk.length;
    const { limitBytes } = this.#options;
    if (this.#bytes > limitBytes) {
      return done(
        new InvalidResponse(`the streamed response is larger than the ${limitBytes} bytes allowed`),
      );
    }
    this.#waiting = { chunk, at: 0, done };
    this.#send();
  }

  /** The reader has taken so many of the bytes that were sent. */
  taken(bytes: number): void {
    this.#window += bytes;
    this.#send();
  }

  #begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    this._onBeforeFirstWrite?.((chunk) => void super.write(asBytes(chunk)));
  }

  #send(): void {
    const { send } = this.#options;
    const waiting = this.#waiting;
    if (waiting === undefined || this.destroyed) return;
    const { chunk } = waiting;
    do {
      const size = Math.min(this.#window, maxChunkBytes, chunk.length - waiting.at);
      if (size === 0 && chunk.length > 0) return;
      send(chunk.subarray(waiting.at, waiting.at + size), this.contentType);
      this.#window -= size;
      waiting.at += size;
    } while (waiting.at < chunk.length);
    this.#waiting = undefined;
    waiting.done();
  }
}

/** As Lambda's runtime does: what is neither text nor bytes is written as JSON. */
function asBytes(chunk: unknown): string | Uint8Array {
  return typeof chunk === 'string' || chunk instanceof Uint8Array ? chunk : JSON.stringify(chunk);
}

/** `onChunk`: somebody reads along. Else all of it is kept for `result`, as much as a result may have. */
export function openResponseStream(
  handler: unknown,
  onChunk: ((chunk: Uint8Array, contentType: string) => void) | undefined,
): { stream: ResponseStream; result(): { data: Uint8Array; contentType: string } } {
  const kept: Uint8Array[] = [];
  const mark = (handler as Record<symbol, unknown>)[highWaterMark];
  const options = typeof mark === 'number' && mark >= 0 ? { highWaterMark: mark } : {};
  const stream = new ResponseStream(
    onChunk === undefined
      ? {
          ...options,
          limitBytes: maxResultBytes,
          windowBytes: Infinity,
          send: (chunk) => void kept.push(Buffer.from(chunk)),
        }
      : { ...options, limitBytes: maxStreamBytes, windowBytes: streamWindowBytes, send: onChunk },
  );
  return { stream, result: () => ({ data: Buffer.concat(kept), contentType: stream.contentType }) };
}

/** Resolves when the handler is through and its response ended; rejects with what the handler threw or broke the stream. */
export async function runStreaming(
  handler: unknown,
  event: unknown,
  stream: ResponseStream,
  context: HandlerContext,
): Promise<void> {
  const ended = finished(stream);
  // A handler that waits for a `drain` which will not come any more must not wait for its timeout.
  const tooLarge = new Promise<never>((_, reject) => {
    ended.catch((error: unknown) => {
      if (error instanceof InvalidResponse) reject(error);
    });
  });
  tooLarge.catch(() => {});
  try {
    const returned = (handler as StreamingHandler)(event, stream, context);
    if (typeof (returned as PromiseLike<unknown> | undefined | null)?.then !== 'function') {
      throw new Error('Streaming does not support non-async handlers.');
    }
    if ((await Promise.race([returned, tooLarge])) !== undefined) {
      console.warn('Streaming handlers ignore return values.');
    }
    await ended;
  } catch (error) {
    stream.destroy();
    const cut = (error as NodeJS.ErrnoException | undefined)?.code === 'ERR_STREAM_PREMATURE_CLOSE';
    throw cut ? (stream.errored ?? new Error('Response stream is not finished.')) : error;
  }
}
