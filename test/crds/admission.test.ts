/** What `faas` says of a Function and what a real API server says of it (CONTRACTS 2). */
import { stringify } from 'yaml';
import { beforeAll, describe, expect, test } from 'vitest';
import { validate } from '../../crds/function.ts';
import { parseManifests } from '../../crds/manifest.ts';
import { functionsPath, installFunctionKind } from '../support/function-kind.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { missing } from '../support/requirement.ts';
import { bad, functionWith, good, objectOf } from './cases.ts';

const path = functionsPath.replace('functions', 'namespaces/default/functions');
const query = 'dryRun=All&fieldValidation=Strict';

describe.skipIf(await missing('kubernetes', 'openssl'))('the API server', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes();
    await installFunctionKind(kubernetes);
  });

  const create = (body: unknown, contentType = 'application/json') =>
    kubernetes.request('POST', `${path}?${query}`, { body, contentType });

  test.each(good)('$what is accepted, with the same defaults', async (each) => {
    const { status, body } = await create(objectOf(each));
    expect([status, body]).toMatchObject([201, { kind: 'Function' }]);
    const verdict = validate(objectOf(each));
    expect((body as { spec: unknown }).spec).toEqual(verdict.ok && verdict.object.spec);
  });

  test.each(bad)('$what is refused', async (each) => {
    const { status, body } = await create(objectOf(each));
    expect([status, body]).toMatchObject([expect.toBeOneOf([400, 422]), { kind: 'Status' }]);
    // For this and not for something else: the same field, as far as the server names one.
    const { details, message } = body as { message: string; details?: { causes?: { field?: string }[] } };
    const field = each.path.replaceAll(/\[(\d+)\]$/g, '');
    const said = [message, ...(details?.causes ?? []).map((cause) => cause.field ?? '')].join('\n');
    if (each.path !== 'apiVersion' && each.path !== 'kind') expect(said).toContain(lastOf(field));
  });

  test.each([
    [
      'a key twice',
      'apiVersion: atoll.dev/v1alpha1\nkind: Function\nmetadata: { name: a }\nspec: {}\nspec: {}\n',
    ],
    ['no YAML', 'apiVersion: [\n'],
    ['a list', '- 1\n'],
  ])('YAML with %s is refused by both', async (_what, text) => {
    expect(parseManifests(text, 'f.yaml').ok).toBe(false);
    expect((await create(text, 'application/yaml')).status).toBeOneOf([400, 422]);
  });

  test.each([
    // It sees one object at a time, and reads no more than the first document of a text.
    ['two Functions of one name in one file', [functionWith({}, 'a'), functionWith({}, 'a')]],
    [
      'a good Function before a bad one in one file',
      [functionWith({}, 'a'), functionWith({ memory: '1' }, 'b')],
    ],
  ])('%s are refused by faas alone', async (_what, objects) => {
    const text = objects.map((object) => stringify(object)).join('---\n');
    expect(parseManifests(text, 'f.yaml').ok).toBe(false);
    expect((await create(objects[0])).status).toBe(201);
  });

  test('the definition costs no more than the API server allows, and is not changed by applying it again', async () => {
    const definition = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/functions.atoll.dev';
    const { body } = await kubernetes.request('GET', definition);
    const conditions = (body as { status: { conditions: { type: string; status: string }[] } }).status
      .conditions;
    for (const type of ['NamesAccepted', 'Established']) {
      expect(conditions).toContainEqual(expect.objectContaining({ type, status: 'True' }));
    }
    expect(conditions.find(({ type }) => type === 'NonStructuralSchema')).toBeUndefined();
    expect(await kubernetes.kubectl(['apply', '--server-side', '-f', 'crds/function.yaml'])).toContain(
      'serverside-applied',
    );
  });
});

/** The word that a sentence about the path cannot do without. */
const lastOf = (path: string): string =>
  /([A-Za-z]+)[^A-Za-z]*$/.exec(path.replace(/\["[^"]*"\]$/, ''))?.[1] ?? '';
