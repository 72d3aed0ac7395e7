/** Fields of a message by their path, and what is asked of one of them. */
import type { Field, RosMessage, RosValue, Schema } from 'atoll/telemetry';

/** Names, and from 0 the index in a list. */
export type Path = readonly (string | number)[];

export interface Condition {
  readonly text: string;
  readonly path: Path;
  readonly operator: '<=' | '>=' | '==' | '!=' | '<' | '>';
  readonly value: number | bigint | boolean | string;
}

/** Undefined: it is none. */
export function parsePath(text: string): Path | undefined {
  if (!/^[A-Za-z]\w*(\[\d{1,6}\])?(\.[A-Za-z]\w*(\[\d{1,6}\])?)*$/.test(text)) return undefined;
  return [...text.matchAll(/(\w+)(?:\[(\d+)\])?/g)].flatMap(([, name, index]) =>
    index === undefined ? [name!] : [name!, Number(index)],
  );
}

/** `percentage < 0.2`, `status[0].level >= 2`, `present == true`, `location == "dock"`. Undefined: it is none. */
export function parseCondition(text: string): Condition | undefined {
  const [, field = '', operator, literal = ''] =
    /^\s*([\w.[\]]+)\s*(<=|>=|==|!=|<|>)\s*(.+?)\s*$/.exec(text) ?? [];
  const path = parsePath(field);
  const value = parseLiteral(literal);
  if (path === undefined || value === undefined) return undefined;
  if (typeof value === 'boolean' && operator !== '==' && operator !== '!=') return undefined;
  return { text: text.trim(), path, operator: operator as Condition['operator'], value };
}

function parseLiteral(text: string): Condition['value'] | undefined {
  if (text === 'true' || text === 'false') return text === 'true';
  if (/^"[^"]*"$|^'[^']*'$/.test(text)) return text.slice(1, -1);
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text)) return undefined;
  const number = Number(text);
  // An integer that a number would round.
  return /^[-+]?\d+$/.test(text) && !Number.isSafeInteger(number) ? BigInt(text) : number;
}

/** Undefined: this message has none there, such as the second of one. */
export function valueAt(message: RosMessage, path: Path): RosValue | undefined {
  let at: unknown = message;
  for (const step of path) {
    if (typeof at !== 'object' || at === null) return undefined;
    at = (at as Record<string | number, unknown>)[step];
  }
  return at as RosValue | undefined;
}

export function holds({ path, operator, value }: Condition, message: RosMessage): boolean {
  const found = valueAt(message, path);
  // JavaScript compares numbers and BigInts exactly.
  const equal = typeof found === 'bigint' || typeof value === 'bigint' ? found == value : found === value;
  switch (operator) {
    case '==':
      return equal;
    case '!=':
      return !equal;
    case '<':
      return comparable(found, value) && found! < value;
    case '<=':
      return comparable(found, value) && found! <= value;
    case '>':
      return comparable(found, value) && found! > value;
    case '>=':
      return comparable(found, value) && found! >= value;
  }
}

const isNumber = (value: unknown): boolean => typeof value === 'number' || typeof value === 'bigint';
const comparable = (found: unknown, value: unknown): boolean =>
  isNumber(found) ? isNumber(value) : typeof found === 'string' && typeof value === 'string';

/** Whether `next` is another value than `last`, by `by` or more where they are numbers. */
export function changed(last: RosValue | undefined, next: RosValue | undefined, by: number): boolean {
  if (typeof last === 'number' && typeof next === 'number') {
    if (Number.isNaN(last) || Number.isNaN(next)) return Number.isNaN(last) !== Number.isNaN(next);
    // Infinity less itself is no number.
    return last !== next && Math.abs(next - last) >= by;
  }
  if (typeof last === 'bigint' && typeof next === 'bigint') {
    const difference = next > last ? next - last : last - next;
    return last !== next && difference >= BigInt(Math.ceil(by));
  }
  if (isList(last) && isList(next)) {
    if (last.length !== next.length) return true;
    for (let index = 0; index < next.length; index += 1)
      if (changed(last[index], next[index], by)) return true;
    return false;
  }
  if (isMessage(last) && isMessage(next)) {
    return Object.keys(next).some((name) => changed(last[name], next[name], by));
  }
  return last !== next;
}

const isList = (value: unknown): value is ArrayLike<RosValue> =>
  Array.isArray(value) || ArrayBuffer.isView(value);
const isMessage = (value: RosValue | undefined): value is RosMessage =>
  typeof value === 'object' && value !== null && !isList(value);

/** Only these fields; of a list of messages those of each. */
export function project(message: RosMessage, fields: readonly Path[]): RosMessage {
  const result: Record<string, RosValue> = {};
  const below = new Map<string, Path[]>();
  for (const [name, ...rest] of fields as readonly (readonly string[])[]) {
    below.set(name!, [...(below.get(name!) ?? []), rest]);
  }
  for (const [name, paths] of below) {
    const value = message[name];
    if (value === undefined) continue;
    const whole = paths.some((path) => path.length === 0);
    if (whole || typeof value !== 'object' || ArrayBuffer.isView(value)) result[name] = value;
    else if (isList(value)) result[name] = Array.from(value, (one) => project(one as RosMessage, paths));
    else result[name] = project(value, paths);
  }
  return result;
}

/** Undefined: the type has it. Otherwise what it has instead. */
export function missingField(schema: Schema, path: Path): string | undefined {
  let type: Field['type'] = schema.fields;
  let array: Field['array'];
  let at = schema.type;
  for (const step of path) {
    if (typeof step === 'number') {
      if (array === undefined) return `${at} is no list`;
      array = undefined;
      at = `${at}[${step}]`;
      continue;
    }
    // Of a list of messages, what a projection goes through.
    const fields: Field['type'] | undefined = type;
    const time = fields === 'time' || fields === 'duration';
    if (time && (step === 'sec' || step === 'nanosec')) {
      type = 'int32';
      array = undefined;
      at = `${at}.${step}`;
      continue;
    }
    if (typeof fields === 'string')
      return time ? `${at} has sec, nanosec` : `${at} is a ${fields} and has no fields`;
    const field: Field | undefined = fields.find(({ name }) => name === step);
    if (field === undefined) return `${at} has ${fields.map(({ name }) => name).join(', ') || 'no fields'}`;
    ({ type, array } = field);
    at = at === schema.type ? step : `${at}.${step}`;
  }
  return undefined;
}
