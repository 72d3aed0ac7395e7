/** What every Invoker does with a streaming handler; part of the suite in invoker.ts. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Outcome } from '../../runtime/event.ts';
import type { Invocation } from '../../runtime/invoker/invoker.ts';
import { maxResultBytes } from '../../runtime/invoker/handler-result.ts';
import { streamWindowBytes } from '../../runtime/invoker/protocol.ts';
import { temporaryFolder } from '../support/folder.ts';
import { faultOf, openFixture, startFixture, type Fixture, type OpenInvoker } from './invoker.ts';

interface Read extends Pick<Required<Invocation>, 'onChunk'> {
  text(): string;
  contentTypes(): string[];
  /** Resolves when so much came. */
  until(text: string): Promise<void>;
}

/** Reads along, and has taken each chunk at once. */
function reader(): Read {
  const chunks: Buffer[] = [];
  const types = new Set<string>();
  const waiting = new Set<() => void>();
  const text = () => Buffer.concat(chunks).toString();
  return {
    onChunk(chunk, contentType) {
      chunks.push(Buffer.from(chunk));
      types.add(contentType);
      for (const look of waiting) look();
      return Promise.resolve();
    },
    text,
    contentTypes: () => [...types],
    until: (wanted) =>
      new Promise((resolve) => {
        const look = () => {
          if (!text().includes(wanted)) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
      }),
  };
}

/** The bytes of a result that nobody read along. */
function kept(outcome: Outcome): { text: string; contentType: string | undefined } {
  if (outcome.kind !== 'returned') throw new Error(`${outcome.kind}: ${outcome.fault.message}`);
  expect(outcome.result.encoding).toBe('binary');
  return { text: Buffer.from(outcome.result.data).toString(), contentType: outcome.result.contentType };
}

export function testStreaming(open: OpenInvoker): void {
  const start = (more: Parameters<typeof openFixture>[2] = {}): Promise<Fixture> =>
    startFixture(open, 'streams', more);

  describe('a streaming handler', () => {
    test('is read while it writes: the first bytes come before it ends', async () => {
      const { call } = await start();
      const until = join(await temporaryFolder(), 'go-on');
      const read = reader();
      const outcome = call({ what: 'halves', until }, { onChunk: read.onChunk });
      await read.until('first ');
      await writeFile(until, '');
      expect(await outcome).toMatchObject({ kind: 'returned', result: { contentType: 'text/plain' } });
      expect(read.text()).toBe('first second');
      expect(read.contentTypes()).toEqual(['text/plain']);
    });

    test('sends status, headers and cookies ahead as JSON and eight zero bytes, also without a body', async () => {
      const { call } = await start();
      const prelude = { statusCode: 418, headers: { a: 'b' }, cookies: ['c=d'] };
      for (const [event, text] of [
        [{ what: 'http', prelude, body: 'tea' }, `${JSON.stringify(prelude)}${'\0'.repeat(8)}tea`],
        [{ what: 'http', prelude }, `${JSON.stringify(prelude)}${'\0'.repeat(8)}`],
        [{ what: 'endOnly' }, `{"statusCode":201}${'\0'.repeat(8)}all of it`],
      ] as const) {
        const read = reader();
        await call({ body: JSON.stringify(event) }, { onChunk: read.onChunk });
        expect(read.text()).toBe(text);
        expect(read.contentTypes()).toEqual(['application/vnd.awslambda.http-integration-response']);
      }
    });

    test('writes what is neither text nor bytes as JSON', async () => {
      const { call } = await start();
      const read = reader();
      await call({ what: 'objects' }, { onChunk: read.onChunk });
      expect(read.text()).toBe('{"a":1}-+');
      expect(read.contentTypes()).toEqual(['application/octet-stream']);
    });

    test('may write nothing at all', async () => {
      const { call } = await start();
      const read = reader();
      expect(kept(await call({ what: 'nothing' }, { onChunk: read.onChunk })).text).toBe('');
      expect(read.text()).toBe('');
    });

    test('gives all of it as its result where nobody reads along, up to 6 MiB', async () => {
      const { call } = await start();
      const until = join(await temporaryFolder(), 'go-on');
      await writeFile(until, '');
      expect(kept(await call({ what: 'halves', until }))).toEqual({
        text: 'first second',
        contentType: 'text/plain',
      });
      expect(kept(await call({ what: 'much', bytes: maxResultBytes })).text).toHaveLength(maxResultBytes);
      const tooMuch = await call({ what: 'much', bytes: maxResultBytes + 1 });
      expect(tooMuch).toMatchObject({ kind: 'threw', retryable: false });
      expect(faultOf(tooMuch)).toMatchObject({
        code: 'Runtime.InvalidResponse',
        message: `the streamed response is larger than the ${maxResultBytes} bytes allowed`,
      });
    });

    test('waits for a reader that is slow, and neither side keeps more than a little', async () => {
      const { call, record } = await start();
      const bytes = 4 * 1024 * 1024;
      let unread = 0;
      let most = 0;
      let came = 0;
      let full: () => void = () => {};
      const filled = new Promise<void>((resolve) => (full = resolve));
      const outcome = call(
        { what: 'much', bytes },
        {
          onChunk: async ({ length }) => {
            came += length;
            unread += length;
            most = Math.max(most, unread);
            if (came >= streamWindowBytes) full();
            // Nothing is read until nothing more can come.
            await filled;
            await new Promise(setImmediate);
            unread -= length;
          },
        },
      );
      expect((await outcome).kind).toBe('returned');
      expect(came).toBe(bytes);
      expect(most).toBe(streamWindowBytes);
      const { message } = await record((line) => line.message.startsWith('kept '));
      expect(Number(message.slice('kept '.length))).toBeLessThanOrEqual(64 * 1024);
    });

    test('that throws in the middle of it has sent what it wrote, and failed', async () => {
      const { call } = await start();
      const read = reader();
      const outcome = await call({ what: 'throwsLate' }, { onChunk: read.onChunk });
      expect(outcome).toMatchObject({
        kind: 'threw',
        fault: { code: 'RangeError', message: 'in the middle' },
      });
      expect(read.text()).toBe('begun');
    });

    test.for([
      ['throwsEarly', 'RangeError', 'at once'],
      ['destroys', 'Error', 'Response stream is not finished.'],
      ['contentTypeLate', 'Runtime.InvalidStreamingOperation', 'Cannot set content-type, too late.'],
    ] as const)('fails: %s', async ([what, code, message]) => {
      const { call } = await start();
      const outcome = await call({ what }, { onChunk: reader().onChunk });
      expect(faultOf(outcome)).toMatchObject({ code, message });
    });

    test('must be async, as in Lambda', async () => {
      const { call } = await start({ handler: 'index.returned' });
      const outcome = await call({ what: 'notAsync' }, { onChunk: reader().onChunk });
      expect(faultOf(outcome).message).toBe('Streaming does not support non-async handlers.');
    });

    test('is told that what it returns is ignored', async () => {
      const { call, record } = await start({ handler: 'index.returned' });
      expect(kept(await call({ what: 'returnsToo' })).text).toBe('x');
      await record(({ level, message }) => level === 'WARN' && /ignore return values/.test(message));
    });

    test('takes its highWaterMark from streamifyResponse', async () => {
      const { call } = await start({ handler: 'index.small' });
      expect(kept(await call({})).text).toBe('7');
    });

    test('sees that its reader went away: the stream fails, the signal aborts, and the process goes on', async () => {
      const { call, record, restarts } = await start();
      const pid = kept(await call({ what: 'pid' })).text;
      const read = reader();
      const caller = new AbortController();
      const outcome = call({ what: 'untilGone' }, { onChunk: read.onChunk, signal: caller.signal });
      await read.until('tick tick ');
      caller.abort();
      expect(faultOf(await outcome).message).toBe('the caller went away');
      await record(({ message }) => message === 'gone the caller went away true the caller went away');

      const heedless = new AbortController();
      const other = reader();
      const second = call({ what: 'heedless' }, { onChunk: other.onChunk, signal: heedless.signal });
      await other.until('tick ');
      heedless.abort();
      expect(faultOf(await second).message).toBe('the caller went away');
      expect(kept(await call({ what: 'pid' })).text).toBe(pid);
      expect(restarts).toEqual([]);
    });

    test('fails with the reason why a reader takes no more', async () => {
      const { call } = await start();
      const outcome = await call(
        { what: 'untilGone' },
        { onChunk: () => Promise.reject(new Error('the response is not valid')) },
      );
      expect(faultOf(outcome).message).toBe('the response is not valid');
    });

    test('is timed out in the middle of it', async () => {
      const { call } = await start({ timeoutMs: 1_500 });
      const read = reader();
      const outcome = await call({ what: 'neverEnds' }, { onChunk: read.onChunk });
      expect(outcome.kind).toBe('timedOut');
      expect(read.text()).toBe('begun');
    });

    test('has a stream for each of its invocations at a time', async () => {
      const { call } = await start({ concurrency: 8 });
      const readers = Array.from({ length: 8 }, reader);
      const outcomes = await Promise.all(
        readers.map(({ onChunk }, index) =>
          call({ what: 'much', bytes: 512 * 1024, text: String(index) }, { onChunk }),
        ),
      );
      for (const [index, outcome] of outcomes.entries()) {
        expect(outcome.kind).toBe('returned');
        expect(readers[index]!.text()).toBe(String(index).repeat(512 * 1024));
      }
    });

    test('refuses to start with another mark than "response"', async () => {
      const { invoker } = openFixture(open, 'streams', { handler: 'index.malformed' });
      await expect(invoker.start()).rejects.toMatchObject({ code: 'Runtime.MalformedStreamingHandler' });
    });
  });
}
