/** GET /atoll/v1/robots: the robots of a hub and how each is. Shape: { robots: RobotPresence[] }. */
import type { FastifyInstance } from 'fastify';
import type { RobotPresence } from '../../controller/broker/presence.ts';
import { queryOf } from './query.ts';

export function robotsRoute(app: FastifyInstance, list: () => Promise<readonly RobotPresence[]>): void {
  app.get('/atoll/v1/robots', { config: { door: 'control', route: 'robots' } }, async (request) => {
    queryOf(request.query, []);
    return { robots: await list() };
  });
}
