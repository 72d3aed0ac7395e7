/** How our own doors answer an error: { code, message } and the status that belongs to the code. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AtollError, type Code } from '../runtime/errors.ts';
import type { Log } from '../runtime/log.ts';

/** Seconds a caller is asked to wait when the answer would be another one soon. */
const retryAfterSeconds = 1;

const statuses: Partial<Record<Code, number>> = {
  InvalidRequest: 400,
  AccessDenied: 403,
  ClockSkewed: 403,
  FunctionNotFound: 404,
  NotFound: 404,
  PackageNotFound: 404,
  MethodNotAllowed: 405,
  TooLarge: 413,
  InvalidObject: 422,
  PackageDigestMismatch: 422,
  PackageInvalid: 422,
  TooManyRequests: 429,
  InboxFull: 429,
  ConnectionLost: 502,
  PackageForbidden: 502,
  FunctionNotReady: 503,
  InboxUnavailable: 503,
  JetStreamUnavailable: 503,
  ClusterUnavailable: 503,
  NatsUnavailable: 503,
  PackageUnavailable: 503,
  RobotAway: 503,
  Recursion: 508,
};

export function statusOf(code: Code): number {
  return statuses[code] ?? 500;
}

/** Anything thrown on the way of a request, as an error of ours; what nobody expected is logged, not told. */
export function problemOf(error: unknown, log: Log): AtollError {
  if (error instanceof AtollError) return error;
  const { statusCode, message } = error as { statusCode?: number; message?: string };
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new AtollError('InvalidRequest', message ?? 'the request cannot be understood');
  }
  log.error({ source: 'platform', err: error }, 'request failed');
  return new AtollError('Internal', "something failed here: the site's log has the details", {
    cause: error,
  });
}

export function answer(reply: FastifyReply, status: number, body: object): FastifyReply {
  if (status === 429 || status === 503) reply.header('retry-after', String(retryAfterSeconds));
  return reply.code(status).header('content-type', 'application/json').send(JSON.stringify(body));
}

export function answerProblem(log: Log) {
  return (error: unknown, _request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    const problem = problemOf(error, log);
    return answer(reply, statusOf(problem.code), { code: problem.code, message: problem.message });
  };
}
