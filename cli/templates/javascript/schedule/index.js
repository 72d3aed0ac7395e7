import { nats } from 'atoll';

/** @type {import('atoll').Handler<import('atoll').ScheduledEvent, { tick: string }>} */
export const handler = async (event) => {
  console.log('the clock called', { tick: event.time });
  await nats.publish('__name__.ticks', { tick: event.time });
  return { tick: event.time };
};
