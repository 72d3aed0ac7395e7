/** `import … from 'atoll/testing'`: what a unit test hands a handler, without a site. Shipped as it is. */
import type { Context, HttpEvent, ScheduledEvent } from '../runtime/handler.ts';

/** A context as an invocation from `faas invoke` would have it; what a test cares about is given. */
export function testContext(given: Partial<Context> = {}): Context {
  const id = crypto.randomUUID();
  return {
    functionName: 'test',
    functionVersion: '000000000000',
    packageSha256: '0'.repeat(64),
    invokedFunctionArn: 'arn:aws:lambda:us-east-1:000000000000:function:test',
    memoryLimitInMB: '128',
    awsRequestId: id,
    logGroupName: '/atoll/default/test',
    logStreamName: 'test',
    identity: undefined,
    clientContext: undefined,
    callbackWaitsForEmptyEventLoop: true,
    getRemainingTimeInMillis: () => 30_000,
    signal: new AbortController().signal,
    trigger: { kind: 'invoke', name: 'invoke', subject: '', id, time: Date.now(), attempt: 1, headers: {} },
    ...given,
  };
}

/** An http trigger's event: payload format 2.0. */
export function testHttpEvent(
  method: string,
  path: string,
  given: { body?: string; headers?: Record<string, string> } = {},
): HttpEvent {
  const [rawPath = '/', rawQueryString = ''] = path.split('?', 2);
  const query = Object.fromEntries(new URLSearchParams(rawQueryString));
  const now = new Date();
  return {
    version: '2.0',
    routeKey: '$default',
    rawPath,
    rawQueryString,
    headers: given.headers ?? {},
    ...(Object.keys(query).length > 0 && { queryStringParameters: query }),
    requestContext: {
      accountId: '000000000000',
      apiId: 'test',
      domainName: 'localhost',
      domainPrefix: 'localhost',
      http: { method, path: rawPath, protocol: 'HTTP/1.1', sourceIp: '127.0.0.1', userAgent: 'test' },
      requestId: crypto.randomUUID(),
      routeKey: '$default',
      stage: '$default',
      time: now.toISOString(),
      timeEpoch: now.getTime(),
    },
    ...(given.body !== undefined && { body: given.body }),
    isBase64Encoded: false,
  };
}

/** A schedule trigger's event, for the tick at `time`. */
export function testScheduledEvent(time: Date = new Date()): ScheduledEvent {
  return {
    version: '0',
    id: crypto.randomUUID(),
    'detail-type': 'Scheduled Event',
    source: 'aws.events',
    account: '000000000000',
    time: time.toISOString(),
    region: 'us-east-1',
    resources: [],
    detail: {},
  };
}
