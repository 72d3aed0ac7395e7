/** When one Function changes, which others win or lose a path by it. */
import type { Log } from '../../runtime/log.ts';
import { keyText, type Key, type Store, type Watchable } from '../stores/store.ts';
import { routesOf } from './routes.ts';

/** Tells the keys whose conflicts became others than before; one reading of the store for many changes. */
export function watchConflicts(store: Store, log: Log): Watchable {
  return {
    watch(listener) {
      let before = new Map<string, { key: Key; message: string }>();
      let comparing: Promise<void> | undefined;
      let again = false;
      let stopped = false;

      async function compare(): Promise<void> {
        do {
          again = false;
          const now = new Map<string, { key: Key; message: string }>();
          for (const { namespace, name, trigger, message } of routesOf(await store.list()).conflicts) {
            const key = { namespace, name };
            now.set(`${keyText(key)}/${trigger}`, { key, message });
          }
          if (stopped) return;
          const changed = new Map<string, Key>();
          for (const [one, other] of [[now, before] as const, [before, now] as const]) {
            for (const [text, { key, message }] of one) {
              if (other.get(text)?.message !== message) changed.set(keyText(key), key);
            }
          }
          before = now;
          for (const key of changed.values()) listener(key);
        } while (again);
      }

      const stop = store.watch(() => {
        again = true;
        comparing ??= compare()
          .catch((error: unknown) => log.error({ err: error }, 'routes cannot be compared'))
          .finally(() => (comparing = undefined));
      });
      return () => {
        stopped = true;
        stop();
      };
    },
  };
}
