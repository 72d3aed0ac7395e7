/** Where workloads run. `test/contracts/backend.ts` holds every backend to this. */
import type { FunctionSpec } from '../../crds/function.ts';
import type { HostFunctionStatus } from '../../runtime/config.ts';
import type { LogRecord } from '../../runtime/log.ts';
import type { Key, Watchable } from '../stores/store.ts';

/** What is to run, made from a Function by `function/workload.ts`. */
export interface Workload {
  readonly key: Key;
  readonly uid: string;
  readonly generation: number;
  readonly spec: FunctionSpec;
  /** Of a Function whose package was taken away: the digest of the one that answered last. */
  readonly lastAnswered?: string;
}

/** What runs. */
export interface Observation {
  readonly replicas: number;
  readonly readyReplicas: number;
  /** Of each host that answered; none while it starts. Those of the wanted generation come first. */
  readonly hosts: readonly HostFunctionStatus[];
  /** While replicas are being replaced one after the other: how far that is. */
  readonly rollout?: { readonly updated: number; readonly wanted: number; readonly old: number };
  /** Why nothing can be observed, when that is so. */
  readonly problem?: { readonly reason: string; readonly message: string };
  /** Label selector of what the replicas are, in a cluster: an autoscaler finds it at /scale. */
  readonly selector?: string;
  /** Parts of the spec that this backend does not act on. */
  readonly ignored?: readonly string[];
  /** A ready replica has not been heard yet, as after a start of ours: nothing can be said of the function for the moment. */
  readonly unheard?: boolean;
}

export interface LogQuery {
  readonly since?: number;
  readonly follow?: boolean;
  readonly requestId?: string;
  readonly limit?: number;
  readonly signal?: AbortSignal;
  /** Called once every record written from then on will be given. */
  readonly onFollowing?: () => void;
}

export interface Backend extends Watchable {
  /** Twice with the same input changes nothing. Returns before the workload is ready. */
  ensure(workload: Workload): Promise<void>;
  /** Removing what is not there is fine. */
  remove(key: Key): Promise<void>;
  /** Undefined: nothing of that key runs here. */
  observe(key: Key): Promise<Observation | undefined>;
  /** Where the function's host listens (`http://host:port` or `unix:/path`); undefined: nowhere now. */
  address(key: Key): string | undefined;
  logs(key: Key, query: LogQuery): AsyncIterable<LogRecord>;
  close(): Promise<void>;
}
