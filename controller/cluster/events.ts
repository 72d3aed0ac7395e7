/** Kubernetes Events about Functions: what `kubectl describe function` and `kubectl events` show. */
import { createHash } from 'node:crypto';
import { apiVersion, kind } from '../../crds/function.ts';
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import type { StatusOwner } from '../function/reconcile.ts';
import type { Transition } from '../function/transitions.ts';
import { ClusterError, resourcePath, type Cluster } from './client.ts';

export const eventResource = { group: 'events.k8s.io', version: 'v1', plural: 'events' } as const;
const reportingController = 'atoll.dev/controller';
/** The API's limits, in characters. */
const maxNote = 1024;
const maxAction = 128;
/** An API server that is away is no reason to fill the memory with what happened meanwhile. */
const maxWaiting = 1_000;

export interface EventsOptions {
  readonly cluster: Cluster;
  /** The Pod's name. */
  readonly instance: string;
  readonly log: Log;
}

export interface Events {
  /** Never rejects and never waits: an Event that cannot be written is dropped. */
  tell(object: StatusOwner, transition: Transition): void;
  /** Resolves when what was told is written or dropped. */
  settled(): Promise<void>;
}

/**
 * The same transition of the same Function has one Event, with a count, whichever replica tells it: its name follows
 * from what it says. The API server forgets it an hour later.
 */
export function openEvents({ cluster, instance, log }: EventsOptions): Events {
  let waiting = 0;
  let written: Promise<void> = Promise.resolve();

  async function write(object: StatusOwner, transition: Transition): Promise<void> {
    const event = eventOf(object, transition, instance);
    const { namespace, name } = event.metadata;
    try {
      await cluster.request('POST', resourcePath(eventResource, { namespace }), { body: event });
    } catch (error) {
      if (!(error instanceof ClusterError) || error.reason !== 'AlreadyExists') throw error;
      const path = resourcePath(eventResource, { namespace, name });
      const { series } = await cluster.request<{ series?: { count: number } }>('GET', path);
      await cluster.request('PATCH', path, {
        contentType: 'application/merge-patch+json',
        body: { series: { count: (series?.count ?? 1) + 1, lastObservedTime: microTime() } },
      });
    }
  }

  return {
    tell(object, transition) {
      if (waiting >= maxWaiting) return;
      waiting += 1;
      written = written
        .then(() => write(object, transition))
        .catch((error: unknown) => {
          const { namespace, name } = object.metadata;
          log.warn({ namespace, function: name, error: faultOf(error).message }, 'an Event was not written');
        })
        .finally(() => (waiting -= 1));
    },
    settled: () => written,
  };
}

function eventOf(object: StatusOwner, { type, reason, action, note }: Transition, instance: string) {
  const { namespace, name, uid, resourceVersion } = object.metadata;
  const said = [uid, type, reason, action, note].join('\n');
  return {
    apiVersion: 'events.k8s.io/v1',
    kind: 'Event',
    metadata: { namespace, name: `${name}.${createHash('sha256').update(said).digest('hex').slice(0, 16)}` },
    regarding: { apiVersion, kind, namespace, name, uid, resourceVersion },
    eventTime: microTime(),
    reportingController,
    reportingInstance: instance.slice(0, 128),
    type,
    reason,
    action: action.slice(0, maxAction),
    note: [...note].slice(0, maxNote).join(''),
  };
}

const microTime = (): string => new Date().toISOString().replace('Z', '000Z');
