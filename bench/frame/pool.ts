/** The host's own pool of handler processes, without a host around it. */
import type { Outcome } from '../../runtime/event.ts';
import type { Invoker } from '../../runtime/invoker/invoker.ts';
import { openPool, type PoolOptions } from '../../runtime/invoker/pool.ts';

/** Over an unpacked package; the rest as the manifest's defaults have it. */
export function poolOver(root: string, more: Partial<PoolOptions> = {}): Invoker {
  return openPool({
    function: { namespace: 'default', name: 'bench' },
    version: '0'.repeat(64),
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    root,
    env: {},
    timeoutMs: 30_000,
    memoryBytes: 128 * 1024 * 1024,
    concurrency: 1,
    processes: 1,
    spareProcesses: 0,
    log: () => {},
    ...more,
  });
}

let count = 0;

export function invoke(pool: Invoker, payload: string, timeoutMs = 30_000): Promise<Outcome> {
  const event = {
    id: `e${(count += 1)}`,
    trigger: 'invoke',
    kind: 'invoke',
    subject: 'bench',
    time: Date.now(),
    attempt: 1,
    headers: {},
    encoding: 'json',
    data: Buffer.from(payload),
  } as const;
  return pool.invoke({ events: [event], deadline: Date.now() + timeoutMs });
}
