/** Connections to hosts: one pool for each address that a backend names. Nothing is sent twice. */
import { type Dispatcher, Pool, errors } from 'undici';
import { AtollError } from '../runtime/errors.ts';

export interface Hosts {
  /** `http://host:port` or `unix:/path`. Rejects with AtollError FunctionNotReady (never sent) or ConnectionLost. */
  request(address: string, request: HostRequest): Promise<Dispatcher.ResponseData>;
  /** Those that connections are open to. Pods come and go with an address each: what is not used is forgotten. */
  readonly addresses: readonly string[];
  /** Cuts what is still open. */
  close(): Promise<void>;
}

export interface HostRequest {
  readonly method: string;
  /** Goes out as it is: nothing on the way may rewrite it. */
  readonly path: string;
  readonly headers: Record<string, string | string[]>;
  readonly body: Dispatcher.DispatchOptions['body'];
  readonly signal: AbortSignal;
  /** Until the response's headers are there. */
  readonly waitMs: number;
}

/**
 * A request waits for a slot as long as an invocation may take, then runs as long; what goes wrong on top of that
 * is told by the host, which needs a moment for it.
 */
export function waitMs(timeoutSeconds: number): number {
  return 2 * timeoutSeconds * 1000 + answerGraceMs;
}
const answerGraceMs = 10_000;

export function openHosts(): Hosts {
  const pools = new Map<string, Pool>();
  const poolOf = (address: string): Pool => {
    const known = pools.get(address);
    if (known) return known;
    const pool = openPool(address);
    pools.set(address, pool);
    const forget = (): void => {
      const { connected, pending, queued } = pool.stats;
      if (connected + pending + queued === 0 && pools.get(address) === pool) pools.delete(address);
    };
    pool.on('disconnect', () => void setImmediate(forget));
    pool.on('connectionError', () => void setImmediate(forget));
    return pool;
  };
  return {
    get addresses() {
      return [...pools.keys()];
    },
    async request(address, { method, path, headers, body, signal, waitMs }) {
      try {
        return await poolOf(address).request({
          method: method as Dispatcher.HttpMethod,
          path,
          headers,
          body: body ?? null,
          signal,
          headersTimeout: waitMs,
          // A handler that streams may be silent between two chunks for as long as it runs.
          bodyTimeout: waitMs,
        });
      } catch (error) {
        throw problemOf(error);
      }
    },
    async close() {
      await Promise.all([...pools.values()].map((pool) => pool.destroy()));
    },
  };
}

function openPool(address: string): Pool {
  return address.startsWith('unix:')
    ? new Pool('http://host', { socketPath: address.slice('unix:'.length) })
    : new Pool(address);
}

const neverSent = new Set([
  'ECONNREFUSED',
  'ENOENT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
]);

function problemOf(error: unknown): unknown {
  if (error instanceof AtollError) return error;
  const code = (error as NodeJS.ErrnoException | null)?.code ?? '';
  if (neverSent.has(code) || error instanceof errors.ConnectTimeoutError) {
    return new AtollError('FunctionNotReady', 'the function is not running at the moment; try again', {
      cause: error,
    });
  }
  if (error instanceof errors.RequestAbortedError || (error as Error | null)?.name === 'AbortError') {
    return new AtollError('ConnectionLost', 'the caller went away', { cause: error });
  }
  if (error instanceof errors.UndiciError || code === 'ECONNRESET' || code === 'EPIPE') {
    return new AtollError(
      'ConnectionLost',
      'the host did not answer to the end; whether the function ran is not known',
      { cause: error },
    );
  }
  return error;
}
