import { nats, type Handler, type ScheduledEvent } from 'atoll';

export const handler: Handler<ScheduledEvent, { tick: string }> = async (event) => {
  console.log('the clock called', { tick: event.time });
  await nats.publish('__name__.ticks', { tick: event.time });
  return { tick: event.time };
};
