/** Rights of controllers in tests: of the users in the group `controllers`. */
import type { Rule } from '../../controller/rights.ts';
import type { Kubernetes } from './kubernetes.ts';

const apiGroup = 'rbac.authorization.k8s.io';

export interface Grant {
  /** Of the role and its binding; default `atoll-controller`. */
  readonly name?: string;
  /** Absent: in all of the cluster. */
  readonly namespace?: string;
  readonly rules: readonly Rule[];
}

export async function grantRights(
  kubernetes: Kubernetes,
  { name = 'atoll-controller', namespace, rules }: Grant,
): Promise<void> {
  const kind = namespace === undefined ? 'ClusterRole' : 'Role';
  const where = namespace === undefined ? '' : `namespaces/${namespace}/`;
  const base = `/apis/${apiGroup}/v1/${where}${kind.toLowerCase()}`;
  const metadata = { name };
  const bodies = {
    [`${base}s`]: { metadata, rules: rules.map(({ why: _, ...rule }) => rule) },
    [`${base}bindings`]: {
      metadata,
      roleRef: { apiGroup, kind, name },
      subjects: [{ apiGroup, kind: 'Group', name: 'controllers' }],
    },
  };
  for (const [path, body] of Object.entries(bodies)) {
    const answer = await kubernetes.request('POST', path, { body });
    if (answer.status !== 201) throw new Error(`${path} was refused: ${JSON.stringify(answer.body)}`);
  }
}
