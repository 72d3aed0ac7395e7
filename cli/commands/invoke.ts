import { fstatSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import type { Invoked } from '../gateway.ts';
import { note, paint, print, printData } from '../output.ts';
import { withProgress } from '../progress.ts';
import { openRunningSite } from '../site.ts';

export const command = defineCommand({
  positionals: {
    name: { type: 'string', describe: 'The function', required: true, completes: 'function' },
  },
  options: {
    data: {
      type: 'string',
      alias: 'd',
      value: 'JSON',
      describe:
        'The event; @FILE reads it from a file, @- from stdin. Without it: what is piped in, else nothing',
    },
    async: {
      type: 'boolean',
      default: false,
      describe: 'Store the event, print its request id, do not wait',
    },
    tail: { type: 'boolean', default: false, describe: "Print the invocation's last 4 KB of log on stderr" },
    timeout: { type: 'number', value: 'S', describe: 'Wait at most so many seconds for the answer' },
  },
  description:
    'The result is printed on stdout. If the function throws, times out or crashes, its error and stack are printed on stderr and the exit code is 1.',
  examples: [
    ['invoke hello', 'Call it with an empty event'],
    [`invoke hello -d '{"name":"reef"}'`, 'With an event'],
    ['invoke hello -d @event.json --tail', 'With an event from a file; print its log as well'],
    ['invoke hello --async -d @event.json', 'Leave the event in the inbox'],
  ],
  async run({ site, context, namespace, name, output, data, async: later, tail, timeout }) {
    if (later && tail) throw usageError('--tail needs an answer to wait for: leave out --async');
    if (timeout !== undefined && !(timeout > 0))
      throw usageError(`--timeout is ${timeout}; it must be more than 0`);
    const payload = await payloadOf(data);
    const { gateway } = await openRunningSite({ site, context });
    const signal = timeout === undefined ? undefined : AbortSignal.timeout(timeout * 1000);
    const answer = await withProgress(`waiting for ${name}`, () =>
      gateway.invoke({ namespace, name }, payload, { async: later, tail, signal }),
    ).catch((error: unknown) => {
      if (signal?.aborted !== true) throw error;
      throw new Failure(exitCodes.site, `${name} did not answer within ${timeout} s`, {
        advice: 'It may still run: its own limit is spec.timeoutSeconds.',
      });
    });
    if (answer.tail !== undefined) note(answer.tail.trimEnd());
    if (answer.functionFailed) {
      reportFault(answer);
      return exitCodes.functionFailed;
    }
    if (later) {
      if (output === 'json' || output === 'yaml') await printData({ requestId: answer.requestId }, output);
      else print(answer.requestId);
    } else {
      await printResult(answer, output);
    }
    return exitCodes.ok;
  },
});

async function payloadOf(data: string | undefined): Promise<Uint8Array> {
  const payload = await bytesOf(data);
  const text = payload.toString('utf8');
  if (text.trim() === '') return Buffer.alloc(0);
  try {
    JSON.parse(text);
  } catch (error) {
    throw usageError(
      `the event is not JSON: ${(error as Error).message}`,
      `Text needs quotes of its own: -d '"text"'.`,
    );
  }
  return payload;
}

async function bytesOf(data: string | undefined): Promise<Buffer> {
  if (data === undefined) return isPipedIn() ? await buffer(process.stdin) : Buffer.alloc(0);
  if (data === '@-') return await buffer(process.stdin);
  if (!data.startsWith('@')) return Buffer.from(data);
  try {
    return await readFile(data.slice(1));
  } catch (error) {
    throw usageError(`the event cannot be read: ${(error as Error).message}`);
  }
}

/** A pipe or a file, as a shell makes them. Programs often leave a socket open as stdin that never ends. */
function isPipedIn(): boolean {
  try {
    const stdin = fstatSync(0);
    return stdin.isFIFO() || stdin.isFile();
  } catch {
    return false;
  }
}

async function printResult({ body, contentType }: Invoked, output: string | undefined): Promise<void> {
  if (!contentType.startsWith('application/json')) {
    process.stdout.write(body);
    return;
  }
  const text = Buffer.from(body).toString('utf8');
  if (output === 'json' || output === 'yaml') await printData(JSON.parse(text), output);
  else print(text);
}

/** Lambda's error object; the stack is the handler's own, in its sources. */
function reportFault({ body, requestId }: Invoked): void {
  const text = Buffer.from(body).toString('utf8');
  let fault: { errorType?: string; errorMessage?: string; trace?: string[] } = {};
  try {
    fault = JSON.parse(text) as typeof fault;
  } catch {
    fault = { errorMessage: text };
  }
  const title = [fault.errorType, fault.errorMessage].filter((part) => part).join(': ');
  note(`${paint('red', 'function failed', process.stderr)}: ${title}`);
  // A stack begins with what the title says already.
  const frames = (fault.trace ?? []).filter((line) => /^\s+at /.test(line) || /^\s*\[?cause/i.test(line));
  if (frames.length > 0) note(frames.join('\n'));
  note(`request id: ${requestId}`);
}
