/** `import … from 'atoll/testing'`: what a unit test hands a handler, without a site. Shipped as it is. */
import { CallError, type Context, type HttpEvent, type ScheduledEvent } from '../runtime/handler.ts';
import { carrierKey, rosText, rosValue } from '../runtime/handler-calls.ts';
import type { CallAnswer, CallKind, Carrier, HandlerCall } from '../runtime/handler-calls.ts';

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

/** One call of `nats`, `mqtt`, `kv` or `ros`, as the host would have got it. */
export interface MadeCall {
  readonly kind: CallKind;
  /** Subject, topic, bucket, service, or ROS type; '' of ros.topics. */
  readonly target: string;
  /** What else was given: headers, msgId, timeoutMs, qos, retain, key, revision, type. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly data: Uint8Array;
  string(): string;
  /** Of ROS messages the fields, with BigInt and typed arrays as they were given. */
  json<T = unknown>(): T;
}

export interface FakeCalls {
  /** Everything so far, in order. */
  readonly made: readonly MadeCall[];
  /** Those of one kind, of one target where it is given. */
  of(kind: CallKind, target?: string): MadeCall[];
  /**
   * Answers nats.request, ros.call and ros.definition of that subject, service or type, with this value or what the
   * function makes of the call. Without an answer they fail with NoResponders. Of ros.topics the target is '', and without
   * an answer there are none. A CallError that is given or thrown is what the call fails with, of any kind.
   */
  answer(target: string, answer: unknown): void;
  /** What `kv(bucket)` holds; may be filled before. */
  readonly buckets: Map<string, Map<string, { readonly data: Uint8Array; readonly revision: number }>>;
  /** 'atoll' reaches nothing any more. */
  remove(): void;
  [Symbol.dispose](): void;
}

/**
 * From now on `nats`, `mqtt`, `kv` and `ros` of 'atoll' end here, also outside of an invocation: calls are kept, buckets
 * live in memory and exist when they are used. One at a time: the newest counts.
 */
export function fakeCalls(): FakeCalls {
  const made: MadeCall[] = [];
  const answers = new Map<string, unknown>();
  const buckets: FakeCalls['buckets'] = new Map();
  const place = globalThis as { [carrierKey]?: Carrier | undefined };
  let revision = 0;

  const carrier: Carrier = async (call) => {
    const one = madeCall(call);
    made.push(one);
    try {
      return await answered(one);
    } catch (error) {
      if (!(error instanceof Error) || !('code' in error)) throw error;
      const { code, message, retryable } = error as CallError;
      return { ok: false, code, message, retryable };
    }
  };

  async function answered(call: MadeCall): Promise<CallAnswer> {
    const { kind, target } = call;
    const known = answers.has(target);
    const given = answers.get(target);
    const value = typeof given === 'function' ? await (given as (call: MadeCall) => unknown)(call) : given;
    if (value instanceof Error) throw value;
    if (kind.startsWith('kv.')) return ofBucket(call);
    if (kind === 'nats.publish' || kind === 'mqtt.publish' || kind === 'ros.publish') return answerOf('');
    if (kind === 'ros.topics') return answerOf(value ?? []);
    if (!known)
      throw new CallError('NoResponders', `${kind} ${target}: no answer was given to fakeCalls()`, true);
    if (kind === 'ros.call') return answerOf(rosText(value));
    return answerOf(value);
  }

  function ofBucket({ kind, target, options, data }: MadeCall): CallAnswer {
    const bucket = buckets.get(target) ?? new Map<string, { data: Uint8Array; revision: number }>();
    buckets.set(target, bucket);
    const key = String(options['key']);
    const entry = bucket.get(key);
    if (kind === 'kv.get') return entry ? answerOf(entry.data, { revision: entry.revision }) : answerOf('');
    const expected = kind === 'kv.create' ? 0 : options['revision'];
    if (expected !== undefined && expected !== (entry?.revision ?? 0)) {
      throw new CallError('WrongRevision', `${kind} ${target}: key ${key} has another revision`, true);
    }
    revision += 1;
    if (kind === 'kv.delete') bucket.delete(key);
    else bucket.set(key, { data, revision });
    return answerOf('', { revision });
  }

  place[carrierKey] = carrier;
  const remove = (): void => {
    if (place[carrierKey] === carrier) delete place[carrierKey];
  };
  return {
    made,
    of: (kind, target) =>
      made.filter((call) => call.kind === kind && (target === undefined || call.target === target)),
    answer: (target, answer) => void answers.set(target, answer),
    buckets,
    remove,
    [Symbol.dispose]: remove,
  };
}

function madeCall({ kind, target, detail, data }: HandlerCall): MadeCall {
  const string = (): string => new TextDecoder().decode(data);
  const options = detail === '' ? {} : (JSON.parse(detail) as Record<string, unknown>);
  const parse = kind.startsWith('ros.') ? rosValue : (JSON.parse as (text: string) => unknown);
  return { kind, target, options, data, string, json: <T>() => parse(string()) as T };
}

function answerOf(value: unknown, detail?: object): CallAnswer {
  const encoder = new TextEncoder();
  const data =
    value instanceof Uint8Array
      ? value
      : encoder.encode(typeof value === 'string' ? value : (JSON.stringify(value) ?? ''));
  return { ok: true, detail: detail === undefined ? '' : JSON.stringify(detail), data };
}
