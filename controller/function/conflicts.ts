/** Which Functions lose a path to another, and whose verdict a change of one of them touches. */
import type { FunctionObject } from '../../crds/function.ts';
import type { Log } from '../../runtime/log.ts';
import { keyText, UnreadableObjectError, type Key, type Store, type Watchable } from '../stores/store.ts';
import { placesOf, routesOf, type RouteConflict } from './routes.ts';

/** Tells the keys whose conflicts became others than before. */
export interface Conflicts extends Watchable {
  /** Of the object's triggers, against what the store holds by now. */
  of(object: FunctionObject): Promise<RouteConflict[]>;
  close(): void;
}

/** Only Functions that share a path are compared: among thousands, each change looks at a few. */
export function openConflicts(store: Store, log: Log): Conflicts {
  const listeners = new Set<(key: Key) => void>();
  /** By place: who asks for it. */
  const claims = new Map<string, Map<string, Key>>();
  /** By function: the places it asks for. */
  const places = new Map<string, readonly string[]>();
  /** By function: what it was told to have lost. */
  const told = new Map<string, string>();
  const changed = new Map<string, Key>();
  let updating: Promise<void> | undefined;
  let closed = false;

  /** Undefined: it is gone. What cannot be read keeps what it had. */
  async function read(key: Key): Promise<FunctionObject | 'unreadable' | undefined> {
    try {
      return await store.get(key);
    } catch (error) {
      if (error instanceof UnreadableObjectError) return 'unreadable';
      throw error;
    }
  }

  function claim(key: Key, now: readonly string[]): void {
    const text = keyText(key);
    for (const place of places.get(text) ?? []) {
      const rivals = claims.get(place);
      rivals?.delete(text);
      if (rivals?.size === 0) claims.delete(place);
    }
    if (now.length === 0) places.delete(text);
    else places.set(text, now);
    for (const place of now) claims.set(place, (claims.get(place) ?? new Map<string, Key>()).set(text, key));
  }

  const claimants = (of: Iterable<string>): Map<string, Key> =>
    new Map([...of].flatMap((place) => [...(claims.get(place) ?? [])]));

  async function compare(object: FunctionObject): Promise<RouteConflict[]> {
    const own = keyText(object.metadata);
    const rivals: FunctionObject[] = [object];
    for (const [text, key] of claimants(placesOf(object))) {
      if (text === own) continue;
      const rival = await read(key);
      if (rival && rival !== 'unreadable') rivals.push(rival);
    }
    return routesOf(rivals).conflicts.filter((one) => keyText(one) === own);
  }

  async function update(): Promise<void> {
    while (changed.size > 0 && !closed) {
      const affected = new Map<string, Key>();
      for (const [text, key] of changed) {
        changed.delete(text);
        const object = await read(key);
        if (object === 'unreadable') continue;
        const before = places.get(text) ?? [];
        const now = object ? placesOf(object) : [];
        claim(key, now);
        // Of equal places the methods, or the Function that has the name, may be others.
        for (const [rival, its] of claimants([...before, ...now])) affected.set(rival, its);
        if (!object) told.delete(text);
      }
      for (const [text, key] of affected) {
        const object = await read(key);
        if (!object || object === 'unreadable' || closed) continue;
        const lost = (await compare(object))
          .map(({ trigger, message }) => `${trigger}: ${message}`)
          .join('\n');
        if (lost === (told.get(text) ?? '')) continue;
        if (lost === '') told.delete(text);
        else told.set(text, lost);
        for (const listener of listeners) listener(key);
      }
    }
  }

  function hear(key: Key): void {
    changed.set(keyText(key), key);
    updating ??= Promise.resolve()
      .then(update)
      .catch((error: unknown) => log.error({ err: error }, 'routes cannot be compared'))
      .finally(() => (updating = undefined));
  }

  async function seed(): Promise<void> {
    for (const key of await store.keys()) {
      const object = await read(key);
      if (object && object !== 'unreadable') claim(key, placesOf(object));
    }
  }

  const stop = store.watch(hear);
  // The watch tells of these as well, but later.
  const seeded = seed().catch((error: unknown) => log.error({ err: error }, 'routes cannot be compared'));

  return {
    async of(object) {
      if (placesOf(object).length === 0) return [];
      await seeded;
      return compare(object);
    },
    watch(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close() {
      closed = true;
      stop();
    },
  };
}
