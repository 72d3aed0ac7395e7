/**
 * GET …/dead-letters?limit=&before= → { deadLetters: DeadLetterEntry[] }, the newest last; GET …/dead-letters/{seq} → DeadLetter;
 * POST …/dead-letters/redrive { seqs?, to?: "function/trigger" } → RedriveResult; DELETE …/dead-letters[/{seq}] → { purged }.
 * Those of a function that was deleted are there as well.
 */
import type { FastifyInstance } from 'fastify';
import { namePattern } from '../../crds/function.ts';
import { type Key, keyText } from '../../controller/stores/store.ts';
import type { DeadLetters } from '../../runtime/dead-letters.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { Inbox } from '../../runtime/inbox.ts';
import type { Functions } from '../functions.ts';
import { invokeTrigger } from '../invocation.ts';
import { keyOf } from '../key.ts';
import { type FunctionParams, functionPath } from './function.ts';
import { integerOf, queryOf } from './query.ts';

const maxLimit = 10_000;
/** Of one request; without `seqs` all are meant, however many. */
const maxSeqs = 10_000;
const maxRequestBytes = 256 * 1024;

type SeqParams = FunctionParams & { seq: string };

export function deadLetterRoutes(
  app: FastifyInstance,
  parts: { functions: Functions; deadLetters?: DeadLetters; inbox?: Pick<Inbox, 'put'> },
): void {
  const { functions, inbox } = parts;
  const path = `${functionPath}/dead-letters`;
  const config = { door: 'control', route: 'dead-letters' } as const;

  function kept(): DeadLetters {
    if (parts.deadLetters) return parts.deadLetters;
    throw new AtollError('JetStreamUnavailable', 'this site has no JetStream, so there are no dead letters');
  }

  /** Nothing found and no such function: rather a slip of the pen than good news. */
  async function mustExist(key: Key): Promise<void> {
    if (!(await functions.get(key)))
      throw new AtollError('FunctionNotFound', `there is no function ${keyText(key)}`);
  }

  app.get<{ Params: FunctionParams }>(path, { config }, async (request) => {
    const query = queryOf(request.query, ['limit', 'before']);
    const limit = integerOf('limit', query.limit, { minimum: 1, maximum: maxLimit });
    const before = integerOf('before', query.before, { minimum: 1, maximum: Number.MAX_SAFE_INTEGER });
    const key = keyOf(request.params);
    const deadLetters = await kept().list(key, {
      ...(limit !== undefined && { limit }),
      ...(before !== undefined && { before }),
    });
    if (deadLetters.length === 0) await mustExist(key);
    return { deadLetters };
  });

  app.get<{ Params: SeqParams }>(`${path}/:seq`, { config }, async (request) => {
    const key = keyOf(request.params);
    const seq = seqOf(request.params.seq);
    const letter = await kept().show(key, seq);
    if (!letter) throw notThere(key, seq);
    return letter;
  });

  app.post<{ Params: FunctionParams }>(`${path}/redrive`, { config }, async (request) => {
    const key = keyOf(request.params);
    const { seqs, to } = redriveRequestOf(await request.wholeBody(maxRequestBytes));
    if (!inbox) throw new AtollError('InboxUnavailable', 'this site has no JetStream to put events into');
    const result = await kept().redrive(key, {
      inbox,
      ...(seqs && { seqs }),
      ...(to && { to }),
      exists: async (name, trigger) => {
        const object = await functions.get({ namespace: key.namespace, name });
        return (
          object !== undefined &&
          (trigger === invokeTrigger || object.spec.triggers.some((one) => one.name === trigger))
        );
      },
    });
    if (result.redriven + result.duplicates + result.refused.length === 0) await mustExist(key);
    return result;
  });

  app.delete<{ Params: FunctionParams }>(path, { config }, async (request) => {
    const key = keyOf(request.params);
    const purged = await kept().purge(key);
    if (purged === 0) await mustExist(key);
    return { purged };
  });

  app.delete<{ Params: SeqParams }>(`${path}/:seq`, { config }, async (request) => {
    const key = keyOf(request.params);
    const seq = seqOf(request.params.seq);
    const purged = await kept().purge(key, [seq]);
    if (purged === 0) throw notThere(key, seq);
    return { purged };
  });
}

function seqOf(text: string): number {
  return integerOf('seq', text, { minimum: 1, maximum: Number.MAX_SAFE_INTEGER }) as number;
}

function notThere(key: Key, seq: number): AtollError {
  return new AtollError('NotFound', `function ${keyText(key)} has no dead letter ${seq}`);
}

interface RedriveRequest {
  readonly seqs?: number[];
  readonly to?: { name: string; trigger: string };
}

/** Throws AtollError InvalidRequest. No body is an empty object: all of the function's, to where they came from. */
export function redriveRequestOf(body: Uint8Array): RedriveRequest {
  const refuse = (problem: string): never => {
    throw new AtollError('InvalidRequest', problem);
  };
  let given: unknown;
  try {
    given = body.length === 0 ? {} : JSON.parse(Buffer.from(body).toString());
  } catch (error) {
    return refuse(`the body is not JSON: ${(error as Error).message}`);
  }
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    return refuse('the body is not an object');
  const unknown = Object.keys(given).find((key) => key !== 'seqs' && key !== 'to');
  if (unknown !== undefined) return refuse(`unknown field "${unknown}"; known: seqs, to`);
  const { seqs, to } = given as { seqs?: unknown; to?: unknown };
  if (seqs !== undefined && !isSeqs(seqs)) {
    return refuse(`"seqs" must be 1 to ${maxSeqs} sequences of dead letters, whole numbers from 1 on`);
  }
  if (to === undefined) return seqs ? { seqs } : {};
  const [name = '', trigger = '', ...rest] = typeof to === 'string' ? to.split('/') : [];
  const valid = new RegExp(namePattern);
  if (rest.length > 0 || !valid.test(name) || !valid.test(trigger)) {
    return refuse(`"to" is ${JSON.stringify(to)}; it must be "function/trigger"`);
  }
  return { ...(seqs && { seqs }), to: { name, trigger } };
}

function isSeqs(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    value.length <= maxSeqs &&
    value.every((seq) => Number.isSafeInteger(seq) && seq > 0)
  );
}
