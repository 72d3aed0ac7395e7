/**
 * How fast are the four encodings of atoll/telemetry? From a message to bytes and back, on one core, against JSON.stringify
 * and JSON.parse of the same values as a plain object. Decoding is `decode`, as a reader calls it: headers, definition, values
 * of their types. CDR is written by who makes messages; what comes of ROS goes on as it is.
 */
import {
  decode,
  encode,
  readSchema,
  telemetryHeaders,
  type Encoding,
  type Telemetry,
} from '../runtime/telemetry.ts';
import { definitions } from '../test/runtime/telemetry/types.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';
import { laserScan, odometry } from './frame/ros-messages.ts';

/** Each contender writes so long in a round, and reads so long. */
const spanMs = scaled(300);
const encodings: readonly Encoding[] = ['yaml', 'json', 'cbor', 'cdr'];

for (const { name, type, message } of [
  { name: 'laserscan', type: 'sensor_msgs/msg/LaserScan', message: laserScan() },
  { name: 'odometry', type: 'nav_msgs/msg/Odometry', message: odometry() },
] as const) {
  const text = definitions[type];
  const schema = readSchema(type, text);

  const contender = (encoding: Encoding): Contender => {
    const telemetry: Telemetry = {
      encoding,
      robot: 'robot1',
      topic: '/bench',
      type,
      schema: schema.hash,
      received: Date.now(),
      run: 'bench',
      sequence: 1,
    };
    const headers = telemetryHeaders(telemetry);
    const data = encode(message, encoding, schema);
    return {
      name: encoding,
      round: () =>
        bothWays(
          data,
          () => encode(message, encoding, schema),
          () => decode({ data, headers }, { definitions: () => text }),
        ),
    };
  };

  const plainContender = (title: string): Contender => {
    const value = plain(message);
    const data = Buffer.from(JSON.stringify(value));
    return {
      name: title,
      round: () =>
        bothWays(
          data,
          () => Buffer.from(JSON.stringify(value)),
          // Awaited as decode is: the promise is no part of the difference.
          async () => JSON.parse(data.toString()) as unknown,
        ),
    };
  };

  await report(
    await compare({
      name: `telemetry-${name}`,
      text: `${type}, written and read for ${spanMs} ms each by each contender in a round.`,
      event: 'message',
      contenders: [
        plainContender('JSON of a plain object'),
        plainContender('an identical copy'),
        ...encodings.map(contender),
      ],
    }),
  );
}

async function bothWays(data: Uint8Array, write: () => Uint8Array, read: () => Promise<unknown>) {
  return {
    figures: {
      'written/s': await rateOf(write),
      'read/s': await rateOf(read),
      bytes: data.byteLength,
    },
  };
}

async function rateOf(work: () => unknown): Promise<number> {
  const started = performance.now();
  let elapsed = 0;
  let done = 0;
  while (elapsed < spanMs) {
    await work();
    done += 1;
    elapsed = performance.now() - started;
  }
  return (done / elapsed) * 1000;
}

/** As who has no types would hold it: lists instead of typed arrays. */
function plain(value: unknown): unknown {
  if (ArrayBuffer.isView(value)) return [...(value as Float32Array)];
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([field, one]) => [field, plain(one)]));
}
