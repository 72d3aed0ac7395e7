/** Questions for JetStream that nobody listened to are asked again: its server may be reading its accounts anew. */
import { NoRespondersError, RequestError } from '@nats-io/nats-core';
import type { NatsConnection } from '@nats-io/transport-node';

/**
 * While nats-server reads changed accounts (2.15.2, tried), it takes JetStream's API away from them and gives it back
 * within milliseconds. Without any JetStream, questions fail later by the sum of these.
 */
const againMs = [10, 20, 40, 80, 160];
/** Of the own server only: what leads to another one fails by its link, and who follows that has times of its own. */
const ownApi = /^\$JS\.API\./;

/** Changes the connection that is given. */
export function repeatQuestions(connection: NatsConnection): void {
  const request = connection.request.bind(connection);
  connection.request = async (subject, ...rest) => {
    for (let round = 0; ; round += 1) {
      try {
        return await request(subject, ...rest);
      } catch (error) {
        const waitMs = againMs[round];
        if (waitMs === undefined || !ownApi.test(subject) || !isUnheard(error)) throw error;
        await new Promise((resolve) => setTimeout(resolve, waitMs));
      }
    }
  };
}

const isUnheard = (error: unknown): boolean =>
  error instanceof NoRespondersError || (error instanceof RequestError && error.isNoResponders());
