/** A store that is opened with the first question to it: a command that asks none does not load the schema of its objects. */
import type { Store } from './store.ts';

/** Rejects as `open` does, at each question. */
export function openLater(open: () => Promise<Store>): Store {
  let opening: Promise<Store> | undefined;
  const store = (): Promise<Store> => (opening ??= open());
  return {
    get: async (key) => (await store()).get(key),
    list: async (namespace) => (await store()).list(namespace),
    keys: async (namespace) => (await store()).keys(namespace),
    put: async (object, options) => (await store()).put(object, options),
    remove: async (key) => (await store()).remove(key),
    writeStatus: async (key, status) => (await store()).writeStatus(key, status),
    watch(listener) {
      let stopped = false;
      let stop = (): void => {};
      store().then(
        (opened) => {
          if (!stopped) stop = opened.watch(listener);
        },
        // Whoever asks for an object is told.
        () => {},
      );
      return () => {
        stopped = true;
        stop();
      };
    },
  };
}
