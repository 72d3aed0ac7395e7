/** Message types for tests: some of ROS's own, and any that ROS allows. */
import fc from 'fast-check';
import type { RosMessage, RosValue } from '../../../runtime/telemetry.ts';

const separator = '='.repeat(80);
const header = `std_msgs/Header header`;
const headerParts = `${separator}
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
${separator}
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
`;

/** As ROS has them, without the comments. */
export const definitions = {
  'std_msgs/msg/String': 'string data\n',
  'std_msgs/msg/Empty': '',
  'std_srvs/srv/Trigger_Response': 'bool success\nstring message\n',
  'sensor_msgs/msg/LaserScan': `# Single scan from a planar laser range-finder
${header}
float32 angle_min
float32 angle_max
float32 angle_increment
float32 time_increment
float32 scan_time
float32 range_min
float32 range_max
float32[] ranges
float32[] intensities
${headerParts}`,
  'sensor_msgs/msg/BatteryState': `${header}
uint8 POWER_SUPPLY_STATUS_UNKNOWN = 0
uint8 POWER_SUPPLY_STATUS_CHARGING = 1
float32 voltage
float32 temperature
float32 current
float32 charge
float32 capacity
float32 design_capacity
float32 percentage
uint8 power_supply_status
uint8 power_supply_health
uint8 power_supply_technology
bool present
float32[] cell_voltage
float32[] cell_temperature
string location
string serial_number
${headerParts}`,
  'sensor_msgs/msg/CompressedImage': `${header}
string format
uint8[] data
${headerParts}`,
  'nav_msgs/msg/Odometry': `${header}
string child_frame_id
geometry_msgs/PoseWithCovariance pose
geometry_msgs/TwistWithCovariance twist
${separator}
MSG: geometry_msgs/PoseWithCovariance
Pose pose
float64[36] covariance
${separator}
MSG: geometry_msgs/Pose
Point position
Quaternion orientation
${separator}
MSG: geometry_msgs/Point
float64 x
float64 y
float64 z
${separator}
MSG: geometry_msgs/Quaternion
float64 x 0
float64 y 0
float64 z 0
float64 w 1
${separator}
MSG: geometry_msgs/TwistWithCovariance
Twist twist
float64[36] covariance
${separator}
MSG: geometry_msgs/Twist
Vector3 linear
Vector3 angular
${separator}
MSG: geometry_msgs/Vector3
float64 x
float64 y
float64 z
${headerParts}`,
  'diagnostic_msgs/msg/DiagnosticArray': `${header}
DiagnosticStatus[] status
${separator}
MSG: diagnostic_msgs/DiagnosticStatus
byte OK=0
byte WARN=1
byte level
string name
string message
string hardware_id
KeyValue[] values
${separator}
MSG: diagnostic_msgs/KeyValue
string key
string value
${headerParts}`,
  'example_msgs/msg/Counters': `int64 signed
uint64 unsigned
int64[] history
uint64[3] last
builtin_interfaces/Duration took
builtin_interfaces/Time[] times
`,
} as const;

export type KnownType = keyof typeof definitions;

/** A type, its definition, and one message of it. */
export interface Sample {
  readonly type: string;
  readonly text: string;
  readonly message: RosMessage;
}

interface Shape {
  /** The line of the definition, for a field of this name. */
  line(name: string): string;
  /** Other parts of the definition. */
  readonly parts: string;
  readonly value: fc.Arbitrary<RosValue>;
}

/** Everything that UTF-8 can carry; CDR ends text with a zero, which text itself may hold. */
const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 12 }), fc.string({ maxLength: 12 }), awkward());

/** What YAML or JSON might take for something else. */
function awkward(): fc.Arbitrary<string> {
  return fc.constantFrom(
    ...['', ' ', '~', 'null', 'true', 'no', 'y', '1', '-0', '1e3', '0x10', '.nan', '.inf', 'NaN', 'Infinity'],
    ...[
      '2026-11-28',
      '12:30:45',
      '- a',
      'a: b',
      '#',
      '!!binary',
      '&a',
      '*a',
      '<<',
      '=',
      '|',
      '>',
      '%',
      '@',
      '`',
    ],
    ...[
      '---',
      '...',
      '"',
      "'",
      '\\',
      '\n',
      'a\n',
      '\r\n',
      '\t',
      '\u0085',
      '\u2028',
      '\ufeff',
      '\u007f',
      '😀',
    ],
  );
}

const float32 = fc.float();
const float64 = fc.double();
const int = (bits: number): fc.Arbitrary<number> =>
  fc.integer({ min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 });
const uint = (bits: number): fc.Arbitrary<number> => fc.integer({ min: 0, max: 2 ** bits - 1 });
const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const time = fc.record({ sec: int(32), nanosec: uint(32) });

const scalars: Readonly<Record<string, fc.Arbitrary<RosValue>>> = {
  bool: fc.boolean(),
  byte: uint(8),
  char: uint(8),
  int8: int(8),
  uint8: uint(8),
  int16: int(16),
  uint16: uint(16),
  int32: int(32),
  uint32: uint(32),
  int64,
  uint64,
  float32,
  float64,
  string: text,
  'builtin_interfaces/Time': time,
  'builtin_interfaces/Duration': time,
};

const arrays: Readonly<Record<string, (values: never[]) => RosValue>> = {
  byte: (values) => Uint8Array.from(values),
  char: (values) => Uint8Array.from(values),
  int8: (values) => Int8Array.from(values),
  uint8: (values) => Uint8Array.from(values),
  int16: (values) => Int16Array.from(values),
  uint16: (values) => Uint16Array.from(values),
  int32: (values) => Int32Array.from(values),
  uint32: (values) => Uint32Array.from(values),
  int64: (values) => BigInt64Array.from(values),
  uint64: (values) => BigUint64Array.from(values),
  float32: (values) => Float32Array.from(values),
  float64: (values) => Float64Array.from(values),
};

function primitive(): fc.Arbitrary<Shape> {
  const names = Object.keys(scalars);
  return fc
    .tuple(
      fc.constantFrom(...names),
      fc.constantFrom('one', 'list', 'fixed', 'bounded'),
      fc.integer({ min: 1, max: 5 }),
    )
    .map(([type, kind, count]) => {
      const one = scalars[type]!;
      if (kind === 'one') return { line: (name) => `${type} ${name}`, parts: '', value: one };
      const suffix = kind === 'list' ? '[]' : kind === 'fixed' ? `[${count}]` : `[<=${count}]`;
      const lengths = kind === 'fixed' ? { minLength: count, maxLength: count } : { maxLength: count };
      const items = fc.array(one, lengths);
      const typed = arrays[type];
      return {
        line: (name) => `${type}${suffix} ${name}`,
        parts: '',
        value: typed === undefined ? items : items.map((values) => typed(values as never[])),
      };
    });
}

let count = 0;

function nested(depth: number): fc.Arbitrary<Shape> {
  return fc.tuple(shapes(depth - 1), fc.constantFrom('one', 'list', 'fixed')).map(([inner, kind]) => {
    const type = `test_msgs/Part${(count += 1)}`;
    const one = valuesOf(inner);
    const suffix = { one: '', list: '[]', fixed: '[2]' }[kind];
    const value =
      kind === 'one'
        ? one
        : fc.array(one, kind === 'list' ? { maxLength: 3 } : { minLength: 2, maxLength: 2 });
    return { line: (name) => `${type}${suffix} ${name}`, parts: part(type, inner), value };
  });
}

const shapes = (depth: number): fc.Arbitrary<Shape[]> =>
  fc.array(depth > 0 ? fc.oneof({ weight: 3, arbitrary: primitive() }, nested(depth)) : primitive(), {
    maxLength: 6,
  });

const linesOf = (fields: readonly Shape[]): string =>
  fields.map((field, at) => `${field.line(nameOf(at))}\n`).join('');
/** Some that another notation may take for a word of its own. */
const nameOf = (at: number): string => ['x', 'y', 'no', 'on', 'null1', 'value', 'e1'][at % 7]!;
const valuesOf = (fields: readonly Shape[]): fc.Arbitrary<RosMessage> =>
  fc.record(Object.fromEntries(fields.map(({ value }, at) => [nameOf(at), value])));
const part = (type: string, fields: readonly Shape[]): string =>
  `${separator}\nMSG: ${type}\n${linesOf(fields)}${fields.map(({ parts }) => parts).join('')}`;

/** Any type that ROS 2 allows (but wstring, which has no agreed form), and a message of it. */
export const anyMessage: fc.Arbitrary<Sample> = shapes(3).chain((fields) =>
  valuesOf(fields).map((message) => ({
    type: 'test_msgs/msg/Any',
    text: `${linesOf(fields)}${fields.map(({ parts }) => parts).join('')}`,
    message,
  })),
);
