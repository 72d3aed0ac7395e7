/** What the gateway knows of the Functions: kept by the store's watch, so that no request waits for a store. */
import { type FunctionObject } from '../crds/function.ts';
import { type Route, routesOf } from '../controller/function/routes.ts';
import { type Key, keyText, type Store } from '../controller/stores/store.ts';
import type { Log } from '../runtime/log.ts';

export interface Functions {
  /** Looks into the store as well where it is not known yet: a deploy that just returned can be called. */
  get(key: Key): Promise<FunctionObject | undefined>;
  all(): Iterable<FunctionObject>;
  routes(): readonly Route[];
  close(): void;
}

export async function openFunctions(
  store: Pick<Store, 'get' | 'list' | 'watch'>,
  log: Log,
): Promise<Functions> {
  const known = new Map<string, FunctionObject>();
  for (const object of await store.list()) known.set(keyText(object.metadata), object);
  let routes = routesOf([...known.values()]).routes;

  const changed = new Map<string, Key>();
  let reading = false;

  /** One pass for all keys that came in meanwhile: a folder of a hundred manifests is one new table. */
  async function read(): Promise<void> {
    if (reading) return;
    reading = true;
    while (changed.size > 0) {
      const keys = [...changed.values()];
      changed.clear();
      await Promise.all(keys.map(readOne));
      routes = routesOf([...known.values()]).routes;
    }
    reading = false;
  }
  async function readOne(key: Key): Promise<void> {
    try {
      const object = await store.get(key);
      if (object) known.set(keyText(key), object);
      else known.delete(keyText(key));
    } catch (error) {
      log.warn(
        { source: 'platform', namespace: key.namespace, function: key.name, err: error },
        'function could not be read; the gateway goes on with what it knew',
      );
    }
  }

  const stop = store.watch((key) => {
    changed.set(keyText(key), key);
    void read();
  });

  return {
    get: async (key) => known.get(keyText(key)) ?? (await store.get(key)),
    all: () => known.values(),
    routes: () => routes,
    close: stop,
  };
}
