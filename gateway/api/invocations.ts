/**
 * POST …/invocations?async=&tail=: as Lambda's Invoke, with our own names and errors. Answer headers are Lambda's:
 * X-Amzn-RequestId, X-Amz-Function-Error, X-Amz-Log-Result.
 */
import type { FastifyInstance } from 'fastify';
import { maxPayloadBytes } from '../../runtime/config.ts';
import { AtollError } from '../../runtime/errors.ts';
import { type Invocations, payloadOf, payloadProblem, traceIdOf } from '../invocation.ts';
import { keyOf } from '../key.ts';
import { type FunctionParams, functionPath } from './function.ts';
import { flagOf, queryOf } from './query.ts';

export function invocationsRoute(app: FastifyInstance, invocations: Invocations): void {
  app.post<{ Params: FunctionParams }>(
    `${functionPath}/invocations`,
    { config: { door: 'control', route: 'invoke' } },
    async (request, reply) => {
      const query = queryOf(request.query, ['async', 'tail']);
      const later = flagOf('async', query.async);
      const tail = flagOf('tail', query.tail);
      const key = keyOf(request.params);
      const payload = payloadOf(await request.wholeBody(maxPayloadBytes));
      await invocations.check(key);
      const problem = payloadProblem(payload);
      if (problem !== undefined)
        throw new AtollError('InvalidRequest', `the payload is not JSON: ${problem}`);
      const traceId = traceIdOf(request);
      if (later) {
        const { requestId } = await invocations.enqueue({ key, payload, traceId });
        return reply.code(202).header('x-amzn-requestid', requestId).send();
      }
      const answer = await invocations.call({ key, payload, tail, traceId, signal: request.gone });
      reply.header('x-amzn-requestid', answer.requestId);
      if (!answer.ok) reply.header('x-amz-function-error', 'Unhandled');
      if (answer.logTail !== undefined) reply.header('x-amz-log-result', answer.logTail);
      return reply.code(200).header('content-type', answer.contentType).send(answer.body);
    },
  );
}
