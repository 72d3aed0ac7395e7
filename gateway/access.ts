/** What a request asks for, in the words of Kubernetes' authorization: RBAC rules are written for these. */
import { functionNameOf } from './lambda/function-name.ts';

/** Of the API group atoll.dev, or, without a resource, of a path. */
export type Access =
  | {
      readonly verb: string;
      readonly resource: 'functions';
      readonly subresource?: string;
      readonly namespace: string;
      readonly name?: string;
    }
  | { readonly verb: 'get'; readonly path: string };

interface Params {
  readonly namespace?: string;
  readonly name?: string;
}

/** By the route's label in the metrics. Undefined: a route that no rule of RBAC opens, only a key. */
export function accessOf(route: string | undefined, method: string, params: Params): Access | undefined {
  const { namespace = 'default' } = params;
  const name = nameIn(params);
  const one = { resource: 'functions', namespace, ...(name !== undefined && { name }) } as const;
  switch (route) {
    case 'invoke':
      return { ...one, verb: 'create', subresource: 'invocations' };
    case 'status':
      return { ...one, verb: 'get' };
    case 'logs':
      return { ...one, verb: 'get', subresource: 'logs' };
    case 'dead-letters':
      return { ...one, verb: deadLetterVerbs[method] ?? 'update', subresource: 'deadletters' };
    case 'upload':
      return { verb: 'create', resource: 'functions', subresource: 'packages', namespace };
    case 'site':
      return { verb: 'get', path: '/atoll/v1/site' };
    case 'metrics':
      return { verb: 'get', path: '/metrics' };
    default:
      return undefined;
  }
}

/** Redriving is a POST: what was dead becomes an event again. */
const deadLetterVerbs: Readonly<Record<string, string>> = { GET: 'get', DELETE: 'delete', POST: 'update' };

/** Lambda's clients may give an ARN. */
function nameIn({ name }: Params): string | undefined {
  if (name === undefined) return undefined;
  try {
    return functionNameOf(name, undefined);
  } catch {
    // No name at all, which the route itself says better once the caller is let in.
    return name;
  }
}
