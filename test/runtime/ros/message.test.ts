import { expect, test } from 'vitest';
import { codecOf } from '../../../runtime/ros/message.ts';

const everything = `
bool flag
byte octet
char letter
int8 small
uint16 port 7
int32 level
uint64 big
int64 negative
float32 single
float64 double
string text "hello"
string<=4 short
builtin_interfaces/Time stamp
uint8 CONSTANT=3
float32[] ranges
uint8[3] rgb
int64[] longs
string[] names
bool[2] both
float64[<=2] two
Part part
Part[] parts
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
================================================================================
MSG: probe/Part
string name
float64 x
`;
const codec = codecOf(everything, 'probe/msg/Everything');
const back = (value: unknown): Record<string, unknown> => codec.decode(codec.encode(value));

test('what is written is read again, whatever the field', () => {
  const value = {
    flag: true,
    octet: 100,
    letter: 65,
    small: -128,
    port: 65535,
    level: -(2 ** 31),
    big: 2n ** 64n - 1n,
    negative: -(2n ** 63n),
    single: 1.5,
    double: -0.1,
    text: 'grüße, 世界 🌍',
    short: 'äö',
    stamp: { sec: -1, nanosec: 999_999_999 },
    ranges: new Float32Array([1, NaN, Infinity, -Infinity]),
    rgb: [1, 2, 255],
    longs: [1n, -(2n ** 63n)],
    names: ['a', 'ü', ''],
    both: [true, false],
    two: [1, 2],
    part: { name: 'wheel', x: 1 },
    parts: [
      { name: 'a', x: 1 },
      { name: 'bc', x: 2 },
    ],
  };
  expect(back(value)).toEqual({
    ...value,
    rgb: new Uint8Array(value.rgb),
    longs: new BigInt64Array(value.longs),
    two: new Float64Array(value.two),
  });
});

test('what is left out has its default', () => {
  expect(back({})).toMatchObject({
    flag: false,
    port: 7,
    text: 'hello',
    big: 0n,
    stamp: { sec: 0, nanosec: 0 },
    ranges: new Float32Array(),
    rgb: new Uint8Array(3),
    part: { name: '', x: 0 },
    parts: [],
  });
  expect(codec.encode(undefined)).toEqual(codec.encode({}));
});

test('an empty message is one byte, as in IDL', () => {
  const empty = codecOf('', 'std_srvs/srv/Empty_Request');
  expect(empty.encode({})).toEqual(Buffer.from([0, 1, 0, 0, 0]));
  expect(empty.decode(empty.encode({}))).toEqual({});
});

test.each([
  [{ flg: true }, 'probe/msg/Everything has no field flg; it has flag, octet'],
  [{ part: { y: 1 } }, 'has no field part.y; it has name, x'],
  [{ flag: 1 }, 'flag: must be true or false, not 1'],
  [{ port: 65536 }, 'port: must be an integer from 0 to 65535, not 65536'],
  [{ level: 1.5 }, 'level: must be an integer from -2147483648 to 2147483647, not 1.5'],
  [{ big: 2 ** 60 }, 'big: must be an integer from 0 to 18446744073709551615; beyond ±(2^53 - 1) a bigint'],
  [{ big: -1n }, 'big: must be an integer from 0'],
  [{ double: '1' }, 'double: must be a number, not "1"'],
  [{ text: 1 }, 'text: must be a string, not 1'],
  [{ short: 'äöü' }, 'short: must be a string of at most 4 bytes'],
  [{ rgb: [1] }, 'rgb: must be a list of exactly 3 uint8'],
  [{ two: [1, 2, 3] }, 'two: must be a list of at most 2 float64'],
  [{ names: 'a' }, 'names: must be a list of string, not "a"'],
  [{ parts: [{ x: 'a' }] }, 'parts[0].x: must be a number'],
  [{ stamp: 5 }, 'stamp: must be an object { sec, nanosec }, not 5'],
  [{ part: 'x' }, 'part: must be an object with name, x, not "x"'],
  [[], 'must be an object with flag'],
] as [unknown, string][])('%o is refused, and why: %s', (value, says) => {
  expect(() => codec.encode(value)).toThrow(says);
});

test('bytes that are no such message are refused, or read as what they are, and take no memory that is not there', () => {
  expect(() => codec.decode(new Uint8Array(3))).toThrow();
  const text = codecOf('string data', 'std_msgs/msg/String');
  expect(() => text.decode(Buffer.from([0, 1, 0, 0, 255, 255, 255, 127]))).toThrow();
  const names = codecOf('string[] data', 'probe/msg/Names');
  expect(() => names.decode(Buffer.from([0, 1, 0, 0, 255, 255, 255, 255]))).toThrow();
  // A slice of a larger buffer: what lies behind it is another message's.
  const pool = codecOf('uint8[] data', 'probe/msg/Bytes');
  const whole = Buffer.from([0, 1, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect(() => pool.decode(whole.subarray(0, 12))).toThrow('cut short: 12 bytes, and its lengths ask for 16');
  expect(() => text.decode(Buffer.concat([text.encode({ data: 'a' }), Buffer.alloc(8)]))).toThrow(
    'left over',
  );
});
