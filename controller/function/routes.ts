/** Which http trigger answers which path. Pure; the gateway serves by it, the reconcile tells who lost. */
import type { FunctionObject, TriggerSources } from '../../crds/function.ts';

export interface Route {
  /** Begins with `/`; of a Prefix route without a slash at the end, except `/` itself. */
  readonly path: string;
  readonly pathType: TriggerSources['http']['pathType'];
  /** Absent: every method. */
  readonly methods: readonly string[] | undefined;
  readonly auth: TriggerSources['http']['auth'];
  readonly namespace: string;
  readonly name: string;
  readonly trigger: string;
}

export interface RouteConflict {
  readonly namespace: string;
  readonly name: string;
  readonly trigger: string;
  readonly path: string;
  /** A sentence that names the winner. */
  readonly message: string;
}

/** What the gateway answers itself; a trigger there would never be reached. */
export const reservedPaths = ['/atoll', '/2015-03-31', '/2021-11-15', '/ns', '/metrics', '/healthz'] as const;

/**
 * The first route that fits a request is the right one: an Exact route lies before a Prefix route of the same
 * path, a longer path before a shorter one. A path taken twice belongs to the older Function (CONTRACTS 2), by
 * creation time, then by namespace and name; within a Function to the earlier trigger. With `at` only what is at that
 * place: what is elsewhere changes nothing there.
 */
export function routesOf(
  functions: readonly FunctionObject[],
  at?: string,
): {
  routes: Route[];
  conflicts: RouteConflict[];
} {
  const routes: Route[] = [];
  const conflicts: RouteConflict[] = [];
  /** Winners by `pathType path`. */
  const taken = new Map<string, Route[]>();
  for (const { metadata, spec } of [...functions].sort(olderFirst)) {
    for (const trigger of spec.triggers) {
      if (!trigger.http) continue;
      const { pathType, methods, auth } = trigger.http;
      const path = pathOf(trigger.http);
      const own = { namespace: metadata.namespace, name: metadata.name, trigger: trigger.name };
      const route: Route = { ...own, path, pathType, methods, auth };
      const place = placeOf(trigger.http);
      if (at !== undefined && place !== at) continue;
      const rivals = taken.get(place) ?? [];
      const winner = rivals.find((rival) => shareMethod(rival, route));
      const reserved = reservedPaths.find((prefix) => path === prefix || path.startsWith(`${prefix}/`));
      if (reserved !== undefined) {
        const message = `the gateway answers ${reserved} itself; choose another path than ${path}`;
        conflicts.push({ ...own, path, message });
      } else if (winner) {
        const whose = `${winner.namespace}/${winner.name}`;
        const message = `${path} is served by the older function ${whose} (trigger "${winner.trigger}"); choose another path or delete that one`;
        conflicts.push({ ...own, path, message });
      } else {
        taken.set(place, [...rivals, route]);
        routes.push(route);
      }
    }
  }
  return { routes: routes.sort(moreSpecificFirst), conflicts };
}

/** Where a Function can be in another's way: two without a common place never are. */
export function placesOf({ spec }: FunctionObject): string[] {
  return [...new Set(spec.triggers.flatMap(({ http }) => (http ? [placeOf(http)] : [])))];
}

const placeOf = (http: TriggerSources['http']): string => placeAt(http.pathType, pathOf(http));

/** `path` as a Route has it. */
export const placeAt = (pathType: Route['pathType'], path: string): string => `${pathType} ${path}`;

const pathOf = ({ path, pathType }: TriggerSources['http']): string =>
  pathType === 'Prefix' ? path.replace(/(?<=.)\/+$/, '') : path;

function olderFirst(a: FunctionObject, b: FunctionObject): number {
  return (
    compare(a.metadata.creationTimestamp ?? '', b.metadata.creationTimestamp ?? '') ||
    compare(a.metadata.namespace, b.metadata.namespace) ||
    compare(a.metadata.name, b.metadata.name)
  );
}

function moreSpecificFirst(a: Route, b: Route): number {
  return b.path.length - a.path.length || compare(a.pathType, b.pathType) || compare(a.path, b.path);
}

function shareMethod(a: Route, b: Route): boolean {
  if (!a.methods || !b.methods) return true;
  return a.methods.some((method) => b.methods!.includes(method));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
