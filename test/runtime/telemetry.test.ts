import { decode as decodeByAnother } from 'cbor-x';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import {
  decode,
  encode,
  openAssembly,
  readCdr,
  readSchema,
  schemaHash,
  telemetryHeaders,
  telemetryOf,
  typed,
  type Encoding,
  type Received,
  type RosMessage,
  type Telemetry,
} from '../../runtime/telemetry.ts';
import { anyMessage, definitions, type KnownType, type Sample } from './telemetry/types.ts';

const encodings = ['yaml', 'json', 'cbor', 'cdr'] as const;
const scan: Telemetry = {
  encoding: 'cdr',
  robot: 'robot1',
  topic: '/scan',
  type: 'sensor_msgs/msg/LaserScan',
  schema: schemaHash(definitions['sensor_msgs/msg/LaserScan']),
  stamp: { sec: 1_764_000_000, nanosec: 5_000_000 },
  received: 1_764_000_000_123,
  run: 'k3x9',
  sequence: 7,
};

function sent({ type, text, message }: Sample, encoding: Encoding): Received {
  const telemetry = { ...scan, encoding, topic: '/any', type, schema: schemaHash(text) };
  return { data: encode(message, encoding, readSchema(type, text)), headers: telemetryHeaders(telemetry) };
}

const known = (type: KnownType, message: RosMessage): Sample => ({ type, text: definitions[type], message });

async function read(received: Received, text: string | undefined): Promise<RosMessage> {
  return (await decode(received, { definitions: () => text })).message;
}

describe('what is encoded is decoded the same, whatever the type', () => {
  test.each(encodings)('%s', async (encoding) => {
    await fc.assert(
      fc.asyncProperty(anyMessage, async (sample) => {
        const expected = encoding === 'cdr' ? withoutMarks(sample.message) : sample.message;
        expect(await read(sent(sample, encoding), sample.text)).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });
});

/** The library that reads CDR takes a byte order mark off the beginning of a text. */
function withoutMarks(value: unknown): unknown {
  if (typeof value === 'string') return value.replace(/^\ufeff/, '');
  if (Array.isArray(value)) return value.map(withoutMarks);
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, withoutMarks(one)]));
}

describe('without the definition', () => {
  test.each(['yaml', 'json', 'cbor'] as const)('%s gives what the document has', async (encoding) => {
    const sample = known('std_srvs/srv/Trigger_Response', { success: true, message: 'docked' });
    const decoded = await decode(sent(sample, encoding));
    expect(decoded).toMatchObject({ typed: false, message: sample.message });
  });

  test('CDR cannot be read, and why is said', async () => {
    const received = sent(known('std_msgs/msg/String', { data: 'x' }), 'cdr');
    await expect(decode(received)).rejects.toThrow(
      /^\/any: std_msgs\/msg\/String in CDR cannot be read: decode\(\) was given no definitions$/,
    );
    await expect(decode(received, { definitions: () => undefined })).rejects.toMatchObject({
      code: 'NoDefinition',
      message: expect.stringContaining(schemaHash('string data\n')) as string,
    });
  });

  test('64-bit integers are never rounded', async () => {
    const sample = known('example_msgs/msg/Counters', {
      signed: -9_007_199_254_740_993n,
      unsigned: 2n ** 64n - 1n,
      history: BigInt64Array.of(2n ** 53n + 1n),
    });
    const inYaml = (await decode(sent(sample, 'yaml'))).message;
    expect(inYaml).toMatchObject({ signed: -9_007_199_254_740_993n, unsigned: 18_446_744_073_709_551_615n });
    const inCbor = (await decode(sent(sample, 'cbor'))).message;
    expect(inCbor).toMatchObject({ signed: -9_007_199_254_740_993n, unsigned: 18_446_744_073_709_551_615n });
    const inJson = (await decode(sent(sample, 'json'))).message;
    expect(inJson).toMatchObject({ signed: '-9007199254740993', unsigned: '18446744073709551615' });
    expect(inJson['history']).toEqual(['9007199254740993']);
  });
});

describe('what others read', () => {
  const message = {
    header: { stamp: { sec: 5, nanosec: 7 }, frame_id: 'laser' },
    angle_min: -0.5,
    ranges: Float32Array.of(1.5, NaN, Infinity, -Infinity, -0),
    intensities: new Float32Array(),
  };

  test('YAML reads well, and a reader of YAML 1.2 takes it as it is meant', () => {
    const text = Buffer.from(encode(message, 'yaml')).toString();
    expect(text).toBe(
      [
        'header:',
        '  stamp:',
        '    sec: 5',
        '    nanosec: 7',
        '  frame_id: laser',
        'angle_min: -0.5',
        'ranges: [1.5, .nan, .inf, -.inf, -0.0]',
        'intensities: []',
        '',
      ].join('\n'),
    );
    expect(parseYaml(text, { version: '1.2' })).toEqual({
      ...message,
      ranges: [1.5, NaN, Infinity, -Infinity, -0],
      intensities: [],
    });
    const status: RosMessage = {
      status: [{ name: 'no', values: [{ key: 'a: b', value: '1' }] }, {}],
      x: 1e-7,
      y: 2 ** 60,
    };
    expect(Buffer.from(encode(status, 'yaml')).toString()).toBe(
      [
        'status:',
        '  - name: "no"',
        '    values:',
        '      - key: "a: b"',
        '        value: "1"',
        '  - {}',
        'x: 1.0e-7',
        'y: 1.152921504606847e+18',
        '',
      ].join('\n'),
    );
    expect(Buffer.from(encode({ data: Uint8Array.of(0, 255) }, 'yaml')).toString()).toBe(
      'data: !!binary "AP8="\n',
    );
    expect(Buffer.from(encode({}, 'yaml')).toString()).toBe('{}\n');
  });

  test('JSON is JSON: NaN, the infinities and 64-bit integers as text, bytes as base64', () => {
    const all = { ...message, count: 2n ** 63n, data: Uint8Array.of(0, 255) };
    const text = Buffer.from(encode(all, 'json')).toString();
    expect(JSON.parse(text)).toEqual({
      ...message,
      ranges: [1.5, 'NaN', 'Infinity', '-Infinity', -0],
      intensities: [],
      count: '9223372036854775808',
      data: 'AP8=',
    });
  });

  test('CBOR is what another library takes it for, typed arrays as RFC 8746 has them', () => {
    expect(Buffer.from(encode({ a: Float32Array.of(1.5) }, 'cbor')).toString('hex')).toBe(
      'a16161d855440000c03f',
    );
    fc.assert(
      fc.property(anyMessage, ({ message: any }) => {
        const theirs: unknown = decodeByAnother(Buffer.from(encode(any, 'cbor')));
        expect(numbers(theirs)).toEqual(numbers(any));
      }),
      { numRuns: 200 },
    );
  });
});

/** That library has its own idea of when an integer is a BigInt. */
function numbers(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (typeof value === 'number')
    return Number.isInteger(value) && !Object.is(value, -0) ? String(BigInt(value)) : value;
  if (ArrayBuffer.isView(value))
    return [
      value.constructor.name.replace('Buffer', 'Uint8Array'),
      Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex'),
    ];
  if (Array.isArray(value)) return value.map(numbers);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, numbers(one)]));
}

describe('CDR', () => {
  const schema = readSchema('std_msgs/msg/String', 'string data\n');
  // Written by rmw_fastrtps.
  const hello = Buffer.from('00010000060000' + '0068656c6c6f00', 'hex');

  test("a middleware's bytes are read, and ours are the same", () => {
    expect(readCdr(schema, hello)).toEqual({ data: 'hello' });
    expect(Buffer.from(encode({ data: 'hello' }, 'cdr', schema))).toEqual(hello);
    const big = Buffer.from('00000000000000060068656c6c6f00'.replace('0600', '06'), 'hex');
    expect(readCdr(schema, big)).toEqual({ data: 'hello' });
  });

  test('text that is not ASCII keeps all its bytes', () => {
    expect(readCdr(schema, encode({ data: 'Lüfter 😀' }, 'cdr', schema))).toEqual({ data: 'Lüfter 😀' });
  });

  test('a message that is cut short is never filled up with what lies behind it', () => {
    const text = definitions['sensor_msgs/msg/LaserScan'];
    const laser = readSchema('sensor_msgs/msg/LaserScan', text);
    const whole = encode({ ranges: Float32Array.of(1, 2, 3), intensities: Float32Array.of(4) }, 'cdr', laser);
    const memory = Buffer.concat([Buffer.alloc(8), whole, Buffer.alloc(64, 1)]);
    for (let length = 0; length < whole.length; length += 1) {
      expect(() => readCdr(laser, memory.subarray(8, 8 + length)), `${length} bytes`).toThrow();
    }
    expect(() => readCdr(laser, memory.subarray(8, 8 + whole.length))).not.toThrow();
    expect(() => readCdr(laser, memory.subarray(8, 8 + whole.length + 4))).toThrow(
      `4 bytes are left over of ${whole.length + 4}: the sender has another definition of the type`,
    );
  });

  test('bytes that are no CDR, and types that are none, are told', async () => {
    const received = sent(known('std_msgs/msg/String', { data: 'x' }), 'cdr');
    await expect(read({ ...received, data: Buffer.from('{}') }, 'string data\n')).rejects.toMatchObject({
      code: 'Undecodable',
      message: expect.stringMatching(/^\/any: std_msgs\/msg\/String in CDR: /) as string,
    });
    expect(() => readSchema('a/msg/B', 'wrong line here\n')).toThrow();
    expect(() => readSchema('a/msg/B', 'c_msgs/Missing field\n')).toThrow(/Missing/);
    const wide = readSchema('a/msg/B', 'wstring field\n');
    expect(() => readCdr(wide, hello)).toThrow(/wstring/);
  });

  test('any bytes give a message or an error, at once', () => {
    const all = Object.entries(definitions).map(([type, text]) => readSchema(type, text));
    fc.assert(
      fc.property(fc.constantFrom(...all), fc.uint8Array({ maxLength: 200 }), (one, bytes) => {
        const data = Uint8Array.of(0, 1, 0, 0, ...bytes);
        try {
          expect(typeof readCdr(one, data)).toBe('object');
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('documents that are no such message', () => {
  const odd = (encoding: 'yaml' | 'json' | 'cbor', data: Uint8Array): Received => ({
    data,
    headers: telemetryHeaders({ ...scan, encoding }),
  });

  test.each([
    ['json', '{', /JSON/],
    ['json', '[1]', /must be an object of fields/],
    [
      'json',
      '{"ranges":[1,"x"]}',
      /ranges\[1\] is "x"; it must be a number, or one of "NaN", "Infinity", "-Infinity"/,
    ],
    ['json', '{"header":{"stamp":{"sec":5000000000}}}', /header\.stamp\.sec is 5000000000; it must be int32/],
    ['json', '{"rangse":[]}', /LaserScan has no field "rangse"; it has header, angle_min/],
    ['yaml', 'a: b: c', /YAML/],
    ['yaml', 'ranges: &a [1]\nintensities: *a', /Alias/],
    ['cbor', '\x9f', /cut short/],
    ['cbor', '\xa1\x61', /cut short/],
    ['cbor', '\xa0\x00', /1 bytes follow/],
    ['cbor', '\xa1\x00\x00', /named by a number/],
  ] as const)('%s %j', async (encoding, text, why) => {
    const received = odd(encoding, Buffer.from(text, 'latin1'));
    const failure = read(received, definitions['sensor_msgs/msg/LaserScan']);
    await expect(failure).rejects.toMatchObject({ name: 'TelemetryError', code: 'Undecodable' });
    await expect(failure).rejects.toThrow(why);
  });

  test('any bytes give a message or a TelemetryError', async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom('yaml', 'json', 'cbor'), fc.uint8Array(), async (encoding, bytes) => {
        const outcome = await decode(odd(encoding, bytes)).catch((error: unknown) => error);
        // One byte of CBOR, or two of JSON, are a message without fields, which fits the type.
        const message = expect.any(Object) as object;
        expect(outcome).toMatchObject(outcome instanceof Error ? { code: 'Undecodable' } : { message });
      }),
      { numRuns: 1000 },
    );
  });

  test('a document of many fields is read or refused at once, in YAML as in the others', async () => {
    const lines = Array.from({ length: 20_000 }, (_, index) => `k${index}: 1\n`).join('');
    const before = performance.now();
    const untyped = telemetryHeaders({ ...scan, encoding: 'yaml', schema: schemaHash('known to nobody') });
    const { message } = await decode({ headers: untyped, data: Buffer.from(lines) });
    expect(Object.keys(message)).toHaveLength(20_000);
    await expect(decode(odd('yaml', Buffer.from(`${lines}k7: 2\n`)))).rejects.toThrow(/"k7" is there twice/);
    expect(performance.now() - before).toBeLessThan(20_000);
  });

  test('a field that is there twice in a message within is refused', async () => {
    for (const text of ['a:\n  - {x: 1, x: 1}\n', 'a: {1: x, "1": y}']) {
      await expect(decode(odd('yaml', Buffer.from(text)))).rejects.toThrow(/"[x1]" is there twice/);
    }
  });

  test('an integer of a megabyte is refused without its digits', () => {
    const integer = 1n << 8_000_000n;
    expect(() => typed(readSchema('a/T', 'int32 v'), { v: integer })).toThrow(
      'v is an integer of more than 128 bits; it must be int32',
    );
    expect(() => typed(readSchema('a/T', 'uint64 v'), { v: 2n ** 64n })).toThrow('18446744073709551616');
  });

  test('a definition that doubles with each message within is refused before it fills the memory', () => {
    const doubling = (levels: number): string =>
      Array.from({ length: levels }, (_, level) => {
        const body = `a/L${level + 1} left\na/L${level + 1} right`;
        return level === 0 ? body : `MSG: a/L${level}\n${body}`;
      })
        .concat(`MSG: a/L${levels}\nuint8 x`)
        .join(`\n${'='.repeat(80)}\n`);
    expect(readSchema('a/L0', doubling(10)).fields).toHaveLength(2);
    expect(() => readSchema('a/L0', doubling(30))).toThrow(/more than the 65536 fields/);
  });

  test('a list of a length that is a lie costs nothing', () => {
    return Promise.all(
      ['9bffffffffffffffff', '9a7fffffff', 'bb00ffffffffffffff', '5bffffffffffffffff', '7affffffff'].map(
        (hex) => expect(decode(odd('cbor', Buffer.from(hex, 'hex')))).rejects.toThrow(/cut short/),
      ),
    );
  });
});

describe('values that are given for a type', () => {
  const schema = readSchema('example_msgs/msg/Counters', definitions['example_msgs/msg/Counters']);

  test('may be as JSON has them', () => {
    const message = typed(schema, {
      signed: '-5',
      unsigned: 7,
      last: ['1', 2, '18446744073709551615'],
      took: { sec: 1, nanosec: 2 },
      times: [{ sec: 3, nanosec: 4 }],
    });
    expect(message).toEqual({
      signed: -5n,
      unsigned: 7n,
      last: BigUint64Array.of(1n, 2n, 2n ** 64n - 1n),
      took: { sec: 1, nanosec: 2 },
      times: [{ sec: 3, nanosec: 4 }],
    });
  });

  test.each([
    [
      { signed: 2 ** 53 },
      /^signed is 9007199254740992; it must be int64: an integer .* beyond 2\^53 as decimal text$/,
    ],
    [{ unsigned: -1 }, /^unsigned is -1; it must be uint64/],
    [{ last: [1, 2] }, /^last has 2 values; it must have 3$/],
    [{ took: 5 }, /^took is 5; it must be an object of fields$/],
    [{ speed: 1 }, /^example_msgs\/msg\/Counters has no field "speed"; it has signed, unsigned, /],
    [null, /^the message is null; it must be an object of fields$/],
  ])('%j is refused', (message, why) => {
    expect(() => typed(schema, message)).toThrow(why);
  });
});

describe('headers', () => {
  test('tell all that is to be known, and come back as they were', () => {
    const full: Telemetry = { ...scan, fields: ['header.stamp', 'ranges'], chunk: { number: 2, of: 3 } };
    const headers = telemetryHeaders(full);
    expect(headers).toEqual({
      'Content-Type': 'application/x-cdr',
      'Ros-Robot': 'robot1',
      'Ros-Topic': '/scan',
      'Ros-Type': 'sensor_msgs/msg/LaserScan',
      'Ros-Schema': scan.schema,
      'Ros-Stamp': '1764000000.005000000',
      'Ros-Received': '1764000000123',
      'Ros-Run': 'k3x9',
      'Ros-Sequence': '7',
      'Ros-Fields': 'header.stamp,ranges',
      'Ros-Chunk': '2/3',
    });
    expect(telemetryOf({ data: new Uint8Array(), headers })).toEqual(full);
    const lowerCase = Object.fromEntries(
      Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]),
    );
    expect(telemetryOf({ data: new Uint8Array(), headers: lowerCase })).toEqual(full);
    const ofNats = { get: (name: string) => headers[name] ?? '' };
    expect(telemetryOf({ data: new Uint8Array(), headers: ofNats })).toEqual(full);
  });

  test.each([
    [{}, 'Content-Type is "text/plain"', 'text/plain'],
    [{ 'Ros-Robot': '' }, 'Ros-Robot is missing', undefined],
    [{ 'Ros-Received': 'now' }, 'Ros-Received is "now"', undefined],
    [{ 'Ros-Sequence': '' }, 'Ros-Sequence is missing', undefined],
    [{ 'Ros-Stamp': '5' }, 'Ros-Stamp is "5"', undefined],
    [{ 'Ros-Chunk': '4/3' }, 'Ros-Chunk is "4/3"', undefined],
    [{ 'Ros-Chunk': '1/99999999' }, 'Ros-Chunk is "1/99999999"', undefined],
  ])('%j: %s', (wrong, why, contentType) => {
    const headers = {
      ...telemetryHeaders(scan),
      ...wrong,
      ...(contentType && { 'Content-Type': contentType }),
    };
    expect(() => telemetryOf({ data: new Uint8Array(), headers })).toThrow(
      `the header ${why}; telemetry has`,
    );
  });

  test('a definition that is not the one asked for is not used', async () => {
    const text = 'string data\n# not seen before\n';
    const received = sent({ type: 'std_msgs/msg/String', text, message: { data: 'x' } }, 'json');
    await expect(decode(received, { definitions: () => 'string other\n' })).rejects.toMatchObject({
      code: 'WrongDefinition',
    });
  });

  test('a definition is asked for once', async () => {
    const text = 'string data\n# once\n';
    let asked = 0;
    const options = { definitions: () => ((asked += 1), Promise.resolve(text)) };
    const received = sent({ type: 'std_msgs/msg/String', text, message: { data: 'x' } }, 'cdr');
    for (let time = 0; time < 3; time += 1) await decode(received, options);
    expect(asked).toBe(1);
  });
});

describe('pieces', () => {
  const pieces = (sequence: number, texts: readonly string[], topic = '/camera'): Received[] =>
    texts.map((text, index) => ({
      data: Buffer.from(text),
      headers: telemetryHeaders({ ...scan, topic, sequence, chunk: { number: index + 1, of: texts.length } }),
    }));

  test('are put together, in whatever order they come, once', () => {
    const assembly = openAssembly();
    const [first, second, third] = pieces(1, ['ab', 'cd', 'e']);
    expect([third, first, first].map((piece) => assembly.add(piece!))).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    const whole = assembly.add(second!);
    expect(Buffer.from(whole!.data).toString()).toBe('abcde');
    expect(telemetryOf(whole!)).toEqual({ ...scan, topic: '/camera', sequence: 1 });
    expect(assembly.incomplete).toBe(0);
  });

  test('the newest message wins, topics do not disturb each other, what is whole passes', () => {
    const assembly = openAssembly();
    const old = pieces(1, ['a', 'b']);
    const newer = pieces(2, ['c', 'd']);
    const other = pieces(9, ['x', 'y'], '/rear');
    for (const piece of [old[0], other[0], newer[0]]) expect(assembly.add(piece!)).toBeUndefined();
    expect(Buffer.from(assembly.add(newer[1]!)!.data).toString()).toBe('cd');
    expect(Buffer.from(assembly.add(other[1]!)!.data).toString()).toBe('xy');
    expect(assembly.incomplete).toBe(1);
    const whole = { data: Buffer.from('w'), headers: telemetryHeaders(scan) };
    expect(assembly.add(whole)).toBe(whole);
  });

  test('alone are not decoded', async () => {
    await expect(decode(pieces(1, ['a', 'b'])[0]!)).rejects.toMatchObject({
      code: 'Piece',
      message: '/camera: this is piece 1 of 2; openAssembly() puts them together',
    });
  });
});
