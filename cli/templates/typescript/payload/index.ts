import type { Handler } from 'atoll';

interface Message {
  name?: string;
}

export const handler: Handler<Message, { greeting: string }> = async (event, context) => {
  console.log('greeting', { name: event?.name, from: context.trigger.kind });
  return { greeting: `hello ${event?.name ?? 'world'}` };
};
