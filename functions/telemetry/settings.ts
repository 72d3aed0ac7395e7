/** The one YAML in TELEMETRY: read, checked whole, filled with defaults. */
import { parseDocument } from 'yaml';
import { parseCondition, parsePath, type Condition, type Path } from './condition.ts';

export const classes = ['lossless', 'ring', 'latest', 'frames'] as const;
export const encodings = ['yaml', 'json', 'cbor', 'cdr'] as const;

export interface Settings {
  readonly robot: string;
  /** Taken off the front of topics where they become subjects; '' for none. */
  readonly namespace: string;
  readonly allow: readonly string[];
  readonly deny: readonly string[];
  /** The first that takes a topic is its own. */
  readonly topics: readonly TopicSettings[];
  /** Words after the lane, for topics whose own would not do. */
  readonly subjects: Readonly<Record<string, string>>;
  readonly frames: { readonly bytesPerSecond: number; readonly chunkBytes: number };
  readonly commands: readonly CommandSettings[];
}

export interface TopicSettings {
  /** A topic's name; with `*` (within a level) or `**` (any levels) a pattern. */
  readonly ros: string;
  /** What its type must be; undefined: whatever it is. */
  readonly type: string | undefined;
  readonly as: (typeof encodings)[number];
  readonly class: (typeof classes)[number];
  /** Of a ring: how many are kept. */
  readonly last: number;
  readonly enabled: boolean;
  readonly maxHz: number | undefined;
  /** The first of each so many passes. */
  readonly everyNth: number;
  /** It passes when one of these changed by so much since it was last sent; 0: at any change. */
  readonly onChange: readonly { readonly path: Path; readonly by: number }[];
  /** All must hold. */
  readonly condition: readonly Condition[];
  /** undefined: the whole message. */
  readonly fields: readonly Path[] | undefined;
  /** After so long without one, the next passes whatever the filters say (but maxHz). */
  readonly atLeastEveryMs: number | undefined;
}

export interface CommandSettings {
  readonly name: string;
  readonly to: { readonly topic: string } | { readonly service: string };
  readonly type: string;
  /** Older ones are refused. */
  readonly ttlMs: number;
  /** Of a service's answer. */
  readonly timeoutMs: number;
}

/** Every mistake of it, each with where it stands, what stands there and what may. */
export class SettingsError extends Error {
  override name = 'SettingsError';
}

const defaults = {
  /** A tenth of a slow Wi-Fi's 40 Mbit/s. */
  framesBytesPerSecond: 500_000,
  /** On such a link it takes 13 ms: so long may a small message wait behind it. */
  chunkBytes: 65_536,
  last: 100,
  ttlMs: 10_000,
  timeoutMs: 10_000,
} as const;

/** `environment`: what `${NAME}` in a text stands for. Throws SettingsError. */
export function parseSettings(
  text: string | undefined,
  environment: Readonly<Record<string, string | undefined>> = {},
): Settings {
  if (text === undefined || text.trim() === '') {
    throw new SettingsError('TELEMETRY is empty: the environment value holds one YAML with robot and topics');
  }
  const document = parseDocument(text, { version: '1.2', prettyErrors: true });
  const [error] = document.errors;
  if (error !== undefined) throw new SettingsError(`TELEMETRY is no YAML: ${error.message.trim()}`);
  const problems: string[] = [];
  const root = new Reader('', document.toJS({ maxAliasCount: 100 }), problems, environment);
  const settings = read(root);
  if (problems.length > 0) throw new SettingsError(`TELEMETRY: ${problems.join('; ')}`);
  return settings;
}

function read(root: Reader): Settings {
  const robot = root.text('robot', {
    pattern: /^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$/,
    allowed: 'an id: a small letter, then up to 51 small letters, digits or "-"',
  });
  const namespace = root.optionalText('namespace', topicName) ?? '';
  const frames = root.section('frames');
  const settings = {
    robot,
    namespace: namespace === '/' ? '' : namespace,
    allow: root.texts('allow', topicPattern) ?? ['/**'],
    deny: root.texts('deny', topicPattern) ?? [],
    topics: root.list('topics').map(topic),
    subjects: root.table('subjects', topicName, {
      pattern: /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/,
      allowed: 'words of letters, digits, "_" and "-" between single dots',
    }),
    frames: {
      bytesPerSecond: frames.bytes('bytesPerSecond', 1_000) ?? defaults.framesBytesPerSecond,
      chunkBytes: frames.bytes('chunkBytes', 1_024) ?? defaults.chunkBytes,
    },
    commands: root.list('commands').map(command),
  };
  frames.done();
  root.done();
  root.unique(
    'commands',
    'name',
    settings.commands.map(({ name }) => name),
  );
  root.unique(
    'topics',
    'ros',
    settings.topics.map(({ ros }) => ros),
  );
  root.unique('subjects', 'subject', Object.values(settings.subjects));
  return settings;
}

function topic(entry: Reader): TopicSettings {
  const as = entry.one('as', encodings) ?? 'cdr';
  const kind = entry.one('class', classes) ?? 'latest';
  const settings: TopicSettings = {
    ros: entry.text('ros', topicPattern),
    type: entry.optionalText('type', messageType),
    as,
    class: kind,
    last: entry.integer('last', 1, 100_000) ?? defaults.last,
    enabled: entry.flag('enabled') ?? kind !== 'frames',
    maxHz: entry.positive('maxHz', 10_000),
    everyNth: entry.integer('everyNth', 1, 1_000_000) ?? 1,
    onChange: entry.changes('onChange'),
    condition: entry.conditions('condition'),
    fields: entry.paths('fields'),
    atLeastEveryMs: entry.duration('atLeastEvery'),
  };
  if (as === 'cdr' && settings.fields !== undefined) {
    entry.problem(
      'fields',
      "cannot be with as: cdr, which are ROS's own bytes, untouched; take yaml, json or cbor",
    );
  }
  if (kind !== 'ring' && entry.has('last')) entry.problem('last', `is for class: ring, and this is ${kind}`);
  entry.done();
  return settings;
}

function command(entry: Reader): CommandSettings {
  const name = entry.text('name', {
    pattern: /^[A-Za-z0-9_-]{1,64}$/,
    allowed: 'up to 64 letters, digits, "_" or "-"',
  });
  const to = entry.optionalText('topic', topicName);
  const service = entry.optionalText('service', topicName);
  if ((to === undefined) === (service === undefined))
    entry.problem('', 'must have exactly one of topic, service');
  if (service === undefined && entry.has('timeout'))
    entry.problem('timeout', 'is for a service, and this is a topic');
  const settings: CommandSettings = {
    name,
    to: service === undefined ? { topic: to ?? '' } : { service },
    type: entry.text('type', service === undefined ? messageType : serviceType),
    ttlMs: entry.duration('ttl') ?? defaults.ttlMs,
    timeoutMs: entry.duration('timeout') ?? defaults.timeoutMs,
  };
  entry.done();
  return settings;
}

interface Shape {
  readonly pattern: RegExp;
  readonly allowed: string;
}

const topicName: Shape = {
  pattern: /^(\/[A-Za-z_][A-Za-z0-9_]*)+$|^\/$/,
  allowed: 'a name of ROS, such as /camera/image',
};
const topicPattern: Shape = {
  pattern: /^(\/(\*\*|[A-Za-z_*][A-Za-z0-9_*]*))+$/,
  allowed: 'a topic of ROS, such as /camera/image, or a pattern, such as /camera/* or /**',
};
const messageType: Shape = {
  pattern: /^[a-z][a-z0-9_]*\/msg\/[A-Z][A-Za-z0-9]*$/,
  allowed: 'a message type, such as sensor_msgs/msg/LaserScan',
};
const serviceType: Shape = {
  pattern: /^[a-z][a-z0-9_]*\/srv\/[A-Z][A-Za-z0-9]*$/,
  allowed: 'a service type, such as std_srvs/srv/Trigger',
};

const durationUnits: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const byteUnits: Readonly<Record<string, number>> = {
  '': 1,
  kB: 1_000,
  MB: 1_000_000,
  KiB: 1_024,
  MiB: 1_048_576,
};

/** One mapping of the YAML; what is read of it is known, and the rest is a mistake. */
class Reader {
  readonly #path: string;
  readonly #value: Readonly<Record<string, unknown>>;
  readonly #problems: string[];
  readonly #environment: Readonly<Record<string, string | undefined>>;
  readonly #known: string[] = [];

  constructor(
    path: string,
    value: unknown,
    problems: string[],
    environment: Readonly<Record<string, string | undefined>>,
  ) {
    this.#path = path;
    this.#problems = problems;
    this.#environment = environment;
    const isMapping = typeof value === 'object' && value !== null && !Array.isArray(value);
    this.#value = isMapping ? (value as Record<string, unknown>) : {};
    if (!isMapping) this.problem('', `is ${shown(value)}; it must be a mapping of settings`);
  }

  has(name: string): boolean {
    return this.#value[name] !== undefined;
  }

  problem(name: string, what: string): void {
    const path = name === '' ? this.#path : this.#path === '' ? name : `${this.#path}.${name}`;
    this.#problems.push(path === '' ? `it ${what}` : `${path} ${what}`);
  }

  text(name: string, shape: Shape): string {
    const value = this.optionalText(name, shape);
    if (value === undefined && !this.has(name)) this.problem(name, `is missing; it must be ${shape.allowed}`);
    return value ?? '';
  }

  optionalText(name: string, { pattern, allowed }: Shape): string | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    const text = this.#expanded(name, value);
    if (text === undefined) return undefined;
    if (typeof text === 'string' && pattern.test(text)) return text;
    this.problem(name, `is ${shown(text)}; it must be ${allowed}`);
    return undefined;
  }

  one<T extends string>(name: string, allowed: readonly T[]): T | undefined {
    const value = this.#take(name);
    if (value === undefined || allowed.includes(value as T)) return value as T | undefined;
    this.problem(name, `is ${shown(value)}; it must be one of ${allowed.join(', ')}`);
    return undefined;
  }

  flag(name: string): boolean | undefined {
    const value = this.#take(name);
    if (value === undefined || typeof value === 'boolean') return value;
    this.problem(name, `is ${shown(value)}; it must be true or false`);
    return undefined;
  }

  positive(name: string, most: number): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && value > 0 && value <= most) return value;
    this.problem(name, `is ${shown(value)}; it must be a number above 0, at most ${most}`);
    return undefined;
  }

  integer(name: string, least: number, most: number): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most)
      return value as number;
    this.problem(name, `is ${shown(value)}; it must be a whole number from ${least} to ${most}`);
    return undefined;
  }

  /** Milliseconds. */
  duration(name: string): number | undefined {
    return this.#withUnit(name, durationUnits, 1, 'a duration, such as 500ms, 10s, 5m or 1h');
  }

  bytes(name: string, least: number): number | undefined {
    return this.#withUnit(
      name,
      byteUnits,
      least,
      `a size of at least ${least} bytes, such as 65536, 64KiB or 4MB`,
    );
  }

  list(name: string): Reader[] {
    const value = this.#take(name);
    if (value === undefined) return [];
    if (!Array.isArray(value)) {
      this.problem(name, `is ${shown(value)}; it must be a list`);
      return [];
    }
    return value.map(
      (one, index) => new Reader(`${this.#under(name)}[${index}]`, one, this.#problems, this.#environment),
    );
  }

  section(name: string): Reader {
    return new Reader(this.#under(name), this.#take(name) ?? {}, this.#problems, this.#environment);
  }

  texts(name: string, { pattern, allowed }: Shape): string[] | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (!Array.isArray(value)) {
      this.problem(name, `is ${shown(value)}; it must be a list`);
      return undefined;
    }
    value.forEach((one: unknown, index) => {
      if (typeof one === 'string' && pattern.test(one)) return;
      this.problem(`${name}[${index}]`, `is ${shown(one)}; it must be ${allowed}`);
    });
    return value as string[];
  }

  table(name: string, keys: Shape, values: Shape): Record<string, string> {
    const value = this.#take(name) ?? {};
    if (typeof value !== 'object' || Array.isArray(value)) {
      this.problem(name, `is ${shown(value)}; it must be a mapping`);
      return {};
    }
    for (const [key, one] of Object.entries(value as Record<string, unknown>)) {
      if (!keys.pattern.test(key)) this.problem(name, `has ${shown(key)}; it must be ${keys.allowed}`);
      if (typeof one !== 'string' || !values.pattern.test(one)) {
        this.problem(`${name}["${key}"]`, `is ${shown(one)}; it must be ${values.allowed}`);
      }
    }
    return value as Record<string, string>;
  }

  paths(name: string): Path[] | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || value.length === 0) {
      this.problem(name, `is ${shown(value)}; it must be a list of fields, such as pose.pose.position`);
      return undefined;
    }
    return value.flatMap((one: unknown, index) => {
      const path = typeof one === 'string' ? parsePath(one) : undefined;
      if (path !== undefined && path.every((step) => typeof step === 'string')) return [path];
      const allowed = 'a field without an index, such as pose.pose.position';
      this.problem(`${name}[${index}]`, `is ${shown(one)}; it must be ${allowed}`);
      return [];
    });
  }

  changes(name: string): { path: Path; by: number }[] {
    const value = this.#take(name);
    if (value === undefined) return [];
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.problem(name, `is ${shown(value)}; it must be a mapping, such as { percentage: 0.01 }`);
      return [];
    }
    return Object.entries(value).flatMap(([field, by]: [string, unknown]) => {
      const path = parsePath(field);
      if (path === undefined)
        this.problem(name, `has ${shown(field)}; it must be a field, such as pose.position.x`);
      const valid = by === true || (typeof by === 'number' && by >= 0 && Number.isFinite(by));
      if (!valid) {
        this.problem(
          `${name}.${field}`,
          `is ${shown(by)}; it must be by how much, from 0, or true for any change`,
        );
      }
      return path === undefined || !valid ? [] : [{ path, by: by === true ? 0 : by }];
    });
  }

  conditions(name: string): Condition[] {
    const value = this.#take(name);
    if (value === undefined) return [];
    return (Array.isArray(value) ? value : [value]).flatMap((one: unknown) => {
      const condition = typeof one === 'string' ? parseCondition(one) : undefined;
      if (condition !== undefined) return [condition];
      const allowed =
        'a field, one of < <= > >= == !=, and a number, true, false or "text", such as percentage < 0.2';
      this.problem(name, `is ${shown(one)}; it must be ${allowed}`);
      return [];
    });
  }

  unique(list: string, what: string, values: readonly string[]): void {
    const twice = values.find((value, index) => value !== '' && values.indexOf(value) < index);
    if (twice !== undefined) this.problem(list, `has the ${what} ${shown(twice)} twice`);
  }

  /** Says what stands there and is no setting. */
  done(): void {
    for (const name of Object.keys(this.#value)) {
      if (this.#known.includes(name)) continue;
      this.problem(name, `is no setting; there are ${this.#known.join(', ')}`);
    }
  }

  #take(name: string): unknown {
    if (!this.#known.includes(name)) this.#known.push(name);
    // `name:` with nothing behind it.
    return this.#value[name] ?? undefined;
  }

  #under(name: string): string {
    return this.#path === '' ? name : `${this.#path}.${name}`;
  }

  /** `${NAME}` is the value of the environment. */
  #expanded(name: string, value: unknown): unknown {
    if (typeof value !== 'string') return value;
    let missing: string | undefined;
    const text = value.replaceAll(/\$\{(\w+)\}/g, (_, variable: string) => {
      const found = this.#environment[variable];
      if (found === undefined) missing = variable;
      return found ?? '';
    });
    if (missing === undefined) return text;
    this.problem(name, `is ${shown(value)}, and the environment has no ${missing}: set it in spec.env`);
    return undefined;
  }

  #withUnit(
    name: string,
    units: Readonly<Record<string, number>>,
    least: number,
    allowed: string,
  ): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(String(value)) ?? [];
    const size = digits === undefined ? undefined : units[unit];
    const result = size === undefined ? NaN : Math.round(Number(digits) * size);
    if (result >= least) return result;
    this.problem(name, `is ${shown(value)}; it must be ${allowed}`);
    return undefined;
  }
}

const shown = (value: unknown): string => (value === undefined ? 'missing' : JSON.stringify(value));
