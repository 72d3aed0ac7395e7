/**
 * Lambda's Invoke and InvokeWithResponseStream, as AWS's own clients call them.
 * https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
 * https://docs.aws.amazon.com/lambda/latest/api/API_InvokeWithResponseStream.html
 */
import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { maxPayloadBytes } from '../../runtime/config.ts';
import { isNamespace } from '../../controller/stores/store.ts';
import { type Invocations, payloadOf, payloadProblem, traceIdOf } from '../invocation.ts';
import { LambdaError } from './errors.ts';
import { functionNameOf, latest, notFound } from './function-name.ts';

/** What Lambda allows for the header, after base64. */
const maxClientContextLength = 3583;

interface Invoke {
  Params: { name: string; namespace?: string };
  Querystring: { Qualifier?: string };
}

export function invokeRoutes(app: FastifyInstance, invocations: Invocations): void {
  const path = '/2015-03-31/functions/:name/invocations';
  for (const url of [path, `/ns/:namespace${path}`]) {
    app.post<Invoke>(url, { config: { door: 'control', route: 'invoke' } }, (request, reply) =>
      invoke(request, reply, invocations),
    );
  }
  const streaming = '/2021-11-15/functions/:name/response-streaming-invocations';
  for (const url of [streaming, `/ns/:namespace${streaming}`]) {
    app.post<Invoke>(url, { config: { door: 'control', route: 'invoke' } }, (request, reply) =>
      invokeWithResponseStream(request, reply, invocations),
    );
  }
}

async function invoke(
  request: FastifyRequest<Invoke>,
  reply: FastifyReply,
  invocations: Invocations,
): Promise<FastifyReply> {
  const type = oneOf(request, 'x-amz-invocation-type', ['RequestResponse', 'Event', 'DryRun']);
  const { key, payload, tail } = await checked(request, invocations);
  if (type === 'DryRun') return reply.code(204).header('x-amzn-requestid', randomUUID()).send();
  const traceId = traceIdOf(request);
  if (type === 'Event') {
    const { requestId } = await invocations.enqueue({ key, payload, traceId });
    return reply.code(202).header('x-amzn-requestid', requestId).send();
  }
  const answer = await invocations.call({
    key,
    payload,
    tail,
    clientContext: clientContextOf(request),
    traceId,
    signal: request.gone,
  });
  reply.header('x-amzn-requestid', answer.requestId).header('x-amz-executed-version', latest);
  if (!answer.ok) reply.header('x-amz-function-error', 'Unhandled');
  if (answer.logTail !== undefined) reply.header('x-amz-log-result', answer.logTail);
  return reply.code(200).header('content-type', answer.contentType).send(answer.body);
}

async function invokeWithResponseStream(
  request: FastifyRequest<Invoke>,
  reply: FastifyReply,
  invocations: Invocations,
): Promise<FastifyReply> {
  const type = oneOf(request, 'x-amz-invocation-type', ['RequestResponse', 'DryRun']);
  const { key, payload, tail } = await checked(request, invocations);
  if (type === 'DryRun') return reply.code(204).header('x-amzn-requestid', randomUUID()).send();
  const { requestId, contentType, body } = await invocations.stream({
    key,
    payload,
    tail,
    clientContext: clientContextOf(request),
    traceId: traceIdOf(request),
    signal: request.gone,
  });
  reply.header('x-amzn-requestid', requestId).header('x-amz-executed-version', latest);
  return reply.code(200).header('content-type', contentType).send(body);
}

/** What both have in common: whom it is for, and what is sent. */
async function checked(
  request: FastifyRequest<Invoke>,
  invocations: Invocations,
): Promise<{ key: { namespace: string; name: string }; payload: Uint8Array; tail: boolean }> {
  const { name: given, namespace = 'default' } = request.params;
  const name = functionNameOf(given, request.query.Qualifier);
  if (!isNamespace(namespace)) throw notFound(name);
  const key = { namespace, name };
  const tail = oneOf(request, 'x-amz-log-type', ['None', 'Tail']) === 'Tail';
  const payload = payloadOf(await request.wholeBody(maxPayloadBytes));
  await invocations.check(key).catch(inLambdasWords(key.name));
  const problem = payloadProblem(payload);
  if (problem !== undefined) {
    throw new LambdaError(
      'InvalidRequestContentException',
      `Could not parse request body into json: ${problem}`,
    );
  }
  return { key, payload, tail };
}

function inLambdasWords(name: string) {
  return (error: unknown): never => {
    throw (error as { code?: string }).code === 'FunctionNotFound' ? notFound(name) : error;
  };
}

/** The first is what an absent header means. */
function oneOf<T extends string>(
  request: FastifyRequest<Invoke>,
  header: string,
  allowed: readonly [T, ...T[]],
): T {
  const value = request.raw.headers[header] ?? allowed[0];
  const found = allowed.find((one) => one === value);
  if (found === undefined) {
    throw new LambdaError(
      'InvalidParameterValueException',
      `${header} is "${String(value)}"; allowed: ${allowed.join(', ')}`,
    );
  }
  return found;
}

function clientContextOf(request: FastifyRequest<Invoke>): string | undefined {
  const value = request.raw.headers['x-amz-client-context'];
  if (value === undefined) return undefined;
  const text = String(value);
  if (text.length > maxClientContextLength || payloadProblem(Buffer.from(text, 'base64')) !== undefined) {
    throw new LambdaError(
      'InvalidRequestContentException',
      `Client context must be a valid Base64-encoded JSON object of at most ${maxClientContextLength} characters.`,
    );
  }
  return text;
}
