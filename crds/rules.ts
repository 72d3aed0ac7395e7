/**
 * What the schema alone cannot say, each rule written once for both judges: `rule` is CEL and goes into the
 * CustomResourceDefinition, `check` is the same in TypeScript. Both see a value that fits its schema, with the
 * defaults filled in.
 *
 * The API server bounds what a rule may cost, for the largest object the schema allows: prefer one regular
 * expression to a list macro, and give every string and list in reach a maximum.
 */
import type { FunctionSpec, TriggerSpec } from './function.ts';
import {
  bucketName,
  internalSubject,
  internalTopic,
  kvToken,
  literalSubject,
  literalTopic,
  rosToken,
  subjectToken,
  topicLevel,
} from './reserved.ts';
import { exactBytes, triggerKinds } from './values.ts';

/** `<name>`, ≤ 52 characters: it becomes a Service name, a NATS subject token and a consumer name. */
export const namePattern = '^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$';
export const nameAllowed =
  'a lowercase letter first, then letters, digits and "-", a letter or digit last, at most 52 characters';
/** Asynchronous invokes travel through the inbox under this name, so no trigger may have it. */
export const invokeTrigger = 'invoke';
export const memoryMin = '32Mi';
export const memoryMax = '10Gi';
/** All plain values of spec.env together: they are sent to each handler process when it starts. */
export const envMaxCharacters = 131072;

/** What a pod may have under its restricted Pod Security Standard. */
export const volumeKinds = [
  'configMap',
  'csi',
  'downwardAPI',
  'emptyDir',
  'ephemeral',
  'persistentVolumeClaim',
  'projected',
  'secret',
] as const;

export interface Rule {
  /** The node it belongs to: `spec.triggers[].nats`; '' is the whole object. */
  readonly path: string;
  /** CEL; `self` is the node. */
  readonly rule: string;
  readonly message: string;
  /** The field below the node that is to blame, such as `.metadata.name`. */
  readonly fieldPath?: string;
  readonly check: (self: unknown) => boolean;
}

function rule<T>(
  path: string,
  cel: string,
  message: string,
  check: (self: T) => boolean,
  fieldPath?: string,
): Rule {
  return {
    path,
    rule: cel,
    message,
    ...(fieldPath && { fieldPath }),
    check: (self) => check(self as T),
  };
}

/** The text has to match, as a whole; `pattern` means the same to JavaScript and RE2. */
function matches(path: string, pattern: string, message: string): Rule {
  const regexp = new RegExp(pattern, 'u');
  return rule<string>(path, `self.matches(r'${pattern}')`, message, (self) => regexp.test(self));
}

function matchesNot(path: string, pattern: string, message: string): Rule {
  const regexp = new RegExp(pattern, 'u');
  return rule<string>(path, `!self.matches(r'${pattern}')`, message, (self) => !regexp.test(self));
}

/** A plain value of this variable must be one of these. */
function allowedValue(name: string, values: readonly string[]): Rule {
  return rule<FunctionSpec['env'][number]>(
    'spec.env[]',
    `self.name != '${name}' || !has(self.value) || self.value in ${celList(values)}`,
    `must be ${values.slice(0, -1).join(', ')} or ${values.at(-1)} for ${name}`,
    (self) => self.name !== name || self.value === undefined || values.includes(self.value),
    '.value',
  );
}

/** Exactly one of the fields is there. */
function exactlyOne(path: string, fields: readonly string[]): Rule {
  const cel = `[${fields.map((field) => `has(self.${field})`).join(', ')}].exists_one(given, given)`;
  return rule<Record<string, unknown>>(
    path,
    cel,
    `must have exactly one of ${fields.join(', ')}`,
    (self) => fields.filter((field) => Object.hasOwn(self, field)).length === 1,
  );
}

const subjectFilter = `^((${subjectToken}|[*])([.](${subjectToken}|[*]))*([.]>)?|>)$`;
const wildcardsOnly = '^([*][.])*([*]|>)$';
const subjectMessage =
  'must be a NATS subject: tokens between single dots, no spaces, "*" only as a whole token, ">" only as the last one';
const internalMessage =
  'must not be a subject of NATS or Atoll itself (atoll, _INBOX, $JS, $SYS, $NRG, $MQTT, $KV.ATOLL_…)';

const topicFilterText = `(#|(${topicLevel}|[+])(/(${topicLevel}|[+]))*(/#)?)`;
const topicFilter = `^${topicFilterText}$`;

// Permissions: what the word before the colon says; a NATS subject without one. The first token of a subject is no
// wildcard, as "*.API.>" would hold the API of JetStream.
const plainToken = '[^ \\t\\r\\n\\f.*>:/#+]+';
const subjectOf = (token: string): string => `${token}([.](${token}|[*]))*([.]>)?`;
const natsPermission = `${subjectOf(plainToken)}|nats:${subjectOf(subjectToken)}`;
const keyFilter = `((${kvToken}|[*])([.](${kvToken}|[*]))*([.]>)?|>)`;
const kvPermission = `kv:${bucketName}(/${keyFilter})?`;
const rosSegment = `(${rosToken}|[*])`;
const rosPermission = `ros:((~?/)?${rosSegment}(/${rosSegment})*(/[*][*])?|/[*][*])`;
const permission = (...kinds: string[]): string => `^(${kinds.join('|')})$`;
const internalPermission =
  '^((nats:)?(atoll|_INBOX|[$]JS|[$]SYS|[$]NRG|[$]MQTT|[$]KV)([.]|$)|mqtt:(atoll|_INBOX|[$]JS|[$]SYS|[$]NRG|[$]MQTT|[$]KV)(/|$)|kv:ATOLL_)';
const internalPermissionMessage =
  'must not name what is of NATS or Atoll itself (atoll, _INBOX, $JS, $SYS, $NRG, $MQTT, buckets ATOLL_…); a bucket is written kv:BUCKET, not $KV';

/** Cron fields as croner reads them; what passes here must pass there (a property test holds it to that). */
const anyCase = (name: string) => [...name].map((c) => `[${c}${c.toLowerCase()}]`).join('');
const months = 'JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC'.split(' ').map(anyCase).join('|');
const days = 'MON TUE WED THU FRI SAT SUN'.split(' ').map(anyCase);
// "FRI-MON" would run backwards, so a range of names is one of those that do not.
const dayRanges = days.slice(0, -1).map((day, i) => `${day}-(${days.slice(i + 1).join('|')})`);
const second = '[0-5]?[0-9]';
const hour = '([01]?[0-9]|2[0-3])';
const dayOfMonth = '(0?[1-9]|[12][0-9]|3[01])';
const month = '(0?[1-9]|1[0-2])';
function cronField(value: string, step: string, ...more: string[]): string {
  const item = [`([*]|${value}-${value})(/${step})?`, '[?]', value, ...more].join('|');
  return `(${item})(,(${item}))*`;
}
const cronSixty = cronField(second, '(0?[1-9]|[1-5][0-9])');
const cronPattern = `^(${[
  `${cronSixty} )?${cronSixty}`,
  cronField(hour, '(0?[1-9]|1[0-9]|2[0-3])'),
  cronField(dayOfMonth, dayOfMonth, 'L'),
  cronField(month, month, months),
  cronField('[0-7]', '[1-7]', `([0-7]|${days.join('|')})(#[1-5]|L)?`, ...dayRanges),
].join(' ')}$`;

// As Lambda, plus our own. Its settings for logs have no other field here.
const logFormat = 'AWS_LAMBDA_LOG_FORMAT';
const logLevel = 'AWS_LAMBDA_LOG_LEVEL';
const systemLogLevel = 'ATOLL_SYSTEM_LOG_LEVEL';
const logFormats = ['JSON', 'Text'];
const logLevels = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];
const systemLogLevels = ['DEBUG', 'INFO', 'WARN'];
const logSettings = [logFormat, logLevel, systemLogLevel];

// Paths in a pod that are not for volumes, and their parents; "//" and "/./" mean "/".
const slash = '/([.]?/)*';
const mountsOfPod = [
  '(/[.]?)*$',
  `${slash}(etc|tmp|var|var${slash}cache)(/[.]?)*$`,
  `${slash}(atoll|dev|proc|sys|usr|lib|lib64|etc${slash}atoll|var${slash}cache${slash}atoll)(/|$)`,
].join('|');
const ownLabel = '^(app[.]kubernetes[.]io/(name|component|part-of|managed-by)$|atoll[.]dev/)';
const isOwnLabel = new RegExp(ownLabel, 'u');

const celList = (values: readonly string[]) => `[${values.map((value) => `'${value}'`).join(', ')}]`;
const reservedEnv =
  '^(_HANDLER|_X_AMZN_TRACE_ID|AWS_REGION|AWS_DEFAULT_REGION|AWS_EXECUTION_ENV|AWS_LAMBDA_.*|LAMBDA_TASK_ROOT|LAMBDA_RUNTIME_DIR|ATOLL_.*)$';
const reservedName = new RegExp(reservedEnv, 'u');

const hasZone = (timeZone: string): boolean => {
  try {
    const { timeZone: known } = new Intl.DateTimeFormat('en', { timeZone }).resolvedOptions();
    // Intl does not look at case, the zone files of the API server do.
    return known === timeZone || known.toLowerCase() !== timeZone.toLowerCase();
  } catch {
    return false;
  }
};

export const rules: readonly Rule[] = [
  rule<{ metadata: { name: string } }>(
    '',
    `self.metadata.name.matches(r'${namePattern}')`,
    `must be ${nameAllowed}`,
    (self) => new RegExp(namePattern, 'u').test(self.metadata.name),
    '.metadata.name',
  ),
  matches(
    'spec.handler',
    '^([A-Za-z0-9_@-][A-Za-z0-9_.@-]*/)*[A-Za-z0-9_@-]+([.][A-Za-z_$][A-Za-z0-9_$]*)+$',
    'must be <file without extension>.<export>, such as index.handler or src/app.handler, inside the package',
  ),
  rule<string>(
    'spec.memory',
    `quantity(self).compareTo(quantity('${memoryMin}')) >= 0 && quantity(self).compareTo(quantity('${memoryMax}')) <= 0`,
    `must be from ${memoryMin} to ${memoryMax}`,
    (self) => exactBytes(self) >= exactBytes(memoryMin) && exactBytes(self) <= exactBytes(memoryMax),
  ),

  exactlyOne('spec.package', ['uri', 'inline']),
  rule<NonNullable<FunctionSpec['package']>>(
    'spec.package',
    'has(self.uri) == has(self.sha256)',
    'uri and sha256 go together: what lies at the uri is only run when it has this digest',
    (self) => (self.uri !== undefined) === (self.sha256 !== undefined),
  ),

  rule<string>(
    'spec.env[].name',
    `!self.matches(r'${reservedEnv}') || self in ${celList(logSettings)}`,
    'is reserved: the runtime sets it (_HANDLER, _X_AMZN_TRACE_ID, AWS_REGION, AWS_DEFAULT_REGION, AWS_EXECUTION_ENV, AWS_LAMBDA_… but AWS_LAMBDA_LOG_LEVEL and AWS_LAMBDA_LOG_FORMAT, LAMBDA_TASK_ROOT, LAMBDA_RUNTIME_DIR, ATOLL_… but ATOLL_SYSTEM_LOG_LEVEL)',
    (self) => !reservedName.test(self) || logSettings.includes(self),
  ),
  allowedValue(logLevel, logLevels),
  allowedValue(logFormat, logFormats),
  allowedValue(systemLogLevel, systemLogLevels),
  rule<FunctionSpec['env'][number]>(
    'spec.env[]',
    '!(has(self.value) && has(self.valueFrom))',
    'must not have both value and valueFrom',
    (self) => self.value === undefined || self.valueFrom === undefined,
  ),
  exactlyOne('spec.env[].valueFrom', ['secretKeyRef', 'configMapKeyRef', 'fieldRef']),
  rule<FunctionSpec['env']>(
    'spec.env',
    `self.map(variable, has(variable.value) ? size(variable.value) : 0).sum() <= ${envMaxCharacters}`,
    `the values together must not have more than ${envMaxCharacters} characters`,
    (self) => self.reduce((sum, { value }) => sum + [...(value ?? '')].length, 0) <= envMaxCharacters,
  ),

  rule<string>(
    'spec.triggers[].name',
    `self != '${invokeTrigger}'`,
    `is reserved: asynchronous invokes go by the name "${invokeTrigger}"`,
    (self) => self !== invokeTrigger,
  ),
  exactlyOne('spec.triggers[]', triggerKinds),

  matches('spec.triggers[].nats.subject', subjectFilter, subjectMessage),
  matchesNot('spec.triggers[].nats.subject', internalSubject, internalMessage),
  matchesNot(
    'spec.triggers[].nats.subject',
    wildcardsOnly,
    'must have at least one token that is not a wildcard: it would hear the messages of NATS and Atoll itself',
  ),
  rule<NonNullable<TriggerSpec['nats']>>(
    'spec.triggers[].nats',
    '!(self.broadcast && has(self.queue))',
    'must not have queue with broadcast: true, which means no queue group',
    (self) => !(self.broadcast && self.queue !== undefined),
  ),

  matchesNot(
    'spec.triggers[].jetstream.stream',
    '^(KV_|OBJ_)?ATOLL_',
    "must not be one of Atoll's own streams (ATOLL_…); use spec.onFailure to act on dead letters",
  ),
  matches('spec.triggers[].jetstream.subject', subjectFilter, subjectMessage),

  matches(
    'spec.triggers[].mqtt.topic',
    topicFilter,
    'must be an MQTT topic filter: "#" only as the last level, "+" only as a whole level, no NUL, no level that is just "*" or ">"',
  ),
  matchesNot(
    'spec.triggers[].mqtt.topic',
    '^(atoll|_INBOX)(/|$)',
    "must not begin with the level atoll or _INBOX, which are Atoll's own",
  ),

  exactlyOne('spec.triggers[].ros', ['service', 'topics', 'topic']),
  rule<NonNullable<TriggerSpec['ros']>>(
    'spec.triggers[].ros',
    "!has(self.service) || (has(self.type) && !self.type.contains('/msg/'))",
    'must have the type of its service, such as std_srvs/srv/Trigger',
    (self) => self.service === undefined || (self.type !== undefined && !self.type.includes('/msg/')),
    '.type',
  ),
  rule<NonNullable<TriggerSpec['ros']>>(
    'spec.triggers[].ros',
    "!has(self.topic) || has(self.service) || !has(self.type) || !self.type.contains('/srv/')",
    'must be the type of a message where topic is, such as sensor_msgs/msg/LaserScan',
    (self) =>
      self.topic === undefined || self.service !== undefined || !(self.type?.includes('/srv/') ?? false),
    '.type',
  ),
  rule<NonNullable<TriggerSpec['ros']>>(
    'spec.triggers[].ros',
    '!has(self.topics) || !has(self.type)',
    'must not have type beside topics: each of them has its own',
    (self) => self.topics === undefined || self.type === undefined,
  ),
  rule<NonNullable<TriggerSpec['ros']>>(
    'spec.triggers[].ros',
    'has(self.topic) || !(has(self.raw) || has(self.maxHz) || has(self.keepLast) || has(self.qos) || has(self.exclude))',
    'must not have raw, maxHz, keepLast, qos or exclude without topic: with topics they belong into its entries',
    (self) =>
      self.topic !== undefined ||
      [self.raw, self.maxHz, self.keepLast, self.qos, self.exclude].every((field) => field === undefined),
  ),
  rule<NonNullable<TriggerSpec['ros']>>(
    'spec.triggers[].ros',
    '!has(self.failure) || has(self.service)',
    'must not have failure without service: nobody waits for what becomes of a message',
    (self) => self.failure === undefined || self.service !== undefined,
  ),

  // Not as minimum in the schema: for a whole number the API server cuts that off to 0.
  ...['spec.triggers[].ros.maxHz', 'spec.triggers[].ros.topics[].maxHz'].map((path) =>
    rule<number>(path, 'self >= 0.001', 'must be from 0.001 to 10000', (self) => self >= 0.001),
  ),

  exactlyOne('spec.triggers[].schedule', ['cron', 'every']),
  rule<NonNullable<TriggerSpec['schedule']>>(
    'spec.triggers[].schedule',
    '!has(self.timeZone) || has(self.cron)',
    'must not have timeZone without cron: every counts from 1970-01-01T00:00Z',
    (self) => self.timeZone === undefined || self.cron !== undefined,
  ),
  matches(
    'spec.triggers[].schedule.cron',
    cronPattern,
    'must be five cron fields (minute hour day month weekday) or six (second first), such as "*/5 * * * *" or "0 8 * * MON-FRI"',
  ),
  rule<string>(
    'spec.triggers[].schedule.cron',
    "self.findAll(r'[0-9]+-[0-9]+').all(range, int(range.split('-')[0]) <= int(range.split('-')[1]))",
    'must not have a range that runs backwards, such as 30-10',
    (self) => (self.match(/[0-9]+-[0-9]+/gu) ?? []).every((range) => !runsBackwards(range)),
  ),
  matches(
    'spec.triggers[].schedule.timeZone',
    '^(UTC|[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*){1,2})$',
    'must be the name of a time zone, such as UTC or Europe/Berlin',
  ),
  rule<string>(
    'spec.triggers[].schedule.timeZone',
    "timestamp('1970-01-01T00:00:00Z').getHours(self) >= 0",
    'must be a time zone that exists, such as UTC or Europe/Berlin',
    hasZone,
  ),

  rule<FunctionSpec['retry']>(
    'spec.retry',
    'self.minBackoffMs <= self.maxBackoffMs',
    'minBackoffMs must not be more than maxBackoffMs',
    (self) => self.minBackoffMs <= self.maxBackoffMs,
  ),
  rule<NonNullable<FunctionSpec['scaling']>>(
    'spec.scaling',
    'self.minReplicas <= self.maxReplicas',
    'minReplicas must not be more than maxReplicas',
    (self) => self.minReplicas <= self.maxReplicas,
  ),
  exactlyOne('spec.scaling', ['targetInFlight', 'targetCPUPercent', 'targetLag']),

  ...(['labels', 'annotations'] as const).map((field) =>
    rule<Record<string, string>>(
      `spec.pod.${field}`,
      `self.all(key, !key.matches(r'${ownLabel}'))`,
      "must not set what is Atoll's own: app.kubernetes.io/name, component, part-of and managed-by, and atoll.dev/…",
      (self) => !Object.keys(self).some((key) => isOwnLabel.test(key)),
    ),
  ),
  exactlyOne('spec.pod.volumes[]', volumeKinds),
  matchesNot('spec.pod.volumes[].name', '^atoll-', 'must not begin with "atoll-": those are Atoll\'s own'),
  matches('spec.pod.volumeMounts[].mountPath', '^/', 'must be an absolute path, such as /mnt/data'),
  matchesNot('spec.pod.volumeMounts[].mountPath', '(^|/)[.][.](/|$)', 'must not have ".." in it'),
  matchesNot(
    'spec.pod.volumeMounts[].mountPath',
    `^(${mountsOfPod})`,
    'would hide what the pod itself has in /atoll, /dev, /etc/atoll, /lib, /lib64, /proc, /sys, /tmp, /usr or /var/cache/atoll; choose a path such as /mnt/data',
  ),

  matches(
    'spec.permissions.publish[]',
    permission(natsPermission, `mqtt:${topicFilterText}`, kvPermission, rosPermission),
    'must be a NATS subject that begins with no wildcard (alarms.>; nats: before one that has ":", "/", "#" or "+" in it), mqtt:TOPIC, kv:BUCKET or kv:BUCKET/KEY, or ros:NAME',
  ),
  matchesNot('spec.permissions.publish[]', internalPermission, internalPermissionMessage),
  matches(
    'spec.permissions.call[]',
    permission(natsPermission, kvPermission, rosPermission),
    'must be a NATS subject that begins with no wildcard (lab.ask; nats: before one that has ":", "/", "#" or "+" in it), kv:BUCKET or kv:BUCKET/KEY, or ros:NAME',
  ),
  matchesNot('spec.permissions.call[]', internalPermission, internalPermissionMessage),

  ...(['onSuccess', 'onFailure'] as const).flatMap((field) => [
    exactlyOne(`spec.${field}`, ['nats', 'mqtt']),
    matches(
      `spec.${field}.nats.subject`,
      literalSubject,
      'must be a NATS subject without wildcards: tokens between single dots, no spaces',
    ),
    matchesNot(`spec.${field}.nats.subject`, internalSubject, internalMessage),
    matches(
      `spec.${field}.mqtt.topic`,
      literalTopic,
      'must be an MQTT topic without "+" and "#", without NUL and without a level that is just "*" or ">"',
    ),
    matchesNot(
      `spec.${field}.mqtt.topic`,
      internalTopic,
      "must not begin with atoll, _INBOX, $JS, $SYS, $NRG, $MQTT or $KV/ATOLL_…, which are Atoll's and the broker's own",
    ),
  ]),
];

function runsBackwards(range: string): boolean {
  const [from = 0, to = 0] = range.split('-').map(Number);
  return from > to;
}
