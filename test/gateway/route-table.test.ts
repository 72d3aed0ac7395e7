import { expect, test } from 'vitest';
import { routesOf } from '../../controller/function/routes.ts';
import { keyText } from '../../controller/stores/store.ts';
import type { FunctionObject } from '../../crds/function.ts';
import { openRouteTable } from '../../gateway/route-table.ts';

interface Http {
  readonly path: string;
  readonly pathType: 'Exact' | 'Prefix';
  readonly methods?: readonly string[];
}

function functionOf(name: string, https: readonly Http[], second = 0): FunctionObject {
  const creationTimestamp = new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString();
  return {
    metadata: { namespace: 'default', name, uid: name, generation: 1, creationTimestamp },
    spec: {
      triggers: https.map((http, index) => ({ name: `http-${index}`, encoding: 'json', http })),
    },
  } as unknown as FunctionObject;
}

/** Tells on each look at the object's triggers. */
function counted(object: FunctionObject, look: () => void): FunctionObject {
  const { triggers } = object.spec;
  const spec = {
    ...object.spec,
    get triggers() {
      look();
      return triggers;
    },
  };
  return { ...object, spec };
}

test('a change among thousands looks at those that share a path with it, and at nobody else', () => {
  const table = openRouteTable();
  const looked = new Map<string, number>();
  const put = (name: string, path: string): void => {
    const object = counted(functionOf(name, [{ path, pathType: 'Exact' }]), () =>
      looked.set(name, (looked.get(name) ?? 0) + 1),
    );
    table.set(object.metadata, object);
  };
  for (let number = 0; number < 5_000; number++) put(`f-${number}`, `/f/${Math.floor(number / 2)}`);
  const total = [...looked.values()].reduce((sum, times) => sum + times, 0);
  expect(total).toBeLessThan(5_000 * 10);

  looked.clear();
  put('f-2500', '/f/moved');
  expect([...looked.keys()].filter((name) => !['f-2500', 'f-2501'].includes(name))).toEqual([]);
  expect(table.at('Exact', '/f/1250').map(({ name }) => name)).toEqual(['f-2501']);
  expect(table.at('Exact', '/f/moved').map(({ name }) => name)).toEqual(['f-2500']);
});

test('whatever comes and goes, each place has those routes that all Functions together give it', () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  let state = seed;
  /** https://en.wikipedia.org/wiki/Linear_congruential_generator (glibc's numbers) */
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >>> 8) % below;
  };
  const paths = ['/', '/a', '/a/b', '/a/b/c', '/metrics'];
  const methods = [undefined, ['GET'], ['POST'], ['GET', 'PUT']];
  const anyHttp = (): Http => {
    const pathType = random(2) === 0 ? 'Exact' : 'Prefix';
    const own = methods[random(methods.length)];
    return { path: paths[random(paths.length)]!, pathType, ...(own && { methods: own }) };
  };

  const table = openRouteTable();
  const all = new Map<string, FunctionObject>();
  for (let step = 0; step < 500; step++) {
    const name = `f-${random(8)}`;
    const https = Array.from({ length: random(4) }, anyHttp);
    const object = random(4) === 0 ? undefined : functionOf(name, https, random(60));
    const key = { namespace: 'default', name };
    if (object) all.set(keyText(key), object);
    else all.delete(keyText(key));
    table.set(key, object);

    const { routes } = routesOf([...all.values()]);
    for (const path of paths) {
      for (const pathType of ['Exact', 'Prefix'] as const) {
        const expected = routes.filter((route) => route.path === path && route.pathType === pathType);
        expect(table.at(pathType, path), `seed ${seed}, step ${step}, ${pathType} ${path}`).toEqual(expected);
      }
    }
  }
});
