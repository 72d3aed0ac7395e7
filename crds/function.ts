/**
 * The Function kind, once: schema, defaults and limits, the types derived from it, and validation.
 * `function.yaml` (the CustomResourceDefinition) and the tables of docs/reference/function.md are generated from
 * this file and `rules.ts`: run `node crds/generate.ts` after a change.
 *
 * Patterns are read by two engines, JavaScript's (with the u flag) and RE2 in the API server: no \s, no dot, no
 * look-around. What one pattern of one field can say stands here; what needs a sentence or two fields is a rule.
 */
import { Type, type Static, type TSchema } from 'typebox';
import { check, type Problem } from './check.ts';
import {
  invokeTrigger,
  memoryMax,
  memoryMin,
  nameAllowed,
  namePattern,
  rules,
  volumeKinds,
} from './rules.ts';
import { rosTopicDefaults } from './values.ts';

export { problemText, type Problem } from './check.ts';
export { invokeTrigger, namePattern } from './rules.ts';
export { everyMs, memoryBytes, parseHandler, sourceOf, triggerKinds } from './values.ts';

export const apiVersion = 'atoll.dev/v1alpha1';
export const kind = 'Function';

const strict = { additionalProperties: false } as const;
/** Kubernetes' own types, of which only the known part is described: the cluster checks the rest. */
const open = { additionalProperties: true } as const;
const optional = <S extends TSchema>(schema: S) => Type.Optional(schema);

interface Words {
  description?: string;
  default?: unknown;
}

const choice = <const V extends string>(values: readonly V[], options: Words = {}) =>
  Type.Unsafe<V>({ type: 'string', enum: values, ...options });
const integerChoice = <const V extends number>(values: readonly V[], options: Words = {}) =>
  Type.Unsafe<V>({ type: 'integer', enum: values, ...options });
const textMap = (description: string) =>
  Type.Unsafe<Record<string, string>>({
    type: 'object',
    description,
    maxProperties: 64,
    additionalProperties: { type: 'string', maxLength: 4096 },
  });
/** Elements with the same keys are one element, as server-side apply merges them. */
const listMap = (...keys: string[]) => ({
  'x-kubernetes-list-type': 'map',
  'x-kubernetes-list-map-keys': keys,
});

const keyRef = (what: string) =>
  optional(
    Type.Object(
      {
        name: Type.String({ minLength: 1, maxLength: 253, description: `Name of the ${what}.` }),
        key: Type.String({ minLength: 1, maxLength: 253, description: `Key in the ${what}.` }),
        optional: optional(
          Type.Boolean({ description: 'True: without it the variable is not set, instead of not starting.' }),
        ),
      },
      { ...strict, description: `A key of a ${what} in the function's namespace.` },
    ),
  );

const EnvVar = Type.Object(
  {
    name: Type.String({
      pattern: '^[A-Za-z_][A-Za-z0-9_]*$',
      allowed: 'letters, digits and "_", no digit first',
      maxLength: 128,
      description: 'Name of the variable.',
    }),
    value: optional(
      Type.String({ maxLength: 32768, description: 'Its value. Neither value nor valueFrom: empty.' }),
    ),
    valueFrom: optional(
      Type.Object(
        {
          secretKeyRef: keyRef('Secret'),
          configMapKeyRef: keyRef('ConfigMap'),
          fieldRef: optional(
            Type.Object(
              {
                apiVersion: optional(Type.String({ maxLength: 64, description: 'Of the path; v1.' })),
                fieldPath: Type.String({
                  minLength: 1,
                  maxLength: 253,
                  description: 'A field of the pod, such as spec.nodeName. Clusters only.',
                }),
              },
              { ...strict, description: 'A field of the pod.' },
            ),
          ),
        },
        { ...strict, description: 'Where the value comes from, instead of value.' },
      ),
    ),
  },
  strict,
);

const delivery = () =>
  choice(['AtLeastOnce', 'AtMostOnce'], {
    default: 'AtLeastOnce',
    description:
      'AtLeastOnce stores events in the inbox (JetStream) before they are acknowledged; AtMostOnce needs no JetStream and may lose what was not handled yet.',
  });

const NatsTrigger = Type.Object(
  {
    subject: Type.String({
      minLength: 1,
      maxLength: 256,
      description: 'Subject to subscribe to; * and > as in NATS.',
    }),
    queue: optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        pattern: '^[^ \\t\\r\\n\\f]+$',
        allowed: 'a name without spaces',
        description: 'Queue group, taken literally. Default: one of its own for each trigger.',
      }),
    ),
    broadcast: Type.Boolean({
      default: false,
      description: 'True: no queue group, every replica gets every message.',
    }),
    reply: choice(['Always', 'Never'], {
      default: 'Always',
      description: 'Always: a message with a reply subject is a request and gets the result.',
    }),
  },
  { ...strict, description: 'Messages of a NATS subject.' },
);

const JetStreamTrigger = Type.Object(
  {
    stream: Type.String({
      pattern: '^[^ \\t\\r\\n\\f.*>/\\\\]{1,128}$',
      allowed: 'a stream name: at most 128 characters, no space, ".", "*", ">", "/" or "\\"',
      maxLength: 128,
      description: 'The stream. It must exist; Atoll does not create it.',
    }),
    subject: optional(
      Type.String({ minLength: 1, maxLength: 256, description: 'Only messages of these subjects.' }),
    ),
    domain: optional(
      Type.String({
        pattern: '^[A-Za-z0-9_-]{1,64}$',
        allowed: 'letters, digits, "_" and "-", at most 64',
        maxLength: 64,
        description: 'JetStream domain the stream lies in. Default: the one connected to.',
      }),
    ),
    startAt: choice(['New', 'All'], {
      default: 'New',
      description:
        'Where a new trigger begins: what arrives from now on, or everything the stream still has.',
    }),
    batchSize: Type.Integer({
      minimum: 1,
      maximum: 10000,
      default: 1,
      description: 'Messages per invocation; above 1 the event is { Records } as SQS gives it.',
    }),
    batchWindowMs: Type.Integer({
      minimum: 0,
      maximum: 300000,
      default: 0,
      description: 'How long to wait for a batch to fill.',
    }),
  },
  { ...strict, description: 'Messages of a JetStream stream.' },
);

const MqttTrigger = Type.Object(
  {
    topic: Type.String({ minLength: 1, maxLength: 1024, description: 'Topic filter; + and # as in MQTT.' }),
    qos: integerChoice([0, 1, 2], { default: 1, description: 'QoS to subscribe with.' }),
    version: integerChoice([4, 5], {
      default: 4,
      description: "Protocol: 4 is MQTT 3.1.1 (also NATS' MQTT listener), 5 is MQTT 5.",
    }),
    delivery: delivery(),
  },
  { ...strict, description: 'Messages of an MQTT topic filter.' },
);

export const httpMethods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

const HttpTrigger = Type.Object(
  {
    path: Type.String({
      pattern: '^/[^ ?#\\t\\r\\n\\f]*$',
      allowed: 'a path that begins with "/", without "?", "#" and spaces',
      maxLength: 1024,
      description: 'Path at the gateway.',
    }),
    pathType: choice(['Exact', 'Prefix'], {
      default: 'Exact',
      description: 'Exact: this path only. Prefix: also all below it.',
    }),
    methods: optional(
      Type.Array(choice(httpMethods), {
        minItems: 1,
        maxItems: httpMethods.length,
        uniqueItems: true,
        description: 'Methods to answer. Default: all.',
      }),
    ),
    auth: optional(
      choice(['None', 'Key'], {
        description: 'Whether callers need a key. Default: None on loopback, Key on any other address.',
      }),
    ),
  },
  { ...strict, description: 'Requests to a path of the gateway.' },
);

const ScheduleTrigger = Type.Object(
  {
    cron: optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        description: 'Five fields (minute hour day month weekday), or six with seconds first.',
      }),
    ),
    timeZone: optional(
      Type.String({
        minLength: 1,
        maxLength: 64,
        description:
          'IANA name of the zone whose wall clock cron reads, such as Europe/Berlin. Default: UTC.',
      }),
    ),
    every: optional(
      Type.String({
        pattern: '^([1-9][0-9]{2,8}ms|[1-9][0-9]{0,5}[smh]|[1-9][0-9]{0,2}d)$',
        allowed: 'a whole number with ms, s, m, h or d, from 100ms to 999d, such as 500ms or 5m',
        maxLength: 16,
        description: 'Interval; ticks lie on its multiples since 1970-01-01T00:00Z.',
      }),
    ),
    catchUp: Type.Boolean({
      default: false,
      description: 'True: ticks missed while nothing ran are made up for by one run.',
    }),
    delivery: delivery(),
  },
  { ...strict, description: 'The clock: cron or every.' },
);

/** As `ros2 topic list` prints them; one level may hold letters, digits and "_", no digit first. */
const rosName = '/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*';
const rosLevel = '([*][*]|[A-Za-z_*][A-Za-z0-9_]*([*][A-Za-z0-9_]+)*[*]?)';
const rosMatch = `^/?${rosLevel}(/${rosLevel})*$`;
const rosMatchAllowed =
  'a topic such as /scan, or a pattern: "*" for what one level holds, "**" for any number of levels';

const rosType = (folder: 'msg' | 'srv' | 'msg|srv', description: string) =>
  optional(
    Type.String({
      pattern: `^[a-z][a-z0-9_]*/(${folder})/[A-Z][A-Za-z0-9]*$`,
      allowed: `<package>/${folder === 'srv' ? 'srv' : 'msg'}/<Name>, such as ${folder === 'srv' ? 'std_srvs/srv/Trigger' : 'sensor_msgs/msg/LaserScan'}`,
      maxLength: 255,
      description,
    }),
  );
const rosMaxHz = () =>
  optional(
    Type.Number({
      maximum: 10000,
      description: 'Messages a second of each topic, at most; the others are left out. Default: all.',
    }),
  );
const rosExclude = () =>
  optional(
    Type.Array(Type.String({ pattern: rosMatch, allowed: rosMatchAllowed, maxLength: 255 }), {
      maxItems: 64,
      description: 'Topics and patterns that a pattern does not take.',
    }),
  );
const rosRaw = (words: Words = {}) =>
  Type.Boolean({
    description: "True: the event is a Buffer of the message's CDR bytes, which nothing decodes.",
    ...words,
  });
const rosKeepLast = (words: Words = {}) =>
  Type.Integer({
    minimum: 1,
    maximum: 1000,
    description: 'Messages of each topic that wait while the function is busy; older ones give way.',
    ...words,
  });
const rosQosProfiles = ['auto', 'reliable', 'best_effort', 'transient_local'] as const;
const rosQos = (words: Words = {}) =>
  choice(rosQosProfiles, {
    description:
      'auto: what the publishers offer. transient_local: reliable, and what was published before is asked for.',
    ...words,
  });
const RosTrigger = Type.Object(
  {
    service: optional(
      Type.String({
        pattern: `^${rosName}$`,
        allowed: 'the name of a service, such as /update_handler',
        maxLength: 255,
        description: 'Service to offer: the request is the event, the return value the response.',
      }),
    ),
    topics: optional(
      Type.Array(
        Type.Object(
          {
            match: Type.String({
              pattern: rosMatch,
              allowed: rosMatchAllowed,
              maxLength: 255,
              description:
                'Topic, or pattern: * for what one level holds, ** for any number of levels. Without / first: in the namespace of the site.',
            }),
            type: rosType('msg', 'Type of the messages. Default: what the publishers say.'),
            raw: rosRaw({ default: rosTopicDefaults.raw }),
            maxHz: rosMaxHz(),
            keepLast: rosKeepLast({ default: rosTopicDefaults.keepLast }),
            qos: rosQos({ default: rosTopicDefaults.qos }),
            exclude: rosExclude(),
          },
          strict,
        ),
        {
          minItems: 1,
          maxItems: 64,
          description: 'Topics to subscribe to; of several entries that fit a topic the first one takes it.',
        },
      ),
    ),
    topic: optional(
      Type.String({
        pattern: rosMatch,
        allowed: rosMatchAllowed,
        maxLength: 255,
        description: 'Short for topics with one entry: its match. The fields of the entry stand beside it.',
      }),
    ),
    type: rosType('msg|srv', "The service's type, or the topic's."),
    raw: optional(rosRaw()),
    maxHz: rosMaxHz(),
    keepLast: optional(rosKeepLast()),
    qos: optional(rosQos()),
    exclude: rosExclude(),
    failure: optional(
      textMap(
        'What a caller of the service gets when the function fails: fields of the response, with {code} and {message} in texts. Default: success, ok or accepted false; message or error the error.',
      ),
    ),
  },
  { ...strict, description: 'Messages of ROS 2 topics, or requests of a ROS 2 service.' },
);

const Trigger = Type.Object(
  {
    name: Type.String({
      pattern: namePattern,
      allowed: nameAllowed,
      maxLength: 52,
      description: `Name, unique in the function; "${invokeTrigger}" is reserved.`,
    }),
    encoding: choice(['json', 'text', 'binary'], {
      default: 'json',
      description: 'What the payload is: parsed JSON, a string, or a Buffer. Of ROS: see raw.',
    }),
    nats: optional(NatsTrigger),
    jetstream: optional(JetStreamTrigger),
    mqtt: optional(MqttTrigger),
    ros: optional(RosTrigger),
    http: optional(HttpTrigger),
    schedule: optional(ScheduleTrigger),
  },
  strict,
);

const destination = (when: string) =>
  optional(
    Type.Object(
      {
        nats: optional(
          Type.Object(
            {
              subject: Type.String({
                minLength: 1,
                maxLength: 256,
                description: 'Subject, without wildcards.',
              }),
            },
            { ...strict, description: 'Publish it on NATS.' },
          ),
        ),
        mqtt: optional(
          Type.Object(
            {
              topic: Type.String({ minLength: 1, maxLength: 1024, description: 'Topic, without wildcards.' }),
            },
            { ...strict, description: 'Publish it on MQTT.' },
          ),
        ),
      },
      {
        ...strict,
        description: `Where Lambda's destination record goes ${when}; exactly one of nats, mqtt.`,
      },
    ),
  );

const Package = Type.Object(
  {
    uri: optional(
      Type.String({
        pattern:
          '^(s3://[a-z0-9][a-z0-9.-]{1,62}/[^ \\t\\r\\n\\f]+|https://[^/@ \\t\\r\\n\\f]+/[^ \\t\\r\\n\\f]*|file:///[^ \\t\\r\\n\\f]+)$',
        allowed: 's3://bucket/key, https://host/path (no user or password in it) or file:///absolute/path',
        maxLength: 2048,
        description: 'Where the tar.gz lies: s3://bucket/key, https://…, or file:///… in a directory store.',
      }),
    ),
    sha256: optional(
      Type.String({
        pattern: '^[0-9a-f]{64}$',
        allowed: '64 lowercase hexadecimal digits',
        maxLength: 64,
        description: 'Digest of the tar.gz at uri; what is there must have it.',
      }),
    ),
    inline: optional(
      Type.String({
        minLength: 1,
        maxLength: 65536,
        description: "The handler module's source itself, ECMAScript or CommonJS, at most 64 KiB.",
      }),
    ),
  },
  {
    ...strict,
    description: 'The code: uri and sha256, or inline. Without it the function waits (NoPackage).',
  },
);

/** Where no smaller limit has a meaning: beyond these JavaScript and Go disagree on what an integer is. */
const wholeNumber = { minimum: 0, maximum: Number.MAX_SAFE_INTEGER };
const intOrString = (description: string) =>
  Type.Unsafe<number | string>({
    'x-kubernetes-int-or-string': true,
    anyOf: [{ type: 'integer' }, { type: 'string' }],
    ...wholeNumber,
    description,
  });
const quantities = (description: string) =>
  Type.Unsafe<Record<string, number | string>>({
    type: 'object',
    description,
    maxProperties: 32,
    additionalProperties: intOrString('Quantity.'),
  });

const Placement = Type.Object(
  {
    everyNode: optional(
      Type.Boolean({ description: 'True: one replica on every node that fits; replicas is ignored.' }),
    ),
    nodeSelector: optional(textMap('Labels a node must have.')),
    tolerations: optional(
      Type.Array(
        Type.Object(
          {
            key: optional(
              Type.String({ maxLength: 317, description: 'Taint key; none with Exists: every taint.' }),
            ),
            operator: optional(Type.String({ maxLength: 16, description: 'Exists or Equal.' })),
            value: optional(Type.String({ maxLength: 64, description: 'Taint value.' })),
            effect: optional(
              choice(['NoSchedule', 'PreferNoSchedule', 'NoExecute'], { description: 'Taint effect.' }),
            ),
            tolerationSeconds: optional(
              Type.Integer({ ...wholeNumber, description: 'How long a NoExecute taint is tolerated.' }),
            ),
          },
          strict,
        ),
        { maxItems: 32, description: 'Taints that do not keep the function away.' },
      ),
    ),
    affinity: optional(
      Type.Object(
        {
          nodeAffinity: optional(Type.Object({}, { ...open, description: 'As in a pod.' })),
          podAffinity: optional(Type.Object({}, { ...open, description: 'As in a pod.' })),
          podAntiAffinity: optional(Type.Object({}, { ...open, description: 'As in a pod.' })),
        },
        { ...strict, description: "The pod's affinity." },
      ),
    ),
  },
  { ...strict, description: 'Which nodes of a cluster it runs on.' },
);

const Pod = Type.Object(
  {
    labels: optional(textMap('Labels of the pods.')),
    annotations: optional(textMap('Annotations of the pods.')),
    resources: optional(
      Type.Object(
        {
          requests: optional(quantities('What the scheduler sets aside.')),
          limits: optional(quantities('What it may not exceed.')),
        },
        { ...strict, description: "The container's resources. Default: derived from memory and processes." },
      ),
    ),
    volumes: optional(
      Type.Array(
        Type.Object(
          {
            name: Type.String({ minLength: 1, maxLength: 63, description: 'Name, for volumeMounts.' }),
            ...Object.fromEntries(
              volumeKinds.map((name) => [
                name,
                optional(Type.Object({}, { ...open, description: 'As in a pod.' })),
              ]),
            ),
          },
          strict,
        ),
        {
          ...listMap('name'),
          maxItems: 32,
          description: 'Volumes, as in a pod, but none that reaches into the node (hostPath).',
        },
      ),
    ),
    volumeMounts: optional(
      Type.Array(
        Type.Object(
          {
            name: Type.String({ minLength: 1, maxLength: 63, description: 'Name of the volume.' }),
            mountPath: Type.String({
              minLength: 1,
              maxLength: 1024,
              description: 'Where the handler sees it.',
            }),
            mountPropagation: optional(
              choice(['None', 'HostToContainer'], {
                description: 'As in a pod; Bidirectional would need a privileged container.',
              }),
            ),
            readOnly: optional(Type.Boolean({ description: 'As in a pod.' })),
            recursiveReadOnly: optional(Type.String({ maxLength: 64, description: 'As in a pod.' })),
            subPath: optional(Type.String({ maxLength: 1024, description: 'A path inside the volume.' })),
            subPathExpr: optional(Type.String({ maxLength: 1024, description: 'As in a pod.' })),
          },
          strict,
        ),
        { ...listMap('mountPath'), maxItems: 32, description: 'Where the volumes appear.' },
      ),
    ),
    imagePullSecrets: optional(
      Type.Array(
        Type.Object({ name: Type.String({ maxLength: 253, description: 'Name of the Secret.' }) }, strict),
        { maxItems: 16, description: 'Secrets for pulling the image.' },
      ),
    ),
  },
  { ...strict, description: 'Parts of the pod. Clusters only; elsewhere a condition says it is ignored.' },
);

const patterns = (description: string) =>
  Type.Array(Type.String({ minLength: 1, maxLength: 1024 }), { maxItems: 64, default: [], description });

export const FunctionSpecSchema = Type.Object(
  {
    runtime: choice(['nodejs24.x', 'nodejs22.x'], {
      default: 'nodejs24.x',
      description: 'The Node version that runs the handler.',
    }),
    handler: Type.String({
      maxLength: 128,
      default: 'index.handler',
      description:
        'file.export, as in Lambda: index.handler is the export handler of index.mjs, .js or .cjs.',
    }),
    package: optional(Package),
    timeoutSeconds: Type.Integer({
      minimum: 1,
      maximum: 900,
      default: 30,
      description: 'How long one invocation may take.',
    }),
    memory: Type.String({
      pattern: '^[0-9]{1,12}([.][0-9]{1,9})?(k|M|G|Ki|Mi|Gi)?$',
      allowed: `a quantity from ${memoryMin} to ${memoryMax}, such as 128Mi or 1Gi`,
      maxLength: 32,
      default: '128Mi',
      description: `Memory of each handler process, ${memoryMin} to ${memoryMax}.`,
    }),
    concurrency: Type.Integer({
      minimum: 1,
      maximum: 1000,
      default: 1,
      description: 'Invocations at a time in one handler process; 1 as in Lambda.',
    }),
    processes: Type.Integer({
      minimum: 1,
      maximum: 64,
      default: 1,
      description: 'Handler processes of each replica.',
    }),
    spareProcesses: Type.Integer({
      minimum: 0,
      maximum: 16,
      default: 0,
      description: 'Processes kept ready to take the place of one that ends.',
    }),
    replicas: Type.Integer({
      minimum: 0,
      maximum: 1000,
      default: 1,
      description: 'Hosts that run it in a cluster. Ignored with placement.everyNode.',
    }),
    scaling: optional(
      Type.Object(
        {
          minReplicas: Type.Integer({
            minimum: 0,
            maximum: 1000,
            default: 1,
            description: 'Never fewer replicas.',
          }),
          maxReplicas: Type.Integer({ minimum: 1, maximum: 1000, description: 'Never more replicas.' }),
          targetInFlight: optional(
            Type.Integer({ minimum: 1, maximum: 1000000, description: 'Invocations at a time per replica.' }),
          ),
          targetCPUPercent: optional(
            Type.Integer({ minimum: 1, maximum: 100, description: 'CPU per replica.' }),
          ),
          targetLag: optional(
            Type.Integer({
              minimum: 1,
              maximum: 1000000000,
              description: 'Events waiting at the source per replica.',
            }),
          ),
        },
        {
          ...strict,
          description: 'Replicas by load; exactly one of targetInFlight, targetCPUPercent, targetLag.',
        },
      ),
    ),
    placement: optional(Placement),
    pod: optional(Pod),
    env: Type.Array(EnvVar, {
      ...listMap('name'),
      maxItems: 128,
      default: [],
      description: 'Environment variables of the handler.',
    }),
    triggers: Type.Array(Trigger, {
      ...listMap('name'),
      maxItems: 16,
      default: [],
      description:
        'What calls the function. Each has exactly one of nats, jetstream, mqtt, ros, http, schedule.',
    }),
    retry: Type.Object(
      {
        maxAttempts: Type.Integer({
          minimum: 1,
          maximum: 1000,
          default: 3,
          description: 'Failed invocations after which an event is dead-lettered.',
        }),
        minBackoffMs: Type.Integer({
          minimum: 1,
          maximum: 3600000,
          default: 1000,
          description: 'Wait before the second attempt; it doubles from there.',
        }),
        maxBackoffMs: Type.Integer({
          minimum: 1,
          maximum: 3600000,
          default: 60000,
          description: 'The longest wait between attempts.',
        }),
        maxAgeSeconds: Type.Integer({
          minimum: 1,
          maximum: 1209600,
          default: 21600,
          description: 'An event older than this is dead-lettered instead of tried again.',
        }),
      },
      {
        ...strict,
        default: {},
        description: 'What happens when an invocation fails and nobody waits for it.',
      },
    ),
    recursion: choice(['Terminate', 'Allow'], {
      default: 'Terminate',
      description: 'Terminate stops a chain of functions that calls itself after 16 hops.',
    }),
    permissions: optional(
      Type.Object(
        {
          publish: patterns(
            'What the handler may publish on and write: NATS subjects, mqtt:TOPIC, kv:BUCKET/KEY, ros:TOPIC; wildcards as there.',
          ),
          call: patterns(
            'What the handler may ask and read: NATS subjects, kv:BUCKET/KEY, ros:SERVICE; wildcards as there.',
          ),
        },
        {
          ...strict,
          description:
            'What the handler may reach through the host. Absent: everything that is not of NATS or Atoll itself; required on robots and with NATS accounts.',
        },
      ),
    ),
    onSuccess: destination('when an invocation nobody waits for succeeded'),
    onFailure: destination('when an event is dead-lettered'),
  },
  { ...strict, description: 'What is to run, and when.' },
);

export type FunctionSpec = Static<typeof FunctionSpecSchema>;
export type TriggerSpec = Static<typeof Trigger>;
export type RetryPolicy = FunctionSpec['retry'];
export type DestinationSpec = NonNullable<FunctionSpec['onSuccess']>;
export type PackageSpec = Static<typeof Package>;
export type EnvVarSpec = Static<typeof EnvVar>;
export type Encoding = TriggerSpec['encoding'];

/** The source block of each kind of trigger, defaults filled in. */
export interface TriggerSources {
  nats: Static<typeof NatsTrigger>;
  jetstream: Static<typeof JetStreamTrigger>;
  mqtt: Static<typeof MqttTrigger>;
  ros: Static<typeof RosTrigger>;
  http: Static<typeof HttpTrigger>;
  schedule: Static<typeof ScheduleTrigger>;
}
export type TriggerKind = keyof TriggerSources;

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  generation?: number;
  resourceVersion?: string;
  creationTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
}

const time = () => Type.String({ format: 'date-time', description: 'When.' });

/** Written by the controller alone; the limits are those of its writers. */
export const FunctionStatusSchema = Type.Object(
  {
    observedGeneration: optional(Type.Integer({ description: 'Generation of the spec this speaks of.' })),
    replicas: optional(Type.Integer({ description: 'Hosts that run it.' })),
    readyReplicas: optional(Type.Integer({ description: 'Those that are ready.' })),
    selector: optional(Type.String({ description: 'Label selector of the pods, for /scale.' })),
    packageSha256: optional(Type.String({ description: 'Digest of the package that answers now.' })),
    history: optional(
      Type.Array(
        Type.Object(
          { packageSha256: Type.String({ description: 'Digest of the package.' }), time: time() },
          strict,
        ),
        { description: 'Packages that answered, oldest first: the last is the one of now.' },
      ),
    ),
    conditions: optional(
      Type.Array(
        Type.Object(
          {
            type: choice(['Ready', 'PackageReady', 'TriggersReady', 'Available', 'Progressing'], {
              description: 'What it is about.',
            }),
            status: choice(['True', 'False', 'Unknown'], { description: 'Whether it is so.' }),
            reason: Type.String({ description: 'Why, in one word.' }),
            message: Type.String({ description: 'Why, for people.' }),
            observedGeneration: Type.Integer({ description: 'Generation of the spec this speaks of.' }),
            lastTransitionTime: time(),
          },
          strict,
        ),
        { ...listMap('type'), description: 'The state, as kubectl wait reads it.' },
      ),
    ),
    triggers: optional(
      Type.Array(
        Type.Object(
          {
            name: Type.String({ description: 'Name of the trigger.' }),
            ready: Type.Boolean({ description: 'Whether events can arrive.' }),
            reason: Type.String({ description: 'Why not, in one word.' }),
            message: Type.String({ description: 'Why not, for people.' }),
          },
          strict,
        ),
        { ...listMap('name'), description: 'Each trigger.' },
      ),
    ),
    lastError: optional(
      Type.Object(
        {
          code: Type.String({ description: 'Code, as in the list of errors.' }),
          message: Type.String({ description: 'What was wrong with which value.' }),
          time: time(),
        },
        { ...strict, description: 'What last kept it from being ready. Never about a single event.' },
      ),
    ),
  },
  { ...strict, description: 'What runs. Written by the controller.' },
);

export type FunctionStatus = Static<typeof FunctionStatusSchema>;
export type Condition = NonNullable<FunctionStatus['conditions']>[number];
export type TriggerStatus = NonNullable<FunctionStatus['triggers']>[number];

/** What a user writes, checked and with the defaults filled in; without the status. */
export interface FunctionManifest {
  apiVersion: typeof apiVersion;
  kind: typeof kind;
  metadata: ObjectMeta;
  spec: FunctionSpec;
}

/** A Function as the store hands it out: spec complete (defaults filled in), metadata complete. */
export interface FunctionObject {
  apiVersion: typeof apiVersion;
  kind: typeof kind;
  metadata: ObjectMeta & { namespace: string; uid: string; generation: number };
  spec: FunctionSpec;
  status?: FunctionStatus;
}

/** The object as a whole. Of metadata only what a user may set or `faas get` prints is known. */
const ObjectSchema = Type.Object(
  {
    apiVersion: choice([apiVersion]),
    kind: choice([kind]),
    metadata: Type.Object(
      {
        name: Type.String(),
        namespace: optional(
          Type.String({
            pattern: '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$',
            allowed: 'lowercase letters, digits and "-", at most 63, a letter or digit first and last',
          }),
        ),
        labels: optional(Type.Unsafe({ type: 'object', additionalProperties: { type: 'string' } })),
        annotations: optional(Type.Unsafe({ type: 'object', additionalProperties: { type: 'string' } })),
        uid: optional(Type.String()),
        resourceVersion: optional(Type.String()),
        generation: optional(Type.Integer()),
        creationTimestamp: optional(Type.String()),
        deletionTimestamp: optional(Type.String()),
        deletionGracePeriodSeconds: optional(Type.Integer()),
        generateName: optional(Type.String()),
        selfLink: optional(Type.String()),
        finalizers: optional(Type.Array(Type.String())),
        ownerReferences: optional(Type.Array(Type.Object({}, open))),
        managedFields: optional(Type.Array(Type.Object({}, open))),
      },
      strict,
    ),
    spec: FunctionSpecSchema,
    status: optional(Type.Object({}, open)),
  },
  strict,
);

/**
 * Whether the object is a Function, as the API server judges it: the same defaults, the same verdicts. Every
 * problem is named, not only the first. The argument stays as it was; a status in it is left out.
 */
export function validate(
  object: unknown,
): { ok: true; object: FunctionManifest } | { ok: false; problems: Problem[] } {
  const checked = check(ObjectSchema, rules, object);
  if (!checked.ok) return checked;
  const { status: _, ...manifest } = checked.value as FunctionManifest & { status?: unknown };
  return { ok: true, object: manifest };
}
