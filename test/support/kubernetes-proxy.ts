/** In front of a real API server: lets a client die after any of its writes. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Agent, request as ask } from 'node:https';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import type { Kubernetes } from './kubernetes.ts';

export interface KubernetesProxy {
  /** Without TLS; who asks shows a token of his own. */
  readonly url: string;
  /**
   * That many more writes that change something reach the server, those to leases aside. The last one is stored and
   * its answer is not heard, as nothing is from then on, in both directions: to the server it looks as if the client
   * was killed there. Resolves with that write, such as `PATCH /api/v1/namespaces/lab/services/fn-hello`.
   */
  cutAfter(writes: number): Promise<string>;
}

export interface KubernetesProxyOptions {
  /** What each object looked like last, by path: of several proxies, so that one knows what was written by another. */
  readonly seen?: Map<string, string>;
  readonly closing?: Closing;
}

export async function startKubernetesProxy(
  kubernetes: Kubernetes,
  { seen = new Map(), closing }: KubernetesProxyOptions = {},
): Promise<KubernetesProxy> {
  const agent = new Agent({ keepAlive: true, ca: await readFile(kubernetes.caFile) });
  const cut = Promise.withResolvers<string>();
  let left = Infinity;
  let isCut = false;
  /** One write at a time: nothing is on its way beside the last one. */
  let written: Promise<void> = Promise.resolve();

  function pass(request: IncomingMessage, response: ServerResponse): Promise<IncomingMessage> {
    const { method = 'GET', url = '/', headers } = request;
    const { host: _, ...passed } = headers;
    return new Promise((resolve, reject) => {
      const upstream = ask(new URL(url, kubernetes.url), { method, headers: passed, agent }, resolve);
      upstream.on('error', reject);
      response.once('close', () => upstream.destroy());
      request.pipe(upstream);
    });
  }

  async function write(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (isCut) return;
    const { method = '', url = '' } = request;
    const path = url.replace(/\?.*/, '');
    const answer = await pass(request, response);
    const body = await buffer(answer);
    const { statusCode = 502 } = answer;
    if (changedBy(method, path, statusCode, body) && (left -= 1) === 0) {
      isCut = true;
      server.closeAllConnections();
      return cut.resolve(`${method} ${path}`);
    }
    response.writeHead(statusCode, answer.headers).end(body);
  }

  /** A patch that changes nothing is answered 200 as well. What others write into the status is no change of ours. */
  function changedBy(method: string, path: string, status: number, body: Buffer): boolean {
    if (status >= 300) return false;
    if (method !== 'PATCH' || path.endsWith('/status')) return true;
    const { metadata } = JSON.parse(body.toString()) as {
      metadata: { uid: string; generation?: number; resourceVersion: string };
    };
    const now = `${metadata.uid} ${metadata.generation ?? metadata.resourceVersion}`;
    const before = seen.get(path);
    seen.set(path, now);
    return before !== now;
  }

  const server = createServer((request, response) => {
    const failed = (): void => void response.destroy();
    if (request.method === 'GET' || request.url?.includes('/leases')) {
      pass(request, response).then((answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.on('error', failed);
        answer.pipe(response);
      }, failed);
    } else written = written.then(() => write(request, response)).catch(failed);
  });
  server.on('connection', (socket) => {
    if (isCut) socket.destroy();
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  closeLater(async () => {
    server.closeAllConnections();
    server.close();
    agent.destroy();
  }, closing);
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cutAfter(writes) {
      left = writes;
      return cut.promise;
    },
  };
}
