/** What a handler gave with a call, checked: user code shares the process that sends it. Each throws AtollError. */
import { literalKey, literalRosName, literalSubject, literalTopic, bucketName } from '../../crds/reserved.ts';
import { AtollError } from '../errors.ts';
import type { HandlerCall } from '../handler-calls.ts';

export type Detail = Readonly<Record<string, unknown>>;

/** Of a whole set of them, as NATS reads it. */
const maxHeaderBytes = 32 * 1024;
const maxTimeoutMs = 900_000;

export function detailOf({ kind, target, detail }: HandlerCall): Detail {
  if (detail === '') return {};
  let value: unknown;
  try {
    value = JSON.parse(detail);
  } catch {
    value = undefined;
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Detail;
  throw invalid(`${kind} ${target}: its options are not an object`);
}

export function invalid(message: string): AtollError {
  return new AtollError('InvalidRequest', message);
}

const names = {
  subject: {
    pattern: literalSubject,
    max: 4096,
    allowed: 'tokens between single dots, without spaces and wildcards',
  },
  topic: { pattern: literalTopic, max: 65_535, allowed: 'levels between "/", without "+", "#" and NUL' },
  bucket: { pattern: `^${bucketName}$`, max: 255, allowed: 'letters, digits, "-" and "_"' },
  key: {
    pattern: literalKey,
    max: 1024,
    allowed: 'letters, digits, "-", "_", "=" and "/", with single dots between',
  },
  'ROS name': { pattern: literalRosName, max: 255, allowed: 'a name such as /cmd_vel' },
  'ROS type': {
    pattern: '^[A-Za-z][A-Za-z0-9_]*(/(msg|srv|action))?/[A-Za-z][A-Za-z0-9_]*$',
    max: 255,
    allowed: 'a type such as geometry_msgs/msg/Twist',
  },
} as const;

const patterns = Object.fromEntries(
  Object.entries(names).map(([name, { pattern }]) => [name, new RegExp(pattern, 'u')]),
);

export function nameOf(what: keyof typeof names, value: unknown): string {
  const { max, allowed } = names[what];
  // MQTT allows no empty topic either.
  if (typeof value === 'string' && value !== '' && value.length <= max && patterns[what]!.test(value))
    return value;
  const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 100)) : String(value);
  throw invalid(`${shown} is no ${what}: ${allowed}, at most ${max} characters`);
}

export function headersOf({ headers }: Detail): readonly (readonly [string, string])[] {
  if (headers === undefined) return [];
  if (typeof headers !== 'object' || headers === null) throw invalid('headers must be an object of texts');
  const entries = Object.entries(headers as Record<string, unknown>);
  let bytes = 0;
  for (const [name, value] of entries) {
    if (!/^[\u0021-\u0039\u003b-\u007e]+$/.test(name)) {
      throw invalid(`"${name}" is no name of a header: printable ASCII without spaces and ":"`);
    }
    if (typeof value !== 'string' || /[\r\n]/.test(value)) {
      throw invalid(`the header ${name} must be a text of one line`);
    }
    bytes += name.length + Buffer.byteLength(value);
  }
  if (bytes <= maxHeaderBytes) return entries as [string, string][];
  throw new AtollError('TooLarge', `the headers have ${bytes} bytes; ${maxHeaderBytes} are allowed`);
}

export function textOf(detail: Detail, name: string): string | undefined {
  const value = detail[name];
  if (value === undefined) return undefined;
  if (typeof value === 'string' && value !== '' && !/[\r\n]/.test(value)) return value;
  throw invalid(`${name} must be a text of one line`);
}

/** ms; undefined where none is given. */
export function timeoutOf({ timeoutMs }: Detail): number | undefined {
  if (timeoutMs === undefined) return undefined;
  if (typeof timeoutMs === 'number' && timeoutMs > 0 && timeoutMs <= maxTimeoutMs) return timeoutMs;
  throw invalid(`timeoutMs ${String(timeoutMs)} must be a number of ms from 1 to ${maxTimeoutMs}`);
}

export function revisionOf({ revision }: Detail): number | undefined {
  if (revision === undefined) return undefined;
  if (Number.isSafeInteger(revision) && (revision as number) > 0) return revision as number;
  throw invalid(`revision ${String(revision)} must be one that get, put, create or update gave`);
}

export function qosOf({ qos }: Detail): 0 | 1 | 2 {
  if (qos === undefined) return 1;
  if (qos === 0 || qos === 1 || qos === 2) return qos;
  throw invalid(`qos ${String(qos)} must be 0, 1 or 2`);
}

export function flagOf(detail: Detail, name: string): boolean {
  const value = detail[name];
  if (value === undefined) return false;
  if (typeof value === 'boolean') return value;
  throw invalid(`${name} must be true or false`);
}
