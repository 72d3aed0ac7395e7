import { expect, test } from 'vitest';
import type { FunctionObject, TriggerSpec } from '../../crds/function.ts';
import { openRouteTable, type RouteTable } from '../../gateway/route-table.ts';
import { isReserved, match, pathOf } from '../../gateway/routes.ts';

type Http = Partial<NonNullable<TriggerSpec['http']>> & { path: string };

function tableOf(functions: Record<string, Http[]>): RouteTable {
  const objects = Object.entries(functions).map(([name, https]) => ({
    metadata: { namespace: 'default', name, uid: name, generation: 1 },
    spec: {
      triggers: https.map((http, index) => ({
        name: `http-${index}`,
        encoding: 'json',
        http: { pathType: 'Exact', ...http },
      })),
    },
  }));
  const table = openRouteTable();
  for (const object of objects as unknown as FunctionObject[]) table.set(object.metadata, object);
  return table;
}

function whoAnswers(table: RouteTable, method: string, path: string): string {
  const found = match(table, method, path);
  return found.kind === 'found' ? found.route.name : found.kind;
}

test('an exact path goes before a prefix, a longer prefix before a shorter one', () => {
  const table = tableOf({
    all: [{ path: '/', pathType: 'Prefix' }],
    api: [{ path: '/api', pathType: 'Prefix' }],
    orders: [{ path: '/api/orders', pathType: 'Prefix' }],
    exact: [{ path: '/api/orders' }],
  });
  expect(whoAnswers(table, 'GET', '/api/orders')).toBe('exact');
  expect(whoAnswers(table, 'GET', '/api/orders/7')).toBe('orders');
  expect(whoAnswers(table, 'GET', '/api')).toBe('api');
  expect(whoAnswers(table, 'GET', '/api/')).toBe('api');
  expect(whoAnswers(table, 'GET', '/apix')).toBe('all');
  expect(whoAnswers(table, 'GET', '/')).toBe('all');
});

test('an exact path is just that path', () => {
  const table = tableOf({ hello: [{ path: '/hello' }] });
  expect(whoAnswers(table, 'GET', '/hello')).toBe('hello');
  for (const path of ['/hello/', '/hello/x', '/Hello', '/'])
    expect(whoAnswers(table, 'GET', path)).toBe('none');
});

test('methods are served as declared: another one is told what is allowed', () => {
  const table = tableOf({
    reader: [{ path: '/things', methods: ['GET'] }],
    writer: [{ path: '/things', methods: ['POST', 'PUT'] }],
  });
  expect(whoAnswers(table, 'GET', '/things')).toBe('reader');
  expect(whoAnswers(table, 'PUT', '/things')).toBe('writer');
  expect(match(table, 'DELETE', '/things')).toMatchObject({
    kind: 'wrongMethod',
    allow: ['GET', 'POST', 'PUT'],
  });
  expect(whoAnswers(table, 'HEAD', '/things')).toBe('wrongMethod');
});

test('the path of a URL is decoded for matching; what is no path, or climbs, is none', () => {
  expect(pathOf('/a%20b/c?d=/../e')).toBe('/a b/c');
  for (const url of [
    '*',
    'http://evil.example/',
    '/%zz',
    '/a/../b',
    '/a/%2e%2E/b',
    '/a/.',
    '/a/..%2fb',
    '/a/..%5Cb',
  ]) {
    expect(pathOf(url)).toBeUndefined();
  }
  expect(pathOf('/a/...')).toBe('/a/...');
});

test('our own doors are reserved with all that lies below them', () => {
  for (const path of ['/atoll', '/atoll/v1/x', '/metrics', '/ns/a', '/2015-03-31/x', '/2021-11-15/x'])
    expect(isReserved(path)).toBe(true);
  for (const path of ['/', '/atolls', '/metricsx', '/nsa']) expect(isReserved(path)).toBe(false);
});
