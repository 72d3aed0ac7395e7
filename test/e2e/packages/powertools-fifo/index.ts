import { processPartialResponse, SqsFifoPartialProcessorAsync } from '@aws-lambda-powertools/batch';
import type { SQSHandler, SQSRecord } from 'aws-lambda';
import { record } from '../record.ts';

const processor = new SqsFifoPartialProcessorAsync();

async function one({ body, attributes }: SQSRecord): Promise<void> {
  const { n, failOnce = false } = JSON.parse(body) as { n: number; failOnce?: boolean };
  const fails = failOnce && attributes.ApproximateReceiveCount === '1';
  record({ fifo: n, fails });
  if (fails) throw new Error(`order ${n} fails once`);
}

export const handler: SQSHandler = async (event, context) =>
  processPartialResponse(event, one, processor, { context });
