/**
 * GET …/status: the Function's status as the store has it, with the triggers' state as the hosts tell it now.
 * Shape: FunctionStatus & { namespace, name, generation, hosts, problem? }.
 */
import type { FastifyInstance } from 'fastify';
import type { FunctionStatus, TriggerStatus } from '../../crds/function.ts';
import type { Backend, Observation } from '../../controller/backends/backend.ts';
import type { HostFunctionStatus } from '../../runtime/config.ts';
import type { Store } from '../../controller/stores/store.ts';
import { type FunctionParams, functionOf, functionPath } from './function.ts';
import { queryOf } from './query.ts';

export interface LiveStatus extends FunctionStatus {
  namespace: string;
  name: string;
  generation: number;
  /** Of all hosts. */
  hosts: readonly HostFunctionStatus[];
  /** Why nothing can be observed, when that is so. */
  problem?: { readonly reason: string; readonly message: string };
}

export function statusRoute(
  app: FastifyInstance,
  store: Pick<Store, 'get'>,
  backend: Pick<Backend, 'observe'>,
): void {
  app.get<{ Params: FunctionParams }>(
    `${functionPath}/status`,
    { config: { door: 'control', route: 'status' } },
    async (request): Promise<LiveStatus> => {
      queryOf(request.query, []);
      // From the store itself: what the gateway keeps follows changes of Functions, not of their status.
      const { metadata, status = {} } = await functionOf(request.params, store);
      const observed = await backend.observe(metadata);
      const hosts = observed?.hosts ?? [];
      const triggers = triggersOf(observed) ?? status.triggers;
      return {
        namespace: metadata.namespace,
        name: metadata.name,
        generation: metadata.generation,
        ...status,
        ...(triggers && { triggers }),
        hosts,
        ...(observed?.problem && { problem: observed.problem }),
      };
    },
  );
}

/** A trigger is as ready as it is on the host where it is least so. */
function triggersOf(observed: Observation | undefined): TriggerStatus[] | undefined {
  if (!observed || observed.hosts.length === 0) return undefined;
  const worst = new Map<string, TriggerStatus>();
  for (const trigger of observed.hosts.flatMap((host) => host.triggers)) {
    const known = worst.get(trigger.name);
    if (!known || (known.ready && !trigger.ready)) worst.set(trigger.name, { ...trigger });
  }
  return [...worst.values()];
}
