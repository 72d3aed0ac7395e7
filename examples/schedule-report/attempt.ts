import { firstOf, listen, type Attempt } from '../site.ts';

/** Nothing is sent: the clock calls. */
export const attempt: Attempt = async ({ nats }) => {
  const { responsePayload } = (await firstOf(listen(nats, 'examples.results.report'))) as {
    responsePayload: { tick: string };
  };
  if (Number.isNaN(Date.parse(responsePayload.tick))) throw new Error(`not a time: ${responsePayload.tick}`);
  return { trigger: 'schedule', sent: 'the clock, every 2 s', answer: responsePayload };
};
