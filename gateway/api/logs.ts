/** GET …/logs?since=&follow=&requestId=&limit=: one LogRecord a line. With follow it ends when the client leaves or the site stops. */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { FastifyInstance } from 'fastify';
import type { Backend, LogQuery } from '../../controller/backends/backend.ts';
import type { Functions } from '../functions.ts';
import { type FunctionParams, functionOf, functionPath } from './function.ts';
import { flagOf, integerOf, queryOf } from './query.ts';

const maxLimit = 100_000;

export function logsRoute(
  app: FastifyInstance,
  parts: { functions: Functions; backend: Pick<Backend, 'logs'>; stopping: AbortSignal },
): void {
  const { functions, backend, stopping } = parts;
  app.get<{ Params: FunctionParams }>(
    `${functionPath}/logs`,
    { config: { door: 'control', route: 'logs' } },
    async (request, reply) => {
      const query = logQueryOf(request.query);
      const { metadata } = await functionOf(request.params, functions);
      const signal = AbortSignal.any([request.gone, stopping]);
      // By hand: a follower wants to know that it follows, before there is a line.
      reply.hijack();
      reply.raw.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const onFollowing = (): void => reply.raw.flushHeaders();
      const records = backend.logs(metadata, { ...query, signal, onFollowing });
      const lines = Readable.from(
        (async function* () {
          for await (const record of records) yield `${JSON.stringify(record)}\n`;
        })(),
      );
      // What breaks off here is told by the connection that breaks off.
      await pipeline(lines, reply.raw, { signal: request.gone }).catch(() => reply.raw.destroy());
    },
  );
}

export function logQueryOf(given: unknown): Omit<LogQuery, 'signal' | 'onFollowing'> {
  const query = queryOf(given, ['since', 'follow', 'requestId', 'limit']);
  const since = integerOf('since', query.since, { minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
  const limit = integerOf('limit', query.limit, { minimum: 1, maximum: maxLimit });
  return {
    follow: flagOf('follow', query.follow),
    ...(since !== undefined && { since }),
    ...(limit !== undefined && { limit }),
    ...(query.requestId !== undefined && { requestId: query.requestId }),
  };
}
