import fc from 'fast-check';
import { stringify } from 'yaml';
import { expect, test } from 'vitest';
import { validate } from '../../crds/function.ts';
import { manifestProblemText, parseManifests } from '../../crds/manifest.ts';
import { bad, functionWith, good, objectOf } from '../crds/cases.ts';
import { changed, changes, fuzz, fuzzTimeoutMs } from './fuzz.ts';

/** Never an exception, never an answer that says nothing, never a manifest that is none. */
function read(content: string | Uint8Array): void {
  const parsed = parseManifests(content, 'f.yaml');
  if (parsed.ok) {
    expect(parsed.manifests.length).toBeGreaterThan(0);
    for (const manifest of parsed.manifests) {
      const again = validate(manifest);
      expect(again).toEqual({ ok: true, object: manifest });
      // What is printed is read back as the same.
      expect(parseManifests(stringify(manifest), 'f.yaml')).toEqual({ ok: true, manifests: [manifest] });
    }
  } else {
    expect(parsed.problems.length).toBeGreaterThan(0);
    for (const problem of parsed.problems) {
      expect(problem.line).toBeGreaterThan(0);
      expect(problem.column).toBeGreaterThan(0);
      expect(problem.message).not.toBe('');
      expect(manifestProblemText(problem)).toMatch(/^f\.yaml:\d+:\d+ \(document \d+\): /);
    }
  }
  expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
}

const texts = [...good, ...bad].map((each) => {
  const text = stringify(objectOf(each));
  return text.length < 10_000 ? text : stringify(functionWith({}));
});
const pieces = fc
  .oneof(
    fc.constantFrom(
      ...[
        '&a',
        '*a',
        '<<: *a',
        '!!set',
        '!!js/function',
        '---',
        '...',
        '\t',
        '{',
        '}',
        '[',
        ']',
        '"',
        "'",
        '|',
        '>',
      ],
      ...[
        '? ',
        ': ',
        '- ',
        '#',
        '%YAML 1.1',
        '\ufeff',
        '\0',
        '\r',
        '__proto__',
        '010',
        '.nan',
        '~',
        '\n',
        '  ',
      ],
      ...[
        'spec:',
        'triggers:',
        'env:',
        'mqtt:',
        'pod:',
        'labels:',
        '1e999',
        '-0',
        'null',
        '\ud800',
        '\u2028',
      ],
    ),
    fc.string({ unit: 'binary', maxLength: 8 }),
  )
  .map((text): Uint8Array => Buffer.from(text));

test(
  'manifests that were changed here and there are read, or every problem is told',
  { timeout: fuzzTimeoutMs },
  async () => {
    const input = fc.tuple(fc.constantFrom(...texts), changes(pieces, 5), fc.boolean());
    await fuzz('manifests, changed', input, ([text, all, asText]) => {
      const bytes = changed(Buffer.from(text), all);
      read(asText ? bytes.toString('utf8') : bytes);
    });
  },
);

test('bytes of any kind are manifests, or every problem is told', { timeout: fuzzTimeoutMs }, async () => {
  const line = fc.array(pieces, { maxLength: 30 }).map((all) => Buffer.concat(all));
  const input = fc.oneof(fc.uint8Array({ maxLength: 400 }), line);
  await fuzz('manifests, of any bytes', input, (bytes) => read(bytes));
});

test(
  'any data in place of a spec is taken, or every problem is told',
  { timeout: fuzzTimeoutMs },
  async () => {
    const fields = [
      'triggers',
      'env',
      'package',
      'retry',
      'pod',
      'scaling',
      'placement',
      'handler',
      'name',
      'mqtt',
      'nats',
      'http',
      'schedule',
      'value',
      '__proto__',
      'constructor',
    ];
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { depthSize: 'small', withCrossShrink: true },
        fc.constantFrom(null, true, 0, -1, 1.5, 30, 1e300, '', 'a', 'a.b', '30', '*', '#', 'index.handler'),
        fc.string({ maxLength: 12 }),
        fc.array(tie('value'), { maxLength: 4 }),
        fc.dictionary(fc.oneof(fc.constantFrom(...fields), fc.string({ maxLength: 6 })), tie('value'), {
          maxKeys: 5,
        }),
      ),
    }));
    const spec = fc.dictionary(fc.constantFrom(...fields), value, { maxKeys: 6 });
    await fuzz('manifests, of any data', spec, (one) => read(JSON.stringify(functionWith(one))));
  },
);
