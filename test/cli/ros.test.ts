import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { buildAtoll } from '../../tools/build.ts';
import { missing } from '../support/requirement.ts';
import { rosEnvironment } from '../support/ros.ts';
import { faas, folderWith, root } from './run.ts';

/** A prefix as a build leaves it, with what interfaces can hold. */
const prefixOf = (files: Readonly<Record<string, string>>) =>
  folderWith(Object.fromEntries(Object.entries(files).map(([path, text]) => [`share/${path}`, text])));

const builtin = {
  'builtin_interfaces/msg/Time.msg': 'int32 sec\nuint32 nanosec\n',
  'builtin_interfaces/msg/Duration.msg': 'int32 sec\nuint32 nanosec\n',
};
const sample = {
  ...builtin,
  'std_msgs/msg/Header.msg': 'builtin_interfaces/Time stamp\nstring frame_id\n',
  'std_msgs/msg/Empty.msg': '# nothing\n',
  'std_srvs/srv/Trigger.srv': '---\nbool success # whether it went well\nstring message\n',
  'demo_msgs/msg/Part.msg': 'wstring<=5 label\nuint8[16] id\nbyte[] rest\nchar letter 65\n',
  'demo_msgs/msg/Whole.msg': [
    '# Everything that a message can hold.',
    'uint8 IDLE=0',
    'string GREETING="*/ hello"',
    'std_msgs/Header header',
    'Part[] parts',
    'demo_msgs/msg/Part first',
    'builtin_interfaces/Duration[<=3] waits',
    'float32[] ranges',
    'float64[9] matrix [0, 0, 0, 0, 0, 0, 0, 0, 1]',
    'int64 big -1',
    'uint64[] bigger',
    'bool[] flags',
    'string[<=2] names',
    'std_msgs/Empty nothing',
  ].join('\n'),
  'demo_msgs/srv/Ask.srv': 'Whole whole\n# between\n---\nint64[] numbers\n',
};

/** Compiles it as a handler's project would; what the compiler says, or nothing. */
async function compile(types: string, source: string): Promise<string> {
  const folder = await folderWith({
    'ros.d.ts': types,
    'handler.ts': source,
    'package.json': '{ "type": "module" }',
    'tsconfig.json': JSON.stringify({
      compilerOptions: {
        strict: true,
        noUncheckedIndexedAccess: true,
        noEmit: true,
        target: 'esnext',
        module: 'nodenext',
        types: ['node'],
        typeRoots: [join(root, 'node_modules', '@types')],
      },
    }),
  });
  await buildAtoll(join(folder, 'node_modules', 'atoll'));
  try {
    execFileSync(join(root, 'node_modules', '.bin', 'tsc'), ['-p', folder], { encoding: 'utf8' });
    return '';
  } catch (error) {
    return (error as { stdout: string }).stdout;
  }
}

const using = (expressions: string) => `
import { ros, type RosMessages, type RosServices } from 'atoll';
import type { demo_msgs } from './ros.d.ts';
declare const whole: demo_msgs.msg.Whole;
declare const named: RosMessages['demo_msgs/msg/Whole'];
declare const trigger: RosServices['std_srvs/srv/Trigger'];
${expressions}
`;

test('ROS interfaces become TypeScript that a strict compiler takes', async () => {
  const prefix = await prefixOf(sample);
  const out = join(prefix, 'generated', 'ros.d.ts');
  const { code, stderr } = await faas(['ros', 'types', '--out', out], { env: { AMENT_PREFIX_PATH: prefix } });
  expect({ code, stderr }).toEqual({ code: 0, stderr: `${out}: 6 messages and 2 services\n` });
  const types = await readFile(out, 'utf8');
  expect(
    await compile(
      types,
      using(`
        export const a: bigint = whole.big;
        export const b: BigUint64Array = named.bigger;
        export const c: Float32Array = whole.ranges;
        export const d: number = whole.header.stamp.nanosec + (whole.waits[0]?.sec ?? 0);
        export const e: Uint8Array = whole.first.id;
        export const f: number = whole.parts[0]!.letter;
        export const g: string[] = whole.names;
        export const h: boolean[] = whole.flags;
        export const i: typeof trigger.request = {};
        export const j: boolean = trigger.response.success;
        export const k: demo_msgs.srv.Ask_Request = { whole: named };
        export const l: BigInt64Array = ({} as demo_msgs.srv.Ask_Response).numbers;
        await ros.publish('/whole', 'demo_msgs/msg/Whole', { ranges: [1, 2], bigger: [3n], header: { frame_id: 'map' } });
        await ros.publish('/whole', 'demo_msgs/msg/Whole', whole);
        await ros.publish('/whole', 'demo_msgs/msg/Whole', new Uint8Array(8));
        await ros.publish('/unknown', 'other_msgs/msg/Other', { anything: 1 });
        const { success } = await ros.call('/trigger', 'std_srvs/srv/Trigger');
        export const m: boolean = success;
        export const n = (await ros.call('/ask', 'demo_msgs/srv/Ask', { whole: { big: 1n } })).numbers.at(0);
        export const o: unknown = (await ros.call('/unknown', 'other_msgs/srv/Other', { anything: 1 }))['x'];
        export const p: number = (await ros.call<{ x: number }>('/unknown', 'other_msgs/srv/Other', { y: 1 })).x;
      `),
    ),
  ).toBe('');
  expect(types).toContain('* IDLE = 0');
});

test('what is not as ROS has it is an error of the compiler', async () => {
  const prefix = await prefixOf(sample);
  const { stdout } = await faas(['ros', 'types', '--out', '-'], { env: { AMENT_PREFIX_PATH: prefix } });
  const wrong = [
    'whole.missing',
    'export const n: number = whole.big',
    'trigger.response = { success: true }',
    `await ros.publish('/whole', 'demo_msgs/msg/Whole', { rangs: [1] })`,
    `await ros.call('/ask', 'demo_msgs/srv/Ask', { whole: { big: 1 } })`,
  ];
  const said = await compile(stdout, using(wrong.join(';\n')));
  expect(said).toContain("Property 'missing' does not exist on type 'Whole'");
  expect(said).toContain("Type 'bigint' is not assignable to type 'number'");
  expect(said).toContain("Property 'message' is missing in type '{ success: true; }'");
  expect(said).toContain("'rangs' does not exist in type");
  expect(said).toContain('No overload matches this call');
  expect(said.match(/error TS/g)).toHaveLength(wrong.length);
});

test('the first prefix that has a package is the one that counts, as in ROS', async () => {
  const [over, under] = await Promise.all([
    prefixOf({ 'demo_msgs/msg/Part.msg': 'int64 mine\n' }),
    prefixOf({
      ...builtin,
      'demo_msgs/msg/Part.msg': 'int8 theirs\n',
      'demo_msgs/msg/Other.msg': 'bool x\n',
    }),
  ]);
  const env = { AMENT_PREFIX_PATH: [over, under].join(delimiter) };
  const { stdout } = await faas(['ros', 'types', '--out', '-'], { env });
  expect(stdout).toContain('mine: bigint;');
  expect(stdout).toContain('namespace builtin_interfaces');
  expect(stdout).not.toMatch(/theirs|Other/);
});

test('with --package only that and what it is made of is written', async () => {
  const prefix = await prefixOf({ ...sample, 'std_msgs/msg/Unused.msg': 'bool x\n' });
  const env = { AMENT_PREFIX_PATH: prefix };
  const { stdout } = await faas(['ros', 'types', '--out', '-', '--package', 'demo_msgs'], { env });
  expect([...stdout.matchAll(/^export namespace (\w+)/gm)].map(([, name]) => name)).toEqual([
    'builtin_interfaces',
    'demo_msgs',
    'std_msgs',
  ]);
  expect(stdout).not.toMatch(/Unused|std_srvs/);
  const wrong = await faas(['ros', 'types', '--package', 'demo_msg'], { env });
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain('there are no interfaces of "demo_msg"');
  expect(wrong.stderr).toContain('Present are: builtin_interfaces, demo_msgs, std_msgs, std_srvs.');
});

test('a file that is no interface is left out and named, and so is a message whose package is absent', async () => {
  const prefix = await prefixOf({
    'demo_msgs/msg/Broken.msg': 'int32\n',
    'demo_msgs/msg/Half.msg': 'tf2_msgs/TFMessage transform\nbool x\n',
    'demo_msgs/srv/Short.srv': 'bool x\n',
  });
  const out = join(prefix, 'ros.d.ts');
  const env = { AMENT_PREFIX_PATH: prefix };
  const { code, stdout, stderr } = await faas(['ros', 'types', '--out', out, '-o', 'json'], { env });
  expect(code).toBe(0);
  expect(stderr).toMatch(/Broken\.msg is left out: Could not parse line/);
  expect(stderr).toMatch(/Short\.srv is left out: a service has one line "---"/);
  expect(stderr).toContain('tf2_msgs/msg/TFMessage is unknown: its package is not present');
  expect(JSON.parse(stdout)).toMatchObject({ messages: 1, services: 0, missing: ['tf2_msgs/msg/TFMessage'] });
  expect(await readFile(out, 'utf8')).toContain('transform: unknown;');
});

test('without the environment of ROS the command says how to get it', async () => {
  const { code, stderr } = await faas(['ros', 'types'], { env: { AMENT_PREFIX_PATH: undefined } });
  expect(code).toBe(2);
  expect(stderr).toContain('there is no ROS here: $AMENT_PREFIX_PATH is not set');
  expect(stderr).toContain('/opt/ros/jazzy/setup.sh');
});

describe.skipIf(await missing('ros'))('of a whole ROS', () => {
  test('every interface is read, and the compiler takes the lot', async () => {
    const env = await rosEnvironment();
    const { code, stdout, stderr } = await faas(['ros', 'types', '--out', '-'], { env });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const source = `
      import type { RosMessages, RosServices } from 'atoll';
      declare const scan: RosMessages['sensor_msgs/msg/LaserScan'];
      declare const update: RosServices['atoll_interfaces/srv/Update'];
      declare const statistics: RosMessages['atoll_interfaces/msg/TelemetryStatistics'];
      export const a: Float32Array = scan.ranges;
      export const b: string = update.request.job_id + update.response.status;
      export const c: bigint = statistics.topics[0]!.received;
    `;
    expect(await compile(stdout, source)).toBe('');
  });
});
