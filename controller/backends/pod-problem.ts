/** Why pods do not come to run, in words that somebody can act on. Pure. */
import { errorCodes, type Code } from '../../runtime/errors.ts';
import { hostContainer, packageContainer } from './manifests.ts';
import { isLeaving, isOutOfReach, isPodReady, type ContainerStatus, type Pod } from './pods.ts';

export interface Problem {
  readonly reason: Code;
  readonly message: string;
}

/** kubelet waits some time on its way to these; before, nothing is wrong. */
const imageReasons = new Set(['ImagePullBackOff', 'ErrImagePull', 'ErrImageNeverPull', 'InvalidImageName']);
const startReasons = new Set(['CreateContainerConfigError', 'CreateContainerError', 'RunContainerError']);

/**
 * Of pods that are to run what is wanted now. The first that tells something, in the order of their names: the same
 * pods give the same words. Undefined: all are ready, or on their way.
 */
export function podProblem(pods: readonly Pod[], memoryLimit: string): Problem | undefined {
  const staying = pods.filter((pod) => !isLeaving(pod));
  const others = staying.filter(({ status }) => status.phase !== 'Failed');
  // What a node gave up stays in the API server long after another pod took its place.
  const replaced = others.length > 0 && others.every(isPodReady);
  const waiting = replaced ? [] : staying.filter((pod) => !isPodReady(pod));
  for (const pod of [...waiting].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))) {
    const problem = problemOf(pod, memoryLimit);
    if (problem) return { ...problem, message: `pod ${pod.metadata.name}: ${problem.message}` };
  }
  return undefined;
}

function problemOf(pod: Pod, memoryLimit: string): Problem | undefined {
  if (isOutOfReach(pod)) return unreachable(pod);
  const { status } = pod;
  const scheduled = status.conditions?.find(({ type }) => type === 'PodScheduled');
  if (scheduled?.status === 'False' && scheduled.reason === 'Unschedulable') {
    return { reason: 'Unschedulable', message: scheduled.message ?? 'no node fits' };
  }
  if (status.phase === 'Failed') {
    // Evicted by a node that ran out of something, or refused by its kubelet.
    const why = [status.reason, status.message].filter(Boolean).join(': ');
    return { reason: 'PodFailed', message: why || 'the pod failed' };
  }
  const containers = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  for (const container of containers) {
    const problem = containerProblem(container, memoryLimit);
    if (problem) return problem;
  }
  return undefined;
}

export const unreachable = ({ spec }: Pod): Problem => ({
  reason: 'NodeUnreachable',
  message: `its node ${spec.nodeName} does not tell how it is; what runs there may go on`,
});

function containerProblem(
  { name, state = {}, lastState = {} }: ContainerStatus,
  memoryLimit: string,
): Problem | undefined {
  const { reason = '', message = '' } = state.waiting ?? {};
  if (imageReasons.has(reason)) return { reason: 'ImagePullBackOff', message: message || reason };
  if (startReasons.has(reason)) return { reason: 'PodFailed', message: `${reason}: ${message}` };
  const ended = state.terminated ?? lastState.terminated;
  if (!ended || ended.exitCode === 0) return undefined;
  if (ended.reason === 'OOMKilled') {
    return {
      reason: 'OOMKilled',
      message: `container ${name} needed more than its limit of ${memoryLimit}: raise spec.memory, or spec.pod.resources.limits.memory`,
    };
  }
  if (name === packageContainer) return packageProblem(ended.message ?? '');
  // It may have been told to end, and be on its way again.
  if (name !== hostContainer || reason !== 'CrashLoopBackOff') return undefined;
  const last = lastLine(ended.message ?? '');
  return {
    reason: 'CrashLoopBackOff',
    message: `the host ended with exit code ${ended.exitCode}${last === '' ? '' : `: ${last}`}`,
  };
}

/** runtime/package/main.ts ends with `Code: message`. */
function packageProblem(text: string): Problem {
  const line = lastLine(text);
  const [, code = '', message = ''] = /^([A-Za-z]+): ([^]*)$/.exec(line) ?? [];
  if (Object.hasOwn(errorCodes, code)) return { reason: code as Code, message };
  return { reason: 'PackageUnavailable', message: line || 'the package could not be fetched' };
}

const lastLine = (text: string): string => text.trimEnd().split('\n').at(-1) ?? '';

/** What a Deployment or DaemonSet says when its pods are not even made. */
export function refusedPods(
  conditions: readonly { type: string; status: string; message?: string }[],
): Problem | undefined {
  const failure = conditions.find(({ type, status }) => type === 'ReplicaFailure' && status === 'True');
  if (!failure) return undefined;
  const message = failure.message ?? 'the API server refused the pod';
  return { reason: message.includes('exceeded quota') ? 'QuotaExceeded' : 'PodRefused', message };
}
