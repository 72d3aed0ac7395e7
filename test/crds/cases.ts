/** Specs and the verdict on each; the same table holds `validate()` and an API server to the same verdicts. */

export interface Case {
  readonly what: string;
  /** The object, or what replaces parts of a good one. */
  readonly spec?: object;
  readonly name?: string;
  readonly object?: unknown;
}

export interface BadCase extends Case {
  /** Path of the one problem, and words of its message. */
  readonly path: string;
  readonly says: string;
}

export const functionWith = (spec: object = {}, name = 'probe') => ({
  apiVersion: 'atoll.dev/v1alpha1',
  kind: 'Function',
  metadata: { name },
  spec,
});

export const objectOf = (each: Case): unknown => each.object ?? functionWith(each.spec, each.name);

const trigger = (source: object) => ({ triggers: [{ name: 'one', ...source }] });
const nats = (subject: string) => trigger({ nats: { subject } });
const mqtt = (topic: string) => trigger({ mqtt: { topic } });
const ros = (source: object) => trigger({ ros: source });
const cron = (cron: string) => trigger({ schedule: { cron } });
const zone = (timeZone: string) => trigger({ schedule: { cron: '0 8 * * *', timeZone } });
const env = (...variables: object[]) => ({ env: variables });
const sha256 = 'a'.repeat(64);

export const good: Case[] = [
  {
    what: "Lambda's settings for logs, and the credentials of a store",
    spec: env(
      { name: 'AWS_LAMBDA_LOG_LEVEL', value: 'WARN' },
      { name: 'AWS_LAMBDA_LOG_FORMAT', value: 'Text' },
      { name: 'ATOLL_SYSTEM_LOG_LEVEL', value: 'WARN' },
      { name: 'AWS_ACCESS_KEY_ID', value: 'any' },
      { name: 'TZ', value: 'Europe/Berlin' },
    ),
  },
  { what: 'an empty spec', spec: {} },
  { what: 'a name of 52 characters', name: `a${'b'.repeat(51)}` },
  { what: 'a name of one letter', name: 'a' },
  { what: 'a null where a default is', spec: { env: null, retry: null, timeoutSeconds: null } },
  {
    what: 'a null source beside the real one',
    spec: { triggers: [{ name: 'one', nats: null, mqtt: { topic: 'a' } }] },
  },
  ...['index.handler', 'src/app.handler', 'app.api.get', 'a-b_c.$x', 'src/v1.2/app.run'].map((handler) => ({
    what: `handler ${handler}`,
    spec: { handler },
  })),
  ...['32Mi', '10Gi', '0.5Gi', '134217728', '512M', '10485760Ki', '33554432'].map((memory) => ({
    what: `memory ${memory}`,
    spec: { memory },
  })),
  { what: 'a package in S3', spec: { package: { uri: 's3://packages/a/b.tgz', sha256 } } },
  { what: 'a package over https', spec: { package: { uri: 'https://store.site:8443/a.tgz?v=1', sha256 } } },
  { what: 'a package in a folder', spec: { package: { uri: 'file:///srv/a%20b.tgz', sha256 } } },
  { what: 'inline code', spec: { package: { inline: 'export const handler = () => 1;' } } },
  {
    what: 'environment variables of every kind',
    spec: env(
      { name: 'A', value: '1' },
      { name: 'B' },
      { name: 'C', valueFrom: { secretKeyRef: { name: 's', key: 'k', optional: true } } },
      { name: 'D', valueFrom: { configMapKeyRef: { name: 'c', key: 'k' } } },
      { name: 'E', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
      { name: 'AWS_ACCESS_KEY_ID', value: 'for the S3 of the site' },
      { name: '_handler', value: 'lower case is another name' },
    ),
  },
  { what: 'values of 131072 characters together', spec: env(...values(4, 32768)) },
  ...['a', 'a.b.c', '*.temperature', 'robots.*.state', 'robots.>', '$KV.settings.>', 'atolls.a', 'é.ü'].map(
    (subject) => ({ what: `subject ${subject}`, spec: nats(subject) }),
  ),
  {
    what: 'a queue and every other field of nats',
    spec: trigger({ nats: { subject: 'a', queue: 'workers', broadcast: false, reply: 'Never' } }),
  },
  {
    what: 'every field of jetstream',
    spec: trigger({
      jetstream: {
        stream: 'ORDERS',
        subject: '>',
        domain: 'hub',
        startAt: 'All',
        batchSize: 10,
        batchWindowMs: 500,
      },
    }),
  },
  ...[
    'a',
    '/',
    'a/b',
    '/a//b/',
    '#',
    '+',
    '+/+/#',
    'a/+/b',
    'a/#',
    '$aws/things/r1/jobs/#',
    'a*/b>c',
    '**',
  ].map((topic) => ({ what: `topic ${topic}`, spec: mqtt(topic) })),
  {
    what: 'a service of ROS with all its fields',
    spec: ros({
      service: '/update_handler',
      type: 'atoll_interfaces/srv/Update',
      failure: { status: 'error', message: '{code}: {message}' },
    }),
  },
  { what: 'a relative service of ROS', spec: ros({ service: 'reset', type: 'std_srvs/srv/Trigger' }) },
  {
    what: 'topics of ROS with all their fields',
    spec: ros({
      topics: [
        {
          match: '/scan',
          type: 'sensor_msgs/msg/LaserScan',
          raw: true,
          maxHz: 0.5,
          keepLast: 1,
          qos: 'transient_local',
          exclude: [],
        },
        { match: '/**', exclude: ['/rosout', '/camera_*/**'] },
        { match: 'odom' },
      ],
    }),
  },
  {
    what: 'a topic of ROS in the short form with all its fields',
    spec: ros({
      topic: '/scan',
      type: 'sensor_msgs/msg/LaserScan',
      raw: false,
      maxHz: 10,
      keepLast: 5,
      qos: 'best_effort',
      exclude: ['/x'],
    }),
  },
  ...['/a', 'a', '/a/b_1', '*', '**', '/**', '/*/odom', '/robot*/scan', '/a/**/b', '/*_raw'].map((topic) => ({
    what: `topic of ROS ${topic}`,
    spec: ros({ topic }),
  })),
  {
    what: 'every field of http',
    spec: trigger({ http: { path: '/a/b', pathType: 'Prefix', methods: ['GET', 'POST'], auth: 'Key' } }),
  },
  ...[
    '* * * * *',
    '*/5 * * * *',
    '*/10 * * * * *',
    '0 8 * * MON-FRI',
    '0 8 * * mon,Wed,5',
    '0 0 1,15 JAN,jul *',
    '10-30/5 8-18 L * 5#2',
    '0 0 ? * FRIL',
    '00 09 01 01 7',
    '5-5 * * * *',
  ].map((expression) => ({ what: `cron ${expression}`, spec: cron(expression) })),
  ...[
    'UTC',
    'Europe/Berlin',
    'America/Argentina/Buenos_Aires',
    'America/Port-au-Prince',
    'US/Pacific',
    'Etc/GMT+5',
  ].map((timeZone) => ({ what: `time zone ${timeZone}`, spec: zone(timeZone) })),
  ...['100ms', '1s', '5m', '24h', '999d'].map((every) => ({
    what: `every ${every}`,
    spec: trigger({ schedule: { every } }),
  })),
  {
    what: 'scaling, placement and pod',
    spec: {
      scaling: { minReplicas: 0, maxReplicas: 3, targetLag: 10 },
      placement: {
        everyNode: true,
        nodeSelector: { 'kubernetes.io/arch': 'arm64' },
        tolerations: [{ key: 'robot', operator: 'Exists', effect: 'NoSchedule' }],
        affinity: {
          nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [] } },
        },
      },
      pod: {
        labels: { team: 'fleet' },
        resources: { requests: { cpu: 1, memory: '1Gi' }, limits: { cpu: '500m' } },
        volumes: [
          { name: 'data', persistentVolumeClaim: { claimName: 'data' } },
          { name: 'ca', projected: { sources: [{ configMap: { name: 'ca' } }] } },
        ],
        volumeMounts: [
          { name: 'data', mountPath: '/data', readOnly: true },
          { name: 'ca', mountPath: '/etc/ssl/certs', mountPropagation: 'HostToContainer' },
          { name: 'data', mountPath: '/tmp/data' },
          { name: 'data', mountPath: '/usrdata/..data' },
        ],
        imagePullSecrets: [{ name: 'registry' }],
      },
    },
  },
  {
    what: 'equal backoffs and both destinations',
    spec: {
      retry: { minBackoffMs: 5, maxBackoffMs: 5 },
      onSuccess: { nats: { subject: 'done.a' } },
      onFailure: { mqtt: { topic: 'failed/a' } },
    },
  },
  { what: 'permissions that allow nothing', spec: { permissions: {} } },
  {
    what: 'permissions of every kind',
    spec: {
      permissions: {
        publish: [
          ...['alarms.>', 'a.*.c', '$aws.things.r1', '$SRV.PING', 'nats:a/b:c.>', 'robots.r1.kept.>'],
          ...['mqtt:fleet/+/state', 'mqtt:#', 'mqtt:$aws/things/r1', 'mqtt:a b/c'],
          ...['kv:settings', 'kv:settings/robots.*', 'kv:s-1_B/>', 'kv:s/a/b=.c'],
          ...['ros:/cmd_vel', 'ros:cmd_vel', 'ros:~/state', 'ros:/*/cmd_vel', 'ros:/robot1/**', 'ros:/**'],
        ],
        call: ['lab.ask', 'kv:settings', 'ros:/reset', 'nats:a+b'],
      },
    },
  },
  { what: 'sixteen triggers', spec: { triggers: Array.from({ length: 16 }, (_, i) => natsNamed(`t${i}`)) } },
];

export const bad: BadCase[] = [
  // The object
  { what: 'another kind', object: { ...functionWith(), kind: 'Functon' }, path: 'kind', says: '"Function"' },
  {
    what: 'another apiVersion',
    object: { ...functionWith(), apiVersion: 'atoll.dev/v1' },
    path: 'apiVersion',
    says: 'atoll.dev/v1alpha1',
  },
  {
    what: 'no spec',
    object: { apiVersion: 'atoll.dev/v1alpha1', kind: 'Function', metadata: { name: 'a' } },
    path: 'spec',
    says: 'is required',
  },
  {
    what: 'an unknown field at the top',
    object: { ...functionWith(), sepc: {} },
    path: 'sepc',
    says: '"spec"',
  },
  ...['', 'A', '1a', 'a_b', 'a-', 'a.b', `a${'b'.repeat(52)}`].map((name) => ({
    what: `name "${name}"`,
    name,
    path: 'metadata.name',
    says: 'at most 52 characters',
  })),
  // Fields
  {
    what: 'an unknown field',
    spec: { timeoutSecond: 5 },
    path: 'spec.timeoutSecond',
    says: '"timeoutSeconds"',
  },
  {
    what: 'a wrong type',
    spec: { timeoutSeconds: '5' },
    path: 'spec.timeoutSeconds',
    says: 'an integer, not the string "5"',
  },
  { what: 'a fraction', spec: { concurrency: 1.5 }, path: 'spec.concurrency', says: 'an integer' },
  { what: 'timeout 0', spec: { timeoutSeconds: 0 }, path: 'spec.timeoutSeconds', says: 'from 1 to 900' },
  { what: 'timeout 901', spec: { timeoutSeconds: 901 }, path: 'spec.timeoutSeconds', says: 'from 1 to 900' },
  { what: 'an unknown runtime', spec: { runtime: 'nodejs18.x' }, path: 'spec.runtime', says: '"nodejs24.x"' },
  {
    what: 'a list for a list entry',
    spec: { env: [[]] },
    path: 'spec.env[0]',
    says: 'an object, not a list',
  },
  {
    what: 'null in a list',
    spec: { triggers: [null] },
    path: 'spec.triggers[0]',
    says: 'an object, not null',
  },
  ...[
    'index',
    '.handler',
    'index.',
    '/index.handler',
    '../index.handler',
    './index.handler',
    'a b.c',
    'index.1a',
  ].map((handler) => ({
    what: `handler ${handler}`,
    spec: { handler },
    path: 'spec.handler',
    says: '<file',
  })),
  ...['31Mi', '31.999999999Mi', '10.5Gi', '33554431', '0', '11G'].map((memory) => ({
    what: `memory ${memory}`,
    spec: { memory },
    path: 'spec.memory',
    says: 'from 32Mi to 10Gi',
  })),
  ...['128 Mi', '128MB', '-1Gi', '1e9', '', '128mi'].map((memory) => ({
    what: `memory "${memory}"`,
    spec: { memory },
    path: 'spec.memory',
    says: 'a quantity from 32Mi to 10Gi',
  })),
  // Package
  {
    what: 'an empty package',
    spec: { package: {} },
    path: 'spec.package',
    says: 'exactly one of uri, inline',
  },
  {
    what: 'uri and inline',
    spec: { package: { uri: 's3://packages/a', sha256, inline: 'x' } },
    path: 'spec.package',
    says: 'exactly one of uri, inline',
  },
  {
    what: 'uri without sha256',
    spec: { package: { uri: 's3://packages/a' } },
    path: 'spec.package',
    says: 'go together',
  },
  {
    what: 'sha256 of inline',
    spec: { package: { inline: 'x', sha256 } },
    path: 'spec.package',
    says: 'go together',
  },
  ...['http://host/a', 's3://a', 'https://user:pass@host/a', 'file://a', '/a', 's3://UPPER/a'].map((uri) => ({
    what: `uri ${uri}`,
    spec: { package: { uri, sha256 } },
    path: 'spec.package.uri',
    says: 's3://bucket/key',
  })),
  {
    what: 'a digest in capitals',
    spec: { package: { uri: 's3://packages/a', sha256: 'A'.repeat(64) } },
    path: 'spec.package.sha256',
    says: '64 lowercase',
  },
  {
    what: 'inline code of more than 64 KiB',
    spec: { package: { inline: 'x'.repeat(65537) } },
    path: 'spec.package.inline',
    says: '65536',
  },
  // Environment
  ...[
    '_HANDLER',
    '_X_AMZN_TRACE_ID',
    'AWS_REGION',
    'AWS_DEFAULT_REGION',
    'AWS_EXECUTION_ENV',
    'AWS_LAMBDA_FUNCTION_NAME',
    'AWS_LAMBDA_FUNCTION_MEMORY_SIZE',
    'AWS_LAMBDA_FUNCTION_VERSION',
    'AWS_LAMBDA_INITIALIZATION_TYPE',
    'AWS_LAMBDA_LOG_GROUP_NAME',
    'AWS_LAMBDA_LOG_STREAM_NAME',
    'AWS_LAMBDA_MAX_CONCURRENCY',
    'AWS_LAMBDA_RUNTIME_API',
    'AWS_LAMBDA_EXEC_WRAPPER',
    'LAMBDA_TASK_ROOT',
    'LAMBDA_RUNTIME_DIR',
    'ATOLL_SITE',
  ].map((name) => ({
    what: `variable ${name}`,
    spec: env({ name, value: 'x' }),
    path: 'spec.env[0].name',
    says: 'is reserved',
  })),
  ...['verbose', 'info', ''].map((value) => ({
    what: `log level "${value}"`,
    spec: env({ name: 'AWS_LAMBDA_LOG_LEVEL', value }),
    path: 'spec.env[0].value',
    says: 'TRACE, DEBUG, INFO, WARN, ERROR or FATAL',
  })),
  {
    what: 'a system log level that Lambda does not have',
    spec: env({ name: 'ATOLL_SYSTEM_LOG_LEVEL', value: 'ERROR' }),
    path: 'spec.env[0].value',
    says: 'DEBUG, INFO or WARN',
  },
  {
    what: 'an unknown log format',
    spec: env({ name: 'AWS_LAMBDA_LOG_FORMAT', value: 'XML' }),
    path: 'spec.env[0].value',
    says: 'JSON or Text',
  },
  {
    what: 'a variable with a dash',
    spec: env({ name: 'A-B' }),
    path: 'spec.env[0].name',
    says: 'letters, digits',
  },
  {
    what: 'a variable twice',
    spec: env({ name: 'A' }, { name: 'B' }, { name: 'A' }),
    path: 'spec.env[2].name',
    says: 'taken by spec.env[0]',
  },
  {
    what: 'value and valueFrom',
    spec: env({ name: 'A', value: 'x', valueFrom: { fieldRef: { fieldPath: 'a' } } }),
    path: 'spec.env[0]',
    says: 'both value and valueFrom',
  },
  {
    what: 'an empty valueFrom',
    spec: env({ name: 'A', valueFrom: {} }),
    path: 'spec.env[0].valueFrom',
    says: 'exactly one of secretKeyRef',
  },
  {
    what: 'values of more than 131072 characters together',
    spec: env(...values(4, 32768), { name: 'MORE', value: 'x' }),
    path: 'spec.env',
    says: '131072',
  },
  { what: '129 variables', spec: env(...values(129, 1)), path: 'spec.env', says: 'more than 128' },
  // ROS
  {
    what: 'ROS without any source',
    spec: ros({}),
    path: 'spec.triggers[0].ros',
    says: 'exactly one of service',
  },
  {
    what: 'a service and a topic of ROS',
    spec: ros({ service: '/a', type: 'std_srvs/srv/Trigger', topic: '/b' }),
    path: 'spec.triggers[0].ros',
    says: 'exactly one of service',
  },
  {
    what: 'a service of ROS without type',
    spec: ros({ service: '/a' }),
    path: 'spec.triggers[0].ros.type',
    says: 'the type of its service',
  },
  {
    what: 'a service of ROS with the type of a message',
    spec: ros({ service: '/a', type: 'std_msgs/msg/String' }),
    path: 'spec.triggers[0].ros.type',
    says: 'the type of its service',
  },
  {
    what: 'a topic of ROS with the type of a service',
    spec: ros({ topic: '/a', type: 'std_srvs/srv/Trigger' }),
    path: 'spec.triggers[0].ros.type',
    says: 'the type of a message',
  },
  {
    what: 'type beside topics of ROS',
    spec: ros({ topics: [{ match: '/a' }], type: 'std_msgs/msg/String' }),
    path: 'spec.triggers[0].ros',
    says: 'each of them has its own',
  },
  ...[{ raw: true }, { maxHz: 1 }, { keepLast: 1 }, { qos: 'auto' }, { exclude: ['/b'] }].map((field) => ({
    what: `${Object.keys(field).join()} beside topics of ROS`,
    spec: ros({ topics: [{ match: '/a' }], ...field }),
    path: 'spec.triggers[0].ros',
    says: 'into its entries',
  })),
  {
    what: 'failure of a topic of ROS',
    spec: ros({ topic: '/a', failure: { message: 'x' } }),
    path: 'spec.triggers[0].ros',
    says: 'without service',
  },
  ...['', '/', 'a/', '/a//b', '/a-b', '/1a', '/a b', '/a***', '/a**', '/a.b'].map((topic) => ({
    what: `topic of ROS ${JSON.stringify(topic)}`,
    spec: ros({ topics: [{ match: topic }] }),
    path: 'spec.triggers[0].ros.topics[0].match',
    says: 'or a pattern',
  })),
  {
    what: 'a service of ROS with a wildcard',
    spec: ros({ service: '/a/*', type: 'std_srvs/srv/Trigger' }),
    path: 'spec.triggers[0].ros.service',
    says: 'name of a service',
  },
  ...['String', 'std_msgs/String', 'std_msgs/msg/string', 'std_msgs/action/Do', 'std-msgs/msg/String'].map(
    (type) => ({
      what: `type of ROS ${type}`,
      spec: ros({ topic: '/a', type }),
      path: 'spec.triggers[0].ros.type',
      says: '<package>/msg/<Name>',
    }),
  ),
  {
    what: 'a rate of ROS of 0',
    spec: ros({ topic: '/a', maxHz: 0 }),
    path: 'spec.triggers[0].ros.maxHz',
    says: 'from 0.001 to 10000',
  },
  {
    what: 'a rate of ROS below 0',
    spec: ros({ topics: [{ match: '/a', maxHz: -1 }] }),
    path: 'spec.triggers[0].ros.topics[0].maxHz',
    says: 'from 0.001 to 10000',
  },
  {
    what: 'a rate of ROS above 10000',
    spec: ros({ topic: '/a', maxHz: 10000.5 }),
    path: 'spec.triggers[0].ros.maxHz',
    says: 'at most 10000',
  },
  {
    what: 'no topics of ROS at all',
    spec: ros({ topics: [] }),
    path: 'spec.triggers[0].ros.topics',
    says: 'at least 1',
  },
  {
    what: 'an unknown quality of service of ROS',
    spec: ros({ topic: '/a', qos: 'sensor_data' }),
    path: 'spec.triggers[0].ros.qos',
    says: '"best_effort"',
  },
  // Triggers
  { what: 'no source', spec: trigger({}), path: 'spec.triggers[0]', says: 'exactly one of nats' },
  {
    what: 'two sources',
    spec: trigger({ nats: { subject: 'a' }, http: { path: '/' } }),
    path: 'spec.triggers[0]',
    says: 'exactly one of nats',
  },
  {
    what: 'a misspelt source field',
    spec: trigger({ mqtt: { topic: 'a', topics: 'a' } }),
    path: 'spec.triggers[0].mqtt.topics',
    says: 'did you mean "topic"?',
  },
  { what: 'no topic', spec: trigger({ mqtt: {} }), path: 'spec.triggers[0].mqtt.topic', says: 'is required' },
  {
    what: 'a trigger called invoke',
    spec: { triggers: [natsNamed('invoke')] },
    path: 'spec.triggers[0].name',
    says: 'is reserved',
  },
  {
    what: 'a trigger in capitals',
    spec: { triggers: [natsNamed('A')] },
    path: 'spec.triggers[0].name',
    says: 'lowercase',
  },
  {
    what: 'two triggers of one name',
    spec: { triggers: [natsNamed('a'), natsNamed('a')] },
    path: 'spec.triggers[1].name',
    says: 'taken by spec.triggers[0]',
  },
  {
    what: 'seventeen triggers',
    spec: { triggers: Array.from({ length: 17 }, (_, i) => natsNamed(`t${i}`)) },
    path: 'spec.triggers',
    says: 'more than 16',
  },
  ...['a..b', '.a', 'a.', 'a b', 'a.>.b', 'a>', 'a*.b', 'a\tb', '>a', 'a\n'].map((subject) => ({
    what: `subject ${JSON.stringify(subject)}`,
    spec: nats(subject),
    path: 'spec.triggers[0].nats.subject',
    says: 'must be a NATS subject',
  })),
  ...['atoll.>', 'atoll', '_INBOX.>', '$JS.API.>', '$SYS.>', '$MQTT.>', '$NRG.a', '$KV.ATOLL_STATE.>'].map(
    (subject) => ({
      what: `subject ${subject}`,
      spec: nats(subject),
      path: 'spec.triggers[0].nats.subject',
      says: 'NATS or Atoll itself (',
    }),
  ),
  ...['>', '*', '*.>', '*.*'].map((subject) => ({
    what: `subject ${subject}`,
    spec: nats(subject),
    path: 'spec.triggers[0].nats.subject',
    says: 'not a wildcard',
  })),
  {
    what: 'a queue with broadcast',
    spec: trigger({ nats: { subject: 'a', queue: 'q', broadcast: true } }),
    path: 'spec.triggers[0].nats',
    says: 'no queue group',
  },
  {
    what: 'a queue with a space',
    spec: trigger({ nats: { subject: 'a', queue: 'a b' } }),
    path: 'spec.triggers[0].nats.queue',
    says: 'without spaces',
  },
  ...['ATOLL_INBOX', 'ATOLL_DEAD', 'KV_ATOLL_STATE'].map((stream) => ({
    what: `stream ${stream}`,
    spec: trigger({ jetstream: { stream } }),
    path: 'spec.triggers[0].jetstream.stream',
    says: "Atoll's own streams",
  })),
  ...['a.b', 'a b', 'a*', ''].map((stream) => ({
    what: `stream "${stream}"`,
    spec: trigger({ jetstream: { stream } }),
    path: 'spec.triggers[0].jetstream.stream',
    says: 'a stream name',
  })),
  {
    what: 'a bad filter subject',
    spec: trigger({ jetstream: { stream: 'A', subject: 'a..b' } }),
    path: 'spec.triggers[0].jetstream.subject',
    says: 'must be a NATS subject',
  },
  ...['a/#/b', '#/a', 'a#', 'a/b#', 'a+', 'a/+b', 'a/*/b', 'a/>', '*', 'a\0b'].map((topic) => ({
    what: `topic ${JSON.stringify(topic)}`,
    spec: mqtt(topic),
    path: 'spec.triggers[0].mqtt.topic',
    says: 'must be an MQTT topic filter',
  })),
  ...['atoll/local/#', 'atoll', '_INBOX/#'].map((topic) => ({
    what: `topic ${topic}`,
    spec: mqtt(topic),
    path: 'spec.triggers[0].mqtt.topic',
    says: "Atoll's own",
  })),
  {
    what: 'QoS 3',
    spec: trigger({ mqtt: { topic: 'a', qos: 3 } }),
    path: 'spec.triggers[0].mqtt.qos',
    says: '0, 1 or 2',
  },
  ...['', 'a', '/a b', '/a?b', '/a#b'].map((path) => ({
    what: `path "${path}"`,
    spec: trigger({ http: { path } }),
    path: 'spec.triggers[0].http.path',
    says: 'begins with "/"',
  })),
  {
    what: 'a method twice',
    spec: trigger({ http: { path: '/', methods: ['GET', 'GET'] } }),
    path: 'spec.triggers[0].http.methods',
    says: 'twice',
  },
  {
    what: 'a method in lower case',
    spec: trigger({ http: { path: '/', methods: ['get'] } }),
    path: 'spec.triggers[0].http.methods[0]',
    says: 'did you mean "GET"?',
  },
  {
    what: 'cron and every',
    spec: trigger({ schedule: { cron: '* * * * *', every: '1m' } }),
    path: 'spec.triggers[0].schedule',
    says: 'exactly one of cron, every',
  },
  {
    what: 'an empty schedule',
    spec: trigger({ schedule: {} }),
    path: 'spec.triggers[0].schedule',
    says: 'exactly one of cron, every',
  },
  {
    what: 'a time zone with every',
    spec: trigger({ schedule: { every: '1m', timeZone: 'UTC' } }),
    path: 'spec.triggers[0].schedule',
    says: 'timeZone without cron',
  },
  ...[
    '* * * *',
    '* * * * * * *',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * 32 * *',
    '* * * 13 *',
    '* * * * 8',
    '*/0 * * * *',
    '5/10 * * * *',
    '* * * FOO *',
    '* * * * FRI-MON',
    '@daily',
    '*  * * * *',
    'every minute',
  ].map((expression) => ({
    what: `cron ${expression}`,
    spec: cron(expression),
    path: 'spec.triggers[0].schedule.cron',
    says: 'five cron fields',
  })),
  {
    what: 'a cron range that runs backwards',
    spec: cron('30-10 * * * *'),
    path: 'spec.triggers[0].schedule.cron',
    says: 'runs backwards',
  },
  ...['Local', 'europe/berlin', '+02:00', 'CET'].map((timeZone) => ({
    what: `time zone ${timeZone}`,
    spec: zone(timeZone),
    path: 'spec.triggers[0].schedule.timeZone',
    says: 'the name of a time zone',
  })),
  ...['Mars/Base', 'Europe/BERLIN'].map((timeZone) => ({
    what: `time zone ${timeZone}`,
    spec: zone(timeZone),
    path: 'spec.triggers[0].schedule.timeZone',
    says: 'that exists',
  })),
  ...['99ms', '0s', '1', 's', '1.5s', '1w', '1000d', '01s'].map((every) => ({
    what: `every ${every}`,
    spec: trigger({ schedule: { every } }),
    path: 'spec.triggers[0].schedule.every',
    says: 'from 100ms to 999d',
  })),
  // The rest of the spec
  {
    what: 'minBackoffMs above maxBackoffMs',
    spec: { retry: { minBackoffMs: 2, maxBackoffMs: 1 } },
    path: 'spec.retry',
    says: 'minBackoffMs must not be more',
  },
  {
    what: 'minBackoffMs above the default of maxBackoffMs',
    spec: { retry: { minBackoffMs: 60001 } },
    path: 'spec.retry',
    says: 'minBackoffMs must not be more',
  },
  {
    what: 'minReplicas above maxReplicas',
    spec: { scaling: { minReplicas: 2, maxReplicas: 1, targetLag: 1 } },
    path: 'spec.scaling',
    says: 'minReplicas must not be more',
  },
  {
    what: 'scaling without a target',
    spec: { scaling: { maxReplicas: 1 } },
    path: 'spec.scaling',
    says: 'exactly one of targetInFlight',
  },
  {
    what: 'an unknown field of the pod',
    spec: { pod: { nodeSelector: {} } },
    path: 'spec.pod.nodeSelector',
    says: 'not a field here',
  },
  {
    what: 'a volume that reaches into the node',
    spec: { pod: { volumes: [{ name: 'disk', emptyDir: {}, hostPath: { path: '/' } }] } },
    path: 'spec.pod.volumes[0].hostPath',
    says: 'not a field here',
  },
  {
    what: 'a volume of another machine',
    spec: { pod: { volumes: [{ name: 'n', emptyDir: {}, nfs: { server: 'a', path: '/' } }] } },
    path: 'spec.pod.volumes[0].nfs',
    says: 'not a field here',
  },
  {
    what: 'a volume of two kinds',
    spec: { pod: { volumes: [{ name: 'two', emptyDir: {}, secret: { secretName: 'a' } }] } },
    path: 'spec.pod.volumes[0]',
    says: 'exactly one of configMap',
  },
  {
    what: 'a volume of no kind',
    spec: { pod: { volumes: [{ name: 'none' }] } },
    path: 'spec.pod.volumes[0]',
    says: 'exactly one of configMap',
  },
  {
    what: "a volume with a name of Atoll's",
    spec: { pod: { volumes: [{ name: 'atoll-config', emptyDir: {} }] } },
    path: 'spec.pod.volumes[0].name',
    says: 'must not begin with "atoll-"',
  },
  ...(
    [
      ['data', 'must be an absolute path'],
      ['/mnt/../etc/atoll', 'must not have ".." in it'],
      ...[
        '/',
        '//',
        '/.',
        '/etc',
        '/etc/atoll/env',
        '/etc//./atoll',
        '/atoll/runtime',
        '//tmp/.',
        '/./usr/\n',
      ]
        .concat('/var/cache/', '/var', '/var/cache/atoll/x', '/proc', '/dev/shm', '/lib64')
        .map((path) => [path, 'would hide what the pod itself has']),
    ] as [string, string][]
  ).map(([mountPath, says]) => ({
    what: `a volume at ${JSON.stringify(mountPath)}`,
    spec: {
      pod: { volumes: [{ name: 'a', emptyDir: {} }], volumeMounts: [{ name: 'a', mountPath }] },
    },
    path: 'spec.pod.volumeMounts[0].mountPath',
    says,
  })),
  {
    what: 'a mount that needs a privileged container',
    spec: { pod: { volumeMounts: [{ name: 'a', mountPath: '/mnt', mountPropagation: 'Bidirectional' }] } },
    path: 'spec.pod.volumeMounts[0].mountPropagation',
    says: 'None',
  },
  ...(['labels', 'annotations'] as const).flatMap((field) =>
    ['atoll.dev/function', 'app.kubernetes.io/name'].map((key) => ({
      what: `a pod with ${field} of Atoll's own, ${key}`,
      spec: { pod: { [field]: { [key]: 'other' } } },
      path: `spec.pod.${field}`,
      says: "must not set what is Atoll's own",
    })),
  ),
  {
    what: 'a label that is a number',
    spec: { pod: { labels: { 'app.kubernetes.io/version': 1 } } },
    path: 'spec.pod.labels["app.kubernetes.io/version"]',
    says: 'a string, not the number 1',
  },
  {
    what: 'a quantity beyond all integers',
    spec: { pod: { resources: { limits: { cpu: 1e300 } } } },
    path: 'spec.pod.resources.limits.cpu',
    says: 'from 0 to 9007199254740991',
  },
  {
    what: 'a boolean quantity',
    spec: { pod: { resources: { limits: { cpu: true } } } },
    path: 'spec.pod.resources.limits.cpu',
    says: 'an integer or a string',
  },
  ...(['publish', 'call'] as const).flatMap((list) => [
    ...[
      ...[
        '>',
        '*.a',
        '*',
        'a..b',
        'a b',
        'a.>.b',
        'fleet/#',
        'a/b',
        'a:b',
        'http:a',
        'nats:',
        'nats:>',
        'nats:*.API.>',
      ],
      ...[
        'kv:',
        'kv:a.b',
        'kv:*',
        'kv:a/',
        'kv:a/b..c',
        'ros:',
        'ros:/',
        'ros:/a/**/b',
        'ros:/1a',
        'ros:a b',
      ],
      ...(list === 'publish' ? ['mqtt:a/#/b', 'mqtt:a+'] : ['mqtt:a']),
    ].map((entry) => ({
      what: `permission to ${list} ${entry}`,
      spec: { permissions: { [list]: [entry] } },
      path: `spec.permissions.${list}[0]`,
      says: 'must be a NATS subject that begins with no wildcard',
    })),
    ...[
      ...[
        'atoll.>',
        'atoll',
        '$JS.API.>',
        '$SYS.>',
        '$KV.settings.>',
        '_INBOX.>',
        '$MQTT.>',
        '$NRG.a',
        'nats:$JS.a:b',
      ],
      ...['kv:ATOLL_STATE', 'kv:ATOLL_ROBOTS/a'],
      ...(list === 'publish' ? ['mqtt:atoll/#', 'mqtt:$JS/API', 'mqtt:$KV/#'] : []),
    ].map((entry) => ({
      what: `permission to ${list} ${entry}`,
      spec: { permissions: { [list]: [entry] } },
      path: `spec.permissions.${list}[0]`,
      says: 'of NATS or Atoll itself',
    })),
  ]),
  ...(['onSuccess', 'onFailure'] as const).flatMap((field) => [
    {
      what: `an empty ${field}`,
      spec: { [field]: {} },
      path: `spec.${field}`,
      says: 'exactly one of nats, mqtt',
    },
    ...['a.*', 'a.>', 'a b', 'a..b'].map((subject) => ({
      what: `${field} to subject ${subject}`,
      spec: { [field]: { nats: { subject } } },
      path: `spec.${field}.nats.subject`,
      says: 'without wildcards',
    })),
    {
      what: `${field} to a subject of ours`,
      spec: { [field]: { nats: { subject: 'atoll.local.inbox.a.b.c' } } },
      path: `spec.${field}.nats.subject`,
      says: 'NATS or Atoll itself',
    },
    ...['a/+', '#', 'a/>'].map((topic) => ({
      what: `${field} to topic ${topic}`,
      spec: { [field]: { mqtt: { topic } } },
      path: `spec.${field}.mqtt.topic`,
      says: 'without "+" and "#"',
    })),
    ...['atoll/x', '$SYS/x', '$JS/API/STREAM/DELETE/X', '$KV/ATOLL_STATE/x', '$MQTT/x'].map((topic) => ({
      what: `${field} to topic ${topic}, which is not a function's`,
      spec: { [field]: { mqtt: { topic } } },
      path: `spec.${field}.mqtt.topic`,
      says: "the broker's own",
    })),
  ]),
];

function natsNamed(name: string) {
  return { name, nats: { subject: 'a' } };
}

function values(count: number, length: number) {
  return Array.from({ length: count }, (_, i) => ({ name: `V${i}`, value: 'x'.repeat(length) }));
}
