import type { Context } from 'atoll';

/** Answers a NATS request with what it was sent. */
export const handler = async (event: { text: string }, context: Context) => {
  console.log('echo', event.text);
  return { echo: event.text, from: context.functionName, subject: context.trigger.subject };
};
