/** @type {import('atoll').Handler<{ name?: string }, { greeting: string }>} */
export const handler = async (event, context) => {
  console.log('greeting', { name: event?.name, from: context.trigger.kind });
  return { greeting: `hello ${event?.name ?? 'world'}` };
};
