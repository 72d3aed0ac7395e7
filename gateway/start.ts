/** The gateway: the door to what runs. Composes its parts, listens, stops. */
import { readFile } from 'node:fs/promises';
import { type AddressInfo, isIPv6 } from 'node:net';
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import type { Backend } from '../controller/backends/backend.ts';
import type { Hub } from '../controller/broker/hub.ts';
import type { Store } from '../controller/stores/store.ts';
import { drainGraceMs, maxPayloadBytes } from '../runtime/config.ts';
import type { DeadLetters } from '../runtime/dead-letters.ts';
import { AtollError } from '../runtime/errors.ts';
import type { Inbox } from '../runtime/inbox.ts';
import type { Log } from '../runtime/log.ts';
import { deadLetterRoutes } from './api/dead-letters.ts';
import { invocationsRoute } from './api/invocations.ts';
import { logsRoute } from './api/logs.ts';
import { robotRoutes } from './api/robots.ts';
import { siteRoute } from './api/site.ts';
import { statusRoute } from './api/status.ts';
import { accessOf } from './access.ts';
import { admit, type Door, type DoorPolicy, isLoopbackAddress } from './doors.ts';
import { type Functions, openFunctions } from './functions.ts';
import { openHosts } from './hosts.ts';
import { openInvocations } from './invocation.ts';
import { Keys, readKeysFile } from './keys.ts';
import { lambdaRoutes } from './lambda/index.ts';
import { type HostDoor, metricsRoute, openGatewayMetrics } from './metrics.ts';
import { type PackageCache, packageRoutes, withoutPackages } from './packages.ts';
import { answerProblem } from './problem.ts';
import { triggerRoutes } from './proxy.ts';
import { decorateRequests } from './request.ts';
import type { Reviews } from './reviews.ts';
import { isReserved, match, pathOf } from './routes.ts';

export interface GatewayOptions {
  readonly host: string;
  /** Preferred; the next free one is taken when it is not to be had. 0: any. */
  readonly port: number;
  /** Needed off loopback, unless tokens are reviewed. Format and rules: docs/reference/doors.md. */
  readonly keysFile?: string;
  /** In a cluster: tokens of its API server open doors too. */
  readonly reviews?: Reviews;
  /** PEM files of the certificate and its key; absent: plain HTTP. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  /** Ask for keys on loopback too. Off loopback they are always asked for. */
  readonly requireKeys?: boolean;
  /** Origins of pages that may call: scheme://host:port. */
  readonly allowedOrigins?: readonly string[];
  readonly site: string;
  readonly siteInfo: () => object;
  readonly store: Store;
  readonly backend: Pick<Backend, 'address' | 'logs' | 'observe'> & HostDoor;
  readonly inbox?: Pick<Inbox, 'put'>;
  readonly deadLetters?: DeadLetters;
  /** In a cluster: where Pods get their packages, and deploys put them. */
  readonly packages?: PackageCache;
  /** Of a hub: its robots, how each is and what its functions log. */
  readonly robots?: Pick<Hub, 'list' | 'kept' | 'logs'>;
  /** The controller's own, as Prometheus text. */
  readonly metrics?: () => Promise<string>;
  readonly log: Log;
}

export interface Gateway {
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** Takes nothing new, lets open requests end until `deadline` (ms since the epoch), then cuts them. */
  stop(deadline: number): Promise<void>;
}

/** Rejects with AtollError KeysRefused or InvalidRequest (an origin that is none), or with the system's error when it cannot listen. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { host, store, backend, log, inbox, deadLetters } = options;
  const policy = await doorPolicyOf(options);
  const functions = await openFunctions(store, log);
  const hosts = openHosts();
  const invocations = openInvocations({ functions, backend, hosts, ...(inbox && { inbox }) });
  const metrics = openGatewayMetrics();
  const stopping = new AbortController();

  const app = await openApp(log, options.tls);
  app.addHook('onRequest', (request) => enter(request, functions, policy));
  app.addHook('onResponse', (request, reply, done) => {
    metrics.answered(routeLabel(request), reply.statusCode);
    // It was busy when all idle connections were closed, and nobody else will close it.
    if (stopping.signal.aborted) setImmediate(() => app.server.closeIdleConnections());
    done();
  });
  app.get('/healthz', { config: { door: 'open', route: 'healthz' } }, () => ({ status: 'ok' }));
  metricsRoute(app, {
    own: metrics.registry,
    ...(options.metrics && { controller: options.metrics }),
    functions,
    backend,
    hosts,
    log,
  });
  siteRoute(app, options.siteInfo);
  statusRoute(app, store, backend);
  logsRoute(app, { functions, backend, stopping: stopping.signal });
  invocationsRoute(app, invocations);
  deadLetterRoutes(app, { functions, ...(inbox && { inbox }), ...(deadLetters && { deadLetters }) });
  lambdaRoutes(app, invocations, log);
  if (options.robots) robotRoutes(app, { robots: options.robots, stopping: stopping.signal });
  if (options.packages) packageRoutes(app, options.packages, functions);
  else withoutPackages(app);
  triggerRoutes(app, { functions, backend, hosts });

  const close = async () => {
    functions.close();
    stopping.abort();
    await app.close();
    await hosts.close();
  };
  try {
    await listen(app, host, options.port);
  } catch (error) {
    await close();
    throw error;
  }
  const { port } = app.server.address() as AddressInfo;
  return {
    url: `${options.tls ? 'https' : 'http'}://${isIPv6(host) ? `[${host}]` : host}:${port}`,
    host,
    port,
    async stop(deadline) {
      const cut = setTimeout(() => app.server.closeAllConnections(), Math.max(0, deadline - Date.now()));
      await close();
      clearTimeout(cut);
    },
  };
}

/** For `stop`: no function of the store may run longer. ms since the epoch. */
export async function drainDeadline(store: Pick<Store, 'list'>): Promise<number> {
  const timeouts = (await store.list().catch(() => [])).map(({ spec }) => spec.timeoutSeconds * 1000);
  return Date.now() + Math.max(0, ...timeouts) + drainGraceMs;
}

async function openApp(log: Log, tls: GatewayOptions['tls']): Promise<FastifyInstance> {
  const https = tls && { cert: await readFile(tls.certFile), key: await readFile(tls.keyFile) };
  const app = fastify({
    ...(https && { https }),
    bodyLimit: maxPayloadBytes,
    forceCloseConnections: 'idle',
    // ARNs are long.
    routerOptions: { maxParamLength: 512 },
    exposeHeadRoutes: false,
  });
  app.setErrorHandler(answerProblem(log));
  app.setNotFoundHandler(() => {
    throw new AtollError('NotFound', 'there is nothing here');
  });
  decorateRequests(app);
  return app;
}

/** The same address with and without keys: what differs is whether they are asked for. */
async function doorPolicyOf(options: GatewayOptions): Promise<DoorPolicy> {
  const loopback = isLoopbackAddress(options.host);
  const keysAsked = !loopback || options.requireKeys === true;
  if (keysAsked && options.keysFile === undefined && options.reviews === undefined) {
    throw new AtollError(
      'KeysRefused',
      `listening on ${options.host} needs a keys file: anybody who reaches that address could run code here`,
    );
  }
  for (const origin of options.allowedOrigins ?? []) {
    if (!URL.canParse(origin) || new URL(origin).origin !== origin) {
      const message = `allowed origin ${JSON.stringify(origin)} is not scheme://host or scheme://host:port`;
      throw new AtollError('InvalidRequest', message);
    }
  }
  return {
    loopback,
    keysAsked,
    keys: options.keysFile === undefined ? new Keys() : await readKeysFile(options.keysFile),
    ...(options.reviews && { reviews: options.reviews }),
    allowedOrigins: new Set(options.allowedOrigins),
  };
}

async function enter(request: FastifyRequest, functions: Functions, policy: DoorPolicy): Promise<void> {
  const admission = await admit(
    {
      method: request.method,
      url: request.raw.url ?? '',
      headers: request.raw.headers,
      body: () => request.wholeBody(maxPayloadBytes),
    },
    doorOf(request, functions),
    policy,
    Date.now(),
  );
  if (!admission.admitted) {
    throw new AtollError(admission.why === 'Clock' ? 'ClockSkewed' : 'AccessDenied', admission.message);
  }
  if (admission.keyId !== undefined) request.keyId = admission.keyId;
  if (admission.user !== undefined) request.user = admission.user;
}

/** Looked up before anybody is let in, since a trigger says itself who may. */
function doorOf(request: FastifyRequest, functions: Functions): Door {
  const { door, route } = request.routeOptions.config;
  if (door === 'control') {
    const access = accessOf(route, request.method, request.params as Record<string, string>);
    return { kind: door, ...(access && { access }) };
  }
  if (door !== undefined) return { kind: door };
  const path = pathOf(request.raw.url ?? '');
  if (path !== undefined && isReserved(path)) return { kind: 'control' };
  request.match = path === undefined ? { kind: 'none' } : match(functions.routes, request.method, path);
  if (request.match.kind === 'none') return { kind: 'trigger' };
  const { auth, namespace, name } = request.match.route;
  const access = accessOf('invoke', request.method, { namespace, name });
  return { kind: 'trigger', ...(auth && { auth }), ...(access && { access }) };
}

function routeLabel({ routeOptions, match }: FastifyRequest): string {
  return routeOptions.config.route ?? (match && match.kind !== 'none' ? 'http' : 'unknown');
}

/** How many ports after the preferred one are tried before any free one is taken. */
const portsTried = 20;

async function listen(app: FastifyInstance, host: string, preferred: number): Promise<void> {
  for (let step = 0; ; step++) {
    const port = preferred === 0 || step > portsTried || preferred + step > 65_535 ? 0 : preferred + step;
    try {
      await app.listen({ host, port });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || port === 0) throw error;
    }
  }
}
