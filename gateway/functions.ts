/** What the gateway knows of the Functions: kept by the store's watch, so that no request waits for a store. */
import { type FunctionObject } from '../crds/function.ts';
import { type Key, keyText, type Store } from '../controller/stores/store.ts';
import type { Log } from '../runtime/log.ts';
import { openRouteTable, type RouteTable } from './route-table.ts';

export interface Functions {
  /** Looks into the store as well where it is not known yet: a deploy that just returned can be called. */
  get(key: Key): Promise<FunctionObject | undefined>;
  all(): Iterable<FunctionObject>;
  readonly routes: Pick<RouteTable, 'at'>;
  close(): void;
}

export async function openFunctions(
  store: Pick<Store, 'get' | 'list' | 'watch'>,
  log: Log,
): Promise<Functions> {
  const known = new Map<string, FunctionObject>();
  const routes = openRouteTable();
  for (const object of await store.list()) keep(object.metadata, object);

  const changed = new Map<string, Key>();
  let reading = false;

  function keep(key: Key, object: FunctionObject | undefined): void {
    const before = known.get(keyText(key));
    if (object) known.set(keyText(key), object);
    else known.delete(keyText(key));
    // Most changes are of the status, which no route depends on.
    const isSame =
      before?.metadata.uid === object?.metadata.uid &&
      before?.metadata.generation === object?.metadata.generation;
    if (!isSame) routes.set(key, object);
  }

  /** One pass for all keys that came in meanwhile. */
  async function read(): Promise<void> {
    if (reading) return;
    reading = true;
    while (changed.size > 0) {
      const keys = [...changed.values()];
      changed.clear();
      await Promise.all(keys.map(readOne));
    }
    reading = false;
  }
  async function readOne(key: Key): Promise<void> {
    try {
      keep(key, await store.get(key));
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
    routes,
    close: stop,
  };
}
