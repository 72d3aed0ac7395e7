/**
 * The Function kind, once: schema, defaults and limits, the types derived from it, and validation.
 * `function.yaml` (the CustomResourceDefinition) is generated from this file.
 */
import { Type, type Static, type TSchema } from 'typebox';

export const apiVersion = 'atoll.dev/v1alpha1';
export const kind = 'Function';

const strict = { additionalProperties: false } as const;
const optional = <S extends TSchema>(schema: S) => Type.Optional(schema);

/** `<name>`, ≤ 52 characters: it becomes a Service name, a NATS subject token and a consumer name. */
export const namePattern = '^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$';

const EnvVar = Type.Object(
  {
    name: Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]*$', maxLength: 128 }),
    value: optional(Type.String({ maxLength: 32768 })),
    valueFrom: optional(
      Type.Object(
        {
          secretKeyRef: optional(
            Type.Object(
              { name: Type.String(), key: Type.String(), optional: optional(Type.Boolean()) },
              strict,
            ),
          ),
          configMapKeyRef: optional(
            Type.Object(
              { name: Type.String(), key: Type.String(), optional: optional(Type.Boolean()) },
              strict,
            ),
          ),
          fieldRef: optional(Type.Object({ fieldPath: Type.String() }, strict)),
        },
        strict,
      ),
    ),
  },
  strict,
);

const Delivery = Type.Union([Type.Literal('AtLeastOnce'), Type.Literal('AtMostOnce')], {
  default: 'AtLeastOnce',
});

const NatsTrigger = Type.Object(
  {
    subject: Type.String({ maxLength: 256 }),
    queue: optional(Type.String({ minLength: 1, maxLength: 128 })),
    broadcast: Type.Boolean({ default: false }),
    reply: Type.Union([Type.Literal('Always'), Type.Literal('Never')], { default: 'Always' }),
  },
  strict,
);

const JetStreamTrigger = Type.Object(
  {
    stream: Type.String({ pattern: '^[^\\s.*>/\\\\]{1,128}$' }),
    subject: optional(Type.String({ maxLength: 256 })),
    domain: optional(Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$' })),
    startAt: Type.Union([Type.Literal('New'), Type.Literal('All')], { default: 'New' }),
    batchSize: Type.Integer({ minimum: 1, maximum: 10000, default: 1 }),
    batchWindowMs: Type.Integer({ minimum: 0, maximum: 300000, default: 0 }),
  },
  strict,
);

const MqttTrigger = Type.Object(
  {
    topic: Type.String({ minLength: 1, maxLength: 1024 }),
    qos: Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2)], { default: 1 }),
    version: Type.Union([Type.Literal(4), Type.Literal(5)], { default: 4 }),
    delivery: Delivery,
  },
  strict,
);

const HttpTrigger = Type.Object(
  {
    path: Type.String({ pattern: '^/', maxLength: 1024 }),
    pathType: Type.Union([Type.Literal('Exact'), Type.Literal('Prefix')], { default: 'Exact' }),
    methods: optional(
      Type.Array(
        Type.Union(
          (['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const).map((method) =>
            Type.Literal(method),
          ),
        ),
        { minItems: 1, maxItems: 7 },
      ),
    ),
    auth: optional(Type.Union([Type.Literal('None'), Type.Literal('Key')])),
  },
  strict,
);

const ScheduleTrigger = Type.Object(
  {
    cron: optional(Type.String({ minLength: 1, maxLength: 256 })),
    timeZone: optional(Type.String({ minLength: 1, maxLength: 64 })),
    every: optional(Type.String({ pattern: '^[1-9][0-9]*(ms|s|m|h|d)$' })),
    catchUp: Type.Boolean({ default: false }),
    delivery: Delivery,
  },
  strict,
);

const Trigger = Type.Object(
  {
    name: Type.String({ pattern: namePattern }),
    encoding: Type.Union([Type.Literal('json'), Type.Literal('text'), Type.Literal('binary')], {
      default: 'json',
    }),
    nats: optional(NatsTrigger),
    jetstream: optional(JetStreamTrigger),
    mqtt: optional(MqttTrigger),
    http: optional(HttpTrigger),
    schedule: optional(ScheduleTrigger),
  },
  strict,
);

const Destination = Type.Object(
  {
    nats: optional(Type.Object({ subject: Type.String({ maxLength: 256 }) }, strict)),
    mqtt: optional(Type.Object({ topic: Type.String({ maxLength: 1024 }) }, strict)),
  },
  strict,
);

const Package = Type.Object(
  {
    uri: optional(Type.String({ pattern: '^(s3|https|file)://', maxLength: 2048 })),
    sha256: optional(Type.String({ pattern: '^[0-9a-f]{64}$' })),
    inline: optional(Type.String({ maxLength: 65536 })),
  },
  strict,
);

export const FunctionSpecSchema = Type.Object(
  {
    runtime: Type.Union([Type.Literal('nodejs24.x'), Type.Literal('nodejs22.x')], { default: 'nodejs24.x' }),
    handler: Type.String({ maxLength: 128, default: 'index.handler' }),
    package: optional(Package),
    timeoutSeconds: Type.Integer({ minimum: 1, maximum: 900, default: 30 }),
    memory: Type.String({ default: '128Mi' }),
    concurrency: Type.Integer({ minimum: 1, maximum: 1000, default: 1 }),
    processes: Type.Integer({ minimum: 1, maximum: 64, default: 1 }),
    spareProcesses: Type.Integer({ minimum: 0, maximum: 16, default: 0 }),
    replicas: Type.Integer({ minimum: 0, maximum: 1000, default: 1 }),
    scaling: optional(
      Type.Object(
        {
          minReplicas: Type.Integer({ minimum: 0, maximum: 1000, default: 1 }),
          maxReplicas: Type.Integer({ minimum: 1, maximum: 1000 }),
          targetInFlight: optional(Type.Integer({ minimum: 1 })),
          targetCPUPercent: optional(Type.Integer({ minimum: 1, maximum: 100 })),
          targetLag: optional(Type.Integer({ minimum: 1 })),
        },
        strict,
      ),
    ),
    // Kubernetes' own types: the cluster checks them; elsewhere a condition says they are ignored.
    placement: optional(Type.Object({ everyNode: optional(Type.Boolean()) }, { additionalProperties: true })),
    pod: optional(Type.Object({}, { additionalProperties: true })),
    env: Type.Array(EnvVar, { maxItems: 128, default: [] }),
    triggers: Type.Array(Trigger, { maxItems: 16, default: [] }),
    retry: Type.Object(
      {
        maxAttempts: Type.Integer({ minimum: 1, maximum: 1000, default: 3 }),
        minBackoffMs: Type.Integer({ minimum: 1, maximum: 3600000, default: 1000 }),
        maxBackoffMs: Type.Integer({ minimum: 1, maximum: 3600000, default: 60000 }),
        maxAgeSeconds: Type.Integer({ minimum: 1, maximum: 1209600, default: 21600 }),
      },
      { ...strict, default: {} },
    ),
    recursion: Type.Union([Type.Literal('Terminate'), Type.Literal('Allow')], { default: 'Terminate' }),
    permissions: optional(
      Type.Object(
        {
          publish: Type.Array(Type.String({ maxLength: 1024 }), { maxItems: 64, default: [] }),
          call: Type.Array(Type.String({ maxLength: 1024 }), { maxItems: 64, default: [] }),
        },
        strict,
      ),
    ),
    onSuccess: optional(Destination),
    onFailure: optional(Destination),
  },
  strict,
);

export type FunctionSpec = Static<typeof FunctionSpecSchema>;
export type TriggerSpec = Static<typeof Trigger>;
export type RetryPolicy = FunctionSpec['retry'];
export type DestinationSpec = Static<typeof Destination>;
export type PackageSpec = Static<typeof Package>;
export type EnvVarSpec = Static<typeof EnvVar>;
export type Encoding = TriggerSpec['encoding'];

/** The source block of each kind of trigger, defaults filled in. */
export interface TriggerSources {
  nats: Static<typeof NatsTrigger>;
  jetstream: Static<typeof JetStreamTrigger>;
  mqtt: Static<typeof MqttTrigger>;
  http: Static<typeof HttpTrigger>;
  schedule: Static<typeof ScheduleTrigger>;
}
export type TriggerKind = keyof TriggerSources;
export const triggerKinds = [
  'nats',
  'jetstream',
  'mqtt',
  'http',
  'schedule',
] as const satisfies TriggerKind[];

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

export interface Condition {
  type: 'Ready' | 'PackageReady' | 'TriggersReady' | 'Available' | 'Progressing';
  status: 'True' | 'False' | 'Unknown';
  reason: string;
  message: string;
  observedGeneration: number;
  lastTransitionTime: string;
}

export interface TriggerStatus {
  name: string;
  ready: boolean;
  reason: string;
  message: string;
}

export interface FunctionStatus {
  observedGeneration?: number;
  replicas?: number;
  readyReplicas?: number;
  selector?: string;
  packageSha256?: string;
  history?: { packageSha256: string; time: string }[];
  conditions?: Condition[];
  triggers?: TriggerStatus[];
  lastError?: { code: string; message: string; time: string };
}

/** A Function as the store hands it out: spec complete (defaults filled in), metadata complete. */
export interface FunctionObject {
  apiVersion: typeof apiVersion;
  kind: typeof kind;
  metadata: ObjectMeta & { namespace: string; uid: string; generation: number };
  spec: FunctionSpec;
  status?: FunctionStatus;
}

/** The one source a trigger has. Validation guarantees that there is exactly one. */
export function sourceOf(
  trigger: TriggerSpec,
): { [K in TriggerKind]: { kind: K; source: TriggerSources[K] } }[TriggerKind] {
  for (const kind of triggerKinds) {
    const source = trigger[kind];
    if (source !== undefined) return { kind, source } as ReturnType<typeof sourceOf>;
  }
  throw new Error(`trigger "${trigger.name}" has no source`);
}
