/** Functions in a real API server, so that what a backend makes of them has an owner that is there. */
import type { Workload } from '../../../controller/backends/backend.ts';
import type { Key } from '../../../controller/stores/store.ts';
import { workload } from '../../contracts/backend.ts';
import type { Kubernetes } from '../../support/kubernetes.ts';

const path = '/apis/atoll.dev/v1alpha1';

/** The Function, made when it is not there, and the workload it is. */
export async function declare(
  kubernetes: Kubernetes,
  options: { key: Key } & Parameters<typeof workload>[0],
): Promise<Workload> {
  const { namespace, name } = options.key;
  const body = {
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name },
    spec: { package: { inline: '0' } },
  };
  const at = `${path}/namespaces/${namespace}/functions`;
  let answer = await kubernetes.request('GET', `${at}/${name}`);
  if (answer.status === 404) answer = await kubernetes.request('POST', at, { body });
  const { metadata } = answer.body as { metadata?: { uid: string } };
  if (!metadata) throw new Error(`the Function was refused: ${JSON.stringify(answer.body)}`);
  return workload({ ...options, uid: metadata.uid });
}

export async function undeclare(kubernetes: Kubernetes, { namespace, name }: Key): Promise<void> {
  await kubernetes.kubectl(['delete', 'functions.atoll.dev', name, '-n', namespace, '--ignore-not-found']);
}
