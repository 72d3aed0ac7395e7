/** One replica of the controller at a time: the Lease that Kubernetes' own controllers use, and the proof of holding it. */
import { setTimeout as pause } from 'node:timers/promises';
import { AtollError, faultOf } from '../runtime/errors.ts';
import type { Log } from '../runtime/log.ts';
import { ClusterError, resourcePath, type Cluster } from './cluster/client.ts';

const leaseResource = { group: 'coordination.k8s.io', version: 'v1', plural: 'leases' } as const;

export interface LeaseTimings {
  /** Another takes over when it has seen no renewal for so long. A whole number of seconds. */
  readonly durationMs: number;
  /** Without a renewal for so long the holder stops. What is left of `durationMs` is for what it has sent already. */
  readonly deadlineMs: number;
  /** How often the holder renews, and another looks. */
  readonly retryMs: number;
}

/** Failover: at most a look (2.4 s) after the last renewal is seen, the duration, and another look: 17 s. */
const defaults: LeaseTimings = { durationMs: 12_000, deadlineMs: 8_000, retryMs: 2_000 };

export interface LeaseOptions {
  readonly cluster: Cluster;
  readonly namespace: string;
  readonly name: string;
  /** Unique among all that may ever ask for it: the Pod's name. */
  readonly holder: string;
  readonly log: Log;
  readonly timings?: Partial<LeaseTimings>;
  onHeld(): void;
  /** What only the holder may do has to end; nothing it writes goes out any more. Never called by `release`. */
  onLost(why: string): void;
}

export interface Lease {
  readonly held: boolean;
  /** Throws AtollError LeaseLost unless it is held at this moment, by the monotonic clock: also right after a sleep. */
  readonly mayWrite: () => void;
  /** The next one gets it at once. Call it when the work is over. Never rejects. */
  release(): Promise<void>;
}

/** `spec` of a Lease; what is not set is absent. */
interface LeaseSpec {
  readonly holderIdentity?: string;
  readonly leaseDurationSeconds?: number;
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

interface LeaseObject {
  readonly metadata: { readonly name: string; readonly namespace: string; readonly resourceVersion: string };
  readonly spec?: LeaseSpec;
}

/** Asks for the lease until `release`, and again whenever it was lost. */
export function holdLease(options: LeaseOptions): Lease {
  const { cluster, holder, log } = options;
  const timings = { ...defaults, ...options.timings };
  const { namespace, name } = options;
  /** So that a connection that is open at one end only costs one try, not the lease. */
  const timeoutMs = timings.deadlineMs * 0.3;
  const path = resourcePath(leaseResource, { namespace, name });
  const closing = new AbortController();

  /** As it was when we last wrote or read it. */
  let last: LeaseObject | undefined;
  /**
   * When we first saw `last`, on our own monotonic clock: those of two machines differ, so the time that is written in
   * it would prove nothing.
   */
  let sinceMs = 0;
  let heldUntilMs = -Infinity;
  let held = false;
  let giveUp: NodeJS.Timeout | undefined;
  let told = '';

  const isValid = (): boolean => held && performance.now() < heldUntilMs;

  function lose(why: string): void {
    if (!held) return;
    held = false;
    heldUntilMs = -Infinity;
    clearTimeout(giveUp);
    if (!closing.signal.aborted) options.onLost(why);
  }

  /** `sentMs`: before the write was sent, so no other can have seen it earlier. */
  function hold(written: LeaseObject, sentMs: number): void {
    last = written;
    if (closing.signal.aborted) return;
    const fresh = !held;
    held = true;
    heldUntilMs = sentMs + timings.deadlineMs;
    clearTimeout(giveUp);
    giveUp = setTimeout(
      () => lose(`it could not be renewed for ${timings.deadlineMs / 1000} s`),
      heldUntilMs - performance.now(),
    );
    if (fresh) options.onHeld();
  }

  async function read(): Promise<LeaseObject | undefined> {
    const found = await cluster.request<LeaseObject>('GET', path, { timeoutMs }).catch((error: unknown) => {
      if (error instanceof ClusterError && error.status === 404) return undefined;
      throw error;
    });
    if (found?.metadata.resourceVersion !== last?.metadata.resourceVersion) sinceMs = performance.now();
    last = found;
    return found;
  }

  async function write(spec: LeaseSpec): Promise<LeaseObject> {
    const metadata = last?.metadata ?? { namespace, name };
    const body = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata, spec };
    const request = { body, timeoutMs };
    return last
      ? cluster.request<LeaseObject>('PUT', path, request)
      : cluster.request<LeaseObject>('POST', resourcePath(leaseResource, { namespace }), request);
  }

  async function tryOnce(): Promise<void> {
    const wasHeld = isValid();
    // Whoever renews knows what is there unless somebody else wrote, and then the version is refused.
    const present = wasHeld ? last : await read();
    const other = present?.spec?.holderIdentity;
    if (other && other !== holder) {
      lose(`${other} holds it`);
      const theirMs = (present.spec?.leaseDurationSeconds ?? 0) * 1000;
      if (other !== told) log.info({ lease: name, holder: other }, 'another controller leads');
      told = other;
      if (performance.now() < sinceMs + theirMs) return;
    }
    const now = microTime();
    const { leaseTransitions = 0, acquireTime = now } = present?.spec ?? {};
    const sentMs = performance.now();
    const written = await write({
      holderIdentity: holder,
      leaseDurationSeconds: timings.durationMs / 1000,
      acquireTime: other === holder ? acquireTime : now,
      renewTime: now,
      leaseTransitions: !present || other === holder ? leaseTransitions : leaseTransitions + 1,
    });
    told = '';
    hold(written, sentMs);
  }

  const following = (async () => {
    while (!closing.signal.aborted) {
      try {
        await tryOnce();
      } catch (error) {
        const status = error instanceof ClusterError ? error.status : undefined;
        // Somebody was faster or deleted it, or a write of ours arrived after all: what is there is read at once.
        if (held && (status === 409 || status === 404)) await tryRead();
        else if (status !== 409)
          log.warn({ lease: name, error: faultOf(error).message }, 'the lease cannot be asked for');
      }
      // Jitter: two that look at the same time would always collide.
      await pause(timings.retryMs * (0.8 + Math.random() * 0.4), undefined, { signal: closing.signal }).catch(
        () => {},
      );
    }
  })();

  async function tryRead(): Promise<void> {
    try {
      const other = (await read())?.spec?.holderIdentity;
      if (other !== holder) lose(`${other || 'nobody'} holds it`);
    } catch {
      // The next try tells.
    }
  }

  return {
    get held() {
      return isValid();
    },
    mayWrite() {
      if (isValid()) return;
      throw new AtollError(
        'LeaseLost',
        `this controller (${holder}) does not hold the lease ${namespace}/${name}`,
      );
    },
    async release() {
      if (closing.signal.aborted) return;
      closing.abort();
      await following;
      clearTimeout(giveUp);
      const mine = isValid() && last?.spec?.holderIdentity === holder;
      held = false;
      if (!mine) return;
      const { leaseTransitions = 0 } = last?.spec ?? {};
      // Nobody's, and for a second only, as Kubernetes' own do it: an empty holder is free at once.
      const now = microTime();
      const free = {
        holderIdentity: '',
        leaseDurationSeconds: 1,
        acquireTime: now,
        renewTime: now,
        leaseTransitions,
      };
      await write(free).catch((error: unknown) => {
        log.warn(
          { lease: name, error: faultOf(error).message },
          'the lease could not be released; it runs out',
        );
      });
    },
  };
}

/** Kubernetes' MicroTime has six digits, no fewer. */
const microTime = (): string => new Date().toISOString().replace('Z', '000Z');
