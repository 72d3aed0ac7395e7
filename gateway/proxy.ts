/** http triggers: the request goes to the function's host as it came, the response comes back as it is made. */
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Backend } from '../controller/backends/backend.ts';
import type { Route } from '../controller/function/routes.ts';
import { maxPayloadBytes } from '../runtime/config.ts';
import { AtollError } from '../runtime/errors.ts';
import { bodyOf } from './body.ts';
import type { Functions } from './functions.ts';
import { type Hosts, waitMs } from './hosts.ts';

export interface ProxyParts {
  readonly functions: Functions;
  readonly backend: Pick<Backend, 'address'>;
  readonly hosts: Hosts;
}

/** Everything that is not a door of ours. `request.match` was found when the request was let in. */
export function triggerRoutes(app: FastifyInstance, parts: ProxyParts): void {
  app.all('/*', async (request, reply) => {
    const { match } = request;
    if (match?.kind === 'found') return proxy(request, reply, match.route, parts);
    if (match?.kind === 'wrongMethod') {
      reply.header('allow', match.allow.join(', '));
      throw new AtollError('MethodNotAllowed', `${request.method} is not served here`);
    }
    throw new AtollError('NotFound', 'there is nothing here');
  });
}

async function proxy(
  request: FastifyRequest,
  reply: FastifyReply,
  route: Route,
  { functions, backend, hosts }: ProxyParts,
): Promise<FastifyReply> {
  const object = await functions.get(route);
  const address = backend.address(route);
  if (!object || address === undefined) throw notRunning();
  const response = await hosts.request(address, {
    method: request.method,
    path: `/http/${route.namespace}/${route.name}/${route.trigger}${request.raw.url}`,
    headers: requestHeaders(request),
    // Read already where a signature covers it.
    body: await (request.takenBody ?? bodyOf(request.raw, maxPayloadBytes)),
    signal: request.gone,
    waitMs: waitMs(object.spec.timeoutSeconds),
  });
  // Whatever a trigger answers has this header: without it the host speaks, which has not mounted the trigger yet.
  if (response.statusCode === 404 && response.headers['x-amzn-requestid'] === undefined) {
    await response.body.dump();
    throw notRunning();
  }
  reply.code(response.statusCode);
  for (const [name, value] of Object.entries(withoutHopByHop(response.headers))) {
    if (value !== undefined) reply.header(name, value);
  }
  // A streamed response may begin long before its first byte comes.
  if (response.headers['content-length'] === undefined) {
    reply.raw.once('pipe', () => reply.raw.flushHeaders());
  }
  return reply.send(response.body);
}

const notRunning = () =>
  new AtollError('FunctionNotReady', 'the function is not running at the moment; try again');

/** Belongs to one connection, not to the message (RFC 9110 7.6.1). */
const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

export function withoutHopByHop<H extends IncomingHttpHeaders>(headers: H): IncomingHttpHeaders {
  const named = new Set(
    String(headers.connection ?? '')
      .split(',')
      .map((name) => name.trim().toLowerCase()),
  );
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !hopByHop.has(name) && !named.has(name)),
  );
}

function requestHeaders(request: FastifyRequest): Record<string, string | string[]> {
  const headers: Record<string, string | string[]> = {};
  const kept = withoutHopByHop(request.raw.headers);
  for (const [name, values] of Object.entries(request.raw.headersDistinct)) {
    // Ours to say: a caller must not be able to pretend to be somewhere else. The host has its own Host.
    if (values === undefined || kept[name] === undefined || name === 'host' || name === 'expect') continue;
    if (name === 'forwarded' || name.startsWith('x-forwarded-')) continue;
    // It opened our door, so it is ours: a secret of the site is no part of an event.
    const opened = request.keyId !== undefined || request.user !== undefined;
    if ((opened && name === 'authorization') || name === 'atoll-authorization') continue;
    headers[name] = values.length === 1 ? (values[0] as string) : values;
  }
  headers['x-forwarded-host'] = request.raw.headers.host ?? '';
  headers['x-forwarded-for'] = request.raw.socket.remoteAddress ?? '';
  headers['x-forwarded-proto'] = request.protocol;
  return headers;
}
