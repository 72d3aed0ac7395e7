/**
 * What `import … from 'atoll'` gives a handler. Shipped as it is with handler-calls.ts, so it imports nothing else of
 * Atoll. Shapes are AWS's own where AWS has the source; docs/reference/lambda.md says what is ours.
 */

export { CallError, kv, mqtt, nats, ros } from './handler-calls.ts';
export type {
  KvBucket,
  KvEntry,
  Mqtt,
  MqttPublishOptions,
  Nats,
  NatsReply,
  Payload,
  PublishOptions,
  RequestOptions,
  Ros,
  RosInput,
  RosMessage,
  RosRequest,
  RosResponse,
  RosTopicCounts,
} from './handler-calls.ts';

/**
 * Messages by the names of their types, such as 'sensor_msgs/msg/LaserScan'. Empty: what `faas ros types` writes adds to
 * it what is present, and `ros.publish` knows it then.
 */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type
export interface RosMessages {}

/** Services by the names of their types, each { request, response }, as `RosMessages`. */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type
export interface RosServices {}

export type Handler<Event = unknown, Result = unknown> = (
  event: Event,
  context: Context,
) => Result | Promise<Result>;

/** Lambda's context object, with `signal`, `trigger` and `packageSha256` besides. */
export interface Context {
  readonly functionName: string;
  /** The first 12 digits of the package's digest: tells the versions of a swap apart. */
  readonly functionVersion: string;
  readonly packageSha256: string;
  readonly invokedFunctionArn: string;
  readonly memoryLimitInMB: string;
  /** The event's id, the same on every attempt; a new UUID for a batch. */
  readonly awsRequestId: string;
  readonly logGroupName: string;
  readonly logStreamName: string;
  readonly identity: undefined;
  readonly clientContext: ClientContext | undefined;
  callbackWaitsForEmptyEventLoop: boolean;
  getRemainingTimeInMillis(): number;
  /** Aborts at the deadline, and when the caller went away. */
  readonly signal: AbortSignal;
  /** Where the event came from. For a batch: what its first record says. */
  readonly trigger: TriggerInfo;
}

export interface ClientContext {
  readonly client?: Readonly<Record<string, unknown>>;
  readonly custom?: Readonly<Record<string, unknown>>;
  readonly env?: Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

export interface TriggerInfo {
  readonly kind: 'nats' | 'jetstream' | 'mqtt' | 'ros' | 'http' | 'schedule' | 'invoke';
  /** The trigger's name in the manifest. */
  readonly name: string;
  /** NATS subject, MQTT topic, ROS topic or service, HTTP path, name of the schedule. */
  readonly subject: string;
  readonly id: string;
  /** When the event was accepted, ms since the epoch. */
  readonly time: number;
  /** 1 on the first invocation. */
  readonly attempt: number;
  readonly headers: Readonly<Record<string, string>>;
  /** mqtt: `retain`, `qos`; jetstream: `stream`, `sequence`; ros: `type`. */
  readonly [field: string]: unknown;
}

/** Thrown, or anything thrown with `retryable: false`: the event is not tried again (reason `Refused`). */
export class PermanentError extends Error {
  override name = 'PermanentError';
  readonly retryable = false;
}

/** API Gateway's payload format 2.0. */
export interface HttpEvent {
  readonly version: '2.0';
  readonly routeKey: string;
  readonly rawPath: string;
  readonly rawQueryString: string;
  readonly cookies?: string[];
  readonly headers: Record<string, string | undefined>;
  readonly queryStringParameters?: Record<string, string | undefined>;
  readonly pathParameters?: Record<string, string | undefined>;
  readonly requestContext: {
    readonly accountId: string;
    readonly apiId: string;
    readonly domainName: string;
    readonly domainPrefix: string;
    readonly http: {
      readonly method: string;
      readonly path: string;
      readonly protocol: string;
      readonly sourceIp: string;
      readonly userAgent: string;
    };
    readonly requestId: string;
    readonly routeKey: string;
    readonly stage: string;
    readonly time: string;
    readonly timeEpoch: number;
  };
  /** Absent without a body; text as it is, everything else as base64. */
  readonly body?: string;
  readonly isBase64Encoded: boolean;
}

/** What an http handler returns; anything that is not of this shape becomes a JSON body with status 200. */
export interface HttpResult {
  readonly statusCode?: number;
  readonly headers?: Record<string, string | number | boolean | undefined>;
  readonly body?: string;
  readonly isBase64Encoded?: boolean;
  readonly cookies?: string[];
}

/** EventBridge's scheduled event. */
export interface ScheduledEvent {
  readonly version: string;
  readonly id: string;
  readonly 'detail-type': 'Scheduled Event';
  readonly source: string;
  readonly account: string;
  /** The tick, ISO 8601. */
  readonly time: string;
  readonly region: string;
  readonly resources: string[];
  readonly detail: Record<string, unknown>;
}

/** What a jetstream trigger with batchSize > 1 hands over: SQS's shape. */
export interface BatchEvent {
  readonly Records: BatchRecord[];
}

export interface BatchRecord {
  /** The event's id, `<stream>:<sequence>`; the name to give in `batchItemFailures`. */
  readonly messageId: string;
  readonly receiptHandle: string;
  /** The payload as text; base64 with `encoding: binary`, and when it is not UTF-8. */
  readonly body: string;
  readonly attributes: {
    readonly ApproximateReceiveCount: string;
    readonly SentTimestamp: string;
    readonly SenderId: string;
    readonly ApproximateFirstReceiveTimestamp: string;
    /** Only when the body is base64. */
    readonly AtollBodyEncoding?: 'base64';
  };
  readonly messageAttributes: Record<
    string,
    { stringValue: string; stringListValues: string[]; binaryListValues: string[]; dataType: 'String' }
  >;
  readonly md5OfBody: string;
  readonly eventSource: 'aws:sqs';
  readonly eventSourceARN: string;
  readonly awsRegion: string;
}

/** Records not named here are done. An unknown identifier fails the whole batch. */
export interface BatchResponse {
  readonly batchItemFailures: { readonly itemIdentifier: string }[];
}

export type HttpHandler = Handler<HttpEvent, HttpResult | string | Record<string, unknown> | undefined>;
export type ScheduleHandler = Handler<ScheduledEvent, void>;
export type BatchHandler = Handler<BatchEvent, BatchResponse | void>;
