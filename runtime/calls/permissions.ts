/** What a handler may reach through its host: `spec.permissions`, and what nobody may. Pure. */
import type { FunctionSpec } from '../../crds/function.ts';
import { internalBucket, internalSubject, internalTopic } from '../../crds/reserved.ts';
import type { CallKind } from '../handler-calls.ts';

export type Permissions = FunctionSpec['permissions'];

/** What a call wants to reach. `name` is a subject, a topic, a key, or a ROS name. */
export interface Wanted {
  readonly kind: CallKind;
  readonly to: 'nats' | 'mqtt' | 'kv' | 'ros';
  /** Of a key. */
  readonly bucket?: string;
  readonly name: string;
}

const reserved = {
  nats: new RegExp(internalSubject, 'u'),
  mqtt: new RegExp(internalTopic, 'u'),
  kv: new RegExp(internalBucket, 'u'),
} as const;

/** Calls that ask for something; the others publish or write. */
const asks: readonly CallKind[] = ['nats.request', 'kv.get', 'ros.call'];

/** Why the call must not be made; undefined: it may. `required`: without permissions nothing may. */
export function refusal(wanted: Wanted, permissions: Permissions, required: boolean): string | undefined {
  const { kind, to, bucket, name } = wanted;
  const shown = bucket === undefined ? name : `${bucket}/${name}`;
  if (to !== 'ros' && reserved[to].test(bucket ?? name)) {
    return `${kind} ${shown}: that is of NATS or Atoll itself, and no function may reach it`;
  }
  const list = asks.includes(kind) ? 'call' : 'publish';
  const entry = `${to === 'nats' ? (/[:/#+]/.test(name) ? 'nats:' : '') : `${to}:`}${shown}`;
  const advice =
    kind === 'ros.definition'
      ? 'any list in it will do'
      : name.startsWith('$KV.')
        ? 'use kv() for it'
        : `add "${entry}" to spec.permissions.${list}`;
  if (permissions === undefined) {
    return required
      ? `${kind} ${shown}: here a function without spec.permissions may reach nothing: ${advice}`
      : undefined;
  }
  if (kind === 'ros.definition') return undefined;
  if (compiled(permissions)[list].some((permits) => permits(wanted))) return undefined;
  return `${kind} ${shown}: spec.permissions.${list} does not hold it: ${advice}`;
}

type Permits = (wanted: Wanted) => boolean;

const known = new WeakMap<object, { publish: readonly Permits[]; call: readonly Permits[] }>();

function compiled(permissions: NonNullable<Permissions>): {
  publish: readonly Permits[];
  call: readonly Permits[];
} {
  let made = known.get(permissions);
  if (made === undefined) {
    made = { publish: permissions.publish.map(permitsOf), call: permissions.call.map(permitsOf) };
    known.set(permissions, made);
  }
  return made;
}

/** The two parts of a permission; without a word before the colon it is a NATS subject. */
export function partsOf(permission: string): { to: Wanted['to']; pattern: string } {
  const [, to, pattern] = /^(nats|mqtt|kv|ros):(.*)$/su.exec(permission) ?? [];
  return { to: (to as Wanted['to'] | undefined) ?? 'nats', pattern: pattern ?? permission };
}

/** Bucket and filter of keys of a permission for one. */
export function bucketOf(pattern: string): { bucket: string; keys: string } {
  const slash = pattern.indexOf('/');
  if (slash === -1) return { bucket: pattern, keys: '>' };
  return { bucket: pattern.slice(0, slash), keys: pattern.slice(slash + 1) };
}

function permitsOf(permission: string): Permits {
  const { to, pattern } = partsOf(permission);
  if (to === 'nats') return fitsOf(to, natsRegExp(pattern));
  if (to === 'mqtt') return fitsOf(to, mqttRegExp(pattern));
  if (to === 'ros') return fitsOf(to, rosRegExp(pattern));
  const { bucket, keys } = bucketOf(pattern);
  const fits = fitsOf(to, natsRegExp(keys));
  return (wanted) => wanted.bucket === bucket && fits(wanted);
}

function fitsOf(to: Wanted['to'], regexp: RegExp): Permits {
  return (wanted) => wanted.to === to && regexp.test(wanted.name);
}

const literal = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|]/g, String.raw`\$&`);

function natsRegExp(filter: string): RegExp {
  const tokens = filter.split('.').map((token) => {
    if (token === '*') return '[^.]+';
    return token === '>' ? '.+' : literal(token);
  });
  return new RegExp(`^${tokens.join('[.]')}$`, 'su');
}

/** MQTT 3.1.1 section 4.7: "#" also holds the level above it; a first wildcard holds no topic that begins with "$". */
function mqttRegExp(filter: string): RegExp {
  const levels = filter.split('/');
  const rest = levels.at(-1) === '#';
  if (rest) levels.pop();
  const text = levels.map((level) => (level === '+' ? '[^/]*' : literal(level))).join('/');
  const first = /^[+#]/.test(filter) ? '(?![$])' : '';
  if (levels.length === 0) return new RegExp(`^${first}.*$`, 'su');
  return new RegExp(`^${first}${text}${rest ? '(/.*)?' : ''}$`, 'su');
}

/** "*" is a segment, "**" at the end any number of them. */
function rosRegExp(pattern: string): RegExp {
  const text = pattern
    .replace(/\/[*][*]$/, '')
    .split('/')
    .map((segment) => (segment === '*' ? '[^/]+' : literal(segment)))
    .join('/');
  return new RegExp(`^${text}${pattern.endsWith('/**') ? '(/[^/]+)+' : ''}$`, 'u');
}
