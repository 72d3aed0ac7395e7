/**
 * What a controller must be allowed to do in a cluster, and nothing else: the rules of its Roles, as RBAC has them.
 * docs/reference/controller.md prints them; test/controller/main.test.ts runs replicas that have no other rights, and
 * use each of them.
 */

export interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
  /** For people; no field of RBAC. */
  readonly why: string;
}

/** What it applies is created, watched, kept as it was applied, and pruned. */
const kept = ['get', 'list', 'watch', 'create', 'patch', 'delete'];

/** In each namespace whose Functions it runs; of all namespaces: in a ClusterRole. */
export const functionRights: readonly Rule[] = [
  {
    apiGroups: ['atoll.dev'],
    resources: ['functions'],
    verbs: ['list', 'watch'],
    why: 'what is declared',
  },
  { apiGroups: ['atoll.dev'], resources: ['functions/status'], verbs: ['patch'], why: 'what came of it' },
  {
    apiGroups: ['atoll.dev'],
    resources: ['functions/finalizers'],
    verbs: ['update'],
    why: 'to name a Function as owner, where a cluster asks for that right (OpenShift)',
  },
  {
    apiGroups: ['events.k8s.io'],
    resources: ['events'],
    verbs: ['get', 'list', 'create', 'patch'],
    why: 'conditions that changed, and why a DaemonSet lacks pods',
  },
  {
    apiGroups: [''],
    resources: ['configmaps', 'services', 'serviceaccounts'],
    verbs: kept,
    why: 'what a function consists of',
  },
  { apiGroups: ['apps'], resources: ['deployments', 'daemonsets'], verbs: kept, why: 'its pods' },
  {
    apiGroups: ['apps'],
    resources: ['replicasets'],
    verbs: ['list', 'watch'],
    why: 'why pods are not made',
  },
  { apiGroups: ['policy'], resources: ['poddisruptionbudgets'], verbs: kept, why: 'drains of nodes' },
  { apiGroups: ['networking.k8s.io'], resources: ['networkpolicies'], verbs: kept, why: 'who may call it' },
  {
    apiGroups: ['autoscaling'],
    resources: ['horizontalpodautoscalers'],
    verbs: kept,
    why: 'scaling by CPU',
  },
  {
    apiGroups: ['keda.sh'],
    resources: ['scaledobjects'],
    verbs: kept,
    why: 'scaling by lag or in-flight; only with KEDA',
  },
  { apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'], why: 'how it goes' },
];

/** There too, with `nats.operatorFile`. It may write Secrets and read none. */
export const accountRights: readonly Rule[] = [
  {
    apiGroups: [''],
    resources: ['secrets'],
    verbs: ['create', 'delete'],
    why: "a function's NATS user; only with accounts",
  },
];

/** In each namespace of `watchSecretsIn`, and in no other. ConfigMaps it may read anyway. */
export const secretRights: readonly Rule[] = [
  {
    apiGroups: [''],
    resources: ['secrets'],
    verbs: ['list', 'watch'],
    why: 'which functions are started anew by a change',
  },
];

/** In the namespace of the Lease, which is its own. */
export const leaseRights: readonly Rule[] = [
  {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['get', 'create', 'update'],
    why: 'one replica works',
  },
];

/** Of the cluster. */
export const clusterRights: readonly Rule[] = [
  {
    apiGroups: [''],
    resources: ['namespaces'],
    resourceNames: ['kube-system'],
    verbs: ['get'],
    why: 'its uid tells clusters apart that share a NATS account',
  },
];
