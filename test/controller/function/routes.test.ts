import { expect, test } from 'vitest';
import { reservedPaths, routesOf } from '../../../controller/function/routes.ts';
import type { FunctionObject } from '../../../crds/function.ts';
import { functionOf } from './function.ts';

type Http = { path: string; pathType?: string; methods?: string[]; auth?: string };

const serving = (name: string, created: string, ...https: Http[]): FunctionObject =>
  functionOf({
    name,
    created: `2026-01-01T00:00:0${created}.000Z`,
    spec: { triggers: https.map((http, index) => ({ name: `t${index}`, http })) },
  });
const lines = (functions: FunctionObject[]): string[] =>
  routesOf(functions).routes.map(({ name, pathType, path }) => `${pathType} ${path} → ${name}`);
const losers = (functions: FunctionObject[]): string[] =>
  routesOf(functions).conflicts.map(({ name, trigger }) => `${name}/${trigger}`);

test('a route says all the gateway needs', () => {
  const { routes } = routesOf([serving('a', '1', { path: '/x', methods: ['GET'], auth: 'Key' })]);
  expect(routes).toEqual([
    {
      namespace: 'default',
      name: 'a',
      trigger: 't0',
      path: '/x',
      pathType: 'Exact',
      methods: ['GET'],
      auth: 'Key',
    },
  ]);
});

test('a Function without http triggers has no routes', () => {
  expect(lines([functionOf()])).toEqual([]);
});

test('the more specific lies first: longer paths, and an exact one before a prefix of the same path', () => {
  const functions = [
    serving('root', '1', { path: '/', pathType: 'Prefix' }),
    serving('prefix', '2', { path: '/api', pathType: 'Prefix' }),
    serving('exact', '3', { path: '/api' }),
    serving('deep', '4', { path: '/api/v1/', pathType: 'Prefix' }),
  ];
  expect(lines(functions)).toEqual([
    'Prefix /api/v1 → deep',
    'Exact /api → exact',
    'Prefix /api → prefix',
    'Prefix / → root',
  ]);
});

test('a path taken twice belongs to the older Function, whatever the order of the list', () => {
  const older = serving('zz', '1', { path: '/x' });
  const younger = serving('aa', '2', { path: '/x' });
  for (const functions of [
    [older, younger],
    [younger, older],
  ]) {
    expect(lines(functions)).toEqual(['Exact /x → zz']);
    const { conflicts } = routesOf(functions);
    expect(conflicts).toEqual([
      {
        namespace: 'default',
        name: 'aa',
        trigger: 't0',
        path: '/x',
        message: expect.stringContaining('default/zz') as string,
      },
    ]);
  }
});

test('of two made in the same instant the first by name wins; within one Function the first trigger', () => {
  expect(losers([serving('b', '1', { path: '/x' }), serving('a', '1', { path: '/x' })])).toEqual(['b/t0']);
  expect(losers([serving('a', '1', { path: '/x' }, { path: '/x' })])).toEqual(['a/t1']);
});

test('different methods share a path; one method in common is a conflict', () => {
  const get = serving('get', '1', { path: '/x', methods: ['GET'] });
  const post = serving('post', '2', { path: '/x', methods: ['POST', 'PUT'] });
  const both = serving('both', '3', { path: '/x', methods: ['DELETE', 'PUT'] });
  const all = serving('all', '4', { path: '/x' });
  expect(losers([get, post, both, all])).toEqual(['both/t0', 'all/t0']);
});

test('prefixes that differ by a slash at the end are the same; exact paths are not', () => {
  const prefix = (path: string): Http => ({ path, pathType: 'Prefix' });
  expect(losers([serving('a', '1', prefix('/x')), serving('b', '2', prefix('/x/'))])).toEqual(['b/t0']);
  expect(losers([serving('a', '1', { path: '/x' }), serving('b', '2', { path: '/x/' })])).toEqual([]);
});

test('who lost takes nothing from others', () => {
  const first = serving('first', '1', { path: '/x', methods: ['GET'] });
  const lost = serving('lost', '2', { path: '/x', methods: ['GET', 'POST'] });
  const third = serving('third', '3', { path: '/x', methods: ['POST'] });
  expect(losers([first, lost, third])).toEqual(['lost/t0']);
});

test.each(reservedPaths)('%s is the gateway’s own', (path) => {
  expect(losers([serving('a', '1', { path }, { path: `${path}/deep` }, { path: `${path}x` })])).toEqual([
    'a/t0',
    'a/t1',
  ]);
});
