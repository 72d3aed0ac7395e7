import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { listen, type Attempt } from '../site.ts';

/** The stream a user would have; the function's trigger finds it when it appears. */
export async function prepare({ nats }: Parameters<Attempt>[0]): Promise<void> {
  const manager = await jetstreamManager(nats);
  await manager.streams.add({ name: 'EXAMPLE_ORDERS', subjects: ['examples.orders.>'] });
}

/** Three orders into a stream; one of them fails once and comes again. */
export const attempt: Attempt = async (site) => {
  const orders = [
    { id: 'a', amount: 3 },
    { id: 'b', amount: -1 },
    { id: 'c', amount: 5 },
  ];
  const results = listen(site.nats, 'examples.results.orders');
  const stream = jetstream(site.nats);
  for (const order of orders) await stream.publish('examples.orders.new', JSON.stringify(order));
  const done = new Map<string, number>();
  for await (const result of results) {
    const { requestPayload, requestContext } = result as {
      requestPayload: { id: string };
      requestContext: { approximateInvokeCount: number };
    };
    done.set(requestPayload.id, requestContext.approximateInvokeCount);
    if (done.size === orders.length) break;
  }
  if ((done.get('b') ?? 0) < 2) throw new Error(`order b was to come twice, came ${done.get('b')} times`);
  return {
    trigger: 'jetstream',
    sent: `3 × publish examples.orders.new`,
    answer: { accepted: [...done.keys()], invocations: Object.fromEntries(done) },
  };
};
