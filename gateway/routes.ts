/** Which http trigger a request is for. */
import { type Route, reservedPaths } from '../controller/function/routes.ts';
import type { RouteTable } from './route-table.ts';

export type Match =
  | { kind: 'found'; route: Route }
  /** The path is served, this method is not. `route` is the one that says who may learn it. */
  | { kind: 'wrongMethod'; route: Route; allow: readonly string[] }
  | { kind: 'none' };

/** The first that fits path and method is the right one. As many look-ups as the path has segments. */
export function match(routes: Pick<RouteTable, 'at'>, method: string, path: string): Match {
  const onPath = [
    ...routes.at('Exact', path),
    ...prefixesOf(path).flatMap((prefix) => routes.at('Prefix', prefix)),
  ];
  const found = onPath.find(({ methods }) => !methods || methods.includes(method));
  if (found) return { kind: 'found', route: found };
  const [first] = onPath;
  if (!first) return { kind: 'none' };
  const allow = [...new Set(onPath.flatMap(({ methods }) => methods ?? []))].sort();
  return { kind: 'wrongMethod', route: first, allow };
}

/** The longest first. By whole segments, as a Kubernetes Ingress: /api serves /api/x and not /apix. */
function prefixesOf(path: string): string[] {
  const found = [path];
  for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
    found.push(path.slice(0, end));
  }
  return [...new Set([...found, '/'])];
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
