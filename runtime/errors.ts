/**
 * Every error code: its text, whose fault it is, and whether trying again can help.
 * docs/reference/errors.md is checked against this table.
 */

export interface ErrorCode {
  /** `yours`: the function's author can fix it; `ours`: the site's operator can. */
  readonly whose: 'yours' | 'ours';
  readonly retryable: boolean;
  /** What it means and what to do, as the docs print it. */
  readonly text: string;
}

export const errorCodes = {
  // The handler (Lambda's names where Lambda has one)
  'Runtime.ImportModuleError': {
    whose: 'yours',
    retryable: false,
    text: 'The handler module, or something it imports, could not be loaded. The message names the module.',
  },
  'Runtime.HandlerNotFound': {
    whose: 'yours',
    retryable: false,
    text: 'The module exists, but does not export a function of the name that spec.handler gives.',
  },
  'Runtime.UserCodeSyntaxError': {
    whose: 'yours',
    retryable: false,
    text: 'The handler module is not valid JavaScript.',
  },
  'Runtime.MalformedHandlerName': {
    whose: 'yours',
    retryable: false,
    text: 'spec.handler must be <file without extension>.<export>, such as index.handler.',
  },
  'Runtime.CallbackHandlerDeprecated': {
    whose: 'yours',
    retryable: false,
    text: 'The handler takes a callback as third parameter; like Lambda since Node.js 24, only its promise or return value is used. On nodejs22.x callbacks work.',
  },
  'Runtime.MalformedStreamingHandler': {
    whose: 'yours',
    retryable: false,
    text: 'The handler carries the mark of a streaming handler with another value than "response"; awslambda.streamifyResponse sets it right.',
  },
  'Runtime.InitError': {
    whose: 'yours',
    retryable: true,
    text: 'The handler module threw while it was loaded. The message has the error.',
  },
  'Runtime.UnhandledPromiseRejection': {
    whose: 'yours',
    retryable: true,
    text: 'A promise was rejected and nothing handled it. The process was replaced.',
  },
  'Runtime.ExitError': {
    whose: 'yours',
    retryable: true,
    text: 'The handler process ended during an invocation (process.exit, a signal, a native crash).',
  },
  'Runtime.OutOfMemory': {
    whose: 'yours',
    retryable: true,
    text: 'The handler process needed more than spec.memory.',
  },
  'Runtime.InitTimeout': {
    whose: 'yours',
    retryable: true,
    text: 'Importing the handler module took longer than 10 s, and longer than spec.timeoutSeconds.',
  },
  'Runtime.InvalidResponse': {
    whose: 'yours',
    retryable: false,
    text: 'The returned value cannot be encoded: a BigInt, a circular structure, or more than the limit.',
  },
  'Runtime.InvalidEvent': {
    whose: 'yours',
    retryable: false,
    text: 'The event could not be decoded as the trigger declares (encoding: json | text | binary).',
  },
  'Sandbox.Timedout': {
    whose: 'yours',
    retryable: true,
    text: 'The invocation took longer than spec.timeoutSeconds.',
  },
  'Runtime.StartError': {
    whose: 'ours',
    retryable: true,
    text: 'The handler process could not be started (missing Node version, limits of the machine).',
  },
  'Runtime.Drained': {
    whose: 'ours',
    retryable: true,
    text: 'The process was stopped before or while this event ran; the event was handed back.',
  },
  ProcessFailed: {
    whose: 'ours',
    retryable: true,
    text: 'A program that the site runs for itself ended or did not become ready; it is started again with backoff.',
  },
  // Packages
  NoPackage: { whose: 'yours', retryable: false, text: 'spec.package is not set yet: run "faas deploy".' },
  PackageNotFound: { whose: 'yours', retryable: true, text: 'The store has no object at spec.package.uri.' },
  PackageForbidden: { whose: 'ours', retryable: true, text: 'The store refused access to the package.' },
  PackageUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'The package store could not be reached; it is tried again with backoff.',
  },
  PackageDigestMismatch: {
    whose: 'yours',
    retryable: true,
    text: 'The bytes at spec.package.uri do not have the digest spec.package.sha256: changed, or damaged on the way. They are fetched again with backoff; "faas deploy" puts the right ones there.',
  },
  PackageInvalid: {
    whose: 'yours',
    retryable: false,
    text: 'The package is not a readable tar.gz, leaves its folder, holds links or special files that are not allowed, or is too big.',
  },
  // Triggers
  Connecting: { whose: 'ours', retryable: true, text: 'The broker has not answered yet.' },
  NatsUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'NATS cannot be reached; the connection is tried again for ever.',
  },
  RobotAway: {
    whose: 'ours',
    retryable: true,
    text: 'The robot does not answer over its link. It goes on by itself; what it logs meanwhile can be read once it is back.',
  },
  JetStreamUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'The NATS server has no JetStream, or it does not answer.',
  },
  StreamNotFound: {
    whose: 'yours',
    retryable: true,
    text: 'The stream of a jetstream trigger does not exist, or no stream takes the subject of a message with a msgId.',
  },
  MqttUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'The MQTT broker cannot be reached; the connection is tried again for ever.',
  },
  RosNotInstalled: {
    whose: 'ours',
    retryable: true,
    text: 'There is no ROS 2 that the site could use: none was sourced when "faas up" was started, or rclnodejs is missing or was built for another one. The message says what to install. Clusters have no ROS.',
  },
  RosUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'The ROS process of the machine is not running; it is started again with backoff.',
  },
  RosTypeNotFound: {
    whose: 'yours',
    retryable: true,
    text: 'A ROS message or service type is not installed on this machine; the message names the package.',
  },
  RosTypeMismatch: {
    whose: 'yours',
    retryable: true,
    text: 'A ROS topic or service has another type than the trigger says; the message names both, and who publishes.',
  },
  RosServiceUnavailable: {
    whose: 'yours',
    retryable: true,
    text: 'Nobody serves the ROS service, as far as this machine sees (ROS_DOMAIN_ID, discovery range, name and namespace).',
  },
  RosTimeout: {
    whose: 'yours',
    retryable: true,
    text: 'The ROS service did not answer in time; whether it did what was asked is not known.',
  },
  SubscriptionRefused: {
    whose: 'ours',
    retryable: true,
    text: 'The broker refused the subscription (permissions, or a pattern it does not take).',
  },
  RouteTaken: {
    whose: 'yours',
    retryable: true,
    text: 'An older Function serves this path and method already.',
  },
  // Doors
  Internal: {
    whose: 'ours',
    retryable: true,
    text: 'Something failed that should not; the log of the host or of the site has the details.',
  },
  InvalidRequest: {
    whose: 'yours',
    retryable: false,
    text: 'The request cannot be understood; the message says what was wrong with which value.',
  },
  AccessDenied: {
    whose: 'yours',
    retryable: false,
    text: 'The request was not let in: its Host, its Origin or its key; the message says which (docs/reference/doors.md).',
  },
  ClockSkewed: {
    whose: 'yours',
    retryable: true,
    text: 'The request was signed for a time more than five minutes off: set the clock of the client or the site right.',
  },
  KeysRefused: {
    whose: 'ours',
    retryable: false,
    text: 'The keys file is missing, open to others or malformed, or an address off loopback was given without one.',
  },
  NotFound: { whose: 'yours', retryable: false, text: 'There is nothing at this address.' },
  MethodNotAllowed: {
    whose: 'yours',
    retryable: false,
    text: 'The path is served, but not for this method; the Allow header lists those that are.',
  },
  ConnectionLost: {
    whose: 'ours',
    retryable: true,
    text: 'The connection to the host ended before its answer: whether the function ran is not known.',
  },
  FunctionNotFound: {
    whose: 'yours',
    retryable: false,
    text: 'There is no Function of that name in the namespace.',
  },
  FunctionNotReady: {
    whose: 'ours',
    retryable: true,
    text: 'The function has no running process at the moment; its conditions say why.',
  },
  TooManyRequests: { whose: 'ours', retryable: true, text: 'All slots are busy and the queue is full.' },
  TooLarge: { whose: 'yours', retryable: false, text: 'The payload is bigger than allowed.' },
  InboxUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'JetStream cannot take the event now, so it was not accepted.',
  },
  InboxFull: { whose: 'ours', retryable: true, text: 'The share of this function in the inbox is used up.' },
  NotAllowed: {
    whose: 'yours',
    retryable: false,
    text: 'spec.permissions, or a reserved name, forbids this call.',
  },
  // Calls of handlers (docs/reference/calls.md)
  OutsideInvocation: {
    whose: 'yours',
    retryable: false,
    text: 'nats, mqtt, kv and ros of atoll work while an invocation runs; this call was made while the module was imported, by a timer from there, or after its invocation had ended.',
  },
  NoResponders: {
    whose: 'yours',
    retryable: true,
    text: 'Nobody listens on the subject or serves the service that was called.',
  },
  RequestTimeout: {
    whose: 'yours',
    retryable: true,
    text: 'No answer came within timeoutMs, or before the deadline of the invocation.',
  },
  WrongRevision: {
    whose: 'yours',
    retryable: true,
    text: 'The key was changed since it had the revision that update or delete gave, or is there already (create): get it again.',
  },
  BucketNotFound: {
    whose: 'yours',
    retryable: true,
    text: 'The key-value bucket does not exist; Atoll does not create it ("nats kv add NAME").',
  },
  // Sites and stores
  InvalidObject: {
    whose: 'yours',
    retryable: false,
    text: 'The Function is not valid; the message names every field, its value and what is allowed.',
  },
  Conflict: {
    whose: 'yours',
    retryable: true,
    text: 'The Function was changed by somebody else since it was read: read it again, then change that.',
  },
  ClusterUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'The Kubernetes API server cannot be reached, does not answer or is busy; the message says which. The controller tries again for ever, and what runs goes on running.',
  },
  ClusterForbidden: {
    whose: 'ours',
    retryable: true,
    text: 'The Kubernetes API server refused the login, or RBAC does not allow the request; the message names verb and resource.',
  },
  LeaseLost: {
    whose: 'ours',
    retryable: true,
    text: 'This controller could not renew its lease in time, so it changes nothing any more; another replica has taken over or will.',
  },
  SiteInUse: {
    whose: 'yours',
    retryable: false,
    text: 'Another "faas up" runs this site folder: use that one, stop it, or give another --dir.',
  },
  SiteTooNew: {
    whose: 'yours',
    retryable: false,
    text: 'A newer version of Atoll wrote this site folder: run that version, or give another --dir.',
  },
  SecretNotFound: {
    whose: 'yours',
    retryable: true,
    text: 'What spec.env refers to is not there: a key of a Secret or ConfigMap, on one machine a file of the site folder. The message says which, and where it belongs.',
  },
  HostUnavailable: {
    whose: 'ours',
    retryable: true,
    text: 'The host process is not running; it is started again with backoff.',
  },
  // Clusters (Kubernetes' own words where it has one)
  NameTaken: {
    whose: 'yours',
    retryable: true,
    text: 'An object of the name that this Function would use exists and belongs to something else. It is never touched.',
  },
  Unschedulable: {
    whose: 'ours',
    retryable: true,
    text: 'No node takes the pod: not enough memory or CPU, taints, or a nodeSelector that fits none. The message has the counts.',
  },
  ImagePullBackOff: {
    whose: 'ours',
    retryable: true,
    text: "The node has not got Atoll's image and cannot pull it.",
  },
  QuotaExceeded: {
    whose: 'ours',
    retryable: true,
    text: 'A ResourceQuota of the namespace does not allow another pod of this size.',
  },
  PodRefused: {
    whose: 'ours',
    retryable: true,
    text: 'The API server refuses the pod: Pod Security, a LimitRange or a policy of the cluster. The message has its words.',
  },
  PodFailed: {
    whose: 'ours',
    retryable: true,
    text: 'A node gave the pod up or cannot start a container of it. The message has its words.',
  },
  NodeUnreachable: {
    whose: 'ours',
    retryable: true,
    text: 'The node of a pod does not tell the cluster how it is. What runs there may go on; the message names the node.',
  },
  OOMKilled: {
    whose: 'yours',
    retryable: true,
    text: 'The pod needed more memory than its limit, and the kernel ended it.',
  },
  CrashLoopBackOff: {
    whose: 'ours',
    retryable: true,
    text: "The host in the pod ends again and again; the message has its last line, the pod's log the rest.",
  },
  // Delivery
  Interrupted: {
    whose: 'ours',
    retryable: false,
    text: 'With maxAttempts 1 the event had been handed to a handler when the host ended; it is not handed out again.',
  },
  Recursion: {
    whose: 'yours',
    retryable: false,
    text: 'A chain of functions came back 16 times and was stopped; spec.recursion: Allow permits it.',
  },
  Overflow: {
    whose: 'ours',
    retryable: false,
    text: 'The bounded buffer of a source that cannot wait was full; the event was dropped and counted.',
  },
} as const satisfies Record<string, ErrorCode>;

export type Code = keyof typeof errorCodes;

/**
 * An error as data: it crosses process borders. `code` is one of `errorCodes`, or the name of what the
 * handler threw (Lambda's `errorType`).
 */
export interface Fault {
  readonly code: string;
  readonly message: string;
  readonly stack?: readonly string[];
}

/** An error of ours, with its code and the values it is about. Foreign errors become one at the boundary. */
export class AtollError extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = code;
    this.code = code;
  }

  get retryable(): boolean {
    return errorCodes[this.code].retryable;
  }
}

/** Any thrown value as data; a non-Error keeps its printed form. */
export function faultOf(thrown: unknown): Fault {
  if (thrown instanceof AtollError) return { code: thrown.code, message: thrown.message };
  if (thrown instanceof Error) {
    return { code: thrown.name, message: thrown.message, stack: (thrown.stack ?? '').split('\n') };
  }
  return { code: 'Error', message: String(thrown) };
}
