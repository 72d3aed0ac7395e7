/** The host's own HTTP server: health, metrics, status, the invoke door and http triggers, mounted by path. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { rm } from 'node:fs/promises';
import { maxPayloadBytes, type RuntimeConfig } from './config.ts';
import { AtollError, type Code } from './errors.ts';
import type { Log } from './log.ts';

// `import http from 'node:http'` in an ES module loads undici as well: 28 ms of every start (DESIGN 5).
const http = process.getBuiltinModule('node:http');

/** A prefix has at most this many segments: /http/<namespace>/<function>/<trigger>. */
const maxPrefixSegments = 4;

/** Gets the request with `rest`, what follows the prefix in its URL, query included. Must answer. */
export type Handle = (
  request: IncomingMessage,
  response: ServerResponse,
  rest: string,
) => void | Promise<void>;

export interface Server {
  /** Longest prefix wins. Mounting a prefix again replaces it. Returns unmount, which leaves a replacement alone. */
  mount(prefix: string, handle: Handle): () => void;
  listen(): Promise<{ address: string }>;
  /** Stops taking connections, waits for open requests until `deadline` (ms since the epoch), then cuts them. */
  close(deadline: number): Promise<void>;
}

export function openServer(listen: RuntimeConfig['listen'], log: Log): Server {
  const mounted = new Map<string, Handle>();
  let closing = false;
  const server = http.createServer({ keepAliveTimeout: 60_000, requestTimeout: 0 }, (request, response) => {
    response.once('close', () => {
      // It was busy when all idle connections were closed, and nobody else will close it.
      if (closing) setImmediate(() => server.closeIdleConnections());
    });
    const url = request.url ?? '/';
    const found = longestPrefix(mounted, url);
    if (!found)
      return answerError(response, 404, 'InvalidRequest', `nothing is served at ${url.split('?')[0]}`);
    try {
      const answered = found.handle(request, response, found.rest);
      if (answered) answered.catch((error: unknown) => failed(error, response));
    } catch (error) {
      failed(error, response);
    }
  });
  server.on('clientError', (_error, socket) => {
    if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n');
  });

  function failed(error: unknown, response: ServerResponse): void {
    if (error instanceof AtollError) {
      // What is still to come of such a body is not read.
      if (error.code === 'TooLarge')
        return answerError(response, 413, error.code, error.message, { connection: 'close' });
      return answerError(response, 400, error.code, error.message);
    }
    log.error({ err: error }, 'request failed');
    answerError(response, 500, 'Internal', "internal error: the host's log has it");
  }

  return {
    mount(prefix, handle) {
      mounted.set(prefix, handle);
      return () => {
        if (mounted.get(prefix) === handle) mounted.delete(prefix);
      };
    },
    async listen() {
      if ('path' in listen) await rm(listen.path, { force: true });
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(listen, () => {
          server.off('error', reject);
          resolve();
        });
      });
      const bound = server.address();
      if (bound === null || typeof bound === 'string') return { address: `unix:${bound ?? ''}` };
      const host = bound.family === 'IPv6' ? `[${bound.address}]` : bound.address;
      return { address: `http://${host}:${bound.port}` };
    },
    close(deadline) {
      closing = true;
      return new Promise((resolve) => {
        const cut = setTimeout(() => server.closeAllConnections(), Math.max(0, deadline - Date.now()));
        server.close(() => {
          clearTimeout(cut);
          resolve();
        });
        server.closeIdleConnections();
      });
    },
  };
}

function longestPrefix(
  mounted: Map<string, Handle>,
  url: string,
): { handle: Handle; rest: string } | undefined {
  const query = url.indexOf('?');
  const path = query < 0 ? url : url.slice(0, query);
  const ends: number[] = [];
  for (
    let at = path.indexOf('/', 1);
    at >= 0 && ends.length < maxPrefixSegments;
    at = path.indexOf('/', at + 1)
  ) {
    ends.push(at);
  }
  if (ends.length < maxPrefixSegments) ends.push(path.length);
  for (const end of ends.reverse()) {
    const handle = mounted.get(path.slice(0, end));
    if (handle) return { handle, rest: url.slice(end) };
  }
  return undefined;
}

export function answerError(
  response: ServerResponse,
  status: number,
  code: Code,
  message: string,
  headers: Record<string, string> = {},
): void {
  if (response.headersSent) return void response.destroy();
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify({ code, message }));
}

/** The whole body. Rejects with AtollError TooLarge beyond `maxPayloadBytes`, without reading on. */
export async function readBody(request: IncomingMessage): Promise<Buffer> {
  const declared = Number(request.headers['content-length'] ?? 0);
  const chunks: Buffer[] = [];
  let size = 0;
  if (declared <= maxPayloadBytes) {
    // Leaving the loop must not cut the connection: the refusal goes out on it.
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxPayloadBytes) break;
      chunks.push(chunk);
    }
  }
  if (declared > maxPayloadBytes || size > maxPayloadBytes) {
    throw new AtollError('TooLarge', `the body is larger than ${maxPayloadBytes} bytes`);
  }
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size);
}
