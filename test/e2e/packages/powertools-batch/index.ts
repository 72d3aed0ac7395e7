import { BatchProcessor, EventType, processPartialResponse } from '@aws-lambda-powertools/batch';
import type { SQSHandler, SQSRecord } from 'aws-lambda';
import { record } from '../record.ts';

const processor = new BatchProcessor(EventType.SQS);

async function one({ body }: SQSRecord): Promise<void> {
  const { n, fail = false } = JSON.parse(body) as { n: number; fail?: boolean };
  record({ batch: n });
  if (fail) throw new Error(`order ${n} fails`);
}

export const handler: SQSHandler = async (event, context) =>
  processPartialResponse(event, one, processor, { context });
