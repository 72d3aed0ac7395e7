/**
 * The http trigger: API Gateway's payload format 2.0, both ways.
 * https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
 * The gateway matches path, method and key, and sends ANY /http/<namespace>/<function>/<trigger>/<path?query>.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Delivery, Settlement } from '../event.ts';
import { answerError, readBody } from '../server.ts';
import { httpResponse, openHttpStream } from './http-response.ts';
import { callerGone, RequestQueue } from './requests.ts';
import type { OpenTrigger } from './trigger.ts';

export const openHttp: OpenTrigger<'http'> = (source, context) => {
  const queue = new RequestQueue(context.timeoutSeconds * 1000);
  const { namespace, name } = context.function;
  const unmount = context.server.mount(`/http/${namespace}/${name}/${context.name}`, take);
  context.report({ ready: true, reason: 'Ready', message: `serves ${source.path}` });

  async function take(request: IncomingMessage, response: ServerResponse, rest: string): Promise<void> {
    const data = await readBody(request);
    const signal = callerGone(response);
    const id = randomUUID();
    const time = Date.now();
    const detail = httpDetail(request, rest || '/', id, time, name);
    const warn = (problem: string) => context.log.warn({ requestId: id }, problem);
    response.setHeader('x-amzn-requestid', id);
    const stream = openHttpStream(response, (problem) => refuse(response, problem, warn));
    const delivery: Delivery = {
      event: {
        id,
        trigger: context.name,
        kind: 'http',
        subject: detail.rawPath,
        time,
        attempt: 1,
        headers: detail.headers,
        encoding: context.encoding,
        data,
        detail: { ...detail },
      },
      replies: true,
      redeliverable: false,
      signal,
      onChunk: stream.onChunk,
      settle: async (settlement) => {
        if (response.destroyed) return;
        if (!stream.begun) answer(response, settlement, warn);
        else if (settlement.kind === 'done') response.end();
        // Whoever reads must not take what came for all of it.
        else response.destroy();
      },
    };
    const busy = () =>
      answerError(response, 503, 'TooManyRequests', 'all slots are busy; try again later', {
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
};

interface HttpDetail {
  readonly version: '2.0';
  readonly routeKey: string;
  readonly rawPath: string;
  readonly rawQueryString: string;
  readonly cookies?: string[];
  readonly headers: Record<string, string>;
  readonly queryStringParameters?: Record<string, string>;
  readonly requestContext: Record<string, unknown>;
}

function httpDetail(
  request: IncomingMessage,
  url: string,
  id: string,
  time: number,
  functionName: string,
): HttpDetail {
  const query = url.indexOf('?');
  const rawPath = query < 0 ? url : url.slice(0, query);
  const rawQueryString = query < 0 ? '' : url.slice(query + 1);
  const headers: Record<string, string> = {};
  const cookies: string[] = [];
  for (const [header, values] of Object.entries(request.headersDistinct)) {
    if (!values) continue;
    if (header === 'cookie') cookies.push(...values.flatMap((value) => value.split(/;\s*/)));
    else headers[header] = values.join(',');
  }
  const forwardedHost = headers['x-forwarded-host'];
  if (forwardedHost) headers['host'] = forwardedHost;
  const parameters: Record<string, string> = {};
  for (const [key, value] of new URLSearchParams(rawQueryString)) {
    parameters[key] = key in parameters ? `${parameters[key]},${value}` : value;
  }
  const method = request.method ?? 'GET';
  const domainName = headers['host'] ?? 'localhost';
  return {
    version: '2.0',
    routeKey: '$default',
    rawPath,
    rawQueryString,
    ...(cookies.length > 0 && { cookies }),
    headers,
    ...(Object.keys(parameters).length > 0 && { queryStringParameters: parameters }),
    requestContext: {
      accountId: '000000000000',
      apiId: functionName,
      domainName,
      domainPrefix: domainName.split(/[.:]/)[0],
      http: {
        method,
        path: rawPath,
        protocol: `HTTP/${request.httpVersion}`,
        sourceIp:
          headers['x-forwarded-for']?.split(',')[0]?.trim() ?? request.socket.remoteAddress ?? '127.0.0.1',
        userAgent: headers['user-agent'] ?? '',
      },
      requestId: id,
      routeKey: '$default',
      stage: '$default',
      time: clfTime(time),
      timeEpoch: time,
    },
  };
}

/** Common log format, as API Gateway gives `requestContext.time`: 12/Mar/2026:19:03:58 +0000 */
function clfTime(time: number): string {
  const [, day, month, year, clock] =
    /^\w+, (\d+) (\w+) (\d+) ([\d:]+)/.exec(new Date(time).toUTCString()) ?? [];
  return `${day}/${month}/${year}:${clock} +0000`;
}

function answer(response: ServerResponse, settlement: Settlement, warn: (problem: string) => void): void {
  if (settlement.kind === 'done') {
    const sent = settlement.result
      ? httpResponse(settlement.result)
      : { statusCode: 200, headers: [], body: '' };
    if ('problem' in sent) return refuse(response, sent.problem, warn);
    for (const [header, value] of sent.headers) response.appendHeader(header, value);
    response.writeHead(sent.statusCode);
    return void response.end(sent.body);
  }
  if (settlement.kind === 'retry') {
    response.setHeader('retry-after', '1');
    return answerStatus(response, 503);
  }
  if (settlement.reason === 'Recursion') return answerStatus(response, 508);
  answerStatus(response, settlement.outcome === 'timedOut' ? 504 : 502);
}

function refuse(response: ServerResponse, problem: string, warn: (problem: string) => void): void {
  warn(`the handler's response is not valid: ${problem}`);
  answerStatus(response, 502);
}

const statusTexts: Record<number, string> = {
  502: 'Internal Server Error',
  503: 'Service Unavailable',
  504: 'Endpoint request timed out',
  508: 'Loop Detected',
};

/** API Gateway's own bodies: they tell the caller nothing about the function's inside. */
function answerStatus(response: ServerResponse, status: number): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ message: statusTexts[status] }));
}
