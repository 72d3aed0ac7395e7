import type { BatchEvent, BatchResponse } from 'atoll';

/**
 * A batch of orders from a JetStream stream, in the shape of an SQS batch. Orders it names in
 * batchItemFailures come again with backoff; the others are done.
 */
export const handler = async (event: BatchEvent): Promise<BatchResponse & { accepted: string[] }> => {
  const batchItemFailures: { itemIdentifier: string }[] = [];
  const accepted: string[] = [];
  for (const record of event.Records) {
    const order = JSON.parse(record.body) as { id: string; amount: number };
    const retries = Number(record.attributes.ApproximateReceiveCount) - 1;
    if (order.amount < 0 && retries === 0) {
      console.warn('order looks odd, asking for it once more', order.id);
      batchItemFailures.push({ itemIdentifier: record.messageId });
    } else {
      accepted.push(order.id);
    }
  }
  return { batchItemFailures, accepted };
};
