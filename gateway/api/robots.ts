/**
 * Of a hub. GET /atoll/v1/robots: its robots and how each is, as { robots: RobotPresence[], kept?: KeptTelemetry }. GET
 * /atoll/v1/robots/{robot}/namespaces/{ns}/functions/{name}/logs: as the same path without the robot. When the robot goes
 * away while its log is read, the trailer `Atoll-Error: CODE MESSAGE` says so.
 */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { FastifyInstance } from 'fastify';
import type { Hub } from '../../controller/broker/hub.ts';
import { faultOf } from '../../runtime/errors.ts';
import { keyOf } from '../key.ts';
import type { FunctionParams } from './function.ts';
import { logQueryOf } from './logs.ts';
import { queryOf } from './query.ts';

const errorTrailer = 'atoll-error';
const logsPath = '/atoll/v1/robots/:robot/namespaces/:namespace/functions/:name/logs';

export function robotRoutes(
  app: FastifyInstance,
  { robots, stopping }: { robots: Pick<Hub, 'list' | 'kept' | 'logs'>; stopping: AbortSignal },
): void {
  app.get('/atoll/v1/robots', { config: { door: 'control', route: 'robots' } }, async (request) => {
    queryOf(request.query, []);
    const [list, kept] = await Promise.all([robots.list(), robots.kept()]);
    return { robots: list, ...(kept && { kept }) };
  });

  app.get<{ Params: FunctionParams & { robot: string } }>(
    logsPath,
    { config: { door: 'control', route: 'robot-logs' } },
    async (request, reply) => {
      const question = { ...logQueryOf(request.query), ...keyOf(request.params) };
      const signal = AbortSignal.any([request.gone, stopping]);
      const lines = robots.logs(request.params.robot, question, signal)[Symbol.asyncIterator]();
      // What is refused is refused before there is an answer.
      let next = await lines.next();
      reply.hijack();
      const { raw } = reply;
      raw.writeHead(200, { 'content-type': 'application/x-ndjson', trailer: errorTrailer });
      raw.flushHeaders();
      const text = Readable.from(
        (async function* () {
          try {
            for (; next.done !== true; next = await lines.next()) if (next.value !== '') yield next.value;
          } catch (error) {
            const { code, message } = faultOf(error);
            raw.addTrailers({ [errorTrailer]: `${code} ${message.replace(/[^ -~]/g, '?')}` });
          } finally {
            await lines.return?.();
          }
        })(),
      );
      // What breaks off here is told by the connection that breaks off.
      await pipeline(text, raw, { signal: request.gone }).catch(() => raw.destroy());
    },
  );
}
