/** Pods as the API server tells of them: what is looked at, and what each says of itself. */
import type { ClusterObject } from '../cluster/informer.ts';
import type { Resource } from '../cluster/client.ts';
import { configAnnotation, functionLabel } from './manifests.ts';

export const podResource: Resource = { group: '', version: 'v1', plural: 'pods' };

export interface Pod extends ClusterObject {
  readonly spec: { readonly nodeName?: string };
  readonly status: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly podIP?: string;
    readonly conditions?: readonly PodCondition[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

export interface PodCondition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
}

export interface ContainerStatus {
  readonly name: string;
  readonly restartCount: number;
  readonly state?: ContainerState;
  readonly lastState?: ContainerState;
}

export interface ContainerState {
  readonly waiting?: { readonly reason?: string; readonly message?: string };
  readonly running?: { readonly startedAt?: string };
  readonly terminated?: {
    readonly exitCode: number;
    readonly reason?: string;
    readonly message?: string;
    readonly finishedAt?: string;
  };
}

const conditionsKept = ['Ready', 'ContainersReady', 'PodScheduled'];

/** Without what nobody looks at: a pod is 9 KB, and there may be thousands. */
export function keptPod({ metadata, spec, status }: Pod): Pod {
  const { name, namespace, uid, resourceVersion, creationTimestamp, deletionTimestamp } = metadata;
  const config = metadata.annotations?.[configAnnotation];
  const of = metadata.labels?.[functionLabel];
  return {
    metadata: {
      name,
      uid,
      resourceVersion,
      ...(namespace !== undefined && { namespace }),
      ...(creationTimestamp !== undefined && { creationTimestamp }),
      ...(deletionTimestamp !== undefined && { deletionTimestamp }),
      ...(of !== undefined && { labels: { [functionLabel]: of } }),
      ...(config !== undefined && { annotations: { [configAnnotation]: config } }),
    },
    spec: spec.nodeName === undefined ? {} : { nodeName: spec.nodeName },
    status: keptPodStatus(status),
  };
}

function keptPodStatus(status: Pod['status']): Pod['status'] {
  const { phase, reason, message, podIP, initContainerStatuses, containerStatuses } = status;
  const conditions = status.conditions?.filter(({ type }) => conditionsKept.includes(type));
  return {
    ...(phase !== undefined && { phase }),
    ...(reason !== undefined && { reason }),
    ...(message !== undefined && { message }),
    ...(podIP !== undefined && { podIP }),
    ...(conditions && { conditions: conditions.map(keptCondition) }),
    ...(initContainerStatuses && { initContainerStatuses: initContainerStatuses.map(keptContainer) }),
    ...(containerStatuses && { containerStatuses: containerStatuses.map(keptContainer) }),
  };
}

const keptCondition = ({ type, status, reason, message }: PodCondition): PodCondition => ({
  type,
  status,
  ...(reason !== undefined && { reason }),
  ...(message !== undefined && { message }),
});

const keptContainer = ({ name, restartCount, state, lastState }: ContainerStatus): ContainerStatus => ({
  name,
  restartCount,
  ...(state && { state }),
  ...(lastState && Object.keys(lastState).length > 0 && { lastState }),
});

export const isLeaving = ({ metadata }: Pod): boolean => metadata.deletionTimestamp !== undefined;

export const isPodReady = ({ status }: Pod): boolean =>
  status.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;

/**
 * Its node is out of reach: the control plane took back its readiness, while kubelet's last word was that all its
 * containers are ready. It may well go on running there.
 */
export const isOutOfReach = ({ status }: Pod): boolean => {
  const is = (type: string, value: string): boolean =>
    status.conditions?.some((one) => one.type === type && one.status === value) ?? false;
  return is('Ready', 'False') && is('ContainersReady', 'True');
};

/** Which ConfigMap it runs. */
export const configOf = ({ metadata }: Pod): string | undefined => metadata.annotations?.[configAnnotation];

/** `http://10.244.1.7:8080`, `http://[fd00::7]:8080` */
export function addressOf({ status }: Pod, port: number): string | undefined {
  const { podIP } = status;
  if (podIP === undefined) return undefined;
  return `http://${podIP.includes(':') ? `[${podIP}]` : podIP}:${port}`;
}
