/** GET /atoll/v1/site: the public part of site.json. */
import type { FastifyInstance } from 'fastify';

export function siteRoute(app: FastifyInstance, siteInfo: () => object): void {
  app.get('/atoll/v1/site', { config: { door: 'control', route: 'site' } }, () => siteInfo());
}
