/** Function → what a backend is to run. Pure. */
import type { FunctionObject } from '../../crds/function.ts';
import type { Workload } from '../backends/backend.ts';

export function workloadFor(object: FunctionObject): Workload {
  const { namespace, name, uid, generation } = object.metadata;
  const { spec } = object;
  const lastAnswered = spec.package ? undefined : object.status?.history?.at(-1)?.packageSha256;
  return {
    key: { namespace, name },
    uid,
    generation,
    spec,
    ...(lastAnswered !== undefined && { lastAnswered }),
  };
}
