/** Lambda's HTTP API: one file for each resource. Its errors are Lambda's, whoever raised them. */
import type { FastifyInstance } from 'fastify';
import type { Log } from '../../runtime/log.ts';
import type { Invocations } from '../invocation.ts';
import { answer, problemOf } from '../problem.ts';
import { bodyOf, LambdaError, lambdaErrorOf } from './errors.ts';
import { invokeRoutes } from './invoke.ts';

export function lambdaRoutes(app: FastifyInstance, invocations: Invocations, log: Log): void {
  void app.register(async (lambda) => {
    lambda.setErrorHandler((thrown, _request, reply) => {
      const error = thrown instanceof LambdaError ? thrown : inLambdasWords(thrown, log);
      reply.header('x-amzn-errortype', error.type);
      return answer(reply, error.status, bodyOf(error));
    });
    invokeRoutes(lambda, invocations);
    for (const version of ['2015-03-31', '2021-11-15']) {
      for (const url of [`/${version}/*`, `/ns/:namespace/${version}/*`]) {
        lambda.all(url, { config: { door: 'control', route: 'lambda' } }, () => {
          throw new LambdaError(
            'UnknownOperationException',
            "of Lambda's API this site answers Invoke and InvokeWithResponseStream",
          );
        });
      }
    }
  });
}

function inLambdasWords(thrown: unknown, log: Log): LambdaError {
  const { code, message } = problemOf(thrown, log);
  return lambdaErrorOf(code, message);
}
