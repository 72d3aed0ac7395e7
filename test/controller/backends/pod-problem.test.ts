import { expect, test } from 'vitest';
import { podProblem, refusedPods } from '../../../controller/backends/pod-problem.ts';
import type { ContainerStatus, Pod } from '../../../controller/backends/pods.ts';

function pod(name: string, status: Pod['status'], metadata: object = {}): Pod {
  return {
    metadata: { name, namespace: 'lab', uid: name, resourceVersion: '1', ...metadata },
    spec: { nodeName: 'robot-7' },
    status,
  };
}

const problemOf = (status: Pod['status']): string => {
  const problem = podProblem([pod('a', status)], '352Mi');
  return problem ? `${problem.reason}: ${problem.message}` : 'none';
};
const host = (container: Partial<ContainerStatus>): Pod['status'] => ({
  phase: 'Running',
  containerStatuses: [{ name: 'host', restartCount: 0, ...container }],
});
const fetcher = (container: Partial<ContainerStatus>): Pod['status'] => ({
  phase: 'Pending',
  initContainerStatuses: [{ name: 'package', restartCount: 0, ...container }],
});
const ended = (exitCode: number, more: object = {}): ContainerStatus['state'] => ({
  terminated: { exitCode, reason: exitCode === 0 ? 'Completed' : 'Error', ...more },
});
const backoff = {
  waiting: { reason: 'CrashLoopBackOff', message: 'back-off 10s restarting failed container' },
};

test.each([
  [
    'no node fits',
    {
      phase: 'Pending',
      conditions: [
        {
          type: 'PodScheduled',
          status: 'False',
          reason: 'Unschedulable',
          message: '0/3 nodes are available',
        },
      ],
    },
    'Unschedulable: pod a: 0/3 nodes are available',
  ],
  [
    'its node is silent',
    {
      phase: 'Running',
      conditions: [
        { type: 'Ready', status: 'False' },
        { type: 'ContainersReady', status: 'True' },
      ],
    },
    'NodeUnreachable: pod a: its node robot-7 does not tell how it is; what runs there may go on',
  ],
  [
    'the image is not there',
    fetcher({
      state: { waiting: { reason: 'ImagePullBackOff', message: 'Back-off pulling image "atoll:9"' } },
    }),
    'ImagePullBackOff: pod a: Back-off pulling image "atoll:9"',
  ],
  [
    'the package is not there',
    fetcher({
      state: backoff,
      lastState: ended(1, {
        message: '{"level":"INFO"}\nPackageNotFound: s3://p/x.tgz: there is no such object\n',
      }),
    }),
    'PackageNotFound: pod a: s3://p/x.tgz: there is no such object',
  ],
  [
    'the package container says nothing we know',
    fetcher({ state: ended(134, { message: 'Aborted' }) }),
    'PackageUnavailable: pod a: Aborted',
  ],
  [
    'the package came at last',
    fetcher({ state: ended(0), lastState: ended(1, { message: 'PackageUnavailable: away' }) }),
    'none',
  ],
  [
    'the memory was used up',
    host({ state: backoff, lastState: ended(137, { reason: 'OOMKilled' }) }),
    'OOMKilled: pod a: container host needed more than its limit of 352Mi: raise spec.memory, or spec.pod.resources.limits.memory',
  ],
  [
    'the host cannot start',
    host({ state: backoff, lastState: ended(1, { message: 'Error: listen EADDRINUSE\n' }) }),
    'CrashLoopBackOff: pod a: the host ended with exit code 1: Error: listen EADDRINUSE',
  ],
  ['the host is being started again', host({ state: { running: {} }, lastState: ended(1) }), 'none'],
  ['the container is being made', fetcher({ state: { waiting: { reason: 'PodInitializing' } } }), 'none'],
  [
    'the container cannot be made',
    host({ state: { waiting: { reason: 'CreateContainerConfigError', message: 'no such user' } } }),
    'PodFailed: pod a: CreateContainerConfigError: no such user',
  ],
  [
    'the node gave it up',
    { phase: 'Failed', reason: 'Evicted', message: 'The node was low on resource: memory.' },
    'PodFailed: pod a: Evicted: The node was low on resource: memory.',
  ],
])('%s', (_what, status, told) => {
  expect(problemOf(status)).toBe(told);
});

test('a pod that is ready, or leaves, has no problem, whatever it had', () => {
  const status = host({ state: backoff, lastState: ended(1) });
  const ready = { ...status, conditions: [{ type: 'Ready', status: 'True' }] };
  expect(podProblem([pod('a', ready), pod('b', status, { deletionTimestamp: 'now' })], '')).toBeUndefined();
});

test('a pod that was given up is no problem any more once the pods in its place are ready', () => {
  const evicted = pod('a', { phase: 'Failed', reason: 'Evicted', message: 'low on memory' });
  const next = (status: string): Pod =>
    pod('b', { phase: 'Running', conditions: [{ type: 'Ready', status }] });
  expect(podProblem([evicted, next('True')], '')).toBeUndefined();
  expect(podProblem([evicted, next('False')], '')?.message).toBe('pod a: Evicted: low on memory');
});

test('of several pods the first by name speaks, in whichever order they come', () => {
  const one = pod('a', host({ state: backoff, lastState: ended(1) }));
  const other = pod('b', host({ state: backoff, lastState: ended(2) }));
  expect(podProblem([other, one], '')).toEqual(podProblem([one, other], ''));
  expect(podProblem([other, one], '')?.message).toContain('pod a');
});

test('pods that are not even made are told of by who should make them', () => {
  const failure = (message: string) => refusedPods([{ type: 'ReplicaFailure', status: 'True', message }]);
  expect(failure('pods "x" is forbidden: exceeded quota: small')?.reason).toBe('QuotaExceeded');
  expect(failure('pods "x" is forbidden: violates PodSecurity "restricted:latest"')?.reason).toBe(
    'PodRefused',
  );
  expect(refusedPods([{ type: 'Available', status: 'True', message: '' }])).toBeUndefined();
});
