/** Function → what a backend is to run. Pure. */
import type { FunctionObject } from '../../crds/function.ts';
import type { Workload } from '../backends/backend.ts';

export function workloadFor(object: FunctionObject): Workload {
  const { namespace, name, uid, generation } = object.metadata;
  return { key: { namespace, name }, uid, generation, spec: object.spec };
}
