/** Random Functions: `faas` and a real API server come to the same verdict, and to the same defaults. */
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { problemText, validate } from '../../crds/function.ts';
import { bad, good, objectOf } from '../crds/cases.ts';
import { functionsPath, installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { missing } from '../support/requirement.ts';
import { fuzz, fuzzTimeoutMs } from './fuzz.ts';

const path = functionsPath.replace('functions', 'namespaces/default/functions');

/** Cases whose text is long say nothing more and take long. */
const seeds = [...good, ...bad].map(objectOf).filter((each) => JSON.stringify(each).length < 4_000);

const oddValues = [
  ...[null, true, false, 0, -1, 1, 1.5, 65536, 2 ** 31, 2 ** 53, 1e300],
  ...[
    '',
    ' ',
    'a',
    'A',
    'a-b',
    'a.b',
    '0',
    '1',
    '-1',
    '*',
    '>',
    '#',
    '+',
    '$',
    '/',
    '//',
    '\u0000',
    '\n',
    'ä',
    '💧',
  ],
  ...[
    'a\n',
    'a ',
    '\ta',
    'a'.repeat(65),
    'a'.repeat(300),
    'ä'.repeat(128),
    '💧'.repeat(128),
    'UTC',
    '128Mi',
    '1e3',
  ],
  ...[
    '1.0',
    '١',
    'a/b',
    'a.*',
    'a.>',
    '*.a',
    'atoll.a',
    '$JS.a',
    '$SYS',
    '+/a',
    'a/#',
    '\u2028',
    '\ud800',
    '\u00a0',
  ],
  ...[[], {}, [null], [{}], ['a'], ['a', 'a'], { a: 1 }, { a: null }, { a: {} }],
] as const;

interface Step {
  readonly at: number;
  readonly how: 'replace' | 'remove' | 'double' | 'add' | 'copy';
  readonly value: unknown;
  readonly from: number;
}
const step: fc.Arbitrary<Step> = fc.record({
  at: fc.nat(10_000),
  how: fc.constantFrom('replace', 'replace', 'remove', 'double', 'add', 'copy'),
  value: fc.oneof(
    fc.constantFrom<unknown>(...oddValues),
    fc.string(),
    fc.integer(),
    fc.double({ noNaN: true }),
  ),
  from: fc.nat(10_000),
});
const objects = fc
  .tuple(fc.constantFrom(...seeds), fc.array(step, { maxLength: 4 }))
  .map(([seed, steps]) => steps.reduce(changed, structuredClone(seed)));

type Place = [holder: Record<string, unknown> | unknown[], key: string];

/** Everything below spec, and the name. */
function places(object: unknown): Place[] {
  const found: Place[] = [];
  const visit = (holder: Record<string, unknown> | unknown[]): void => {
    for (const key of Object.keys(holder)) {
      found.push([holder, key]);
      const value = (holder as Record<string, unknown>)[key];
      if (typeof value === 'object' && value !== null) visit(value as Record<string, unknown>);
    }
  };
  const { spec } = object as { spec?: unknown };
  if (typeof spec === 'object' && spec !== null) visit(spec as Record<string, unknown>);
  return found;
}

function changed(object: unknown, { at, how, value, from }: Step): unknown {
  const all = places(object);
  const place = all[at % all.length];
  if (!place) return object;
  const [holder, key] = place as [Record<string, unknown>, string];
  const list = Array.isArray(holder) ? (holder as unknown[]) : undefined;
  if (how === 'remove') {
    if (list) list.splice(Number(key), 1);
    else delete holder[key];
  } else if (how === 'double' && list) list.push(structuredClone(list[Number(key)]));
  else if (how === 'add' && !list)
    holder[typeof value === 'string' && value !== '__proto__' ? value : 'extra'] = 1;
  else if (how === 'copy') {
    const [other, otherKey] = all[from % all.length] as [Record<string, unknown>, string];
    holder[key] = structuredClone(other[otherKey]);
  } else holder[key] = structuredClone(value);
  return object;
}

describe.skipIf(await missing('kubernetes', 'openssl'))('the API server and faas', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes();
    await installFunctionKind(kubernetes);
    // The first object makes the server compile the rules.
    await kubernetes.request('POST', `${path}?dryRun=All`, { body: seeds[0] });
  });

  test(
    'judge any Function alike',
    async () => {
      await fuzz('admission', objects, async (object) => {
        // What the wire cannot carry is none of their difference.
        const sent: unknown = JSON.parse(JSON.stringify(object));
        const { status, body } = await kubernetes.request(
          'POST',
          `${path}?dryRun=All&fieldValidation=Strict`,
          {
            body: sent,
          },
        );
        const verdict = validate(sent);
        const ours = verdict.ok ? 'accepted' : verdict.problems.map(problemText).join('; ');
        const theirs = status === 201 ? 'accepted' : (body as { message: string }).message;
        expect({ ours, theirs, same: verdict.ok === (status === 201) }).toMatchObject({ same: true });
        if (verdict.ok) expect((body as { spec: unknown }).spec).toEqual(verdict.object.spec);
      });
    },
    fuzzTimeoutMs,
  );
});
