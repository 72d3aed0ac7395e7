/** Which http trigger a request is for. Pure; the table comes from the controller's `routesOf`. */
import { type Route, reservedPaths } from '../controller/function/routes.ts';

export type Match =
  | { kind: 'found'; route: Route }
  /** The path is served, this method is not. `route` is the one that says who may learn it. */
  | { kind: 'wrongMethod'; route: Route; allow: readonly string[] }
  | { kind: 'none' };

/** `routes` as `routesOf` sorts them: the first that fits path and method is the right one. */
export function match(routes: readonly Route[], method: string, path: string): Match {
  const onPath = routes.filter((route) => fits(route, path));
  const found = onPath.find(({ methods }) => !methods || methods.includes(method));
  if (found) return { kind: 'found', route: found };
  const [first] = onPath;
  if (!first) return { kind: 'none' };
  const allow = [...new Set(onPath.flatMap(({ methods }) => methods ?? []))].sort();
  return { kind: 'wrongMethod', route: first, allow };
}

function fits({ pathType, path: own }: Route, path: string): boolean {
  if (path === own) return true;
  // By whole segments, as a Kubernetes Ingress: /api serves /api/x and not /apix.
  return pathType === 'Prefix' && (own === '/' || path.startsWith(`${own}/`));
}

export function isReserved(path: string): boolean {
  if (/^[/]packages[/][0-9a-f]{64}$/.test(path)) return true;
  return reservedPaths.some((reserved) => path === reserved || path.startsWith(`${reserved}/`));
}

/**
 * The path of a request URL, percent-decoded for matching. Undefined: it is not a path, is not valid, or has dot
 * segments, which a program behind this one could take for the way out of its folder.
 */
export function pathOf(url: string): string | undefined {
  const [raw = ''] = url.split('?', 1);
  if (!raw.startsWith('/')) return undefined;
  let path: string;
  try {
    path = decodeURIComponent(raw);
  } catch {
    return undefined;
  }
  return path.split(/[/\\]/).some((segment) => segment === '.' || segment === '..') ? undefined : path;
}
