/** The host's own HTTP server: health, metrics, status, the invoke door and http triggers, mounted by path. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { RuntimeConfig } from './config.ts';
import type { Log } from './log.ts';

/** Gets the request with `url` cut to what follows the prefix. Must answer. */
export type Handle = (
  request: IncomingMessage,
  response: ServerResponse,
  rest: string,
) => void | Promise<void>;

export interface Server {
  /** Longest prefix wins. A prefix can be mounted once; mounting it again replaces it. Returns unmount. */
  mount(prefix: string, handle: Handle): () => void;
  listen(): Promise<{ address: string }>;
  /** Stops taking connections, waits for open requests until `deadline`. */
  close(deadline: number): Promise<void>;
}

export declare function openServer(listen: RuntimeConfig['listen'], log: Log): Server;
