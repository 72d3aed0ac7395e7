import middy from '@middy/core';
import batchFailures from '@middy/sqs-partial-batch-failure';
import type { SQSEvent, SQSRecord } from 'aws-lambda';
import { record } from '../record.ts';

async function one({ body }: SQSRecord): Promise<void> {
  const { n, fail = false } = JSON.parse(body) as { n: number; fail?: boolean };
  record({ middy: n });
  if (fail) throw new Error(`order ${n} fails`);
}

export const handler = middy<SQSEvent>()
  .use(batchFailures())
  .handler(({ Records }) => Promise.allSettled(Records.map(one)));
