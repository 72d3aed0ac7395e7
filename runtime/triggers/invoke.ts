/**
 * The invoke door, which every function has: POST /invoke/<namespace>/<name>.
 * Request headers: `atoll-id` (request id), `atoll-tail: true` (last 4 KB of the log wanted),
 * `atoll-client-context` (Lambda's, base64 JSON), `x-amzn-trace-id`. Body: the payload.
 * Answer: 200 with `atoll-outcome: returned` and the JSON that the handler returned, or with
 * `atoll-outcome: threw | timedOut | crashed` and Lambda's error object { errorType, errorMessage, trace };
 * 413, 429 (queue full), 503 and 508 (the chain of functions was stopped) with { code, message }.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Delivery, Settlement } from '../event.ts';
import type { Fault } from '../errors.ts';
import { traceHeader } from '../lineage.ts';
import { answerError, readBody } from '../server.ts';
import { callerGone, RequestQueue } from './requests.ts';
import type { Trigger, TriggerContext } from './trigger.ts';

export const invokeTriggerName = 'invoke';

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
      settle: (settlement) => answer(response, id, settlement),
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
  if (settlement.tail !== undefined)
    headers['atoll-log-tail'] = Buffer.from(settlement.tail).toString('base64');
  if (settlement.kind === 'failed') {
    headers['atoll-outcome'] = settlement.outcome ?? 'threw';
    headers['content-type'] = 'application/json';
    response.writeHead(200, headers);
    response.end(JSON.stringify(lambdaError(settlement.fault)));
    return;
  }
  headers['atoll-outcome'] = 'returned';
  headers['content-type'] =
    settlement.result?.encoding === 'binary' ? 'application/octet-stream' : 'application/json';
  response.writeHead(200, headers);
  response.end(settlement.result?.data ?? 'null');
}

/** Lambda's error object: what an invoker gets as payload when the function failed. */
export function lambdaError(fault: Fault): {
  errorType: string;
  errorMessage: string;
  trace?: readonly string[];
} {
  const error = { errorType: fault.code, errorMessage: fault.message };
  return fault.stack ? { ...error, trace: fault.stack } : error;
}
