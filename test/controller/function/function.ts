/** Functions and observations for tables. */
import { validate, type FunctionObject, type FunctionStatus } from '../../../crds/function.ts';
import type { HostFunctionStatus } from '../../../runtime/config.ts';
import type { Observation } from '../../../controller/backends/backend.ts';

export const digest = (letter: string): string => letter.repeat(64);

export function functionOf(
  options: {
    name?: string;
    namespace?: string;
    generation?: number;
    created?: string;
    spec?: Record<string, unknown>;
    status?: FunctionStatus;
  } = {},
): FunctionObject {
  const { name = 'hello', namespace = 'default', generation = 1, spec, status } = options;
  const verdict = validate({
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name },
    // What is undefined is not there, as in JSON.
    spec: JSON.parse(
      JSON.stringify({ package: { uri: 's3://packages/a.tgz', sha256: digest('a') }, ...spec }),
    ) as unknown,
  });
  if (!verdict.ok) throw new Error(JSON.stringify(verdict.problems));
  const creationTimestamp = options.created ?? '2026-01-01T00:00:00.000Z';
  return {
    ...verdict.object,
    metadata: { name, namespace, uid: `uid-${name}`, generation, creationTimestamp },
    ...(status && { status }),
  };
}

export const ready = { ready: true, reason: 'Ready', message: 'ready' };
export const failed = (reason: string, message = 'it failed'): typeof ready => ({
  ready: false,
  reason,
  message,
});

export function host(status: Partial<HostFunctionStatus> = {}): HostFunctionStatus {
  return {
    namespace: 'default',
    name: 'hello',
    uid: 'uid-hello',
    generation: 1,
    packageSha256: digest('a'),
    package: ready,
    handler: ready,
    triggers: [],
    ...status,
  };
}

export function observed(...hosts: HostFunctionStatus[]): Observation {
  return { replicas: 1, readyReplicas: hosts.length, hosts };
}
