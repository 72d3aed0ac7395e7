/**
 * Why a DaemonSet lacks pods. Unlike a Deployment it has no condition for what the API server refused: its controller
 * says so in Events only.
 */
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { resourcePath, type Cluster } from '../cluster/client.ts';
import { eventResource } from '../cluster/events.ts';
import type { Child } from './children.ts';
import { refusedPods, type Problem } from './pod-problem.ts';

interface Event {
  readonly note?: string;
  readonly metadata: { readonly creationTimestamp: string };
  readonly deprecatedLastTimestamp?: string | null;
  readonly series?: { readonly lastObservedTime: string } | null;
}

/** Nodes that are to have a pod and have none, by the last word of the DaemonSet's controller. */
export function missingDaemonPods({ kind, metadata, status }: Child): number {
  if (kind !== 'DaemonSet' || Number(status['observedGeneration'] ?? 0) < (metadata.generation ?? 0))
    return 0;
  return Math.max(
    0,
    Number(status['desiredNumberScheduled'] ?? 0) - Number(status['currentNumberScheduled'] ?? 0),
  );
}

/** Undefined: nothing is said, or not yet. Never rejects: a status without it is better than none. */
export async function refusedDaemonPods(
  cluster: Cluster,
  { metadata }: Child,
  log: Log,
): Promise<Problem | undefined> {
  const { namespace, name, uid } = metadata;
  try {
    const { items } = await cluster.request<{ items: readonly Event[] }>(
      'GET',
      resourcePath(eventResource, { namespace }),
      { query: { fieldSelector: `regarding.uid=${uid},reason=FailedCreate` } },
    );
    const [last] = [...items].sort((a, b) => (timeOf(a) > timeOf(b) ? -1 : 1));
    if (last?.note === undefined) return undefined;
    // Each attempt has another name of a pod, and would be another status.
    const message = last.note.replace(
      /^Error creating: (?:pods "[^"]*" is forbidden: )?/,
      'its pods are refused: ',
    );
    return refusedPods([{ type: 'ReplicaFailure', status: 'True', message }]);
  } catch (error) {
    log.warn(
      { namespace, daemonSet: name, error: faultOf(error).message },
      'why pods are missing is not known',
    );
    return undefined;
  }
}

const timeOf = ({ metadata, deprecatedLastTimestamp, series }: Event): string =>
  series?.lastObservedTime ?? deprecatedLastTimestamp ?? metadata.creationTimestamp;
