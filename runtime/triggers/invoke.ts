/**
 * The invoke door, which every function has: POST /invoke/<namespace>/<name>.
 * Request headers: `atoll-id` (request id), `atoll-tail: true` (last 4 KB of the log wanted),
 * `atoll-client-context` (Lambda's, base64 JSON), `x-amzn-trace-id`, `atoll-stream: true` (see below). Body: the
 * payload.
 * Answer: 200 with `atoll-outcome: returned` and the JSON that the handler returned, or with
 * `atoll-outcome: threw | timedOut | crashed` and Lambda's error object { errorType, errorMessage, trace };
 * 413, 429 (queue full), 503 and 508 (the chain of functions was stopped) with { code, message }. With
 * `atoll-stream: true` the answer is the event stream of Lambda's InvokeWithResponseStream, written as the handler writes;
 * how it ended is its last event.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Delivery, OnChunk, Settlement } from '../event.ts';
import type { Fault } from '../errors.ts';
import { traceHeader } from '../lineage.ts';
import { answerError, readBody } from '../server.ts';
import { eventStreamContentType, invokeComplete, payloadChunk, type InvokeComplete } from './event-stream.ts';
import { callerGone, RequestQueue, written } from './requests.ts';
import type { Trigger, TriggerContext } from './trigger.ts';

export const invokeTriggerName = 'invoke';

/** Of a result that was not streamed, in one event. */
const maxEventBytes = 256 * 1024;

export function openInvoke(context: TriggerContext): Trigger {
  const queue = new RequestQueue(context.timeoutSeconds * 1000);
  const { namespace, name } = context.function;
  const unmount = context.server.mount(`/invoke/${namespace}/${name}`, take);
  context.report({ ready: true, reason: 'Ready', message: '' });

  async function take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.method !== 'POST') {
      return answerError(response, 405, 'InvalidRequest', `${request.method} is not POST`, { allow: 'POST' });
    }
    const data = await readBody(request);
    const signal = callerGone(response);
    const given = request.headers['atoll-id'];
    const id = typeof given === 'string' && /^[\x21-\x7e]{1,128}$/.test(given) ? given : randomUUID();
    const clientContext = request.headers['atoll-client-context'];
    const stream = request.headers['atoll-stream'] === 'true' ? openEventStream(response, id) : undefined;
    const delivery: Delivery = {
      event: {
        id,
        trigger: invokeTriggerName,
        kind: 'invoke',
        subject: name,
        time: Date.now(),
        attempt: 1,
        headers: chainOf(request),
        encoding: 'json',
        data,
        ...(typeof clientContext === 'string' && { detail: { clientContext } }),
      },
      replies: true,
      redeliverable: false,
      signal,
      tail: request.headers['atoll-tail'] === 'true',
      ...(stream && { onChunk: stream.onChunk }),
      settle: (settlement) => (stream ? stream.settle(settlement) : answer(response, id, settlement)),
    };
    const busy = () =>
      answerError(response, 429, 'TooManyRequests', `all slots of function ${name} are busy`, {
        'retry-after': '1',
      });
    if (!queue.offer(delivery, busy)) busy();
  }

  return {
    deliveries: () => queue,
    async close() {
      unmount();
      queue.close();
    },
  };
}

/** What tells how far the call came. */
function chainOf({ headers }: IncomingMessage): Record<string, string> {
  const trace = headers[traceHeader];
  return typeof trace === 'string' ? { [traceHeader]: trace } : {};
}

async function answer(response: ServerResponse, id: string, settlement: Settlement): Promise<void> {
  if (response.destroyed || response.headersSent) return;
  if (settlement.kind === 'retry') {
    return answerError(response, 503, 'FunctionNotReady', 'the function was stopped before it ran', {
      'retry-after': '1',
    });
  }
  if (settlement.kind === 'failed' && settlement.reason === 'Recursion') {
    return answerError(response, 508, 'Recursion', settlement.fault.message);
  }
  const headers: Record<string, string> = { 'atoll-request-id': id };
  if (settlement.tail !== undefined) headers['atoll-log-tail'] = base64(settlement.tail);
  if (settlement.kind === 'failed') {
    headers['atoll-outcome'] = settlement.outcome ?? 'threw';
    headers['content-type'] = 'application/json';
    response.writeHead(200, headers);
    response.end(JSON.stringify(lambdaError(settlement.fault)));
    return;
  }
  headers['atoll-outcome'] = 'returned';
  headers['content-type'] =
    settlement.result?.contentType ??
    (settlement.result?.encoding === 'binary' ? 'application/octet-stream' : 'application/json');
  response.writeHead(200, headers);
  response.end(settlement.result?.data ?? 'null');
}

function openEventStream(
  response: ServerResponse,
  id: string,
): { onChunk: OnChunk; settle(settlement: Settlement): Promise<void> } {
  const begin = () => {
    if (response.headersSent) return;
    response.writeHead(200, { 'content-type': eventStreamContentType, 'atoll-request-id': id });
  };
  return {
    onChunk(chunk) {
      begin();
      return chunk.length === 0 ? Promise.resolve() : written(response, payloadChunk(chunk));
    },
    async settle(settlement) {
      if (response.destroyed) return;
      // No invocation, so nothing to tell the end of.
      const unrun = settlement.kind === 'retry' || (settlement.kind === 'failed' && !settlement.outcome);
      if (unrun && !response.headersSent) return answer(response, id, settlement);
      begin();
      if (settlement.kind === 'done') {
        // Of a handler that does not stream.
        const data = settlement.result?.data ?? Buffer.from('null');
        for (let at = 0; at < data.length; at += maxEventBytes) {
          response.write(payloadChunk(data.subarray(at, at + maxEventBytes)));
        }
      }
      response.end(invokeComplete(completionOf(settlement)));
    },
  };
}

function completionOf(settlement: Settlement): InvokeComplete {
  if (settlement.kind === 'retry')
    return { ErrorCode: drained.code, ErrorDetails: JSON.stringify(lambdaError(drained)) };
  const log = settlement.tail === undefined ? {} : { LogResult: base64(settlement.tail) };
  if (settlement.kind === 'done') return log;
  const { fault } = settlement;
  return { ErrorCode: fault.code, ErrorDetails: JSON.stringify(lambdaError(fault)), ...log };
}

const drained: Fault = { code: 'Runtime.Drained', message: 'the function was stopped before it ended' };

const base64 = (text: string): string => Buffer.from(text).toString('base64');

/** Lambda's error object: what an invoker gets as payload when the function failed. */
export function lambdaError(fault: Fault): {
  errorType: string;
  errorMessage: string;
  trace?: readonly string[];
} {
  const error = { errorType: fault.code, errorMessage: fault.message };
  return fault.stack ? { ...error, trace: fault.stack } : error;
}
