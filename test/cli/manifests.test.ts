import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openSiteFolder } from '../../controller/stores/site.ts';
import { readManifests } from '../../cli/manifests.ts';
import { temporaryFolder } from '../support/folder.ts';
import { faas } from './run.ts';

const head = 'apiVersion: atoll.dev/v1alpha1\nkind: Function\nmetadata: { name: probe }\n';
/** The spec begins in line 4, so what is in it in line 5. */
const spec = (lines: string): string => `${head}spec:\n${lines.replaceAll(/^/gm, '  ')}\n`;
const trigger = (source: string): string => spec(`triggers: [{ name: in, ${source} }]`);
const whole = (bytes: number): string => `# ${'x'.repeat(bytes - 3)}\n`;
const utf16 = (text: string): Buffer => Buffer.from(`\ufeff${text}`, 'utf16le');

/** What, the file, and what is said: position, path, value, what is allowed. */
const bad: [what: string, content: string | Buffer, says: string | RegExp][] = [
  // Not YAML
  ['an open list', 'kind: [Function', /:1:16 .*is not valid YAML: .*\]/],
  ['an open quote', `${head}spec: "x`, /:4:9 .*is not valid YAML: Missing closing "quote/],
  ['a tab as indentation', `${head}spec:\n\ttimeoutSeconds: 3\n`, /:5:1 .*Tabs are not allowed/],
  ['wrong indentation', `${head}spec:\n   a: 1\n  b: 2\n`, /:6:.*is not valid YAML/],
  ['a key twice', spec('handler: a.b\nhandler: c.d'), /:6:3 .*Map keys must be unique/],
  ['a key twice, once quoted', spec('handler: a.b\n"handler": c.d'), /:6:3 .*Map keys must be unique/],
  ['a key twice in JSON', '{ "kind": "Function", "kind": "Function" }', /Map keys must be unique/],
  ['an alias of nothing', spec('env: *none'), /Unresolved alias.*none/],
  ['an anchor twice without a value', `${head}spec: &a &b {}\n`, 'is not valid YAML'],
  ['two values in one place', `${head}spec: {} {}\n`, 'is not valid YAML'],
  ['a comment without a space', `${head}spec: {}#x\n`, 'is not valid YAML'],
  ['text that is no YAML at all', '<xml>\n  <a>1</a>\n</xml>: :\n\t- {', 'is not valid YAML'],
  ['a directive of nobody', `%FOO bar\n---\n${head}`, /Unknown directive %FOO/],
  // More than YAML
  ['a tag of JavaScript', spec('handler: !!js/function "() => 1"'), /:5:\d+ .*Unresolved tag.*js\/function/],
  ['a tag of Python', spec('handler: !!python/object/apply:os.system ["x"]'), /Unresolved tag.*python/],
  ['a tag of its own', spec('handler: !secret x'), /Unresolved tag: !secret/],
  ['a tag that makes bytes', spec('handler: !!binary aGk='), /spec\.handler: has the tag .*binary.*leave it/],
  ['a tag that makes a date', spec('handler: !!timestamp 2020-01-01'), /spec\.handler: has the tag .*timest/],
  [
    'a tag that makes a set',
    spec('pod: { labels: !!set { a, b } }'),
    /spec\.pod\.labels: has the tag .*:set/,
  ],
  ['a tag that does not fit', spec('timeoutSeconds: !!int ten'), /Unresolved tag.*int/],
  ['a key that is a list', spec('? [a, b]\n: 1'), 'is a key that is not a word: keys are text'],
  ['a key that merges nothing', '? <<: *a', 'is a key that is not a word: keys are text'],
  ['a bomb of aliases', bomb(), /is not valid YAML: Excessive alias count/],
  ['an alias in itself', spec('pod: &pod { labels: *pod }'), 'an alias stands inside of what it stands for'],
  [
    '100,000 lists in one another',
    `${head}spec: ${'['.repeat(100_000)}`,
    /is nested too deeply: at most 100/,
  ],
  ['200 maps in one another', `${head}spec: ${'{a: '.repeat(200)}1${'}'.repeat(200)}`, 'nested too deeply'],
  ['a merge of what is no map', `${head}spec: { <<: 3 }\n`, /Merge sources must be maps/],
  [
    'a merge that brings a wrong field',
    `x: &x { timeout: 3 }\n${head}spec: { <<: *x }\n`,
    /spec\.timeout: 3/,
  ],
  [
    'an octal number',
    spec('timeoutSeconds: 010'),
    /:5:19 .*spec\.timeoutSeconds: is written 010, .*octal.* 10/,
  ],
  ['a number of YAML 1.1', spec('timeoutSeconds: 1_0'), 'spec.timeoutSeconds: "1_0" must be an integer'],
  ['a yes of YAML 1.1', trigger('schedule: { every: 1m, catchUp: yes }'), /catchUp: "yes" must be a boolean/],
  // Not text
  ['nothing', '', 'the file has no document with content'],
  ['only comments', '# a\n---\n# b\n', 'the file has no document with content'],
  ['UTF-16', utf16(head), ':1:1 (document 1): the object: is UTF-16, not UTF-8: save it as UTF-8'],
  ['UTF-16, big-endian', utf16(head).swap16(), 'is UTF-16, not UTF-8'],
  ['UTF-16 without its mark', Buffer.from(head, 'utf16le'), 'is UTF-16, not UTF-8'],
  [
    'Latin-1',
    Buffer.from(`${head}# caf\xe9\n`, 'latin1'),
    ':4:1 (document 1): the object: is not UTF-8 here',
  ],
  [
    'half a character',
    Buffer.from(head + '# é').subarray(0, -1),
    ':4:1 (document 1): the object: is not UTF-8',
  ],
  ['a NUL', spec('handler: a.b\0'), ':5:15 (document 1): the object: has the character U+0000, which YAML'],
  ['a bell', spec('handler: "a.\x07b"'), ':5:15 (document 1): the object: has the character U+0007'],
  [
    'a byte order mark inside',
    `${head}---\n\ufeff${head}`,
    ':5:1 (document 1): the object: has the character U+F',
  ],
  ['2 MB', `${head}${whole(2_000_000)}`, 'has more than the 1048576 bytes allowed: use several files'],
  ['a program', Buffer.from('7f454c4602010100', 'hex'), 'has the character U+007F'],
  // Not a Function
  ['a word', 'hello', 'must be an object, not the string "hello"'],
  ['a number', '42', 'must be an object, not the number 42'],
  ['a list', `- ${head.replaceAll('\n', '\n  ')}`, 'must be an object, not a list'],
  [
    'a Pod',
    'apiVersion: v1\nkind: Pod\nmetadata: { name: a }',
    /apiVersion: "v1" must be "atoll.dev\/v1alpha1"/,
  ],
  ['another kind', head.replace('Function', 'Functoin'), 'kind: "Functoin" must be "Function"'],
  ['no name', 'apiVersion: atoll.dev/v1alpha1\nkind: Function\nmetadata: {}\n', 'metadata.name: is required'],
  ['no spec', head, 'spec: is required'],
  ['a spec that is a word', `${head}spec: fast\n`, 'spec: "fast" must be an object, not the string "fast"'],
  [
    'two of one name',
    `${spec('{}')}---\n${spec('{}')}`,
    /\(document 2\): metadata\.name: "probe" is taken by document 1/,
  ],
  [
    'a wrong one of three',
    `${spec('{}')}---\n# none\n---\n${spec('x: 1')}`,
    /\(document 3\): spec\.x: 1 is not a field/,
  ],
  ['a name with a capital', head.replace('probe', 'Probe'), /metadata\.name: "Probe" must/],
  ['a name with a NUL as escape', head.replace('probe', '"a\\0b"'), /metadata\.name: "a\\u0000b" must/],
  ['a name of 53 letters', head.replace('probe', 'a'.repeat(53)), /metadata\.name: "aaa/],
  ['__proto__', `${head}__proto__: { polluted: 1 }\nspec: {}\n`, '__proto__: is not a field here'],
  ['__proto__ in the spec', spec('__proto__: { handler: x.y }'), 'spec.__proto__: is not a field here'],
  [
    '__proto__ by a merge',
    `${head}spec: { <<: { __proto__: { handler: x.y } } }\n`,
    'spec.__proto__: is not a',
  ],
  ['constructor', spec('constructor: { prototype: {} }'), 'spec.constructor: is not a field here'],
  // Fields
  [
    'an unknown field',
    spec('timeout: 3'),
    'spec.timeout: 3 is not a field here; did you mean "timeoutSeconds"?',
  ],
  [
    'a number as text',
    spec('timeoutSeconds: "30"'),
    ':5:3 (document 1): spec.timeoutSeconds: "30" must be an integer, not the string "30"',
  ],
  [
    'a fraction',
    spec('timeoutSeconds: 1.5'),
    'spec.timeoutSeconds: 1.5 must be an integer, not the number 1.5',
  ],
  ['a number below', spec('timeoutSeconds: 0'), 'spec.timeoutSeconds: 0 must be from 1 to 900'],
  ['a number above', spec('timeoutSeconds: 901'), 'spec.timeoutSeconds: 901 must be from 1 to 900'],
  ['infinity', spec('timeoutSeconds: .inf'), /spec\.timeoutSeconds: Infinity must be/],
  ['no number', spec('timeoutSeconds: .nan'), /spec\.timeoutSeconds: NaN must be/],
  [
    'a number beyond all integers',
    spec('concurrency: 99999999999999999999'),
    /spec\.concurrency: 1\d+ must be/,
  ],
  ['memory without a unit that is known', spec('memory: 128MB'), /spec\.memory: "128MB" must be/],
  ['too little memory', spec('memory: 1Mi'), /spec\.memory: "1Mi" must/],
  [
    'a runtime of Lambda that we lack',
    spec('runtime: python3.13'),
    /spec\.runtime: "python3.13" must be "nodejs24\.x" or "nodejs22\.x"/,
  ],
  ['a handler without an export', spec('handler: index'), /spec\.handler: "index" must be/],
  [
    'a handler that leads out',
    spec('handler: ../../etc/x.y'),
    /spec\.handler: "\.\.\/\.\.\/etc\/x\.y" must be/,
  ],
  ['a package without its digest', spec('package: { uri: "s3://a/b.tgz" }'), /spec\.package.*sha256/],
  [
    'a digest in capitals',
    spec(`package: { uri: "s3://a/b", sha256: ${'A'.repeat(64)} }`),
    /spec\.package\.sha256: "A+…?" must/,
  ],
  [
    'two packages',
    spec(`package: { uri: "s3://a/b", sha256: ${'a'.repeat(64)}, inline: x }`),
    /spec\.package: must/,
  ],
  [
    'inline code of 65 KiB',
    spec(`package: { inline: "${'x'.repeat(65 * 1024)}" }`),
    /spec\.package\.inline: "x+… must not have more than 65536/,
  ],
  [
    'a variable of ours',
    spec('env: [{ name: AWS_LAMBDA_FUNCTION_NAME, value: x }]'),
    /spec\.env\[0\]\.name: "AWS_LAMBDA_FUNCTION_NAME"/,
  ],
  [
    'a variable twice',
    spec('env: [{ name: A, value: a }, { name: A, value: b }]'),
    'spec.env[1].name: "A" is taken by spec.env[0]',
  ],
  [
    'a variable that is a number',
    spec('env: [{ name: A, value: 1 }]'),
    'spec.env[0].value: 1 must be a string, not the number 1',
  ],
  [
    'a trigger without a source',
    spec('triggers: [{ name: in }]'),
    /spec\.triggers\[0\]: must have exactly one of nats/,
  ],
  [
    'two sources',
    trigger('nats: { subject: a }, mqtt: { topic: a }'),
    /spec\.triggers\[0\]: must have exactly one of/,
  ],
  [
    'a trigger called invoke',
    spec('triggers: [{ name: invoke, nats: { subject: a } }]'),
    /spec\.triggers\[0\]\.name: "invoke"/,
  ],
  [
    '17 triggers',
    spec(
      `triggers: [${Array.from({ length: 17 }, (_, i) => `{ name: t${i}, nats: { subject: a } }`).join()}]`,
    ),
    'spec.triggers: must not have more than 16 entries',
  ],
  [
    'a subject with an empty part',
    trigger('nats: { subject: a..b }'),
    /spec\.triggers\[0\]\.nats\.subject: "a\.\.b" must be/,
  ],
  [
    '# in the middle of a topic',
    trigger('mqtt: { topic: "a/#/b" }'),
    /mqtt\.topic: "a\/#\/b" must be an MQTT topic filter/,
  ],
  ['a QoS of 3', trigger('mqtt: { topic: a, qos: 3 }'), /mqtt\.qos: 3 must be/],
  [
    'a cron that never comes',
    trigger('schedule: { cron: "61 * * * *" }'),
    /schedule\.cron: "61 \* \* \* \*" must/,
  ],
  [
    'a time zone of nowhere',
    trigger('schedule: { cron: "0 8 * * *", timeZone: Europe/Atoll }'),
    /timeZone: "Europe\/Atoll" must/,
  ],
  ['a path without its slash', trigger('http: { path: orders }'), /http\.path: "orders" must/],
  ['a lower-case method', trigger('http: { path: /a, methods: [get] }'), /http\.methods\[0\]: "get" must be/],
  ['a list that is a word', spec('triggers: in'), 'spec.triggers: "in" must be a list, not the string "in"'],
  ['a map that is a list', spec('retry: [3]'), 'spec.retry: must be an object, not a list'],
];

/** Nine times nine … of one alias: a gigabyte when it is unfolded. */
function bomb(): string {
  const levels = Array.from({ length: 12 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(9)}]`);
  return `a0: &a0 [x]\n${levels.join('\n')}\n${head}`;
}

test('the table has no fewer than 60 cases', () => expect(bad.length).toBeGreaterThanOrEqual(60));

test.each(bad)('a manifest with %s is refused, with what is wrong and where', async (_, content, says) => {
  const file = join(await temporaryFolder(), 'function.yaml');
  await writeFile(file, content);
  const error = await readManifests(file, 'default').catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ exitCode: 2, message: expect.stringContaining(`\n${file}:`) as string });
  const { message } = error as Error;
  if (typeof says === 'string') expect(message).toContain(says);
  else expect(message).toMatch(says);
  // Of the file only what the message is about is repeated.
  expect(message.length).toBeLessThan(4_000);
});

test('faas apply tells of all of them in one go, and changes nothing', async () => {
  const dir = join(await temporaryFolder(), '.atoll');
  await openSiteFolder(dir);
  const folder = join(dir, '..', 'manifests');
  await mkdir(folder);
  for (const [index, [, content]] of bad.entries()) await writeFile(join(folder, `${index}.yaml`), content);
  await writeFile(join(folder, 'good.yaml'), spec('handler: a.b'));
  const { code, stdout, stderr } = await faas(['apply', '-f', folder, '--site', dir]);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toMatch(/^error: \d+ problems, so nothing was changed\n/);
  for (const [index, [what]] of bad.entries()) expect(stderr, what).toContain(join(folder, `${index}.yaml:`));
  expect(stderr).not.toContain('good.yaml');
  expect((await faas(['list', '-o', 'json', '--site', dir])).stdout.trim()).toBe('[]');
});

test('a byte order mark, CRLF, one anchor and its merge, and JSON are as good as any', async () => {
  const file = join(await temporaryFolder(), 'function.yaml');
  const merged = spec('retry: { maxAttempts: 5 }\nhandler: a.b');
  for (const content of [
    `\ufeff${merged}`,
    merged.replaceAll('\n', '\r\n'),
    `${head}spec:\n  env: [&a { name: A, value: x }, { <<: *a, name: B }]\n`,
    '{"apiVersion":"atoll.dev/v1alpha1","kind":"Function","metadata":{"name":"a"},"spec":{}}',
  ]) {
    await writeFile(file, content);
    expect(await readManifests(file, 'default')).toHaveLength(1);
  }
});
