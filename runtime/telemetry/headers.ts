/** What a message of a robot tells of itself, as NATS headers and back. */
import type { Encoding, Received, Telemetry } from '../telemetry.ts';

const contentTypes: Readonly<Record<Encoding, string>> = {
  yaml: 'application/yaml',
  json: 'application/json',
  cbor: 'application/cbor',
  // There is no registered one.
  cdr: 'application/x-cdr',
};

/** Of one message: 20 MB in pieces of 1 KiB, and some. */
const maxPieces = 65_536;

export function headersOf(telemetry: Telemetry): Record<string, string> {
  const { encoding, robot, topic, type, schema, stamp, received, run, sequence, fields, chunk } = telemetry;
  return {
    'Content-Type': contentTypes[encoding],
    'Ros-Robot': robot,
    'Ros-Topic': topic,
    'Ros-Type': type,
    ...(schema !== undefined && { 'Ros-Schema': schema }),
    ...(stamp !== undefined && { 'Ros-Stamp': `${stamp.sec}.${String(stamp.nanosec).padStart(9, '0')}` }),
    'Ros-Received': String(received),
    'Ros-Run': run,
    'Ros-Sequence': String(sequence),
    ...(fields !== undefined && { 'Ros-Fields': fields.join(',') }),
    ...(chunk !== undefined && { 'Ros-Chunk': `${chunk.number}/${chunk.of}` }),
  };
}

/** A text says what is missing or wrong. */
export function telemetryIn(headers: Received['headers']): Telemetry | string {
  const get = reader(headers);
  const contentType = get('Content-Type')?.split(';', 1)[0]!.trim().toLowerCase();
  const encoding = (Object.keys(contentTypes) as Encoding[]).find((one) => contentTypes[one] === contentType);
  if (encoding === undefined) {
    const known = Object.values(contentTypes).join(', ');
    return `the header Content-Type is ${shown(get('Content-Type'))}; telemetry has one of ${known}`;
  }
  const [robot, topic, type, run] = ['Ros-Robot', 'Ros-Topic', 'Ros-Type', 'Ros-Run'].map(get);
  const missing = [
    [robot, 'Ros-Robot'],
    [topic, 'Ros-Topic'],
    [type, 'Ros-Type'],
    [run, 'Ros-Run'],
  ].flatMap(([value, name]) => (value === undefined ? [name] : []));
  if (missing.length > 0) return `the header ${missing[0]} is missing; telemetry has it`;
  const received = number(get('Ros-Received'));
  const sequence = number(get('Ros-Sequence'));
  if (received === undefined) return wrong('Ros-Received', get, 'milliseconds since the epoch');
  if (sequence === undefined) return wrong('Ros-Sequence', get, 'a number from 1');
  const stamp = /^(-?\d{1,10})\.(\d{9})$/.exec(get('Ros-Stamp') ?? '');
  if (stamp === null && get('Ros-Stamp') !== undefined) return wrong('Ros-Stamp', get, 'seconds.nanoseconds');
  const chunk = /^(\d{1,6})\/(\d{1,6})$/
    .exec(get('Ros-Chunk') ?? '')
    ?.slice(1)
    .map(Number);
  if (
    get('Ros-Chunk') !== undefined &&
    !(chunk && chunk[0]! >= 1 && chunk[0]! <= chunk[1]! && chunk[1]! <= maxPieces)
  ) {
    return wrong('Ros-Chunk', get, `number/of, of at most ${maxPieces}`);
  }
  const schema = get('Ros-Schema');
  const fields = get('Ros-Fields');
  return {
    encoding,
    robot: robot!,
    topic: topic!,
    type: type!,
    ...(schema !== undefined && { schema }),
    ...(stamp !== null && { stamp: { sec: Number(stamp[1]), nanosec: Number(stamp[2]) } }),
    received,
    run: run!,
    sequence,
    ...(fields !== undefined && { fields: fields.split(',') }),
    ...(chunk !== undefined && { chunk: { number: chunk[0]!, of: chunk[1]! } }),
  };
}

/** NATS' own headers or a record; names as they were sent, or as HTTP writes them. '' is what NATS has for none. */
function reader(headers: Received['headers']): (name: string) => string | undefined {
  if (headers === undefined) return () => undefined;
  if (typeof headers.get === 'function') {
    const { get } = headers as { get(name: string): string };
    return (name) => get.call(headers, name) || undefined;
  }
  const record = headers as Readonly<Record<string, string>>;
  return (name) => (record[name] ?? record[name.toLowerCase()]) || undefined;
}

function number(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : undefined;
}

function wrong(name: string, get: (name: string) => string | undefined, allowed: string): string {
  return `the header ${name} is ${shown(get(name))}; telemetry has ${allowed}`;
}

const shown = (value: string | undefined): string =>
  value === undefined ? 'missing' : JSON.stringify(value);
