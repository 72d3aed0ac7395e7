import fc from 'fast-check';
import { stringify } from 'yaml';
import { expect, test } from 'vitest';
import { manifestProblemText, parseManifests } from '../../crds/manifest.ts';
import { bad, functionWith, good, objectOf } from './cases.ts';

const document = (name: string, spec: object = {}) => stringify(functionWith(spec, name));
const texts = (text: string) => {
  const parsed = parseManifests(text, 'function.yaml');
  return parsed.ok ? [] : parsed.problems.map(manifestProblemText);
};

test('several documents are several Functions; empty ones are passed over', () => {
  const parsed = parseManifests(
    `# head\n---\n${document('a')}---\n# nothing\n---\n${document('b')}---\n`,
    'f.yaml',
  );
  expect(parsed.ok && parsed.manifests.map(({ metadata }) => metadata.name)).toEqual(['a', 'b']);
});

test('one wrong document means that none is used, and says which line of which document is wrong', () => {
  const text = `${document('a')}---\napiVersion: atoll.dev/v1alpha1
kind: Function
metadata: { name: b }
spec:
  triggers:
    - name: in
      mqtt:
        topic: 'a/#/b'
        qoss: 1
`;
  expect(texts(text)).toEqual([
    'function.yaml:14:9 (document 2): spec.triggers[0].mqtt.topic: "a/#/b" must be an MQTT topic filter: "#" only as the last level, "+" only as a whole level, no NUL, no level that is just "*" or ">"',
    'function.yaml:15:9 (document 2): spec.triggers[0].mqtt.qoss: 1 is not a field here; did you mean "qos"?',
  ]);
});

test('a missing field is reported at the block it is missing from', () => {
  const text = `apiVersion: atoll.dev/v1alpha1
kind: Function
metadata: { name: b }
spec:
  triggers:
    - name: in
      mqtt: {}
`;
  expect(texts(text)).toEqual(['function.yaml:7:7 (document 1): spec.triggers[0].mqtt.topic: is required']);
});

test('text that is not YAML is refused with line and column', () => {
  const parsed = parseManifests(`${document('a')}---\nspec: {\n  a: [1\n`, 'f.yaml');
  expect(parsed).toMatchObject({ ok: false });
  expect(!parsed.ok && parsed.problems[0]).toMatchObject({ document: 2, file: 'f.yaml', path: '' });
  expect(!parsed.ok && parsed.problems[0]?.line).toBeGreaterThan(6);
  expect(!parsed.ok && parsed.problems[0]?.message).toContain('is not valid YAML');
});

test.each([
  ['a key twice', 'kind: Function\nkind: Function\n', 'not valid YAML'],
  ['an unknown alias', 'kind: *nowhere\n', 'not valid YAML'],
  ['a scalar', 'hello\n', 'must be an object'],
  ['a list', '- 1\n', 'must be an object, not a list'],
  ['nothing', '', 'no document with content'],
  ['only comments', '# later\n---\n# or never\n', 'no document with content'],
])('%s is refused', (_, text, says) => expect(texts(text).join('\n')).toContain(says));

test('a bomb of aliases is refused instead of unfolded', () => {
  const levels = Array.from({ length: 12 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(9)}]`);
  expect(texts(`a0: &a0 [x]\n${levels.join('\n')}\n`).join('\n')).toContain('not valid YAML');
});

test('two Functions of one name in one file are refused', () => {
  expect(texts(`${document('a')}---\n${document('a')}`)).toEqual([
    'function.yaml:10:3 (document 2): metadata.name: "a" is taken by document 1',
  ]);
});

test('every problem has a line in the file, whatever is wrong', () => {
  for (const each of bad) {
    const parsed = parseManifests(stringify(objectOf(each)), 'f.yaml');
    if (parsed.ok) throw new Error(`${each.what} was accepted`);
    expect(parsed.problems.map(({ path }) => path)).toEqual([each.path]);
    expect(parsed.problems[0]?.line).toBeGreaterThan(0);
  }
});

test('what was printed as YAML is read back as it was', () => {
  for (const each of good) {
    const parsed = parseManifests(stringify(objectOf(each)), 'f.yaml');
    expect(parsed.ok, each.what).toBe(true);
  }
});

test('whatever text is given, the answer is problems, never an exception', () => {
  const lines = fc.constantFrom(
    'spec:',
    '  triggers:',
    '    - name: a',
    '---',
    'kind: Function',
    '  : ',
    '{[',
    '\t',
    '&a',
    '*a',
    '? x',
    '<<: *a',
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(lines).map((all) => all.join('\n')),
      ),
      (text) => {
        const parsed = parseManifests(text, 'f.yaml');
        if (!parsed.ok) expect(parsed.problems.length).toBeGreaterThan(0);
      },
    ),
    { numRuns: 500 },
  );
});
