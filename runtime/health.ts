/** What a host says of itself: /healthz, /readyz, /metrics, /status (and its changes with ?watch=true). */
import type { ServerResponse } from 'node:http';
import type { HostFunctionStatus, HostStatusLine } from './config.ts';
import type { Metrics } from './metrics.ts';
import type { Server } from './server.ts';

export interface Health {
  changed(status: HostFunctionStatus): void;
  removed(namespace: string, name: string): void;
  /** From now on /readyz tells the functions' state; before it answers 503. */
  started(): void;
  /** No event is taken any more: watches end and /status answers 503. /readyz stays as it is. */
  left(): void;
  /** The same, and /readyz answers 503 too. */
  stopping(): void;
}

export function openHealth(server: Server, metrics: Metrics): Health {
  const statuses = new Map<string, HostFunctionStatus>();
  const watchers = new Set<ServerResponse>();
  let phase: 'starting' | 'running' | 'left' | 'stopping' = 'starting';

  server.mount('/healthz', (_request, response) => void response.end('ok\n'));
  server.mount('/readyz', (_request, response) => {
    const waiting = [...statuses.values()].filter((status) => status.packageSha256 === undefined);
    const ready = (phase === 'running' || phase === 'left') && waiting.length === 0;
    response.writeHead(ready ? 200 : 503, { 'content-type': 'text/plain' });
    response.end(
      ready ? 'ok\n' : `${phase}; not ready: ${waiting.map(({ name }) => name).join(', ') || '-'}\n`,
    );
  });
  server.mount('/metrics', async (_request, response) => {
    const text = await metrics.registry.metrics();
    response.writeHead(200, { 'content-type': metrics.registry.contentType });
    response.end(text);
  });
  server.mount('/status', (_request, response, rest) => {
    if (phase === 'left' || phase === 'stopping') {
      response.writeHead(503, { 'content-type': 'text/plain' });
      return void response.end('stopping\n');
    }
    if (new URLSearchParams(rest.slice(1)).get('watch') !== 'true') {
      response.writeHead(200, { 'content-type': 'application/json' });
      return void response.end(JSON.stringify({ functions: [...statuses.values()] }));
    }
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.flushHeaders();
    for (const status of statuses.values()) response.write(line({ function: status }));
    watchers.add(response);
    response.once('close', () => watchers.delete(response));
  });

  function enter(next: 'left' | 'stopping'): void {
    if (phase !== 'stopping') phase = next;
    for (const watcher of watchers) watcher.end();
  }

  const line = (change: HostStatusLine): string => `${JSON.stringify(change)}\n`;
  const tell = (change: HostStatusLine): void => {
    for (const watcher of watchers) watcher.write(line(change));
  };
  return {
    changed(status) {
      statuses.set(`${status.namespace}/${status.name}`, status);
      tell({ function: status });
    },
    removed(namespace, name) {
      if (statuses.delete(`${namespace}/${name}`)) tell({ removed: { namespace, name } });
    },
    started() {
      phase = 'running';
    },
    left: () => enter('left'),
    stopping: () => enter('stopping'),
  };
}
