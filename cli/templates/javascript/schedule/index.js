/** @type {import('atoll').Handler<import('atoll').ScheduledEvent, { tick: string }>} */
export const handler = async (event) => {
  console.log('the clock called', { tick: event.time });
  return { tick: event.time };
};
