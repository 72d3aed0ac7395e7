/** Which http triggers are at which path: kept so that a change looks at those Functions only that share a path. */
import { placeAt, placesOf, type Route, routesOf } from '../controller/function/routes.ts';
import { type Key, keyText } from '../controller/stores/store.ts';
import type { FunctionObject } from '../crds/function.ts';

export interface RouteTable {
  /** What answers there; of several each has methods of its own. `path` as a Route has it. */
  at(pathType: Route['pathType'], path: string): readonly Route[];
  /** Undefined: it is gone. */
  set(key: Key, object: FunctionObject | undefined): void;
}

/** Without a status, of which each change would leave a copy here. */
type Claimant = Omit<FunctionObject, 'status'>;

export function openRouteTable(): RouteTable {
  /** By place: who asks for it. */
  const claims = new Map<string, Map<string, Claimant>>();
  /** By place: who got it. */
  const routes = new Map<string, readonly Route[]>();
  /** By function: the places it asks for. */
  const places = new Map<string, readonly string[]>();

  function decide(place: string, own: string, claimant: Claimant | undefined): void {
    const claimants = claims.get(place) ?? new Map<string, Claimant>();
    if (claimant) claimants.set(own, claimant);
    else claimants.delete(own);
    if (claimants.size === 0) {
      claims.delete(place);
      routes.delete(place);
      return;
    }
    claims.set(place, claimants);
    routes.set(place, routesOf([...claimants.values()], place).routes);
  }

  return {
    at: (pathType, path) => routes.get(placeAt(pathType, path)) ?? [],
    set(key, object) {
      const own = keyText(key);
      const before = places.get(own) ?? [];
      const now = object ? placesOf(object) : [];
      for (const place of before) if (!now.includes(place)) decide(place, own, undefined);
      const claimant = object && withoutStatus(object);
      for (const place of now) decide(place, own, claimant);
      if (now.length === 0) places.delete(own);
      else places.set(own, now);
    },
  };
}

function withoutStatus({ apiVersion, kind, metadata, spec }: FunctionObject): Claimant {
  return { apiVersion, kind, metadata, spec };
}
