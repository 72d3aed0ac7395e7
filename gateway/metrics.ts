/** One address serves the whole site: the hosts' figures, the controller's and the gateway's own. */
import type { FastifyInstance } from 'fastify';
import { Counter, Registry } from 'prom-client';
import type { Backend } from '../controller/backends/backend.ts';
import type { Log } from '../runtime/log.ts';
import type { Functions } from './functions.ts';
import type { Hosts } from './hosts.ts';

/** A scrape must not hang on a host that does. */
const scrapeMs = 3000;

export interface Scrape {
  /** What tells two processes' figures of one name apart (process_cpu_seconds_total). */
  readonly component: string;
  readonly text: string;
}

/** Where a host is that may have no function yet; a backend without one host for all has none to name. */
export interface HostDoor {
  hostAddress?(): string | undefined;
}

export interface GatewayMetrics {
  readonly registry: Registry;
  answered(route: string, code: number): void;
}

export function openGatewayMetrics(): GatewayMetrics {
  const registry = new Registry();
  const requests = new Counter({
    name: 'atoll_gateway_requests_total',
    help: 'Requests the gateway answered, by door and status',
    labelNames: ['route', 'code'],
    registers: [registry],
  });
  return { registry, answered: (route, code) => requests.labels(route, String(code)).inc() };
}

export function metricsRoute(
  app: FastifyInstance,
  parts: {
    own: Registry;
    controller?: () => Promise<string>;
    functions: Functions;
    backend: Pick<Backend, 'address'> & HostDoor;
    hosts: Hosts;
    log: Log;
  },
): void {
  const { own, controller, functions, backend, hosts, log } = parts;

  async function scrape(address: string, component: string): Promise<Scrape | undefined> {
    try {
      const response = await hosts.request(address, {
        method: 'GET',
        path: '/metrics',
        headers: {},
        body: null,
        signal: AbortSignal.timeout(scrapeMs),
        waitMs: scrapeMs,
      });
      const text = await response.body.text();
      return response.statusCode === 200 ? { component, text } : undefined;
    } catch (error) {
      // Its absence from the answer says it as well; the rest of the site is still worth reading.
      log.debug({ source: 'platform', address, err: error }, 'host gave no metrics');
      return undefined;
    }
  }

  app.get('/metrics', { config: { door: 'control', route: 'metrics' } }, async (_request, reply) => {
    const addresses = new Set([...functions.all()].map(({ metadata }) => backend.address(metadata)));
    addresses.add(backend.hostAddress?.());
    addresses.delete(undefined);
    const ofHosts = await Promise.all(
      ([...addresses] as string[])
        .sort()
        .map((address, index) => scrape(address, index === 0 ? 'host' : `host-${index}`)),
    );
    const scrapes: Scrape[] = ofHosts.filter((one) => one !== undefined);
    if (controller) scrapes.push({ component: 'controller', text: await controller() });
    scrapes.push({ component: 'gateway', text: await own.metrics() });
    return reply.header('content-type', own.contentType).send(merge(scrapes));
  });
}

/**
 * One exposition of several (text format 0.0.4): a family's HELP and TYPE may stand there only once, with all its
 * samples below. Families of ours carry what tells them apart; the others get a label `component`.
 */
export function merge(scrapes: readonly Scrape[]): string {
  const families = new Map<string, { heads: Map<string, string>; samples: string[] }>();
  for (const { component, text } of scrapes) {
    let family: string | undefined;
    for (const line of text.split('\n')) {
      if (line === '') continue;
      const head = /^# (HELP|TYPE) (\S+)/.exec(line);
      if (!head && line.startsWith('#')) continue;
      if (head) family = head[2];
      // A sample belongs to the family above it: http_seconds_bucket to http_seconds.
      const name = family ?? /^[^{ ]+/.exec(line)?.[0] ?? line;
      let known = families.get(name);
      if (!known) families.set(name, (known = { heads: new Map(), samples: [] }));
      if (head) {
        if (!known.heads.has(head[1] as string)) known.heads.set(head[1] as string, line);
      } else {
        known.samples.push(line.startsWith('atoll_') ? line : labelled(line, component));
      }
    }
  }
  const lines = [...families.values()].flatMap(({ heads, samples }) => [...heads.values(), ...samples]);
  return `${lines.join('\n')}\n`;
}

function labelled(sample: string, component: string): string {
  const label = `component="${component}"`;
  return sample.replace(/^([^{ ]+)(\{)?/, (_all, name: string, open?: string) =>
    open === undefined ? `${name}{${label}}` : `${name}{${label},`,
  );
}
